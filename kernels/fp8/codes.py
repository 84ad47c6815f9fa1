"""Numbers rounded to eight bits in Triton, with a scale for every 128 of them: codes equal to the simulation's.

A division is IEEE's, not the quick one: where it falls between two codes, a last bit decides.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch

TILE = 128
LEAST_PEAK = 1e-30  # of what shares a scale: nobody divides by zero


class Codes(NamedTuple):
    """A matrix in eight bits, its rows summed over: codes (R, C filled up to a multiple of 128); scales float32.

    ``scales[i, j]`` belongs to columns 128·i.. of row j, or of rows 128·j.. where blocks are square.
    """

    codes: Tensor
    scales: Tensor


@triton.jit
def _scale(peak, largest, least, POWER_OF_TWO: tl.constexpr):
    """What brings a peak to ``largest``; divided as IEEE has it, so that codes are those of the definition."""
    scale = tl.div_rn(tl.maximum(peak, least), largest)
    if POWER_OF_TWO:  # up, unless it is one: the exponent grows by one where any bit of the mantissa is set
        scale = ((scale.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    return scale


@triton.jit
def _along_rows_kernel(
    x_ptr,
    codes_ptr,
    scales_ptr,
    n_rows,
    width,
    filled,
    largest,
    least,
    POWER_OF_TWO: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = (rows < n_rows)[:, None]
    at = x_ptr + rows[:, None] * width + columns[None, :]
    x = tl.load(at, mask=there & (columns < width)[None, :], other=0.0).to(tl.float32)
    scale = _scale(tl.max(tl.abs(x), 1), largest, least, POWER_OF_TWO)
    codes = tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape)).to(codes_ptr.dtype.element_ty)
    tl.store(codes_ptr + rows[:, None] * filled + columns[None, :], codes, mask=there)
    tl.store(scales_ptr + tl.program_id(1).to(tl.int64) * n_rows + rows, scale, mask=rows < n_rows)


@triton.jit
def _along_columns_kernel(
    x_ptr,
    x_scales_ptr,
    codes_ptr,
    scales_ptr,
    n_rows,
    width,
    x_stride,
    filled,
    largest,
    least,
    ENCODED: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """From x, or its codes along rows, to the codes of its transpose."""
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < n_rows)[:, None] & (columns < width)[None, :]
    x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=there, other=0.0).to(tl.float32)
    if ENCODED:  # one scale a row: COLUMNS divides TILE
        at = x_scales_ptr + (tl.program_id(1) * COLUMNS // TILE).to(tl.int64) * n_rows + rows
        x *= tl.load(at, mask=rows < n_rows, other=0.0)[:, None]
    scale = _scale(tl.max(tl.abs(x), 0), largest, least, POWER_OF_TWO)
    codes = tl.div_rn(x, tl.broadcast_to(scale[None, :], x.shape)).to(codes_ptr.dtype.element_ty)
    at = codes_ptr + columns.to(tl.int64)[:, None] * filled + rows[None, :]
    tl.store(at, tl.trans(codes), mask=(columns < width)[:, None])
    tl.store(scales_ptr + tl.program_id(0).to(tl.int64) * width + columns, scale, mask=columns < width)


@triton.jit
def _blocks_kernel(
    x_ptr,
    codes_ptr,
    turned_ptr,
    scales_ptr,
    n_rows,
    width,
    filled,
    turned_filled,
    largest,
    least,
    POWER_OF_TWO: tl.constexpr,
    TILE: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    there = (rows < n_rows)[:, None] & (columns < width)[None, :]
    x = tl.load(x_ptr + rows[:, None] * width + columns[None, :], mask=there, other=0.0).to(tl.float32)
    scale = _scale(tl.max(tl.max(tl.abs(x), 1), 0), largest, least, POWER_OF_TWO)
    codes = tl.div_rn(x, tl.broadcast_to(scale, x.shape)).to(codes_ptr.dtype.element_ty)
    tl.store(codes_ptr + rows[:, None] * filled + columns[None, :], codes, mask=(rows < n_rows)[:, None])
    at = turned_ptr + columns[:, None] * turned_filled + rows[None, :]
    tl.store(at, tl.trans(codes), mask=(columns < width)[:, None])
    tl.store(scales_ptr + tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0), scale)


def _filled(n: int) -> int:
    return triton.cdiv(n, TILE) * TILE


def along_rows(x: Tensor, dtype: torch.dtype, power_of_two: bool) -> Codes:
    """x (N, D) in tiles of 1 x 128: codes (N, D filled up), scales (D/128, N)."""
    (n, width), rows = x.shape, 32
    codes = torch.empty((n, _filled(width)), dtype=dtype, device=x.device)
    scales = torch.empty((triton.cdiv(width, TILE), n), dtype=torch.float32, device=x.device)
    numbers = n, width, codes.shape[1], torch.finfo(dtype).max, LEAST_PEAK
    grid = triton.cdiv(n, rows), len(scales)
    launch.run(_along_rows_kernel, grid, x, codes, scales, *numbers, POWER_OF_TWO=power_of_two, ROWS=rows, TILE=TILE)
    return Codes(codes, scales)


def along_columns(x: Tensor | Codes, width: int, dtype: torch.dtype, power_of_two: bool) -> Codes:
    """x (N, width), or its codes, in tiles of 128 x 1: codes (width, N filled up), scales (N/128, width)."""
    given, given_scales = (x.codes, x.scales) if isinstance(x, Codes) else (x, None)
    n, columns = len(given), 64
    codes = torch.empty((width, _filled(n)), dtype=dtype, device=given.device)
    scales = torch.empty((triton.cdiv(n, TILE), width), dtype=torch.float32, device=given.device)
    launch.run(
        _along_columns_kernel,
        (len(scales), triton.cdiv(width, columns)),
        given,
        given_scales,
        codes,
        scales,
        n,
        width,
        given.stride(0),
        codes.shape[1],
        torch.finfo(dtype).max,
        LEAST_PEAK,
        ENCODED=given_scales is not None,
        POWER_OF_TWO=power_of_two,
        COLUMNS=columns,
        TILE=TILE,
    )
    return Codes(codes, scales)


def in_blocks(weight: Tensor, dtype: torch.dtype, power_of_two: bool) -> tuple[Codes, Codes]:
    """weight (F, D) in blocks of 128 x 128, as it is, scales (D/128, F/128), and turned, scales (F/128, D/128)."""
    height, width = weight.shape
    codes = torch.empty((height, _filled(width)), dtype=dtype, device=weight.device)
    turned = torch.empty((width, _filled(height)), dtype=dtype, device=weight.device)
    scales = torch.empty(
        (triton.cdiv(width, TILE), triton.cdiv(height, TILE)), dtype=torch.float32, device=weight.device
    )
    numbers = height, width, codes.shape[1], turned.shape[1], torch.finfo(dtype).max, LEAST_PEAK
    launch.run(
        _blocks_kernel,
        tuple(reversed(scales.shape)),
        weight,
        codes,
        turned,
        scales,
        *numbers,
        POWER_OF_TWO=power_of_two,
        TILE=TILE,
        num_warps=8,
    )
    return Codes(codes, scales), Codes(turned, scales.t())
