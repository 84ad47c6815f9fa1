"""Gradients of the experts' matrices in Triton: each a sum over the expert's own rows, made by one program alone."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch
from minideepseek.kernels.experts.plan import Plan


@triton.jit
def _gradient_kernel(
    a_ptr,
    b_ptr,
    order_ptr,
    bounds_ptr,
    out_ptr,
    out_expert_stride,
    out_row_stride,
    out_column_stride,
    per_token,
    height,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = aᵀ b for rows a (N·K, height) by row of the plan, b (N, width) gathered; zeros where there are none."""
    n_columns = tl.cdiv(width, COLUMNS)
    tile, column = tl.swizzle2d(
        tl.program_id(0) // n_columns, tl.program_id(0) % n_columns, tl.cdiv(height, ROWS), n_columns, 8
    )
    expert = tl.program_id(1).to(tl.int64)
    first, end = tl.load(bounds_ptr + expert), tl.load(bounds_ptr + expert + 1)
    rows, columns = tile * ROWS + tl.arange(0, ROWS), column * COLUMNS + tl.arange(0, COLUMNS)
    out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(first, end, DEPTH):
        k = start + tl.arange(0, DEPTH)
        there = (k < end)[:, None]
        token = tl.load(order_ptr + k, mask=k < end, other=0) // per_token
        a = tl.load(a_ptr + k[:, None] * height + rows[None, :], mask=there & (rows < height)[None, :], other=0.0)
        at = b_ptr + token[:, None] * width + columns[None, :]
        b = tl.load(at, mask=there & (columns < width)[None, :], other=0.0)
        out = tl.dot(tl.trans(a), b, out, input_precision=PRECISION)
    at = rows.to(tl.int64)[:, None] * out_row_stride + columns.to(tl.int64)[None, :] * out_column_stride
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(out_ptr + expert * out_expert_stride + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def gradient(a: Tensor, b: Tensor, plan: Plan, out: Tensor) -> None:
    """Write aᵀ b of every expert into out (E, C, D), in any strides: a (N·K, C) by row of the plan, b (N, D)."""
    experts, height, width = out.shape
    if a.dtype == torch.float32:
        size = {"ROWS": 32, "COLUMNS": 32, "DEPTH": 32, "num_warps": 4, "num_stages": 2}
    else:
        size = {"ROWS": 128, "COLUMNS": 128, "DEPTH": 64, "num_warps": 8, "num_stages": 3}
    launch.run(
        _gradient_kernel,
        (triton.cdiv(height, size["ROWS"]) * triton.cdiv(width, size["COLUMNS"]), experts),
        a,
        b,
        plan.order,
        plan.bounds,
        out,
        *out.stride(),
        len(a) // len(b),
        height,
        width,
        PRECISION=launch.precision(a),
        **size,
    )
