"""Rotary position embedding: a rotation of channel pairs (Su et al. 2021, arXiv 2104.09864, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu


@kernel_in("rope")
def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half_split") -> Tensor:
    """Turn every channel pair of ``x`` by its token's angles, in float32.

    Args:
        x: (B, T, H, R), R even.
        cos: (T, R/2), or (B, T, R/2) where rows stand at different positions; float32 at least.
        sin: like ``cos``.
        layout: which channels are a pair: "half_split" (i, i + R/2) or "adjacent" (2i, 2i + 1).

    Returns:
        (B, T, H, R) in ``x``'s dtype.

    Raises:
        ValueError: no such layout; an odd R; or angles for another number of channels.
    """
    check(x, cos, layout)
    if not on_cpu(x):
        return reference.rope(x, cos, sin, layout)
    if needs_grad(x):
        return _Rotation.apply(x, cos, sin, layout)
    return _turn(x, cos, sin, layout)


def check(x: Tensor, cos: Tensor, layout: str) -> None:
    """Refuse what would otherwise turn the wrong channels without a word."""
    if layout not in ("half_split", "adjacent"):
        raise ValueError(f"layout={layout!r}: choose 'half_split' or 'adjacent'")
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"{x.shape[-1]} channels are {x.shape[-1] / 2:g} pairs, but there are {cos.shape[-1]} angles")


def _turn(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    # Attention reads its heads one after the other. Turning them on the way into that order in memory, (B, H, T, R),
    # lets the tables line up with long runs of x, and spares attention a copy.
    if cos.ndim == 3:
        cos, sin = cos[:, None], sin[:, None]
    heads = x.transpose(1, 2).to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format)
    if layout == "adjacent":  # neighbours in memory are a complex number: e^{i·angle} turns it
        pairs = torch.view_as_complex(heads.contiguous().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)
    else:
        a, b = heads.chunk(2, -1)
        turned = torch.cat([b, a], -1)
        turned.mul_(torch.cat([-sin, sin], -1)).addcmul_(heads, torch.cat([cos, cos], -1))
    return turned.to(x.dtype).transpose(1, 2)


class _Rotation(torch.autograd.Function):
    # The gradient of a rotation is the rotation back: nothing of x has to be kept.
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return _turn(x, cos, sin, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin, ctx.layout), None, None, None
