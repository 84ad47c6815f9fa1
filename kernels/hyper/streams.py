"""Hyper-connections' streams read, mixed and written in Triton: each direction once through memory.

Floor: memory. A token has n streams of D numbers: x of b bytes each, mixed of 4, because nothing rounds in between.

    read_streams     forward  reads x, writes the input of the sub-layer and mixed          (b·n + b + 4·n)·D bytes
                     backward reads x and both gradients, writes dx                         (2·b·n + b + 4·n)·D bytes
    write_streams    forward  reads mixed and y, writes the streams                         (4·n + b + b·n)·D bytes
                     backward reads the gradient and y, writes dmixed and dy                (b·n + 2·b + 4·n)·D bytes

and about 2·n·(n + 1)·D FLOPs. At 4.3 TB/s (an H200's copy) and b = 2, 4096 tokens of 4 streams of 7168 take 0.18 ms to
read and as long to write. Fraction of the floor reached: not yet measured on a GPU.

What depends on the token, n·(n + 2) numbers, is a sum over its channels on the way back: one program walks over all of
a token's channels, and no two add to the same number.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def read_streams(x: Tensor, read: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """See ``minideepseek.ops.read_streams``."""
    launch.check(x, read, mix)
    n = x.shape[-2]
    return _Read.apply(x, read.expand(x.shape[:-1]), mix.expand(*x.shape[:-1], n))


def write_streams(mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
    """See ``minideepseek.ops.write_streams``."""
    launch.check(mixed, write, y)
    return _Write.apply(mixed, write.expand(mixed.shape[:-1]), y)


@triton.jit
def _read_kernel(
    x_ptr, read_ptr, mix_ptr, y_ptr, mixed_ptr, width, n: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr
):
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channels < width
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    mixed = tl.zeros((N, BLOCK), dtype=tl.float32)
    for j in tl.static_range(n):
        x = tl.load(x_ptr + (token * n + j) * width + channels, mask=there, other=0.0).to(tl.float32)
        y += tl.load(read_ptr + token * n + j).to(tl.float32) * x
        column = tl.load(mix_ptr + (token * n + i) * n + j, mask=i < n, other=0.0).to(tl.float32)
        mixed += column[:, None] * x[None, :]
    tl.store(y_ptr + token * width + channels, y.to(y_ptr.dtype.element_ty), mask=there)
    at = mixed_ptr + ((token * n + i) * width)[:, None] + channels[None, :]
    tl.store(at, mixed.to(mixed_ptr.dtype.element_ty), mask=(i < n)[:, None] & there[None, :])


@triton.jit
def _read_backward_kernel(
    x_ptr,
    read_ptr,
    mix_ptr,
    dy_ptr,
    dmixed_ptr,
    dx_ptr,
    dread_ptr,
    dmix_ptr,
    width,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    streams = (token * n + i) * width
    read = tl.load(read_ptr + token * n + i, mask=i < n, other=0.0).to(tl.float32)
    dread = tl.zeros((N,), dtype=tl.float32)
    dmix = tl.zeros((N, N), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        there = (i < n)[:, None] & (channels < width)[None, :]
        x = tl.load(x_ptr + streams[:, None] + channels[None, :], mask=there, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + token * width + channels, mask=channels < width, other=0.0).to(tl.float32)
        dread += tl.sum(x * dy[None, :], 1)
        dx = read[:, None] * dy[None, :]
        for row in tl.static_range(n):
            at = dmixed_ptr + (token * n + row) * width + channels
            dmixed = tl.load(at, mask=channels < width, other=0.0).to(tl.float32)
            mix = tl.load(mix_ptr + (token * n + row) * n + i, mask=i < n, other=0.0).to(tl.float32)
            dx += mix[:, None] * dmixed[None, :]
            dmix += tl.where((i == row)[:, None], tl.sum(x * dmixed[None, :], 1)[None, :], 0.0)
        tl.store(dx_ptr + streams[:, None] + channels[None, :], dx.to(dx_ptr.dtype.element_ty), mask=there)
    tl.store(dread_ptr + token * n + i, dread.to(dread_ptr.dtype.element_ty), mask=i < n)
    at = dmix_ptr + ((token * n + i) * n)[:, None] + i[None, :]
    tl.store(at, dmix.to(dmix_ptr.dtype.element_ty), mask=(i < n)[:, None] & (i < n)[None, :])


@triton.jit
def _write_kernel(mixed_ptr, write_ptr, y_ptr, out_ptr, width, n: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = (i < n)[:, None] & (channels < width)[None, :]
    at = ((token * n + i) * width)[:, None] + channels[None, :]
    y = tl.load(y_ptr + token * width + channels, mask=channels < width, other=0.0).to(tl.float32)
    write = tl.load(write_ptr + token * n + i, mask=i < n, other=0.0).to(tl.float32)
    out = tl.load(mixed_ptr + at, mask=there, other=0.0).to(tl.float32) + write[:, None] * y[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _write_backward_kernel(
    write_ptr,
    y_ptr,
    dout_ptr,
    dmixed_ptr,
    dwrite_ptr,
    dy_ptr,
    width,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token, i = tl.program_id(0).to(tl.int64), tl.arange(0, N)
    write = tl.load(write_ptr + token * n + i, mask=i < n, other=0.0).to(tl.float32)
    dwrite = tl.zeros((N,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        there = (i < n)[:, None] & (channels < width)[None, :]
        at = ((token * n + i) * width)[:, None] + channels[None, :]
        dout = tl.load(dout_ptr + at, mask=there, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + token * width + channels, mask=channels < width, other=0.0).to(tl.float32)
        dwrite += tl.sum(dout * y[None, :], 1)
        dy = tl.sum(dout * write[:, None], 0)
        tl.store(dmixed_ptr + at, dout.to(dmixed_ptr.dtype.element_ty), mask=there)
        tl.store(dy_ptr + token * width + channels, dy.to(dy_ptr.dtype.element_ty), mask=channels < width)
    tl.store(dwrite_ptr + token * n + i, dwrite.to(dwrite_ptr.dtype.element_ty), mask=i < n)


def _run(kernel: Any, tensors: tuple[Tensor, ...], streams: Tensor, whole: bool) -> None:
    """One program a token, which walks over the ``whole`` width or takes a block of it."""
    n, width = streams.shape[-2:]
    if not streams.numel():
        return
    block = min(1024, max(16, triton.next_power_of_2(width)))
    grid = (streams.numel() // (n * width), 1 if whole else triton.cdiv(width, block))
    size = {"n": n, "N": triton.next_power_of_2(n), "BLOCK": block, "num_warps": max(1, block // 256)}
    launch.run(kernel, grid, *tensors, width, **size)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        x, read, mix = x.contiguous(), read.contiguous(), mix.contiguous()
        y = torch.empty((*x.shape[:-2], x.shape[-1]), dtype=x.dtype, device=x.device)
        mixed = torch.empty(x.shape, dtype=mix.dtype, device=x.device)
        _run(_read_kernel, (x, read, mix, y, mixed), x, whole=False)
        ctx.save_for_backward(x, read, mix)
        return y, mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dmixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, read, mix = ctx.saved_tensors
        dx, dread, dmix = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, read, mix))
        given = x, read, mix, dy.contiguous(), dmixed.contiguous()
        _run(_read_backward_kernel, (*given, dx, dread, dmix), x, whole=True)
        return dx, dread, dmix


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
        mixed, write, y = mixed.contiguous(), write.contiguous(), y.contiguous()
        out = torch.empty(mixed.shape, dtype=y.dtype, device=y.device)
        _run(_write_kernel, (mixed, write, y, out), out, whole=False)
        ctx.save_for_backward(write, y)
        ctx.dtype = mixed.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        write, y = ctx.saved_tensors
        dmixed = torch.empty(dout.shape, dtype=ctx.dtype, device=dout.device)
        dwrite, dy = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (write, y))
        _run(_write_backward_kernel, (write, y, dout.contiguous(), dmixed, dwrite, dy), dmixed, whole=True)
        return dmixed, dwrite, dy
