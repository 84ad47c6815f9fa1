"""The experts' kernels beyond what the walking test sees: the weights' gradient, repeats, and nobody waiting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from minideepseek import ops
from minideepseek.kernels.experts.plan import plan
from minideepseek.ops import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).requires_grad_()


def exactly(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


def results(op: object, given: tuple[Tensor, ...]) -> list[Tensor]:
    y = op(*given)  # type: ignore[operator]
    return [y, *torch.autograd.grad(y.float().square().sum(), [x for x in given if x.requires_grad])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_get_the_gradient_of_what_they_weigh(dtype: torch.dtype) -> None:
    indices = torch.randint(0, 5, (9, 3), device=DEVICE)
    indices[0] = 4  # one expert three times over
    matrices = random(5, 80, 12, dtype=dtype), random(5, 12, 40, dtype=dtype)
    given = random(9, 12, dtype=dtype), *matrices, indices, random(9, 3)
    with ops.backend("triton"):
        found = results(ops.experts, given)
    exact = results(reference.experts, tuple(x if x is indices else exactly(x) for x in given))
    for ours, theirs in zip(found, exact, strict=True):
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert error < (1e-5 if dtype == torch.float32 else 2e-2)
    assert found[-1].dtype == torch.float32


def test_the_same_bits_every_time() -> None:
    given = (
        random(30, 8),
        random(3, 32, 8),
        random(3, 8, 16),
        torch.randint(0, 3, (30, 2), device=DEVICE),
        random(30, 2),
    )
    with ops.backend("triton"):
        first, second = results(ops.experts, given), results(ops.experts, given)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("chosen", [[[0], [0], [0]], [[3, 1], [1, 3]], [[2]], [[i % 4, 3] for i in range(50)]])
def test_a_plan_has_every_assignment_in_one_tile_of_its_expert(chosen: list[list[int]]) -> None:
    indices = torch.tensor(chosen, device=DEVICE)
    found = plan(indices, 4, 16)
    seen = []
    for expert, first, end in found.tiles.T.tolist():
        rows = range(first, min(first + found.rows, end))
        assert all(indices.flatten()[found.order[row]] == expert for row in rows)
        seen += [int(found.order[row]) for row in rows]
    assert sorted(seen) == list(range(indices.numel()))
    assert found.bounds.diff().tolist() == torch.bincount(indices.flatten(), minlength=4).tolist()
