"""A linear layer's three products in FP8 in Triton: eight-bit tensor cores, and a scale for every 128 numbers.

Floor: arithmetic. With N tokens, D inputs and F outputs: 2·N·D·F FLOPs forward, 4·N·D·F back, at the rate of eight-bit
products, twice that of bfloat16: 1979 TFLOP/s dense by NVIDIA's data sheet of an H200. N = 4096, D = 7168, F = 16,384
take 0.49 ms and 0.97 ms. Rounding is bound by memory, 3 bytes a number from bfloat16. Fraction of the floor reached:
not yet measured on a GPU.

What is scaled how is V3's recipe (report, section 3.3; ``minideepseek.ops.fp8`` simulates it): x and the gradient in
tiles of 1 x 128 along what will be summed, weights in blocks of 128 x 128. Hopper's eight-bit products keep some 14
bits of their sums, so a sum of 128 is taken out of the tensor core and added up in float32, which is also when the two
scales that its numbers share are multiplied in (section 3.3.2).

Eight-bit tensor cores want both factors with neighbours in memory along what is summed. So whatever is summed over
tokens is rounded into its transpose, and weights are kept both ways round: the same codes, since their blocks are
square. All is filled up with zeros to multiples of 128, and sums need no edges.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch
from minideepseek.kernels.fp8.codes import TILE, Codes, along_columns, along_rows, in_blocks


def fp8_linear(x: Tensor, weight: Tensor, forward: torch.dtype, backward: torch.dtype, power_of_two: bool) -> Tensor:
    """``minideepseek.ops.fp8.fp8_linear`` with V3's tiles: x (..., D), weight (F, D) -> (..., F) in x's dtype.

    Args:
        x: activations.
        weight: of the layer.
        forward: eight-bit type of activations and weights.
        backward: eight-bit type of the output's gradient.
        power_of_two: whether scales are.
    """
    launch.check(x, weight)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return _Linear.apply(rows, weight.contiguous(), forward, backward, power_of_two).view(*x.shape[:-1], len(weight))


@triton.jit
def _product_kernel(
    a_ptr,
    a_scales_ptr,
    b_ptr,
    b_scales_ptr,
    out_ptr,
    b_tile_stride,
    b_row_stride,
    height,
    width,
    depth,
    SQUARE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    """out = a bᵀ. ``b``'s scales are one a row, or SQUARE: one for 128 rows, which are this program's."""
    n_columns = tl.cdiv(width, COLUMNS)
    i, j = tl.swizzle2d(
        tl.program_id(0) // n_columns, tl.program_id(0) % n_columns, tl.cdiv(height, ROWS), n_columns, 8
    )
    rows, columns, k = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, TILE)
    a_ptr += rows.to(tl.int64)[:, None] * depth + k[None, :]
    b_ptr += columns.to(tl.int64)[:, None] * depth + k[None, :]
    out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for tile in range(depth // TILE):
        a = tl.load(a_ptr + tile * TILE, mask=(rows < height)[:, None], other=0.0)
        b = tl.load(b_ptr + tile * TILE, mask=(columns < width)[:, None], other=0.0)
        part = tl.dot(a, tl.trans(b), out_dtype=tl.float32)
        a_scale = tl.load(a_scales_ptr + tl.cast(tile, tl.int64) * height + rows, mask=rows < height, other=0.0)
        b_scale_at = b_scales_ptr + tl.cast(tile, tl.int64) * b_tile_stride
        if SQUARE:
            out += part * (a_scale * tl.load(b_scale_at + j * b_row_stride))[:, None]
        else:
            b_scale = tl.load(b_scale_at + columns * b_row_stride, mask=columns < width, other=0.0)
            out += part * a_scale[:, None] * b_scale[None, :]
    at = out_ptr + rows.to(tl.int64)[:, None] * width + columns[None, :]
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=inside)


def product(a: Codes, b: Codes, dtype: torch.dtype, *, square: bool) -> Tensor:
    """a (M, K) bᵀ (K, N) -> (M, N); ``square``: b's scales belong to 128 rows each."""
    (height, depth), width = a.codes.shape, len(b.codes)
    out = torch.empty((height, width), dtype=dtype, device=a.codes.device)
    rows = 128 if height > 64 else 64
    launch.run(
        _product_kernel,
        (triton.cdiv(height, rows) * triton.cdiv(width, TILE),),
        *a,
        *b,
        out,
        *b.scales.stride(),
        height,
        width,
        depth,
        SQUARE=square,
        ROWS=rows,
        COLUMNS=TILE,
        TILE=TILE,
        num_warps=8 if rows == 128 else 4,
        num_stages=3,
    )
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, forward: torch.dtype, backward: torch.dtype, power_of_two: bool
    ) -> Tensor:
        ctx.types, ctx.dtypes = (forward, backward, power_of_two), (x.dtype, weight.dtype)
        if not (x.numel() and weight.numel()):
            ctx.save_for_backward(x, weight)
            return x.new_zeros(len(x), len(weight))
        rows, (matrix, turned) = along_rows(x, forward, power_of_two), in_blocks(weight, forward, power_of_two)
        ctx.save_for_backward(x[:0], weight[:0], *rows, *turned)
        return product(rows, matrix, x.dtype, square=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *kept = ctx.saved_tensors
        if not kept:
            return torch.zeros_like(x), torch.zeros_like(weight), None, None, None
        rows, turned = Codes(*kept[:2]), Codes(*kept[2:])
        (forward, backward, power_of_two), dy = ctx.types, dy.contiguous()
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = product(along_rows(dy, backward, power_of_two), turned, ctx.dtypes[0], square=True)
        if ctx.needs_input_grad[1]:
            g = along_columns(dy, dy.shape[1], backward, power_of_two)
            x_turned = along_columns(rows, len(turned.codes), forward, power_of_two)
            dweight = product(g, x_turned, ctx.dtypes[1], square=False)
        return dx, dweight, None, None, None
