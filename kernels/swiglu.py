"""SwiGLU's elementwise part in Triton: silu(gate) · up, forward and backward, clamped where V4 clamps.

Floor: memory. With N rows of 2F numbers of b bytes: forward reads gate and up and writes y, 3·N·F·b bytes and about
6·N·F FLOPs; backward reads gate, up and dy and writes both gradients, 5·N·F·b bytes and about 14·N·F FLOPs. silu is
computed again in the backward pass: keeping it would move one more number than computing it costs. At 4.3 TB/s (an
H200's copy), N·F = 2^28 in bfloat16 takes 0.37 ms forward and 0.62 ms backward. Fraction of the floor reached: not
yet measured on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def swiglu(gate_up: Tensor, limit: float | None = None) -> Tensor:
    """See ``minideepseek.ops.swiglu``."""
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate and up side by side need an even last axis, not {gate_up.shape[-1]}")
    return _SwiGLU.apply(gate_up, limit)


@triton.jit
def activate(gate, up, limit, CLAMPED: tl.constexpr):
    """silu(gate) and up in float32, clamped where they are; their product is the result."""
    if CLAMPED:  # a comparison with NaN is false: it stays NaN
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(tl.abs(up) > limit, tl.where(up > 0, limit, -limit), up)
    return gate * tl.sigmoid(gate), up


@triton.jit
def differentiate(dy, gate, up, limit, CLAMPED: tl.constexpr):
    """Gradients of gate and up, all in float32, given that of the result. What was clamped gets none."""
    raw_gate, raw_up = gate, up
    if CLAMPED:
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(tl.abs(up) > limit, tl.where(up > 0, limit, -limit), up)
    sigmoid = tl.sigmoid(gate)
    dgate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    dup = dy * gate * sigmoid
    if CLAMPED:
        dgate = tl.where(raw_gate > limit, 0.0, dgate)
        dup = tl.where(tl.abs(raw_up) > limit, 0.0, dup)
    return dgate, dup


@triton.jit
def _forward_kernel(
    x_ptr, y_ptr, x_stride, n_rows, width, limit, CLAMPED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    source = x_ptr + rows[:, None] * x_stride + columns[None, :]
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    act, up = activate(gate, up, limit, CLAMPED)
    act = act.to(y_ptr.dtype.element_ty).to(tl.float32)  # rounded, as the definition has it
    tl.store(y_ptr + rows[:, None] * width + columns[None, :], (act * up).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    x_ptr,
    dy_ptr,
    dx_ptr,
    x_stride,
    dy_stride,
    n_rows,
    width,
    limit,
    CLAMPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    source = x_ptr + rows[:, None] * x_stride + columns[None, :]
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + rows[:, None] * dy_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    dgate, dup = differentiate(dy, gate, up, limit, CLAMPED)
    target = dx_ptr + rows[:, None] * (2 * width) + columns[None, :]
    tl.store(target, dgate.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(target + width, dup.to(dx_ptr.dtype.element_ty), mask=inside)


def _tile(width: int) -> tuple[int, int, int]:
    # Columns are independent here, so a long row may be cut: 1024 numbers are contiguous enough.
    return launch.tile(min(width, 1024), elements=2048)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, limit: float | None) -> Tensor:
        launch.check(gate_up)
        ctx.save_for_backward(gate_up)
        ctx.limit = limit
        x = launch.rows_of(gate_up)
        n_rows, width = x.shape[0], x.shape[1] // 2
        y = torch.empty((n_rows, width), dtype=x.dtype, device=x.device)
        if y.numel():
            rows, columns, warps = _tile(width)
            grid = (triton.cdiv(n_rows, rows), triton.cdiv(width, columns))
            launch.run(
                _forward_kernel,
                grid,
                x,
                y,
                x.stride(0),
                n_rows,
                width,
                limit or 0.0,
                CLAMPED=limit is not None,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=warps,
            )
        return y.view(*gate_up.shape[:-1], width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        x, dy = launch.rows_of(gate_up), launch.rows_of(grad)
        n_rows, width = dy.shape
        dx = torch.empty((n_rows, 2 * width), dtype=x.dtype, device=x.device)
        if dx.numel():
            rows, columns, warps = _tile(width)
            grid = (triton.cdiv(n_rows, rows), triton.cdiv(width, columns))
            launch.run(
                _backward_kernel,
                grid,
                x,
                dy,
                dx,
                x.stride(0),
                dy.stride(0),
                n_rows,
                width,
                ctx.limit or 0.0,
                CLAMPED=ctx.limit is not None,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=warps,
            )
        return dx.view(gate_up.shape), None
