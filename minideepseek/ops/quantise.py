"""What low-precision formats share: a rotation that spreads outliers, scales of blocks, and rounding that is simulated.

A number of few bits covers few orders of magnitude, so numbers are stored in blocks, each with a scale that brings its
largest to the format's largest. One outlier then costs all of its block; an orthogonal rotation of both factors of a
product leaves the product as it was, and no channel sticks out any more.

*Simulated* (or fake) quantisation rounds to what the format can hold and keeps the result in an ordinary tensor: the
error of the format, without its speed.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.ops.reference import wide

LEAST_PEAK = 1e-4  # of a block, as the released inference code has it; a block of zeros needs some scale, too

Block = int | tuple[int, int] | None
"""Numbers that share a scale: so many in a row, or rows x columns, or (None) the whole tensor."""


class Format(NamedTuple):
    """A floating-point format: a sign, an exponent and a mantissa, whose leading one is not stored.

    exponent, mantissa: bits. largest: what it can hold. dtype: of torch, if there is one.
    """

    exponent: int
    mantissa: int
    largest: float
    dtype: torch.dtype | None = None


# OCP 8-bit floating point specification, table 1. E4M3 gives up infinity for one more binade; E5M2 is a short float16.
E4M3 = Format(4, 3, 448.0, torch.float8_e4m3fn)
E5M2 = Format(5, 2, 57344.0, torch.float8_e5m2)
# V3 keeps what enters the projection after attention in E5M6 (report, section 3.3.3), whose details are not published;
# this one reserves its highest exponent, as E5M2 does.
E5M6 = Format(5, 6, (2 - 2**-6) * 2.0**15)


def held(form: Format) -> Tensor:
    """Every number from zero up that ``form`` can hold, in float64: subnormal ones, then binade after binade."""
    least = 2 - 2 ** (form.exponent - 1)
    fractions = torch.arange(2**form.mantissa, dtype=torch.float64) / 2**form.mantissa
    binades = 2.0 ** torch.arange(least, 2 ** (form.exponent - 1) + 1, dtype=torch.float64)
    numbers = torch.cat([fractions * 2.0**least, ((1 + fractions) * binades[:, None]).flatten()])
    return numbers[numbers <= form.largest]


def rounded(x: Tensor, form: Format) -> Tensor:
    """float32 or float64 x rounded to what ``form`` can hold: ties to the even neighbour, overflow to the largest."""
    x = x.clamp(-form.largest, form.largest)
    if form.dtype is not None:
        return x.to(form.dtype).to(x.dtype)
    _, exponent = torch.frexp(x)  # |x| = mantissa · 2^exponent, 1/2 <= mantissa < 1
    least = 2 - 2 ** (form.exponent - 1)  # below 2^least numbers are as far apart as above it
    step = torch.ldexp(torch.ones_like(x), (exponent - 1).clamp(min=least) - form.mantissa)
    return torch.round(x / step) * step


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


def in_blocks(x: Tensor, block: int | tuple[int, int]) -> Tensor:
    """x (..., C) or (..., R, C) cut into blocks of r x c: (..., R/r, r, C/c, c), edges filled up with zeros."""
    rows, columns = (1, block) if isinstance(block, int) else block
    x = x[None] if x.ndim == 1 else x
    if x.shape[-1] % columns or x.shape[-2] % rows:
        x = F.pad(x, (0, -x.shape[-1] % columns, 0, -x.shape[-2] % rows))
    return x.unflatten(-2, (-1, rows)).unflatten(-1, (-1, columns))


def block_scales(
    blocks: Tensor, *, largest: float, power_of_two: bool = False, least_peak: float = LEAST_PEAK
) -> Tensor:
    """What each block must be divided by for its peak to become ``largest``.

    Args:
        blocks: (..., R/r, r, C/c, c), float32 or float64.
        largest: that the format can hold.
        power_of_two: round scales up to powers of two (the UE8M0 of microscaling formats), dividing by which is exact.
        least_peak: lower peaks count as this one.

    Returns:
        (..., R/r, 1, C/c, 1).
    """
    scales = blocks.abs().amax((-3, -1), keepdim=True).clamp(min=least_peak) / largest
    return up_to_power_of_two(scales) if power_of_two else scales


def up_to_power_of_two(x: Tensor) -> Tensor:
    """The least powers of two that are not below the positive numbers x; exact, which a logarithm is not."""
    mantissa, exponent = torch.frexp(x)  # x = mantissa · 2^exponent, 1/2 <= mantissa < 1
    return torch.ldexp(torch.ones_like(x), exponent - (mantissa == 0.5).to(exponent.dtype))


def as_fp8(
    x: Tensor,
    *,
    block: Block = 128,
    power_of_two: bool = False,
    form: Format = E4M3,
    least_peak: float = LEAST_PEAK,
) -> Tensor:
    """Simulated FP8: x (..., C) rounded to what a few bits and one scale a block can hold; its shape and dtype stay.

    V3 report, section 3.3.2: E4M3, activations in tiles of 1 x 128, weights in blocks of 128 x 128, and each scale made
    on the spot from the largest number it serves. Blocks at the right and lower edge may be smaller. No gradient comes
    back through rounding; see ``straight_through``.

    Args:
        x: of any shape; rows and columns of a block are its last two axes.
        block: numbers that share a scale.
        power_of_two: scales are powers of two, see ``block_scales``.
        form: of a number.
        least_peak: a block whose numbers are all smaller is scaled as if this were its largest. The default suits
            activations; gradients are smaller than that.
    """
    if not x.numel():
        return x
    if block is None:
        x, shape, block = x.reshape(1, -1), x.shape, x.numel()
    else:
        shape = x.shape
    blocks = in_blocks(wide(x), block)
    scales = block_scales(blocks, largest=form.largest, power_of_two=power_of_two, least_peak=least_peak)
    whole = (rounded(blocks / scales, form) * scales).flatten(-2).flatten(-3, -2)
    rows = x.shape[-2] if x.ndim > 1 else 1
    return whole[..., :rows, : x.shape[-1]].reshape(shape).to(x.dtype).contiguous()


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """``rounded`` forward, and backward the gradient of x as if nothing had been rounded (arXiv 1308.3432)."""
    return rounded.detach() + (x - x.detach())  # in this order: the bracket is exactly zero
