"""What the attention kernels share: how a tile is read, who may see whom, and how large tiles are."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634  # exponentials to the base 2 are one instruction


@triton.jit
def place(n_tiles, n_heads):
    """(tile, head, sequence, head of all sequences) of this program.

    One dimension of a grid holds them all, tiles of a head side by side: the other two end at 65,535.
    """
    tile, pair = tl.program_id(0) % n_tiles, tl.program_id(0) // n_tiles
    return tile, (pair % n_heads).to(tl.int64), (pair // n_heads).to(tl.int64), pair.to(tl.int64)


@triton.jit
def load_rows(ptr, stride, rows, n_rows, WIDTH: tl.constexpr, FIRST: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) numbers, from column FIRST on; zeros beyond row ``n_rows`` and column WIDTH."""
    columns = FIRST + tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None]
    if FIRST + COLUMNS > WIDTH:
        inside = inside & (columns < WIDTH)[None, :]
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(values, ptr, stride, rows, n_rows, WIDTH: tl.constexpr, FIRST: tl.constexpr, COLUMNS: tl.constexpr):
    """The other way round, in the type of the memory."""
    columns = FIRST + tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (columns < WIDTH)[None, :]
    tl.store(ptr + rows[:, None] * stride + columns[None, :], values.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def visible(rows, columns, sizes, mask_at, CAUSAL: tl.constexpr, MASK: tl.constexpr):
    """Whether queries ``rows`` see keys ``columns``, one of them (R, 1) and the other (1, C).

    sizes: numbers of queries and keys. mask_at: where this head's mask is, and its strides.
    """
    queries, keys = sizes
    seen = (rows < queries) & (columns < keys)
    if MASK:
        ptr, row_stride, column_stride = mask_at
        at = rows.to(tl.int64) * row_stride + columns.to(tl.int64) * column_stride
        seen = seen & (tl.load(ptr + at, mask=seen, other=0) != 0)
    if CAUSAL:  # the last query stands at the last key
        seen = seen & (columns <= rows + (keys - queries))
    return seen


class Tiles(NamedTuple):
    """Queries and keys of a tile, warps that share it, and how many of its loads are on their way at a time."""

    ROWS: int
    KEYS: int
    num_warps: int
    num_stages: int


# The largest that the compiler fits into registers without spilling (tests/kernels/compile_for_gpu.py tells), for
# heads up to the width before them. Float32 has no tensor cores to feed and twice the bytes to keep.
FORWARD = {64: Tiles(128, 128, 8, 3), 128: Tiles(128, 128, 8, 2), 256: Tiles(128, 64, 8, 2), 1024: Tiles(64, 16, 8, 2)}
AT_KEYS = {64: Tiles(64, 128, 8, 2), 128: Tiles(32, 128, 8, 3), 256: Tiles(32, 128, 8, 2), 1024: Tiles(16, 16, 8, 1)}
AT_QUERIES = {128: Tiles(128, 64, 8, 3), 256: Tiles(128, 64, 8, 2), 1024: Tiles(32, 32, 8, 1)}
FLOAT32 = {
    "forward": {256: Tiles(32, 32, 8, 1), 1024: Tiles(16, 16, 8, 1)},
    "at keys": {128: Tiles(16, 32, 8, 1), 1024: Tiles(16, 16, 8, 1)},
    "at queries": {1024: Tiles(16, 16, 8, 1)},
}
SIXTEEN_BITS = {"forward": FORWARD, "at keys": AT_KEYS, "at queries": AT_QUERIES}


def tiles(way: str, q: Tensor, v: Tensor) -> Tiles:
    """For the pass ``forward``, or one of the way back, ``at keys`` or ``at queries``."""
    width = max(q.shape[-1], v.shape[-1])
    table = (FLOAT32 if q.dtype == torch.float32 else SIXTEEN_BITS)[way]
    for widest, found in table.items():
        if width <= widest:
            return found
    raise ValueError(f"heads of {width} channels do not fit the registers of one program; at most 1024")


def widths(width: int, value_width: int) -> tuple[int, int, int, int, int]:
    """Of queries and keys: their width, and it as two powers of two, 0 where one is enough. Of values: theirs, and one.

    No power is below 16, the least that a tensor core multiplies.
    """
    head = 1 << max(4, width.bit_length() - 1)
    tail = 0 if width <= head else max(16, triton.next_power_of_2(width - head))
    return width, head, tail, value_width, max(16, triton.next_power_of_2(value_width))


def strides(x: Tensor) -> tuple[int, int, int]:
    """Of sequence, head and row; (B, H, T, E) with neighbouring channels."""
    return x.stride(0), x.stride(1), x.stride(2)


def mask_strides(mask: Tensor | None, like: Tensor, keys: int) -> tuple[Tensor | None, tuple[int, int, int, int]]:
    """The mask as bytes (B, H, T, S), repeated without being copied, and its strides."""
    if mask is None:
        return None, (0, 0, 0, 0)
    whole = mask.expand(*like.shape[:3], keys)
    return whole.view(torch.uint8), whole.stride()  # type: ignore[return-value]  # of four axes: four
