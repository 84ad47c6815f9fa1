"""The operations on residual streams against their definitions: values, gradients, types, and awkward numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek import ops
from minideepseek.ops import reference

Op = Callable[..., object]


def leaf(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def cases(n: int, *tokens: int, dtype: torch.dtype = torch.float64) -> dict[str, tuple[Op, Op, tuple[Tensor, ...]]]:
    """Each operation, its definition, and inputs for n streams of width 6; maps are float32 at least."""
    wide, d = torch.promote_types(dtype, torch.float32), 6
    x, y = leaf(*tokens, n, d, dtype=dtype), leaf(*tokens, d, dtype=dtype)
    vector, matrix = leaf(*tokens, n, dtype=wide), leaf(*tokens, n, n, dtype=wide)
    weight, mixed = leaf(5, n * d, dtype=dtype), leaf(*tokens, n, d, seed=1, dtype=wide)
    return {
        "sinkhorn": (
            lambda m: ops.sinkhorn(m, 20, 1e-6),
            lambda m: reference.sinkhorn(m, 20, 1e-6),
            (matrix,),
        ),
        "rms_linear": (
            lambda x, w: ops.rms_linear(x.flatten(-2), w, 1e-6),
            lambda x, w: reference.rms_linear(x.flatten(-2), w, 1e-6),
            (x, weight),
        ),
        "read_streams": (ops.read_streams, reference.read_streams, (x, vector, matrix)),
        "write_streams": (ops.write_streams, reference.write_streams, (mixed, vector, y)),
    }


def results(op: Op, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs, and the gradients of a weighted sum of them."""
    found = op(*inputs)
    outs = found if isinstance(found, tuple) else (found,)
    weights = [leaf(*o.shape, seed=7, dtype=o.dtype).detach() for o in outs]
    return [*outs, *torch.autograd.grad(outs, inputs, weights)]


NAMES = list(cases(1, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2**-7)]
)
def test_matches_its_definition(name: str, n: int, dtype: torch.dtype, tolerance: float) -> None:
    op, definition, inputs = cases(n, 3, 5, dtype=dtype)[name]
    for ours, theirs in zip(results(op, inputs), results(definition, inputs), strict=True):
        assert ours.dtype == theirs.dtype
        scale = max(1.0, theirs.detach().abs().max().item())
        torch.testing.assert_close(ours, theirs, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_without_gradients_gives_the_same(name: str) -> None:
    op, _, inputs = cases(4, 3, 5)[name]
    expected = op(*inputs)
    with torch.no_grad():
        found = op(*inputs)
    for ours, theirs in zip(*(o if isinstance(o, tuple) else (o,) for o in (found, expected)), strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_derivative(name: str) -> None:
    op, _, inputs = cases(3, 2)[name]
    assert torch.autograd.gradcheck(op, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_is_a_batch(name: str) -> None:
    op, _, inputs = cases(4, 0, 5)[name]
    *_, first = results(op, inputs)[-len(inputs) :]
    assert not first.any()


@pytest.mark.parametrize("name", ["read_streams", "write_streams"])
def test_maps_may_be_the_same_for_all_tokens(name: str) -> None:
    op, definition, (first, *rest) = cases(4, 3, 5)[name]
    alike = tuple(leaf(*t.shape[2:]) if t.shape[2:] in ((4,), (4, 4)) else t for t in rest)
    for ours, theirs in zip(results(op, (first, *alike)), results(definition, (first, *alike)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_sinkhorn_bears_numbers_that_vanish(eps: float) -> None:
    """A softmax that underflows leaves zeros, which stay zeros or become eps; their gradient is none, not nan."""
    logits = torch.tensor([[0.0, -1e4, 1.0], [1.0, 0.0, -1e4], [-1e4, 1.0, 0.0]], dtype=torch.float64)
    ours, theirs = (
        results(lambda m, f=f: f(m, 20, eps), (logits.clone().requires_grad_(),))
        for f in (ops.sinkhorn, reference.sinkhorn)
    )
    for found, expected in zip(ours, theirs, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 5), st.floats(0.1, 3.0), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_sinkhorns_way_back_undoes_the_way_there(n: int, spread: float, seed: int) -> None:
    """It keeps sums alone and recovers each matrix from the next; float32 must not lose it on the way."""
    logits = (spread * leaf(9, n, n, seed=seed)).detach()
    ours, truth = (
        results(lambda m, f=f: f(m, 20, 1e-6), (logits.to(dtype).requires_grad_(),))[1]
        for f, dtype in ((ops.sinkhorn, torch.float32), (reference.sinkhorn, torch.float64))
    )
    torch.testing.assert_close(ours.double(), truth, rtol=0, atol=3e-6 * max(1.0, truth.abs().max().item()))
