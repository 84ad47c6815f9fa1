"""The few bits that V3 and V4 were released in: FP8 numbers (E4M3), and one scale for each block of 128 x 128 of them.

A matrix W (R, C) is stored as ``NAME.weight`` (float8) and ``NAME.weight_scale_inv`` (ceil(R/128), ceil(C/128)), and
is their product, block by block; blocks at the right and lower edge may be smaller. Embedding, head, norms and routers
are stored whole (V3 report, section 3.3.2).

V4's scales are powers of two, and its experts are in MXFP4 (report, section 5.2.1): two numbers a byte, the first in
the lower half, with a scale for each 32 in a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.ops.mxfp4 import BLOCK, LEVELS

SCALE = "_scale_inv"  # what the name of a matrix's scales adds to its own
NUMBERS = (torch.float8_e4m3fn, torch.int8)  # FP8, and bytes of two FP4 each


def block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of a block, from config.json's ``quantization_config``; None for weights that are whole.

    Raises:
        UserError: they are quantised in some other way.
    """
    how = config.get("quantization_config")
    if how is None:
        return None
    if isinstance(how, Mapping) and how.get("quant_method") == "fp8" and how.get("fmt") in (None, "e4m3"):
        block = how.get("weight_block_size")
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
            return block[0], block[1]
    raise UserError(f"quantization_config is {how!r}; of quantised weights only FP8 (e4m3) in blocks is supported")


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """weight (R, C), scale (ceil(R/rows), ceil(C/columns)), of any type that holds them -> (R, C) float32."""
    (rows, columns), (down, across) = weight.shape, block
    spread = scale.float().repeat_interleave(down, 0)[:rows].repeat_interleave(across, 1)[:, :columns]
    return weight.float() * spread


def unpack_fp4(packed: Tensor) -> Tensor:
    """Bytes (..., N) -> (..., 2N) float32, the numbers of E2M1 that their halves stand for."""
    values = torch.tensor([*LEVELS, *(-level for level in LEVELS)])
    codes = packed.view(torch.uint8).int()
    return values[torch.stack([codes & 15, codes >> 4], -1)].flatten(-2)


def dequantised(
    tensors: Iterator[tuple[str, Tensor]], block: tuple[int, int], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The same tensors with every pair of weight and scales made one matrix of ``dtype``, in whichever order they come.

    Raises:
        UserError: one comes without the other, or their shapes do not fit.
    """
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if not name.endswith(SCALE) and tensor.dtype not in NUMBERS:
            yield name, tensor
            continue
        waiting[name] = tensor
        matrix = name.removesuffix(SCALE)
        if matrix in waiting and matrix + SCALE in waiting:
            weight, scale = waiting.pop(matrix), waiting.pop(matrix + SCALE)
            own = (1, BLOCK) if weight.dtype == torch.int8 else block
            numbers = unpack_fp4(weight) if weight.dtype == torch.int8 else weight
            blocks = tuple(-(-n // b) for n, b in zip(numbers.shape, own, strict=False))
            if weight.ndim != 2 or weight.dtype not in NUMBERS or scale.shape != blocks:
                raise UserError(
                    f"tensor {matrix} is {weight.dtype} of shape {tuple(weight.shape)} and its scales are of shape "
                    f"{tuple(scale.shape)}: these are no blocks of {own[0]} x {own[1]}"
                )
            yield matrix, dequantise(numbers, scale, own).to(dtype)
    if waiting:
        name = next(iter(waiting))
        missing = name.removesuffix(SCALE) if name.endswith(SCALE) else name + SCALE
        raise UserError(f"tensor {name} has no {missing}; the checkpoint is not complete")
