"""Attention of few queries over many keys in Triton: a step of a decode, which is a walk through the cache.

A head's one query would leave a tensor core idle, so a program takes the queries of a whole group of heads, which read
the same keys; and one walk through a long cache would leave most of the GPU idle, so the keys are split among programs
(Flash-Decoding, Dao et al. 2023). Each leaves its part of the output and the logarithm of its softmax's divisor, by
which a second, small kernel weighs the parts, always in the same order.

Where the value is the first columns of the key, as MLA's latent is, a tile of keys is read once and serves as both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch
from minideepseek.kernels.attention.tiles import LOG2_E, Tiles, load_rows, mask_strides, place, strides, widths

FEWEST_KEYS = 256  # of a part: below, weighing the parts would cost more than sharing them out saves


@triton.jit
def _part_kernel(
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
    mask_batch_stride,
    mask_head_stride,
    mask_row_stride,
    mask_column_stride,
    groups,
    per_group,
    queries,
    keys,
    part_keys,
    scale,
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    SHARED: tl.constexpr,
    WIDTHS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    WIDTH: tl.constexpr = WIDTHS[0]
    HEAD: tl.constexpr = WIDTHS[1]
    TAIL: tl.constexpr = WIDTHS[2]
    VALUE_WIDTH: tl.constexpr = WIDTHS[3]
    VALUE: tl.constexpr = WIDTHS[4]
    n_tiles = tl.cdiv(queries * per_group, ROWS)
    tile, group, batch, _ = place(n_tiles, groups)
    # A row is one head's query; the heads of one token lie together, so that a tile's rows see the same keys.
    row = tile * ROWS + tl.arange(0, ROWS)
    token, head = row // per_group, group * per_group + row % per_group
    there = row < queries * per_group

    offset = head * q_head_stride + token.to(tl.int64) * q_stride
    q_ptr += batch * q_batch_stride
    channels = tl.arange(0, HEAD)
    inside = there[:, None] & (channels < SPLIT)[None, :]
    q = tl.load(q_ptr + offset[:, None] + channels[None, :], mask=inside, other=0.0)
    q_tail = q
    if TAIL:
        channels = SPLIT + tl.arange(0, TAIL)
        inside = there[:, None] & (channels < WIDTH)[None, :]
        q_tail = tl.load(q_ptr + offset[:, None] + channels[None, :], mask=inside, other=0.0)
    k_ptr += batch * k_batch_stride + group * k_head_stride
    v_ptr += batch * v_batch_stride + group * v_head_stride

    first = tl.program_id(1) * part_keys
    last = tl.minimum(first + part_keys, keys)
    if CAUSAL:  # nobody in the tile sees past its last token's own place
        latest = (tile * ROWS + ROWS - 1) // per_group
        last = tl.minimum(last, keys - queries + latest + 1)
    here = tl.arange(0, KEYS)
    y = tl.zeros((ROWS, VALUE), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    highest = tl.full((ROWS,), -float("inf"), dtype=tl.float32)
    for start in range(first, last, KEYS):
        at, columns = tl.cast(start, tl.int64), start + here
        k = load_rows(k_ptr + at * k_stride, k_stride, here, last - start, SPLIT, 0, HEAD)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if TAIL:
            k_tail = load_rows(k_ptr + at * k_stride, k_stride, here, last - start, WIDTH, SPLIT, TAIL)
            scores = tl.dot(q_tail, tl.trans(k_tail), scores, input_precision=PRECISION)
        seen = there[:, None] & (columns < last)[None, :]
        if CAUSAL:
            seen = seen & (columns[None, :] <= (token + (keys - queries))[:, None])
        if MASK:
            mask_row = batch * mask_batch_stride + head * mask_head_stride + token.to(tl.int64) * mask_row_stride
            mask_at = mask_ptr + mask_row[:, None] + (columns.to(tl.int64) * mask_column_stride)[None, :]
            seen = seen & (tl.load(mask_at, mask=seen, other=0) != 0)
        scores = tl.where(seen, scores * scale, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(highest - base)
        total = total * shrink + tl.sum(weights, 1)
        if SHARED:
            v = k
        else:
            v = load_rows(v_ptr + at * v_stride, v_stride, here, last - start, VALUE_WIDTH, 0, VALUE)
        y = tl.dot(weights.to(v.dtype), v, y * shrink[:, None], input_precision=PRECISION)
        highest = higher

    blind = total == 0.0
    total = tl.where(blind, 1.0, total)
    divisor = tl.where(blind, -float("inf"), highest + tl.log2(total))
    # Parts, then (B, H, T, Ev).
    heads, sequences = groups * per_group, tl.num_programs(0) // (n_tiles * groups)
    out = ((tl.program_id(1).to(tl.int64) * sequences + batch) * heads + head) * queries + token
    channels = tl.arange(0, VALUE)
    inside = there[:, None] & (channels < VALUE_WIDTH)[None, :]
    y = (y / total[:, None]).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + out[:, None] * VALUE_WIDTH + channels[None, :], y, mask=inside)
    tl.store(divisor_ptr + out, divisor, mask=there)


@triton.jit
def _join_kernel(
    part_ptr, divisor_ptr, y_ptr, n_rows, n_parts, VALUE_WIDTH: tl.constexpr, VALUE: tl.constexpr, PARTS: tl.constexpr
):
    """The parts of one query's output, weighed by their divisors."""
    row = tl.program_id(0).to(tl.int64)
    parts, channels = tl.arange(0, PARTS), tl.arange(0, VALUE)
    divisors = tl.load(divisor_ptr + parts * n_rows + row, mask=parts < n_parts, other=-float("inf"))
    highest = tl.max(divisors)
    highest = tl.where(highest == -float("inf"), 0.0, highest)
    total = tl.sum(tl.exp2(divisors - highest))
    y = tl.zeros((VALUE,), dtype=tl.float32)
    for part in range(n_parts):
        at = part * n_rows + row
        weight = tl.exp2(tl.load(divisor_ptr + at) - highest)
        y += weight * tl.load(part_ptr + at * VALUE_WIDTH + channels, mask=channels < VALUE_WIDTH, other=0.0)
    y = y / tl.where(total == 0.0, 1.0, total)
    tl.store(y_ptr + row * VALUE_WIDTH + channels, y.to(y_ptr.dtype.element_ty), mask=channels < VALUE_WIDTH)


