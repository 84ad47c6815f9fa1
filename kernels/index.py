"""The lightning indexer's scores in Triton, and their way back: what every query makes of every key, summed over heads.

Floor: arithmetic from a few heads on. With B sequences, T queries of H heads of D channels and S keys:

    forward     2·B·T·S·H·D FLOPs; 4·B·T·S bytes written
    backward    6·B·T·S·H·D FLOPs where one tile could serve all; here 10, since two kernels make each product anew

At 790 TFLOP/s and 4.3 TB/s (an H200's bfloat16 product and copy), 4096 queries of 64 heads of 128 over 16,384 keys take
1.4 ms, and writing their scores 0.06 ms. Fraction of the floor reached: not yet measured on a GPU.

Plain PyTorch writes the products of all heads before it sums them: H times as many numbers as there are scores. Here a
tile of scores stays in registers while the heads go by. Sums over queries (for the keys' gradient) are split among
programs by heads, and their parts added up in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def index_scores(queries: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """See ``minideepseek.ops.index_scores``."""
    queries, keys = launch.autocast(queries, keys)
    launch.check(queries, weights, keys)
    return _Scores.apply(queries.contiguous(), weights.contiguous(), keys.contiguous())


@triton.jit
def _load(ptr, rows, n_rows, stride, width: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    return tl.load(ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _scores_kernel(
    q_ptr,
    w_ptr,
    k_ptr,
    out_ptr,
    queries,
    keys,
    heads,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    batch = tl.program_id(2).to(tl.int64)
    rows, columns = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    q_ptr += batch * queries * heads * width
    w_at = w_ptr + (batch * queries + rows) * heads
    k = tl.trans(_load(k_ptr + batch * keys * width, columns, keys, width, width, WIDTH))
    scores = tl.zeros((ROWS, KEYS), dtype=tl.float32)
    for head in range(heads):
        q = _load(q_ptr + head * width, rows, queries, heads * width, width, WIDTH)
        w = tl.load(w_at + head, mask=rows < queries, other=0.0).to(tl.float32)
        scores += w[:, None] * tl.maximum(tl.dot(q, k, input_precision=PRECISION), 0.0)
    at = out_ptr + (batch * queries + rows)[:, None] * keys + columns[None, :]
    tl.store(at, scores, mask=(rows < queries)[:, None] & (columns < keys)[None, :])


@triton.jit
def _queries_kernel(
    q_ptr,
    w_ptr,
    k_ptr,
    dout_ptr,
    dq_ptr,
    dw_ptr,
    queries,
    keys,
    heads,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of one head's queries and weights: a walk over the keys."""
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    rows, here = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, KEYS)
    at = (batch * queries * heads + head) * width
    q = _load(q_ptr + at, rows, queries, heads * width, width, WIDTH)
    w_at = (batch * queries + rows) * heads + head
    w = tl.load(w_ptr + w_at, mask=rows < queries, other=0.0).to(tl.float32)
    dq = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    dw = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, keys, KEYS):
        columns = start + here
        k = _load(k_ptr + batch * keys * width, columns, keys, width, width, WIDTH)
        dout_at = dout_ptr + (batch * queries + rows)[:, None] * keys + columns[None, :]
        inside = (rows < queries)[:, None] & (columns < keys)[None, :]
        dout = tl.load(dout_at, mask=inside, other=0.0)
        product = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dw += tl.sum(dout * tl.maximum(product, 0.0), 1)
        dproduct = tl.where(product > 0.0, dout * w[:, None], 0.0)
        dq = tl.dot(dproduct.to(k.dtype), k, dq, input_precision=PRECISION)
    channels = tl.arange(0, WIDTH)
    dq_at = dq_ptr + at + rows.to(tl.int64)[:, None] * heads * width + channels[None, :]
    inside = (rows < queries)[:, None] & (channels < width)[None, :]
    tl.store(dq_at, dq.to(dq_ptr.dtype.element_ty), mask=inside)
    tl.store(dw_ptr + w_at, dw.to(dw_ptr.dtype.element_ty), mask=rows < queries)


