"""Which rows belong to which expert, and which tile of rows a program takes: on the GPU, without asking it anything."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Plan(NamedTuple):
    """Assignments (N·K of them, token by token) in the order of their experts.

    rows: of a tile, at most.
    order: (N·K,) the assignment in each row.
    bounds: (E + 1,) first row of each expert, and the end.
    tiles: (3, n) expert, first row and end of the expert's rows, of each tile; end 0 where a tile has nothing to do.
    """

    rows: int
    order: Tensor
    bounds: Tensor
    tiles: Tensor


def plan(indices: Tensor, n_experts: int, most_rows: int) -> Plan:
    """indices (N, K) -> rows sorted by expert, in the tokens' order inside of one, cut into tiles.

    A tile has enough rows to feed tensor cores, ``most_rows`` at most, and no more than an expert has on average.
    How many tiles an expert needs only the GPU knows, and to ask is to wait. So there are as many as could be needed,
    one more an expert than its share of full ones, and those left over find that they have nothing to do.
    """
    device, n = indices.device, indices.numel()
    rows = min(most_rows, max(16, triton.next_power_of_2(triton.cdiv(n, n_experts))))
    chosen, order = indices.flatten().int().sort(stable=True)
    ends = torch.searchsorted(chosen, torch.arange(n_experts, device=device, dtype=torch.int32), right=True)
    bounds = torch.cat([ends.new_zeros(1), ends])
    needed = (ends - bounds[:-1] + rows - 1) // rows
    last = needed.cumsum(0)
    number = torch.arange(n // rows + min(n, n_experts), device=device)
    expert = torch.searchsorted(last, number, right=True)
    real, expert = expert < n_experts, expert.clamp(max=n_experts - 1)
    first = bounds[expert] + (number - (last - needed)[expert]) * rows
    return Plan(rows, order, bounds, torch.stack([expert, first, ends[expert].where(real, 0)]).int())


@triton.jit
def find_tile(tiles_ptr, n_tiles, n_columns):
    """(expert, first row, end, block of columns) of this program.

    Programs that run together take some row tiles of a few blocks of columns each, so that both stay in the cache.
    """
    tile, column = tl.swizzle2d(tl.program_id(0) // n_columns, tl.program_id(0) % n_columns, n_tiles, n_columns, 8)
    expert = tl.load(tiles_ptr + tile).to(tl.int64)
    return expert, tl.load(tiles_ptr + n_tiles + tile), tl.load(tiles_ptr + 2 * n_tiles + tile), column
