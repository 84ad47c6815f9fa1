"""Attention's way back in Triton, seen from the queries: their gradient, and what both passes need of each query first.

A program stays at its queries and walks over the keys that they see, as in the forward pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch
from minideepseek.kernels.attention.tiles import (
    LOG2_E,
    load_rows,
    mask_strides,
    place,
    store_rows,
    strides,
    tiles,
    visible,
    widths,
)


@triton.jit
def _inner_kernel(
    y_ptr,
    dy_ptr,
    inner_ptr,
    y_batch_stride,
    y_head_stride,
    y_stride,
    dy_batch_stride,
    dy_head_stride,
    dy_stride,
    heads,
    queries,
    WIDTHS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """D of every query: the product of its output and the output's gradient."""
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    tile, head, batch, pair = place(tl.cdiv(queries, ROWS), heads)
    rows = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    y_ptr += batch * y_batch_stride + head * y_head_stride
    dy_ptr += batch * dy_batch_stride + head * dy_head_stride
    y = load_rows(y_ptr, y_stride, rows, queries, VALUE_WIDTH, 0, VALUE).to(tl.float32)
    dy = load_rows(dy_ptr, dy_stride, rows, queries, VALUE_WIDTH, 0, VALUE).to(tl.float32)
    inner = pair * queries + rows
    tl.store(inner_ptr + inner, tl.sum(y * dy, 1), mask=rows < queries)


