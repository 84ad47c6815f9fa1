"""RMSNorm and add + RMSNorm in Triton: one pass forward, one pass backward.

Floor: memory. With N rows of D numbers of b bytes (the weight is noise):

    rms_norm        forward  reads x, writes y                           2·N·D·b bytes,  about 4·N·D FLOPs
                    backward reads x, dy, writes dx                      3·N·D·b bytes,  about 9·N·D FLOPs
    add_rms_norm    forward  reads x, residual, writes total, y          4·N·D·b bytes
                    backward reads total, dy, dtotal, writes dx          4·N·D·b bytes

At 4.3 TB/s (an H200's copy) and b = 2, N·D = 2^28 takes 0.25 ms forward and 0.37 ms backward. Arithmetic is a
hundredth of what the card does in that time. Fraction of the floor reached: not yet measured on a GPU.

The backward pass needs the weight's gradient, a sum over all rows. Adding to it atomically would serialise the
programs and make the last bits depend on chance; instead a fixed number of programs each walks over its share of the
rows with a partial sum in registers, and a second, tiny reduction adds the partial sums in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """See ``minideepseek.ops.rms_norm``."""
    return _RMSNorm.apply(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """See ``minideepseek.ops.add_rms_norm``."""
    if x.shape != residual.shape or x.dtype != residual.dtype:
        raise ValueError(f"cannot add {residual.dtype} {tuple(residual.shape)} to {x.dtype} {tuple(x.shape)}")
    return _AddRMSNorm.apply(x, residual, weight, eps)


@triton.jit
def _forward_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    inverse_ptr,
    x_stride,
    residual_stride,
    n_rows,
    width,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    out = rows[:, None] * width + columns[None, :]

    x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=inside, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + rows[:, None] * residual_stride + columns[None, :], mask=inside, other=0.0)
        # Rounded before it is normed: the next layer sees the total as it is stored.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + out, x, mask=inside)
    x = x.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, axis=1) / width + eps)
    normal = (x * inverse[:, None]).to(y_ptr.dtype.element_ty).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
    tl.store(y_ptr + out, (normal * weight[None, :]).to(y_ptr.dtype.element_ty), mask=inside)
    tl.store(inverse_ptr + rows, inverse, mask=rows < n_rows)


@triton.jit
def _backward_kernel(
    x_ptr,
    weight_ptr,
    inverse_ptr,
    dy_ptr,
    dtotal_ptr,
    dx_ptr,
    partial_ptr,
    x_stride,
    dy_stride,
    dtotal_stride,
    n_rows,
    width,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
    dweight = tl.zeros((COLUMNS,), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(n_rows, ROWS), tl.num_programs(0)):
        rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + rows[:, None] * dy_stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + rows, mask=rows < n_rows, other=0.0)
        normal = x * inverse[:, None]
        dweight += tl.sum(dy * normal, axis=0)
        dnormal = dy * weight[None, :]
        pull = tl.sum(dnormal * normal, axis=1) / width
        dx = (dnormal - normal * pull[:, None]) * inverse[:, None]
        if ADD:
            dtotal = tl.load(dtotal_ptr + rows[:, None] * dtotal_stride + columns[None, :], mask=inside, other=0.0)
            dx += dtotal.to(tl.float32)
        out = rows[:, None] * width + columns[None, :]
        tl.store(dx_ptr + out, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(partial_ptr + tl.program_id(0) * width + columns, dweight, mask=columns < width)


def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y and the normed rows, both of ``x``'s shape, and 1/rms of each row."""
    launch.check(x, weight, *([] if residual is None else [residual]))
    rows = launch.rows_of(x)
    added = rows if residual is None else launch.rows_of(residual)
    y = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    total = rows if residual is None else torch.empty_like(y)
    inverse = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
    if rows.numel():
        per_tile, columns, warps = launch.tile(rows.shape[1])
        launch.run(
            _forward_kernel,
            (triton.cdiv(rows.shape[0], per_tile),),
            rows,
            added,
            weight.contiguous(),
            y,
            total,
            inverse,
            rows.stride(0),
            added.stride(0),
            *rows.shape,
            eps,
            ADD=residual is not None,
            ROWS=per_tile,
            COLUMNS=columns,
            num_warps=warps,
        )
    return y.view(x.shape), x if residual is None else total.view(x.shape), inverse


def _backward(x: Tensor, weight: Tensor, inverse: Tensor, dy: Tensor, dtotal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gradients of the normed rows (``dtotal`` added) and of the weight."""
    rows, dy = launch.rows_of(x), launch.rows_of(dy)
    added = dy if dtotal is None else launch.rows_of(dtotal)
    dx = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    if not rows.numel():
        return dx.view(x.shape), torch.zeros_like(weight)
    per_tile, columns, warps = launch.tile(rows.shape[1])
    # As many programs as stay resident, 32 warps a multiprocessor: enough to hide latency, few partial sums.
    programs = min(triton.cdiv(rows.shape[0], per_tile), launch.multiprocessors(x.device) * (32 // warps))
    partial = torch.empty(programs, rows.shape[1], dtype=torch.float32, device=x.device)
    launch.run(
        _backward_kernel,
        (programs,),
        rows,
        weight.contiguous(),
        inverse,
        dy,
        added,
        dx,
        partial,
        rows.stride(0),
        dy.stride(0),
        added.stride(0),
        *rows.shape,
        ADD=dtotal is not None,
        ROWS=per_tile,
        COLUMNS=columns,
        num_warps=warps,
    )
    return dx.view(x.shape), partial.sum(0).to(weight.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, _, inverse = _forward(x, None, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_backward(*ctx.saved_tensors, dy, None), None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, total, inverse = _forward(x, residual, weight, eps)
        ctx.save_for_backward(total, weight, inverse)
        return y, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dtotal: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dx, dweight = _backward(*ctx.saved_tensors, dy, dtotal)
        return dx, dx, dweight, None
