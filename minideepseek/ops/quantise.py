"""What low-precision formats share: a rotation that spreads outliers, scales of blocks, and rounding that is simulated.

A number of few bits covers few orders of magnitude, so numbers are stored in blocks along the last axis, each with a
scale that brings its largest to the format's largest. One outlier then costs all of its block; an orthogonal rotation
of both factors of a product leaves the product as it was, and no channel sticks out any more.

*Simulated* (or fake) quantisation rounds to what the format can hold and keeps the result in an ordinary tensor: the
error of the format, without its speed.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minideepseek.ops.reference import wide

E4M3_LARGEST = 448.0  # OCP 8-bit floating point specification, table 1
LEAST_PEAK = 1e-4  # the peak of a block of zeros, or scales would be zero too


def hadamard(x: Tensor) -> Tensor:
    """Rotate the last axis of x (..., N) by the Hadamard matrix of Sylvester over sqrt(N): orthogonal and symmetric.

    Raises:
        ValueError: N is no power of two.
    """
    n = x.shape[-1]
    if n & (n - 1) or not n:
        raise ValueError(f"a Hadamard rotation of {n} channels: their number must be a power of two")
    return x @ _sylvester(n).to(x)


@functools.cache
def _sylvester(n: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix * n**-0.5


def block_scales(x: Tensor, *, block: int, largest: float, power_of_two: bool = False) -> Tensor:
    """What each block of x must be divided by for its peak to become ``largest``, in float32 at least.

    Args:
        x: (..., N).
        block: numbers that share a scale.
        largest: that the format can hold.
        power_of_two: round scales up to powers of two (the UE8M0 of microscaling formats), dividing by which is exact.

    Returns:
        (..., N/block).

    Raises:
        ValueError: N does not divide into blocks.
    """
    if x.shape[-1] % block:
        raise ValueError(f"{x.shape[-1]} numbers do not divide into blocks of {block}")
    scales = wide(x).unflatten(-1, (-1, block)).abs().amax(-1).clamp(min=LEAST_PEAK) / largest
    return up_to_power_of_two(scales) if power_of_two else scales


def up_to_power_of_two(x: Tensor) -> Tensor:
    """The least powers of two that are not below the positive numbers x; exact, which a logarithm is not."""
    mantissa, exponent = torch.frexp(x)  # x = mantissa · 2^exponent, 1/2 <= mantissa < 1
    return torch.ldexp(torch.ones_like(x), exponent - (mantissa == 0.5).to(exponent.dtype))


def as_fp8(x: Tensor, *, block: int = 128, power_of_two: bool = False) -> Tensor:
    """Simulated E4M3: x (..., N) rounded to what FP8 with one scale a block can hold; its shape and dtype stay.

    Ties go to the even neighbour. V3 report, section 3.3.2: blocks of 1 x 128 for activations. No gradient comes back
    through rounding; see ``straight_through``.

    Raises:
        ValueError: N does not divide into blocks.
    """
    scales = block_scales(x, block=block, largest=E4M3_LARGEST, power_of_two=power_of_two)[..., None]
    scaled = (wide(x).unflatten(-1, (-1, block)) / scales).clamp(-E4M3_LARGEST, E4M3_LARGEST)
    return (scaled.to(torch.float8_e4m3fn).to(scales.dtype) * scales).flatten(-2).to(x.dtype)


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded`` forward, and backward the gradient of x as if nothing had been rounded (arXiv 1308.3432)."""
    return rounded.detach() + (x - x.detach())  # in this order: the bracket is exactly zero
