"""The output layer and its cross-entropy in one operation, which never holds all logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import needs_grad, on_cpu, plain
from minideepseek.ops.matmul import product, weight_gradient
from minideepseek.ops.reference import wide


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
    if plain(hidden):
        return reference.linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index)
    if needs_grad(hidden, weight):
        return _LinearCrossEntropy.apply(hidden, weight, targets, ignore_index)
    loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for h, t in zip(hidden.split(_rows(weight)), targets.split(_rows(weight)), strict=True):
        loss += _surprise(wide(product(h, weight)), t, ignore_index)[0].sum()
    return loss / (targets != ignore_index).sum()


def _rows(weight: Tensor) -> int:
    # 16 MB of float32 logits stay in a processor's cache; a GPU wants more rows to be busy. Below 256 rows, adding up
    # the weight's gradient would cost as much as computing it.
    budget = 2**22 if weight.device.type == "cpu" else 2**27
    return max(256, budget // weight.shape[0])


def _surprise(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """logits (n, V) -> -log p(target) (n,), 0 where ignored, and p (n, V)."""
    p = torch.softmax(logits, -1)
    counted = targets != ignore_index
    targets = targets.where(counted, 0)[:, None]
    loss = p.gather(1, targets).log_().neg_()
    # A probability below the smallest float is 0 and its logarithm infinite; only then is the longer way needed.
    lost = loss[:, 0].isinf()
    if on_cpu(logits) and not lost.any():
        return loss[:, 0].where(counted, 0.0), p
    exact = torch.logsumexp(logits, -1, keepdim=True) - logits.gather(1, targets)
    return exact.where(lost[:, None], loss)[:, 0].where(counted, 0.0), p


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        rows = _rows(weight)
        counted = targets != ignore_index
        total = counted.sum()
        share = wide(weight.new_ones(())) / total.clamp(min=1)
        loss = torch.zeros_like(share)
        dhidden = torch.empty_like(hidden)
        dweight = torch.zeros_like(wide(weight))
        for h, dh, t, c in zip(
            hidden.split(rows), dhidden.split(rows), targets.split(rows), counted.split(rows), strict=True
        ):
            surprise, p = _surprise(wide(product(h, weight)), t, ignore_index)
            loss += surprise.sum()
            # d loss / d logits = p - onehot(target). Subtracted before p is rounded: a certain prediction has p near
            # 1, where bfloat16 has no digits left for the difference.
            p.scatter_add_(1, t.where(c, 0)[:, None], -torch.ones_like(surprise)[:, None])
            p.mul_(torch.where(c, share, 0.0)[:, None])
            dlogits = p.to(hidden.dtype)
            dh.copy_(product(dlogits, weight.t()))
            dweight += weight_gradient(dlogits, h)
        ctx.save_for_backward(dhidden, dweight.to(weight.dtype))
        return loss / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dhidden, dweight = ctx.saved_tensors
        return dhidden * grad, dweight * grad, None, None
