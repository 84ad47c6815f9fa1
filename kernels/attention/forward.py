"""Attention forward in Triton: a tile of one head's queries walks over the keys.

Scores live in registers only. The softmax is rescaled whenever a larger score appears; keys that no query of a causal
tile can see are never read; and only tiles on the diagonal, or beyond the last key, pay for hiding.
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
def _walk(
    state,
    span,
    rows,
    query,
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
    """Carry ``state``, (weighted values, sum of weights, largest score), over a ``span`` of keys; HIDE some of them."""
    y, total, highest = state
    q, q_tail = query
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
        scores = scores * scale
        if HIDE:
            seen = visible(rows[:, None], (start + here)[None, :], sizes, mask_at, CAUSAL, MASK)
            scores = tl.where(seen, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = higher
        if HIDE:  # who has seen nothing yet is at -inf, and -inf less itself is no number
            base = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        v = load_rows(v_ptr + at * v_stride, v_stride, here, left, VALUE_WIDTH, 0, VALUE)
        y = tl.dot(weights.to(v.dtype), v, y * shrink[:, None], input_precision=PRECISION)
        highest = higher
    return y, total, highest


@triton.jit
def _forward_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    y_ptr,
    divisor_ptr,
    q_batch_stride,
    q_head_stride,
    q_stride,
    k_batch_stride,
    k_head_stride,
    k_stride,
    v_batch_stride,
    v_head_stride,
    v_stride,
    y_batch_stride,
    y_head_stride,
    y_stride,
    mask_batch_stride,
    mask_head_stride,
    mask_row_stride,
    mask_column_stride,
    heads,
    per_group,
    queries,
    keys,
    scale,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    WIDTHS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n_tiles = tl.cdiv(queries, ROWS)
    tile, head, batch, pair = place(n_tiles, heads)
    tile = n_tiles - 1 - tile  # the last queries of a causal sequence have the most to do, so they begin
    group = head // per_group
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    first, here = tile * ROWS, tl.arange(0, ROWS)
    rows, left = first + here, queries - first

    q_ptr += batch * q_batch_stride + head * q_head_stride + first.to(tl.int64) * q_stride
    q = load_rows(q_ptr, q_stride, here, left, WIDTH, 0, HEAD)
    q_tail = q
    if TAIL:
        q_tail = load_rows(q_ptr, q_stride, here, left, WIDTH, HEAD, TAIL)
    k_at = (k_ptr + batch * k_batch_stride + group * k_head_stride, k_stride)
    v_at = (v_ptr + batch * v_batch_stride + group * v_head_stride, v_stride)
    mask_at = None
    if MASK:
        mask_at = (mask_ptr + batch * mask_batch_stride + head * mask_head_stride, mask_row_stride, mask_column_stride)

    end, plain = keys, keys // KEYS * KEYS  # all rows of the tile see all keys before ``plain``, and none from ``end``
    if CAUSAL:
        past = first + keys - queries
        end = tl.minimum(end, past + ROWS)
        plain = tl.minimum(plain, (past + 1) // KEYS * KEYS)
    state = (
        tl.zeros((ROWS, VALUE), dtype=tl.float32),
        tl.zeros((ROWS,), dtype=tl.float32),
        tl.full((ROWS,), -float("inf"), dtype=tl.float32),
    )
    query, sizes = (q, q_tail), (queries, keys)
    if MASK:
        plain = 0
    else:
        state = _walk(
            state, (0, plain), rows, query, k_at, v_at, mask_at, sizes, scale,
            False, CAUSAL, MASK, WIDTHS, KEYS, PRECISION,
        )  # fmt: skip
    y, total, highest = _walk(
        state, (plain, end), rows, query, k_at, v_at, mask_at, sizes, scale,
        True, CAUSAL, MASK, WIDTHS, KEYS, PRECISION,
    )  # fmt: skip

    # A query that saw nothing brings nothing home; an infinite divisor makes nothing of its weights on the way back.
    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    y = y / total[:, None]
    y_ptr += batch * y_batch_stride + head * y_head_stride + first.to(tl.int64) * y_stride
    store_rows(y, y_ptr, y_stride, here, left, VALUE_WIDTH, 0, VALUE)
    divisor = tl.where(blind, float("inf"), highest + tl.log2(total))
    tl.store(divisor_ptr + pair * queries + rows, divisor, mask=rows < queries)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The output (B, H, T, Ev), and log2 of what each query's softmax was divided by (B, H, T), in float32."""
    (batch, heads, queries, width), (groups, keys, value_width) = q.shape, v.shape[1:]
    # In the order in which the next layer reads it.
    y = torch.empty((batch, queries, heads, value_width), dtype=v.dtype, device=q.device).transpose(1, 2)
    divisor = torch.empty((batch, heads, queries), dtype=torch.float32, device=q.device)
    size = tiles("forward", q, v)
    hidden, hidden_strides = mask_strides(mask, q, keys)
    launch.run(
        _forward_kernel,
        (triton.cdiv(queries, size.ROWS) * batch * heads,),
        q,
        k,
        v,
        hidden,
        y,
        divisor,
        *strides(q),
        *strides(k),
        *strides(v),
        *strides(y),
        *hidden_strides,
        heads,
        heads // groups,
        queries,
        keys,
        scale * LOG2_E,
        CAUSAL=causal,
        MASK=mask is not None,
        WIDTHS=widths(width, value_width),
        PRECISION=launch.precision(q),
        **size._asdict(),
    )
    return y, divisor
