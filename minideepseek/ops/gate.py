"""SwiGLU's elementwise part: silu(gate) · up (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu


@kernel_in("swiglu")
def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, where the two halves of the last axis are gate and up, as one matrix product leaves them.

    Args:
        gate_up: (..., 2F), gate first.

    Returns:
        (..., F).

    Raises:
        ValueError: the last axis has no two halves.
    """
    check(gate_up)
    if on_cpu(gate_up) and needs_grad(gate_up):
        return _SwiGLU.apply(gate_up)
    return reference.swiglu(gate_up)


def check(gate_up: Tensor) -> None:
    """Refuse an odd last axis."""
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate and up side by side need an even last axis, not {gate_up.shape[-1]}")


def swiglu_forward(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """silu(gate) · up, and silu(gate) for the way back: each (..., F)."""
    gate, up = gate_up.chunk(2, -1)
    act = F.silu(gate)
    return act * up, act


def swiglu_backward(grad: Tensor, gate_up: Tensor, act: Tensor) -> Tensor:
    """Gradient (..., 2F) of the input, given that of the output and silu(gate).

    Autograd makes the two halves apart and joins them with one more pass; here each is computed in its place.
    """
    gate, up = gate_up.chunk(2, -1)
    dgate_up = torch.empty_like(gate_up)
    dgate, dup = dgate_up.chunk(2, -1)
    torch.mul(grad, act, out=dup)
    torch.mul(grad, up, out=dgate)
    torch.ops.aten.silu_backward.grad_input(dgate, gate, grad_input=dgate)
    return dgate_up


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        y, act = swiglu_forward(gate_up)
        ctx.save_for_backward(gate_up, act)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return swiglu_backward(grad, *ctx.saved_tensors)
