"""What hyper-connections read off their streams in Triton: ``rms_norm(x) @ weightᵀ`` for a few outputs of long rows.

Floor: memory. With N rows of D numbers of b bytes and F outputs, F a few dozen: forward reads x, N·D·b bytes; backward
reads it and writes its gradient, 2·N·D·b bytes. 2·N·D·F FLOPs forward and 4·N·D·F back are less, though in float32. At
4.3 TB/s (an H200's copy), 4096 tokens of 4 streams of 7168 in bfloat16 take 0.05 ms forward and 0.11 ms back. Fraction
of the floor reached: not yet measured on a GPU.

Plain PyTorch makes x wide, norms it and multiplies it: six times as many bytes. Here one reading serves the sum of
squares and the products, which are divided by the root afterwards; rows may be shared out among programs in parts. On
the way back one reading serves the gradient of x and that of the weight, which is a sum over rows: each program has a
share of them, and the parts are added up in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def rms_linear(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``minideepseek.ops.rms_linear``."""
    launch.check(x, weight)
    if len(weight) > 128:
        raise ValueError(f"{len(weight)} outputs do not fit the registers of one program; at most 128")
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return _RMSLinear.apply(rows, weight.contiguous(), eps).view(*x.shape[:-1], len(weight))


@triton.jit
def _tile(ptr, rows, n_rows, stride, columns, width):
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    return tl.load(ptr + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _forward_kernel(
    x_ptr,
    weight_ptr,
    z_ptr,
    squares_ptr,
    n_rows,
    width,
    part_width,
    outputs: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    rows, o = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, OUTPUTS)
    first = tl.program_id(1) * part_width
    last = tl.minimum(first + part_width, width)
    z = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    squares = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(first, last, DEPTH):
        columns = start + tl.arange(0, DEPTH)
        x = _tile(x_ptr, rows, n_rows, width, columns, last)
        weight = _tile(weight_ptr, o, outputs, width, columns, last)
        squares += tl.sum(x * x, 1)
        z = tl.dot(x, tl.trans(weight), z, input_precision=PRECISION)
    at = tl.program_id(1).to(tl.int64) * n_rows + rows
    tl.store(squares_ptr + at, squares, mask=rows < n_rows)
    inside = (rows < n_rows)[:, None] & (o < outputs)[None, :]
    tl.store(z_ptr + at[:, None] * outputs + o[None, :], z, mask=inside)


@triton.jit
def _backward_kernel(
    x_ptr,
    weight_ptr,
    g_ptr,
    pull_ptr,
    dx_ptr,
    dweight_ptr,
    n_rows,
    width,
    part_rows,
    outputs: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dx = g @ weight + pull · x, and this program's share of gᵀ x."""
    columns, o = tl.program_id(0) * DEPTH + tl.arange(0, DEPTH), tl.arange(0, OUTPUTS)
    weight = _tile(weight_ptr, o, outputs, width, columns, width)
    dweight = tl.zeros((OUTPUTS, DEPTH), dtype=tl.float32)
    first = tl.program_id(1) * part_rows
    for start in range(first, tl.minimum(first + part_rows, n_rows), ROWS):
        rows = start + tl.arange(0, ROWS)
        x = _tile(x_ptr, rows, n_rows, width, columns, width)
        g = _tile(g_ptr, rows, n_rows, outputs, o, outputs)
        pull = tl.load(pull_ptr + rows, mask=rows < n_rows, other=0.0)
        dx = tl.dot(g, weight, input_precision=PRECISION) + pull[:, None] * x
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        at = dx_ptr + rows.to(tl.int64)[:, None] * width + columns[None, :]
        tl.store(at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dweight = tl.dot(tl.trans(g), x, dweight, input_precision=PRECISION)
    at = (tl.program_id(1) * outputs + o).to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(dweight_ptr + at, dweight, mask=(o < outputs)[:, None] & (columns < width)[None, :])


def _sizes(weight: Tensor) -> dict[str, Any]:
    outputs = max(16, triton.next_power_of_2(len(weight)))
    # Three products in tensor cores' ten bits make up one in float32's.
    return {"outputs": len(weight), "OUTPUTS": outputs, "PRECISION": "tf32x3", "num_warps": 4}


def _shares(programs: int, units: int, device: torch.device) -> int:
    """Units that each program takes, so that there are about two programs a multiprocessor."""
    wanted = triton.cdiv(2 * launch.multiprocessors(device), programs)
    return triton.cdiv(units, min(units, wanted))


class _RMSLinear(torch.autograd.Function):
    # With r = 1/rms and z = r·Wx:  dW = (r·g)ᵀ x,  dx = Wᵀ(r·g) - x·r²·(g·z)/D.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        (n, width), outputs, size = x.shape, len(weight), {"ROWS": 32, "DEPTH": 128}
        if not n:
            ctx.save_for_backward(x, weight)
            return x.new_zeros(0, outputs, dtype=torch.float32)
        tiles = triton.cdiv(n, size["ROWS"])
        part = _shares(tiles, triton.cdiv(width, size["DEPTH"]), x.device) * size["DEPTH"]
        parts = triton.cdiv(width, part)
        z = torch.empty((parts, n, outputs), dtype=torch.float32, device=x.device)
        squares = torch.empty((parts, n), dtype=torch.float32, device=x.device)
        launch.run(_forward_kernel, (tiles, parts), x, weight, z, squares, n, width, part, **size, **_sizes(weight))
        inverse = (squares.sum(0) / width + eps).rsqrt_()[:, None]
        out = z.sum(0).mul_(inverse)
        ctx.save_for_backward(x, weight, out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, *kept = ctx.saved_tensors
        if not kept:
            return torch.zeros_like(x), torch.zeros_like(weight), None
        (z, inverse), (n, width), size = kept, x.shape, {"ROWS": 32, "DEPTH": 128}
        g = (grad * inverse).contiguous()
        pull = (grad * z).sum(1).mul_(inverse[:, 0].square()).div_(-width)
        tiles = triton.cdiv(width, size["DEPTH"])
        part = _shares(tiles, triton.cdiv(n, size["ROWS"]), x.device) * size["ROWS"]
        parts = triton.cdiv(n, part)
        dx = torch.empty_like(x)
        dweight = torch.empty((parts, *weight.shape), dtype=torch.float32, device=x.device)
        tensors = x, weight, g, pull, dx, dweight
        launch.run(_backward_kernel, (tiles, parts), *tensors, n, width, part, **size, **_sizes(weight))
        return dx, dweight.sum(0).to(weight.dtype), None
