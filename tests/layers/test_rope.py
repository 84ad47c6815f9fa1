"""RoPE is a rotation: closed form, composition, layouts, precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek.context import Context
from minideepseek.layers import RoPE

LAYOUTS = ["half_split", "adjacent"]


def at(rope: RoPE, x: Tensor, positions: Tensor) -> Tensor:
    """x (B, T, H, Dh), turned to positions (T,) or (B, T)."""
    return rope.rotate(x, Context(positions=positions, ids=torch.zeros(x.shape[:2], dtype=torch.int64)))


def vectors(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def pairs(x: Tensor, layout: str) -> Tensor:
    """The channel pairs of (..., R) as complex numbers (..., R/2)."""
    if layout == "adjacent":
        return torch.complex(x[..., 0::2], x[..., 1::2])
    a, b = x.chunk(2, -1)
    return torch.complex(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_turning_is_multiplication_by_a_complex_number(layout: str) -> None:
    x = vectors(2, 6, 3, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [9, 1000, 0, 7, 7, 30]])
    turned = at(RoPE(theta=100.0, layout=layout), x, positions)
    for pair in range(4):
        angle = positions.double() * 100.0 ** (-2 * pair / 8)
        factor = torch.polar(torch.ones_like(angle), angle)[:, :, None]
        torch.testing.assert_close(
            pairs(turned, layout)[..., pair], pairs(x, layout)[..., pair] * factor, atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [None, 4])
@given(query=st.integers(0, 5000), key=st.integers(0, 5000), shift=st.integers(0, 100_000))
@settings(max_examples=20, deadline=None)
def test_only_the_distance_matters(layout: str, dim: int | None, query: int, key: int, shift: int) -> None:
    rope = RoPE(layout=layout, dim=dim)
    q, k = vectors(2, 1, 1, 8)

    def score(t: int, j: int) -> float:
        turned = [at(rope, x[None, None], torch.tensor([p])) for x, p in ((q[0], t), (k[0], j))]
        return (turned[0] * turned[1]).sum().item()

    assert score(query, key) == pytest.approx(score(query + shift, key + shift), abs=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lengths_stay_and_position_zero_changes_nothing(layout: str) -> None:
    x = vectors(1, 5, 2, 8)
    turned = at(RoPE(layout=layout), x, torch.arange(5))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    assert not torch.isclose(turned[:, 1:], x[:, 1:]).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_partial_rotation_leaves_the_other_channels(layout: str) -> None:
    x = vectors(2, 5, 3, 10)
    turned = at(RoPE(layout=layout, dim=4), x, torch.arange(5))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    torch.testing.assert_close(turned[..., :4], at(RoPE(layout=layout), x[..., :4], torch.arange(5)))


def test_layouts_are_one_rotation_in_two_orders_of_channels() -> None:
    x = vectors(2, 5, 3, 8)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # half-split channel that stands at each adjacent place
    half_split = at(RoPE(layout="half_split"), x, torch.arange(5))
    torch.testing.assert_close(half_split[..., order], at(RoPE(layout="adjacent"), x[..., order], torch.arange(5)))
    assert not torch.allclose(half_split, at(RoPE(layout="adjacent"), x, torch.arange(5)))


def test_bfloat16_tells_far_positions_apart() -> None:
    """Positions beyond 256 are not all representable in bfloat16: angles have to be made in something wider."""
    rope, x = RoPE(), torch.ones(1, 2, 1, 8, dtype=torch.bfloat16)
    turned = at(rope, x, torch.tensor([1000, 1001]))
    exact = at(rope, x.double(), torch.tensor([1000, 1001]))
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned.double(), exact, atol=0.01, rtol=0)
    assert not torch.equal(turned[:, 0], turned[:, 1])


def test_frequencies_fall_geometrically_from_one() -> None:
    frequencies = RoPE(theta=10_000.0).frequencies(8, torch.float64)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [None, 4])
def test_gradients_are_right(layout: str, dim: int | None) -> None:
    x = vectors(2, 3, 2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: at(RoPE(layout=layout, dim=dim), x, torch.tensor([0, 5, 40])), x)


def test_layers_of_one_rope_share_its_tables() -> None:
    ctx = Context(positions=torch.arange(5), ids=torch.zeros(1, 5, dtype=torch.int64))
    calls = []

    class Counting(RoPE):
        def tables(self, positions: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
            calls.append(dim)
            return super().tables(positions, dim, dtype)

    for rope in (Counting(), Counting(), Counting(theta=3.0)):
        rope.rotate(vectors(1, 5, 2, 8), ctx)
    assert len(calls) == 2