def attend_with_few(
    q: Tensor, k: Tensor, v: Tensor | None, value_width: int, scale: float, causal: bool, mask: Tensor | None
) -> Tensor:
    """q (B, H, T, E), k (B, G, S, E), v (B, G, S, Ev), or None for k's first columns -> (B, H, T, Ev). No gradient."""
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    y = torch.empty((batch, heads, queries, value_width), dtype=k.dtype, device=q.device)
    parts_of = widths(width, value_width)
    split = min(parts_of[1], width)
    if v is None:  # the head's columns are then the value's
        value = parts_of[4]
        rest = width - value_width
        parts_of = (width, value, max(16, triton.next_power_of_2(rest)) if rest else 0, value_width, value)
        split = value_width
    per_group = heads // groups
    size = _tiles(q, parts_of, per_group * queries)
    row_tiles = triton.cdiv(per_group * queries, size.ROWS)
    wanted = triton.cdiv(2 * launch.multiprocessors(q.device), row_tiles * batch * groups)
    part_keys = triton.cdiv(max(triton.cdiv(keys, wanted), FEWEST_KEYS), size.KEYS) * size.KEYS
    n_parts = triton.cdiv(keys, part_keys)
    parts = y if n_parts == 1 else torch.empty((n_parts, *y.shape), dtype=torch.float32, device=q.device)
    divisors = torch.empty((n_parts, batch, heads, queries), dtype=torch.float32, device=q.device)
    hidden, hidden_strides = mask_strides(mask, q, keys)
    values = k if v is None else v
    launch.run(
        _part_kernel,
        (row_tiles * batch * groups, n_parts),
        q,
        k,
        values,
        hidden,
        parts,
        divisors,
        *strides(q),
        *strides(k),
        *strides(values),
        *hidden_strides,
        groups,
        per_group,
        queries,
        keys,
        part_keys,
        scale * LOG2_E,
        CAUSAL=causal,
        MASK=mask is not None,
        SHARED=v is None,
        WIDTHS=parts_of,
        SPLIT=split,
        PRECISION=launch.precision(q),
        **size._asdict(),
    )
    if n_parts > 1:
        n_rows = divisors[0].numel()
        options = {"VALUE_WIDTH": value_width, "VALUE": parts_of[4], "PARTS": triton.next_power_of_2(n_parts)}
        options["num_warps"] = max(1, parts_of[4] // 128)  # four numbers a thread
        launch.run(_join_kernel, (n_rows,), parts, divisors, y, n_rows, n_parts, **options)
    return y


def _tiles(q: Tensor, parts_of: tuple[int, ...], rows: int) -> Tiles:
    widest = max(parts_of[1], parts_of[4])
    rows = min(64, max(16, triton.next_power_of_2(rows)))
    if q.dtype == torch.float32:
        return Tiles(16, 16, 8, 1) if widest > 256 else Tiles(16, 32, 4, 1)
    if widest > 512:
        return Tiles(min(rows, 32), 16, 8, 2)
    if widest > 256:
        return Tiles(rows, 64 if rows < 64 else 32, 8, 2)
    return Tiles(rows, 64, 4, 3)
