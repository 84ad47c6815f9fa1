"""Attention's way back in Triton, seen from the keys: their gradients and those of the values.

A program stays at its keys and walks over the queries that see them, of all heads of the group: sums over queries and
over heads stay in registers, and are the same bits each time.
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
def _walk_queries(
    state,
    span,
    columns,
    key,
    q_at,
    dy_at,
    row_at,
    mask_at,
    sizes,
    scale,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTHS: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add to ``state``, (dK, the rest of its columns, dV), what a ``span`` of queries has for these keys.

    Tiles lie with keys down and queries across: their products with dO and Q then need no transposing.
    """
    dk, dk_tail, dv = state
    k, k_tail, v = key
    q_ptr, q_stride = q_at
    dy_ptr, dy_stride = dy_at
    divisor_ptr, inner_ptr = row_at
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    here = tl.arange(0, ROWS)
    for start in range(span[0], span[1], ROWS):
        at, left = tl.cast(start, tl.int64), sizes[0] - start
        q = load_rows(q_ptr + at * q_stride, q_stride, here, left, WIDTH, 0, HEAD)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        if TAIL:
            q_tail = load_rows(q_ptr + at * q_stride, q_stride, here, left, WIDTH, HEAD, TAIL)
            scores = tl.dot(k_tail, tl.trans(q_tail), scores, input_precision=PRECISION)
        # Beyond the last query an infinite divisor leaves nothing.
        divisor = tl.load(divisor_ptr + start + here, mask=here < left, other=float("inf"))
        inner = tl.load(inner_ptr + start + here, mask=here < left, other=0.0)
        weights = tl.exp2(scores * scale - divisor[None, :])
        if CAUSAL or MASK:
            seen = visible((start + here)[None, :], columns[:, None], sizes, mask_at, CAUSAL, MASK)
            weights = tl.where(seen, weights, 0.0)
        dy = load_rows(dy_ptr + at * dy_stride, dy_stride, here, left, VALUE_WIDTH, 0, VALUE)
        dv = tl.dot(weights.to(dy.dtype), dy, dv, input_precision=PRECISION)
        dweights = tl.dot(v, tl.trans(dy), input_precision=PRECISION)
        dscores = (weights * (dweights - inner[None, :])).to(q.dtype)
        dk = tl.dot(dscores, q, dk, input_precision=PRECISION)
        if TAIL:
            dk_tail = tl.dot(dscores, q_tail, dk_tail, input_precision=PRECISION)
    return dk, dk_tail, dv


@triton.jit
def _keys_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    dy_ptr,
    divisor_ptr,
    inner_ptr,
    dk_ptr,
    dv_ptr,
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
    dk_batch_stride,
    dk_head_stride,
    dk_stride,
    dv_batch_stride,
    dv_head_stride,
    dv_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_row_stride,
    mask_column_stride,
    groups,
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
    # The first keys of a causal sequence are seen by most, and begin.
    tile, group, batch, _ = place(tl.cdiv(keys, KEYS), groups)
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    REST: tl.constexpr = TAIL if TAIL else 16
    first, here = tile * KEYS, tl.arange(0, KEYS)
    columns, left = first + here, keys - first

    k_ptr += batch * k_batch_stride + group * k_head_stride + first.to(tl.int64) * k_stride
    v_ptr += batch * v_batch_stride + group * v_head_stride + first.to(tl.int64) * v_stride
    k = load_rows(k_ptr, k_stride, here, left, WIDTH, 0, HEAD)
    k_tail = k
    if TAIL:
        k_tail = load_rows(k_ptr, k_stride, here, left, WIDTH, HEAD, TAIL)
    key = (k, k_tail, load_rows(v_ptr, v_stride, here, left, VALUE_WIDTH, 0, VALUE))

    begin = 0
    if CAUSAL:  # no query before this one sees a key of the tile
        begin = tl.maximum(0, first - (keys - queries)) // ROWS * ROWS
    state = (
        tl.zeros((KEYS, HEAD), dtype=tl.float32),
        tl.zeros((KEYS, REST), dtype=tl.float32),
        tl.zeros((KEYS, VALUE), dtype=tl.float32),
    )
    sizes = (queries, keys)
    for head in range(group * per_group, (group + 1) * per_group):
        q_at = (q_ptr + batch * q_batch_stride + head * q_head_stride, q_stride)
        dy_at = (dy_ptr + batch * dy_batch_stride + head * dy_head_stride, dy_stride)
        row = (batch * groups * per_group + head) * queries
        row_at = (divisor_ptr + row, inner_ptr + row)
        mask_at = None
        if MASK:
            at = batch * mask_batch_stride + head * mask_head_stride
            mask_at = (mask_ptr + at, mask_row_stride, mask_column_stride)
        state = _walk_queries(
            state, (begin, queries), columns, key, q_at, dy_at, row_at, mask_at, sizes, scale,
            CAUSAL, MASK, WIDTHS, ROWS, PRECISION,
        )  # fmt: skip
    dk, dk_tail, dv = state

    dk_ptr += batch * dk_batch_stride + group * dk_head_stride + first.to(tl.int64) * dk_stride
    dv_ptr += batch * dv_batch_stride + group * dv_head_stride + first.to(tl.int64) * dv_stride
    store_rows(dk * scale_of_gradient, dk_ptr, dk_stride, here, left, WIDTH, 0, HEAD)
    if TAIL:
        store_rows(dk_tail * scale_of_gradient, dk_ptr, dk_stride, here, left, WIDTH, HEAD, TAIL)
    store_rows(dv, dv_ptr, dv_stride, here, left, VALUE_WIDTH, 0, VALUE)


def gradients_of_keys(
    given: tuple[Tensor, ...], mask: Tensor | None, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """(q, k, v, gradient of the output, divisors, inner products) -> gradients of k and v."""
    q, k, v, dy, divisor, inner = given
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    (batch, heads, queries, width), (groups, keys, value_width) = q.shape, v.shape[1:]
    size = tiles("at keys", q, v)
    hidden, hidden_strides = mask_strides(mask, q, keys)
    launch.run(
        _keys_kernel,
        (triton.cdiv(keys, size.KEYS) * batch * groups,),
        q,
        k,
        v,
        hidden,
        dy,
        divisor,
        inner,
        dk,
        dv,
        *strides(q),
        *strides(k),
        *strides(v),
        *strides(dy),
        *strides(dk),
        *strides(dv),
        *hidden_strides,
        groups,
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
    return dk, dv