@triton.jit
def _walk_keys(
    state,
    span,
    rows,
    query,
    row,
    k_at,
    v_at,
    mask_at,
    sizes,
    scale,
    HIDE: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTHS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add to ``state``, (dQ, the rest of its columns), what a ``span`` of keys has for these queries."""
    dq, dq_tail = state
    q, q_tail, dy = query
    divisor, inner = row
    k_ptr, k_stride = k_at
    v_ptr, v_stride = v_at
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    here = tl.arange(0, KEYS)
    for start in range(span[0], span[1], KEYS):
        at, left = tl.cast(start, tl.int64), sizes[1] - start
        k = load_rows(k_ptr + at * k_stride, k_stride, here, left, WIDTH, 0, HEAD)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if TAIL:
            k_tail = load_rows(k_ptr + at * k_stride, k_stride, here, left, WIDTH, HEAD, TAIL)
            scores = tl.dot(q_tail, tl.trans(k_tail), scores, input_precision=PRECISION)
        weights = tl.exp2(scores * scale - divisor[:, None])
        if HIDE:
            seen = visible(rows[:, None], (start + here)[None, :], sizes, mask_at, CAUSAL, MASK)
            weights = tl.where(seen, weights, 0.0)
        v = load_rows(v_ptr + at * v_stride, v_stride, here, left, VALUE_WIDTH, 0, VALUE)
        dweights = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
        dscores = (weights * (dweights - inner[:, None])).to(k.dtype)
        dq = tl.dot(dscores, k, dq, input_precision=PRECISION)
        if TAIL:
            dq_tail = tl.dot(dscores, k_tail, dq_tail, input_precision=PRECISION)
    return dq, dq_tail


@triton.jit
def _queries_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    dy_ptr,
    divisor_ptr,
    inner_ptr,
    dq_ptr,
    q_batch_stride,
    q_head_stride,
    q_stride,
    k_batch_stride,
    k_head_stride,
    k_stride,
    v_batch_stride,
    v_head_stride,
    v_stride,
    dy_batch_stride,
    dy_head_stride,
    dy_stride,
    dq_batch_stride,
    dq_head_stride,
    dq_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_row_stride,
    mask_column_stride,
    heads,
    per_group,
    queries,
    keys,
    scale,
    scale_of_gradient,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTHS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n_tiles = tl.cdiv(queries, ROWS)
    tile, head, batch, pair = place(n_tiles, heads)
    tile = n_tiles - 1 - tile  # the last have the most to do
    group = head // per_group
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    REST: tl.constexpr = TAIL if TAIL else 16
    first, here = tile * ROWS, tl.arange(0, ROWS)
    rows, left = first + here, queries - first

    q_ptr += batch * q_batch_stride + head * q_head_stride + first.to(tl.int64) * q_stride
    dy_ptr += batch * dy_batch_stride + head * dy_head_stride + first.to(tl.int64) * dy_stride
    q = load_rows(q_ptr, q_stride, here, left, WIDTH, 0, HEAD)
    q_tail = q
    if TAIL:
        q_tail = load_rows(q_ptr, q_stride, here, left, WIDTH, HEAD, TAIL)
    query = (q, q_tail, load_rows(dy_ptr, dy_stride, here, left, VALUE_WIDTH, 0, VALUE))
    at = pair * queries + rows
    divisor = tl.load(divisor_ptr + at, mask=rows < queries, other=float("inf"))
    inner = tl.load(inner_ptr + at, mask=rows < queries, other=0.0)
    k_at = (k_ptr + batch * k_batch_stride + group * k_head_stride, k_stride)
    v_at = (v_ptr + batch * v_batch_stride + group * v_head_stride, v_stride)
    mask_at = None
    if MASK:
        mask_at = (mask_ptr + batch * mask_batch_stride + head * mask_head_stride, mask_row_stride, mask_column_stride)

    end, plain = keys, keys // KEYS * KEYS  # as in the forward pass
    if CAUSAL:
        past = first + keys - queries
        end = tl.minimum(end, past + ROWS)
        plain = tl.minimum(plain, (past + 1) // KEYS * KEYS)
    state = (tl.zeros((ROWS, HEAD), dtype=tl.float32), tl.zeros((ROWS, REST), dtype=tl.float32))
    sizes = (queries, keys)
    if MASK:
        plain = 0
    else:
        state = _walk_keys(
            state, (0, plain), rows, query, (divisor, inner), k_at, v_at, mask_at, sizes, scale,
            False, CAUSAL, MASK, WIDTHS, KEYS, PRECISION,
        )  # fmt: skip
    dq, dq_tail = _walk_keys(
        state, (plain, end), rows, query, (divisor, inner), k_at, v_at, mask_at, sizes, scale,
        True, CAUSAL, MASK, WIDTHS, KEYS, PRECISION,
    )  # fmt: skip

    dq_ptr += batch * dq_batch_stride + head * dq_head_stride + first.to(tl.int64) * dq_stride
    store_rows(dq * scale_of_gradient, dq_ptr, dq_stride, here, left, WIDTH, 0, HEAD)
    if TAIL:
        store_rows(dq_tail * scale_of_gradient, dq_ptr, dq_stride, here, left, WIDTH, HEAD, TAIL)


def inner_products(y: Tensor, dy: Tensor) -> Tensor:
    """<y, dy> of every query: both (B, H, T, Ev) -> (B, H, T), float32."""
    batch, heads, queries, value_width = y.shape
    inner = torch.empty((batch, heads, queries), dtype=torch.float32, device=y.device)
    launch.run(
        _inner_kernel,
        (triton.cdiv(queries, 32) * batch * heads,),
        y,
        dy,
        inner,
        *strides(y),
        *strides(dy),
        heads,
        queries,
        WIDTHS=widths(value_width, value_width),
        ROWS=32,
    )
    return inner


def gradient_of_queries(given: tuple[Tensor, ...], mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """(q, k, v, gradient of the output, divisors, inner products) -> gradient of q."""
    q, k, v, dy, divisor, inner = given
    dq = torch.empty_like(q)
    (batch, heads, queries, width), (groups, keys, value_width) = q.shape, v.shape[1:]
    size = tiles("at queries", q, v)
    hidden, hidden_strides = mask_strides(mask, q, keys)
    launch.run(
        _queries_kernel,
        (triton.cdiv(queries, size.ROWS) * batch * heads,),
        q,
        k,
        v,
        hidden,
        dy,
        divisor,
        inner,
        dq,
        *strides(q),
        *strides(k),
        *strides(v),
        *strides(dy),
        *strides(dq),
        *hidden_strides,
        heads,
        heads // groups,
        queries,
        keys,
        scale * LOG2_E,
        scale,
        CAUSAL=causal,
        MASK=mask is not None,
        WIDTHS=widths(width, value_width),
        PRECISION=launch.precision(q),
        **size._asdict(),
    )
    return dq
