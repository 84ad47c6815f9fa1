"""Products of rows with their experts' matrices in Triton: up with SwiGLU, down, and the ways back to the rows."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch
from minideepseek.kernels.experts.plan import Plan, find_tile
from minideepseek.kernels.swiglu import activate, differentiate


@triton.jit
def _up_kernel(
    x_ptr,
    gate_up_ptr,
    order_ptr,
    tiles_ptr,
    hidden_ptr,
    act_ptr,
    n_tiles,
    per_token,
    depth,
    width,
    limit,
    KEEP: tl.constexpr,
    CLAMPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """hidden = x @ gate_upᵀ and act = SwiGLU(hidden), for rows gathered from x (N, depth)."""
    expert, first, end, column = find_tile(tiles_ptr, n_tiles, tl.cdiv(width, COLUMNS))
    if first >= end:
        return
    rows, columns = first + tl.arange(0, ROWS), column * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.load(order_ptr + rows, mask=rows < end, other=0) // per_token
    x_ptr += token[:, None] * depth
    gate_ptr = gate_up_ptr + expert * 2 * width * depth + columns.to(tl.int64)[None, :] * depth
    gate = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    up = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = tl.load(x_ptr + k[None, :], mask=(rows < end)[:, None] & (k < depth)[None, :], other=0.0)
        inside = (k < depth)[:, None] & (columns < width)[None, :]
        w_gate = tl.load(gate_ptr + k[:, None], mask=inside, other=0.0)
        w_up = tl.load(gate_ptr + width * depth + k[:, None], mask=inside, other=0.0)
        gate = tl.dot(x, w_gate, gate, input_precision=PRECISION)
        up = tl.dot(x, w_up, up, input_precision=PRECISION)
    inside = (rows < end)[:, None] & (columns < width)[None, :]
    gate, up = gate.to(act_ptr.dtype.element_ty), up.to(act_ptr.dtype.element_ty)
    at = rows.to(tl.int64)[:, None]
    if KEEP:
        tl.store(hidden_ptr + at * 2 * width + columns[None, :], gate, mask=inside)
        tl.store(hidden_ptr + at * 2 * width + width + columns[None, :], up, mask=inside)
    act, up = activate(gate.to(tl.float32), up.to(tl.float32), limit, CLAMPED)
    tl.store(act_ptr + at * width + columns[None, :], (act * up).to(act_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rows_kernel(
    a_ptr,
    b_ptr,
    order_ptr,
    weights_ptr,
    tiles_ptr,
    out_ptr,
    n_tiles,
    b_expert_stride,
    b_depth_stride,
    b_column_stride,
    depth,
    width,
    WEIGHTED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = a @ b, weighted, for rows a (N·K, depth), each written where its assignment stands: nobody adds to it."""
    expert, first, end, column = find_tile(tiles_ptr, n_tiles, tl.cdiv(width, COLUMNS))
    if first >= end:
        return
    rows, columns = first + tl.arange(0, ROWS), column * COLUMNS + tl.arange(0, COLUMNS)
    a_ptr += rows.to(tl.int64)[:, None] * depth
    b_ptr += expert * b_expert_stride + columns.to(tl.int64)[None, :] * b_column_stride
    out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        a = tl.load(a_ptr + k[None, :], mask=(rows < end)[:, None] & (k < depth)[None, :], other=0.0)
        inside = (k < depth)[:, None] & (columns < width)[None, :]
        b = tl.load(b_ptr + k.to(tl.int64)[:, None] * b_depth_stride, mask=inside, other=0.0)
        out = tl.dot(a, b, out, input_precision=PRECISION)
    assignment = tl.load(order_ptr + rows, mask=rows < end, other=0)
    if WEIGHTED:
        out *= tl.load(weights_ptr + assignment, mask=rows < end, other=0.0).to(tl.float32)[:, None]
    inside = (rows < end)[:, None] & (columns < width)[None, :]
    at = out_ptr + assignment[:, None] * width + columns[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _back_kernel(
    dy_ptr,
    down_ptr,
    hidden_ptr,
    order_ptr,
    weights_ptr,
    tiles_ptr,
    dhidden_ptr,
    act_ptr,
    dweights_ptr,
    n_tiles,
    n_assignments,
    per_token,
    depth,
    width,
    limit,
    CLAMPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """From dy (N, depth), gathered, through ``down`` and SwiGLU to dhidden; and weight · act, which ddown will want.

    A weight's gradient is <dy, output> = <dy down, act>: a sum over all columns, of which each program has some. They
    go into rows of their own.
    """
    expert, first, end, column = find_tile(tiles_ptr, n_tiles, tl.cdiv(width, COLUMNS))
    if first >= end:
        return
    rows, columns = first + tl.arange(0, ROWS), column * COLUMNS + tl.arange(0, COLUMNS)
    assignment = tl.load(order_ptr + rows, mask=rows < end, other=0)
    dy_ptr += (assignment // per_token)[:, None] * depth
    down_ptr += expert * depth * width + columns[None, :]
    dact = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        dy = tl.load(dy_ptr + k[None, :], mask=(rows < end)[:, None] & (k < depth)[None, :], other=0.0)
        inside = (k < depth)[:, None] & (columns < width)[None, :]
        down = tl.load(down_ptr + k.to(tl.int64)[:, None] * width, mask=inside, other=0.0)
        dact = tl.dot(dy, down, dact, input_precision=PRECISION)

    weight = tl.load(weights_ptr + assignment, mask=rows < end, other=0.0).to(tl.float32)[:, None]
    inside = (rows < end)[:, None] & (columns < width)[None, :]
    at = rows.to(tl.int64)[:, None] * 2 * width + columns[None, :]
    gate = tl.load(hidden_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(hidden_ptr + at + width, mask=inside, other=0.0).to(tl.float32)
    silu, clamped_up = activate(gate, up, limit, CLAMPED)
    act = silu * clamped_up
    partial = dweights_ptr + column.to(tl.int64) * n_assignments + assignment
    tl.store(partial, tl.sum(dact * act, 1), mask=rows < end)
    act_at = act_ptr + rows.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(act_at, (act * weight).to(act_ptr.dtype.element_ty), mask=inside)
    dgate, dup = differentiate(dact * weight, gate, up, limit, CLAMPED)
    tl.store(dhidden_ptr + at, dgate.to(dhidden_ptr.dtype.element_ty), mask=inside)
    tl.store(dhidden_ptr + at + width, dup.to(dhidden_ptr.dtype.element_ty), mask=inside)


def up(x: Tensor, gate_up: Tensor, plan: Plan, limit: float | None, keep: bool) -> tuple[Tensor, Tensor]:
    """x (N, D), gate_up (E, 2F, D) -> hidden (N·K, 2F), only made if kept, and act (N·K, F), by row of the plan."""
    n, width = len(plan.order), gate_up.shape[1] // 2
    hidden = torch.empty((n if keep else 0, 2 * width), dtype=x.dtype, device=x.device)
    act = torch.empty((n, width), dtype=x.dtype, device=x.device)
    size = _tiles(x, plan, columns=128 if plan.rows == 128 else 64)
    tensors, numbers = (x, gate_up, plan.order, plan.tiles, hidden, act), (n // len(x), x.shape[1], width, limit or 0.0)
    _launch(_up_kernel, plan, tensors, numbers, size, width, KEEP=keep, CLAMPED=limit is not None)
    return hidden, act


def by_rows(a: Tensor, b: Tensor, weights: Tensor | None, plan: Plan) -> Tensor:
    """a (N·K, C) by row of the plan, b (E, C, D) in any strides -> (N·K, D) by assignment, weighted if they are."""
    out = torch.empty((len(a), b.shape[2]), dtype=a.dtype, device=a.device)
    tensors = a, b, plan.order, weights, plan.tiles, out
    size = _tiles(a, plan, columns=128)
    _launch(_rows_kernel, plan, tensors, (*b.stride(), *b.shape[1:]), size, b.shape[2], WEIGHTED=weights is not None)
    return out


def back(
    dy: Tensor, down: Tensor, hidden: Tensor, weights: Tensor, plan: Plan, limit: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dhidden (N·K, 2F) and weight · act (N·K, F), by row of the plan, and the weights' gradient (N·K,), float32."""
    n, depth, width = len(plan.order), *down.shape[1:]
    dhidden = torch.empty((n, 2 * width), dtype=dy.dtype, device=dy.device)
    act = torch.empty((n, width), dtype=dy.dtype, device=dy.device)
    size = _tiles(dy, plan, columns=64)
    dweights = torch.empty((triton.cdiv(width, size["COLUMNS"]), n), dtype=torch.float32, device=dy.device)
    tensors = dy, down, hidden, plan.order, weights, plan.tiles, dhidden, act, dweights
    numbers = n, n // len(dy), depth, width, limit or 0.0
    _launch(_back_kernel, plan, tensors, numbers, size, width, CLAMPED=limit is not None)
    return dhidden, act, dweights.sum(0)


def _launch(
    kernel: Any, plan: Plan, tensors: tuple, numbers: tuple, size: dict[str, int], width: int, **options: bool
) -> None:
    n_tiles, precision = plan.tiles.shape[1], launch.precision(tensors[0])
    grid = (n_tiles * triton.cdiv(width, size["COLUMNS"]),)
    launch.run(kernel, grid, *tensors, n_tiles, *numbers, PRECISION=precision, **options, **size)


def most_rows(x: Tensor) -> int:
    """Of a tile. Float32 has no tensor cores to feed, and twice the bytes to keep."""
    return 32 if x.dtype == torch.float32 else 128


def _tiles(x: Tensor, plan: Plan, columns: int) -> dict[str, int]:
    if x.dtype == torch.float32:
        return {"ROWS": plan.rows, "COLUMNS": 32, "DEPTH": 32, "num_warps": 4, "num_stages": 2}
    warps = 8 if plan.rows == 128 else 4
    return {"ROWS": plan.rows, "COLUMNS": columns, "DEPTH": 64, "num_warps": warps, "num_stages": 3}
