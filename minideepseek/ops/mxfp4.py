"""MXFP4, simulated: four bits a number, and a power of two for each 32 of them (OCP microscaling formats, version 1.0).

An element is an E2M1: a sign and one of 0, 1/2, 1, 3/2, 2, 3, 4, 6. With the scale that is 4.25 bits a number. V4 keeps
its routed experts so, and its indexers' queries and keys (report, section 5.2.1).

The report computes with such weights in FP8 (``as_fp8`` in blocks of 128 x 128, scales powers of two), and calls the
way there lossless. It is, as long as the scales within one block differ by no more than 2^14. Six times the largest
scale must fit below 448, so that scale becomes 2^6 (6·64 is 384); half of the smallest must not fall below the smallest
E4M3 number, 2^-9; and from 2^6/2 down to 2^-9 there are 14 powers of two. What E2M1 has between them, E4M3 has, too,
its subnormal numbers included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.ops.quantise import up_to_power_of_two
from minideepseek.ops.reference import wide

BLOCK = 32
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST = LEVELS[-1]
LEAST_SCALE = 2.0**-126  # of UE8M0 as float32 can hold it


def as_fp4(x: Tensor, *, block: int = BLOCK) -> Tensor:
    """x (..., N) rounded to what MXFP4 can hold, in blocks along the last axis; its shape and dtype stay.

    Ties go to the even neighbour, as a processor's conversion rounds. The last block may be shorter than the others.
    """
    blocks = _blocks(x, block)
    scales = fp4_scales(x, block=block)[..., None]
    size = (blocks / scales).abs()
    # Between powers of two E2M1 has one number more: steps of a half up to two, of one up to four, then of two.
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    rounded = torch.round(size / step) * step * blocks.sign() * scales
    return rounded.flatten(-2)[..., : x.shape[-1]].to(x.dtype)


def fp4_scales(x: Tensor, *, block: int = BLOCK) -> Tensor:
    """The power of two of each block of x (..., N): the least that brings its peak to 6 or below. (..., N/32)."""
    peaks = _blocks(x, block).abs().amax(-1)
    return up_to_power_of_two((peaks / LARGEST).clamp(min=LEAST_SCALE))


def _blocks(x: Tensor, block: int) -> Tensor:
    return F.pad(wide(x), (0, -x.shape[-1] % block)).unflatten(-1, (-1, block))
