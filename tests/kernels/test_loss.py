"""The output layer's kernels beyond what the walking test sees: several blocks of logits, frozen halves, extremes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from minideepseek import ops
from minideepseek.kernels import loss
from minideepseek.ops import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPS = ["linear_cross_entropy", "linear_log_probs"]


def problem(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 4, device=DEVICE), torch.randn(7, 4, device=DEVICE)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, 7, (rows,), device=DEVICE)


def results(op: object, hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    with ops.backend("triton"):
        found = op(hidden, weight, targets)  # type: ignore[operator]
    return [found, *torch.autograd.grad(found.square().sum(), [x for x in (hidden, weight) if x.requires_grad])]


@pytest.mark.parametrize("name", OPS)
def test_blocks_of_rows_add_up_to_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(258)
    monkeypatch.setattr(loss, "AT_ONCE", 1)  # 256 rows, then two
    for ours, theirs in zip(
        results(getattr(ops, name), *given), results(getattr(reference, name), *given), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("name", OPS)
def test_what_is_frozen_costs_nothing_and_changes_nothing(name: str, frozen: int) -> None:
    given = problem(5)
    given[frozen].requires_grad_(False)
    for ours, theirs in zip(
        results(getattr(ops, name), *given), results(getattr(reference, name), *given), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", OPS)
def test_a_hopeless_target_has_a_finite_loss(name: str) -> None:
    hidden = torch.tensor([[300.0], [1.0]], device=DEVICE, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], device=DEVICE, requires_grad=True)
    given = hidden, weight, torch.tensor([1, 0], device=DEVICE)
    for ours, theirs in zip(
        results(getattr(ops, name), *given), results(getattr(reference, name), *given), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_row_to_ignore_may_hold_anything() -> None:
    hidden, weight, targets = problem(3)
    with torch.no_grad():
        hidden[1] = torch.inf
    targets[1] = -100
    with ops.backend("triton"):
        found = ops.linear_log_probs(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert found[1] == 0
    assert not gradient[1].any()
    assert gradient[0].any()


def test_autocast_chooses_the_products_type() -> None:
    hidden, weight, targets = problem(5)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = results(ops.linear_log_probs, hidden, weight, targets)
    narrow = results(ops.linear_log_probs, *(x.detach().bfloat16().requires_grad_() for x in (hidden, weight)), targets)
    assert torch.equal(found[0], narrow[0])
    assert found[1].dtype == torch.float32
