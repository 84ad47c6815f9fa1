"""RMSNorm, alone and with the residual addition before it (Zhang & Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu
from minideepseek.ops.reference import wide


@kernel_in("rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row by its root mean square, then multiply by ``weight``.

    Statistics are taken in float32. The normalised value is rounded to ``x``'s dtype *before* the weight multiplies
    it: the order of Llama's code and so of every DeepSeek checkpoint, visible in bfloat16.

    Args:
        x: (..., D).
        weight: (D,).
        eps: added to the mean square.

    Returns:
        (..., D) in ``x``'s dtype.
    """
    if not on_cpu(x):
        return reference.rms_norm(x, weight, eps)
    if needs_grad(x, weight):
        return _RMSNorm.apply(x, weight, eps)
    if x.dtype == torch.float32 and x.numel() < 2**15:  # one call costs less than seven, a second pass nothing
        return F.rms_norm(x, weight.shape, weight, eps)
    return _normalise(x, weight, eps)[0]


@kernel_in("rms_norm")
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """What a block does between two sublayers: ``(rms_norm(x + residual), x + residual)``. Shapes as ``rms_norm``."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def _normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x_wide = wide(x)
    norm = torch.linalg.vector_norm(x_wide, dim=-1, keepdim=True)  # one pass; square().mean() writes a copy first
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    normal = (x_wide * inverse if x_wide is x else x_wide.mul_(inverse)).to(x.dtype)
    return normal.mul_(weight), inverse


class _RMSNorm(torch.autograd.Function):
    # With r = 1/rms, y = w·x·r:  dw = sum over rows of g·x·r,  dx = r·(w·g) - x·r³·mean(w·g·x).
    # Both sums come from the one product g·x, as matrix-vector products: autograd's five passes become two.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = _normalise(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        dim = x.shape[-1]
        g, rows, w, r = wide(grad).reshape(-1, dim), wide(x).reshape(-1, dim), wide(weight), inverse.reshape(-1)
        product = g * rows
        dweight = torch.mv(product.t(), r)
        pull = torch.mv(product, w).mul_(r.pow(3)).div_(-dim)
        dx = torch.mul(g, w, out=product).mul_(r[:, None]).addcmul_(rows, pull[:, None])
        return dx.to(x.dtype).view(x.shape), dweight.to(weight.dtype), None
