"""The output layer and its cross-entropy in one operation, which never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu
from minideepseek.ops.matmul import product, weight_gradient
from minideepseek.ops.reference import wide


@kernel_in("loss")
def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy of the logits ``hidden @ weight.T`` against ``targets``, in nats.

    A vocabulary is many times wider than a model, so the (N, V) logits and their gradient are the largest tensors of
    a small model's step. Here a few hundred rows at a time become logits, probabilities, and at once their share of
    the gradients, which the backward pass only scales.

    Args:
        hidden: (N, D).
        weight: (V, D).
        targets: (N,) int64 in [0, V), or ``ignore_index``.
        ignore_index: rows with this target count neither in the sum nor in the mean.

    Returns:
        Scalar, float32 at least; the softmax is computed in that precision too. NaN where no row counts.
    """
    if torch.is_autocast_enabled(hidden.device.type):  # it chooses a type for the product, but not for its gradient
        return reference.linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index)
    if needs_grad(hidden, weight):
        return _with_gradients(hidden, weight, targets, ignore_index)[0]
    if torch.compiler.is_compiling():
        return reference.linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index)
    loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for h, t in zip(hidden.split(_rows(weight)), targets.split(_rows(weight)), strict=True):
        loss += _differentiate(product(h, weight), t, ignore_index)
    return loss / (targets != ignore_index).sum()


@kernel_in("loss")
def linear_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Log-probability of each target under the logits ``hidden @ weight.T``, in nats: what policy gradients weigh.

    As in ``linear_cross_entropy`` the logits are never whole. What a row weighs is known only on the way back, where
    they are computed again, a few hundred rows at a time.

    Args:
        hidden: (N, D).
        weight: (V, D).
        targets: (N,) int64 in [0, V), or ``ignore_index``.
        ignore_index: rows with this target get 0 and no gradient.

    Returns:
        (N,), float32 at least.
    """
    if torch.is_autocast_enabled(hidden.device.type) or torch.compiler.is_compiling():
        return reference.linear_log_probs(hidden, weight, targets, ignore_index=ignore_index)
    return _LogProbs.apply(hidden, weight, targets, ignore_index)


def _rows(weight: Tensor) -> int:
    # Enough rows to make large products, and few enough that their logits are no burden: 16 MB of bfloat16, 32 MB of
    # float32. A GPU wants more to be busy. Below 256 rows, adding up the weight's gradient would cost as much as
    # computing it.
    budget = 2**23 if weight.device.type == "cpu" else 2**27
    return max(256, budget // weight.shape[0])


def _differentiate(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Turn logits (n, V) into the gradient of their summed loss, in place, and return that sum.

    Rows to ignore add nothing to the sum; their gradient is left for the caller to leave out, where it is narrower.
    """
    rows = 128 if logits.device.type == "cpu" else len(logits)  # few enough that their float32 stays in the cache
    total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    for block, t in zip(logits.split(rows), targets.split(rows), strict=True):
        at = t.where(t != ignore_index, 0)[:, None]
        p = torch.softmax(block, -1, dtype=total.dtype)
        chance = p.gather(1, at)
        loss = chance.log().neg_()
        # A probability below the smallest float is 0 and its logarithm infinite; only then the longer way is needed.
        lost = loss.isinf()
        if not on_cpu(logits) or lost.any():
            exact = torch.logsumexp(wide(block), -1, keepdim=True) - wide(block).gather(1, at)
            loss = exact.where(lost, loss)
        total += loss[:, 0].where(t != ignore_index, 0.0).sum()
        # d loss / d logits = p - onehot(target), subtracted before p is rounded: a certain prediction has p near 1,
        # where bfloat16 has no digits left for the difference.
        block.copy_(p.scatter_(1, at, chance - 1))
    return total


# An operation of its own rather than an autograd.Function: the compiler takes it whole, where it would unroll the loop
# or, given the plain formula, hold all logits at once.
@torch.library.custom_op("minideepseek::linear_cross_entropy", mutates_args=())
def _with_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients for hidden and weight."""
    rows = _rows(weight)
    ignored = (targets == ignore_index)[:, None]
    loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    dhidden = torch.empty_like(hidden)
    dweight = None
    for h, dh, t in zip(hidden.split(rows), dhidden.split(rows), targets.split(rows), strict=True):
        logits = product(h, weight)
        loss += _differentiate(logits, t, ignore_index)
        dh.copy_(product(logits, weight.t()))
        part = weight_gradient(logits, h.masked_fill((t == ignore_index)[:, None], 0.0))
        dweight = wide(part) if dweight is None else dweight.add_(part)
    assert dweight is not None  # even no rows are split into one piece
    counted = ignored.numel() - ignored.sum()
    share = 1 / counted.clamp(min=1).to(dweight.dtype)
    dhidden.masked_fill_(ignored, 0.0).mul_(share)
    return loss / counted, dhidden, torch.empty_like(weight).copy_(dweight.mul_(share))


@_with_gradients.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    loss = hidden.new_empty((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    return loss, torch.empty_like(hidden), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # nobody differentiates the gradients
    ctx.save_for_backward(*output[1:])


def _scale(ctx: Any, grad: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    return *(kept * grad for kept in ctx.saved_tensors), None, None


_with_gradients.register_autograd(_scale, setup_context=_keep)


class _LogProbs(torch.autograd.Function):
    # With p = softmax(logits) and g the gradient of a row's log-probability:  dlogits = g · (onehot - p).
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        found = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
        normaliser = torch.empty_like(found)
        for start in range(0, len(hidden), _rows(weight)):
            block = slice(start, start + _rows(weight))
            logits, t = wide(product(hidden[block], weight)), targets[block]
            normaliser[block] = logits.logsumexp(-1)
            at = t.where(t != ignore_index, 0)[:, None]
            found[block] = (logits.gather(1, at)[:, 0] - normaliser[block]).where(t != ignore_index, 0.0)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.ignore_index = ignore_index
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, normaliser = ctx.saved_tensors
        grad = grad.where(targets != ctx.ignore_index, 0.0)[:, None]
        dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=normaliser.dtype)
        for start in range(0, len(hidden), _rows(weight)):
            block = slice(start, start + _rows(weight))
            h, t, g = hidden[block], targets[block], grad[block]
            logits = product(h, weight)
            p = (wide(logits) - normaliser[block, None]).exp_()
            at = t.where(t != ctx.ignore_index, 0)[:, None]
            dlogits = p.mul_(-g).scatter_add_(1, at, g).to(logits.dtype)
            dhidden[block] = product(dlogits, weight.t())
            dweight += weight_gradient(dlogits, h)
        return dhidden, dweight.to(weight.dtype), None, None