@triton.jit
def _keys_kernel(
    q_ptr,
    w_ptr,
    k_ptr,
    dout_ptr,
    dk_ptr,
    queries,
    keys,
    heads,
    part_heads,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of the keys, of some heads: a walk over the queries. Keys lie down the tile, queries across."""
    batch = tl.program_id(2).to(tl.int64)
    columns, here = tl.program_id(0) * KEYS + tl.arange(0, KEYS), tl.arange(0, ROWS)
    k = _load(k_ptr + batch * keys * width, columns, keys, width, width, WIDTH)
    dk = tl.zeros((KEYS, WIDTH), dtype=tl.float32)
    first = tl.program_id(1) * part_heads
    last = tl.minimum(first + part_heads, heads)
    for start in range(0, queries, ROWS):
        rows = start + here
        dout_at = dout_ptr + (batch * queries + rows)[None, :] * keys + columns[:, None]
        inside = (rows < queries)[None, :] & (columns < keys)[:, None]
        dout = tl.load(dout_at, mask=inside, other=0.0)
        for head in range(first, last):
            at = (batch * queries * heads + head) * width
            q = _load(q_ptr + at, rows, queries, heads * width, width, WIDTH)
            w = tl.load(w_ptr + (batch * queries + rows) * heads + head, mask=rows < queries, other=0.0).to(tl.float32)
            product = tl.dot(k, tl.trans(q), input_precision=PRECISION)
            dproduct = tl.where(product > 0.0, dout * w[None, :], 0.0)
            dk = tl.dot(dproduct.to(q.dtype), q, dk, input_precision=PRECISION)
    channels = tl.arange(0, WIDTH)
    part = (tl.program_id(1) * tl.num_programs(2) + batch) * keys
    at = dk_ptr + (part + columns)[:, None] * width + channels[None, :]
    tl.store(at, dk, mask=(columns < keys)[:, None] & (channels < width)[None, :])


def _tiles(q: Tensor, rows: int, keys: int) -> dict[str, Any]:
    width = q.shape[-1]
    size = {"width": width, "WIDTH": max(16, triton.next_power_of_2(width)), "PRECISION": launch.precision(q)}
    if size["WIDTH"] > 256:
        raise ValueError(f"an indexer's heads of {width} channels do not fit the registers of one program; at most 256")
    if q.dtype == torch.float32:
        return size | {"ROWS": 32, "KEYS": 32, "num_warps": 4, "num_stages": 1}
    return size | {"ROWS": rows, "KEYS": keys, "num_warps": 8, "num_stages": 3}


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, w: Tensor, k: Tensor) -> Tensor:
        (batch, queries, heads, _), keys = q.shape, k.shape[1]
        out = torch.empty((batch, queries, keys), dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, w, k)
        if out.numel():
            size = _tiles(q, 128, 128)
            grid = triton.cdiv(keys, size["KEYS"]), triton.cdiv(queries, size["ROWS"]), batch
            launch.run(_scores_kernel, grid, q, w, k, out, queries, keys, heads, **size)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, w, k = ctx.saved_tensors
        if not dout.numel():
            return torch.zeros_like(q), torch.zeros_like(w), torch.zeros_like(k)
        (batch, queries, heads, _), keys, dout = q.shape, k.shape[1], dout.contiguous()
        dq, dw = torch.empty_like(q), torch.empty_like(w)
        size = _tiles(q, 128, 64)
        grid = batch * heads, triton.cdiv(queries, size["ROWS"])
        launch.run(_queries_kernel, grid, q, w, k, dout, dq, dw, queries, keys, heads, **size)
        size = _tiles(q, 64, 128)
        tiles = triton.cdiv(keys, size["KEYS"])
        part_heads = triton.cdiv(heads, triton.cdiv(2 * launch.multiprocessors(q.device), tiles * batch))
        parts = triton.cdiv(heads, part_heads)
        dk = torch.empty((parts, *k.shape), dtype=torch.float32, device=q.device)
        grid = tiles, parts, batch
        launch.run(_keys_kernel, grid, q, w, k, dout, dk, queries, keys, heads, part_heads, **size)
        return dq, dw, dk.sum(0).to(k.dtype)
