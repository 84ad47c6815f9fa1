"""SwiGLU's elementwise part: silu(gate) · up (Shazeer 2020, arXiv 2002.05202, eq. 6), with a limit where there is one.

DeepSeek-V4 clamps both factors throughout training (report, section 4.2.3): one expert's outlier, squared by the
product, can start a spike of the loss. The gate needs no lower limit: silu of a very negative number is zero anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu


@kernel_in("swiglu")
def swiglu(gate_up: Tensor, limit: float | None = None) -> Tensor:
    """silu(gate) · up, where the two halves of the last axis are gate and up, as one matrix product leaves them.

    Args:
        gate_up: (..., 2F), gate first.
        limit: L; the gate is clamped to at most L, up to -L..L. What is clamped gets no gradient. None does not clamp.

    Returns:
        (..., F).

    Raises:
        ValueError: the last axis has no two halves.
    """
    check(gate_up)
    if on_cpu(gate_up) and needs_grad(gate_up):
        return _SwiGLU.apply(gate_up, limit)
    return reference.swiglu(gate_up, limit)


def check(gate_up: Tensor) -> None:
    """Refuse an odd last axis."""
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate and up side by side need an even last axis, not {gate_up.shape[-1]}")


def swiglu_forward(gate_up: Tensor, limit: float | None = None) -> tuple[Tensor, Tensor]:
    """silu(gate) · up, and silu(gate) for the way back: each (..., F)."""
    gate, up = _clamped(gate_up, limit)
    act = F.silu(gate)
    return act * up, act


def swiglu_backward(grad: Tensor, gate_up: Tensor, act: Tensor, limit: float | None = None) -> Tensor:
    """Gradient (..., 2F) of the input, given that of the output and silu(gate).

    Autograd makes the two halves apart and joins them with one more pass; here each is computed in its place.
    """
    gate, up = _clamped(gate_up, limit)
    dgate_up = torch.empty_like(gate_up)
    dgate, dup = dgate_up.chunk(2, -1)
    torch.mul(grad, act, out=dup)
    torch.mul(grad, up, out=dgate)
    torch.ops.aten.silu_backward.grad_input(dgate, gate, grad_input=dgate)
    if limit is not None:
        raw_gate, raw_up = gate_up.chunk(2, -1)
        dgate.masked_fill_(raw_gate > limit, 0.0)
        dup.masked_fill_(raw_up.abs() > limit, 0.0)
    return dgate_up


def limit_needed(gate_up: Tensor, limit: float | None) -> float | None:
    """``limit`` if anything is beyond it, else None: on a CPU a look costs a fifth of clamping what needs none.

    On a GPU, where looking at a result means waiting for it, always ``limit``.
    """
    if limit is None or gate_up.device.type != "cpu" or not gate_up.numel():
        return limit
    return limit if gate_up.abs().amax() > limit else None


def _clamped(gate_up: Tensor, limit: float | None) -> tuple[Tensor, Tensor]:
    gate, up = gate_up.chunk(2, -1)
    return (gate, up) if limit is None else (gate.clamp(max=limit), up.clamp(-limit, limit))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, limit: float | None) -> Tensor:
        ctx.limit = limit_needed(gate_up, limit)
        y, act = swiglu_forward(gate_up, ctx.limit)
        ctx.save_for_backward(gate_up, act)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gate_up, act = ctx.saved_tensors
        return swiglu_backward(grad, gate_up, act, ctx.limit), None
