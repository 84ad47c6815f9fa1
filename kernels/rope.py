"""Rotary position embedding in Triton, both channel layouts; backward is the rotation back.

Floor: memory. With n = B·T·H·R numbers of b bytes, read once and written once: 2·n·b bytes and 3·n FLOPs, forward and
backward alike; the angles, 4·T·R bytes, are shared by all heads and stay in cache. At 4.3 TB/s (an H200's copy), 40
heads of 256 at 16384 tokens in bfloat16 take 0.16 ms. Fraction of the floor reached: not yet measured on a GPU.

Queries and keys are usually slices of one projection, so the input is read through its strides and never copied first.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half_split") -> Tensor:
    """See ``minideepseek.ops.rope``."""
    if layout not in ("half_split", "adjacent"):
        raise ValueError(f"layout={layout!r}: choose 'half_split' or 'adjacent'")
    if x.shape[-1] != 2 * cos.shape[-1]:
        raise ValueError(f"{x.shape[-1]} channels are {x.shape[-1] / 2:g} pairs, but there are {cos.shape[-1]} angles")
    return _Rotation.apply(x, cos, sin, layout == "adjacent")


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    y_ptr,
    x_batch_stride,
    x_token_stride,
    x_head_stride,
    angle_batch_stride,
    angle_token_stride,
    n_rows,
    tokens,
    heads,
    half,
    BACK: tl.constexpr,
    ADJACENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # A row is one head of one token.
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head, token, batch = rows % heads, rows // heads % tokens, rows // heads // tokens  # 64-bit division is slow
    rows, head, token, batch = rows.to(tl.int64), head.to(tl.int64), token.to(tl.int64), batch.to(tl.int64)
    pairs = tl.arange(0, COLUMNS)
    inside = (rows < n_rows)[:, None] & (pairs < half)[None, :]

    angle = (batch * angle_batch_stride + token * angle_token_stride)[:, None] + pairs[None, :]
    cos = tl.load(cos_ptr + angle, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + angle, mask=inside, other=0.0)
    if BACK:
        sin = -sin

    source = (batch * x_batch_stride + token * x_token_stride + head * x_head_stride)[:, None]
    target = (rows * half * 2)[:, None]
    if ADJACENT:
        # Both members of all pairs in one contiguous load and store; loads with stride two would fetch all twice.
        channels = tl.arange(0, 2 * COLUMNS)[None, :]
        whole = (rows < n_rows)[:, None] & (channels < 2 * half)
        x = tl.load(x_ptr + source + channels, mask=whole, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(x, (ROWS, COLUMNS, 2)))
        y = tl.interleave(a * cos - b * sin, a * sin + b * cos)
        tl.store(y_ptr + target + channels, y.to(y_ptr.dtype.element_ty), mask=whole)
    else:
        a = tl.load(x_ptr + source + pairs[None, :], mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x_ptr + source + half + pairs[None, :], mask=inside, other=0.0).to(tl.float32)
        out = y_ptr + target + pairs[None, :]
        tl.store(out, (a * cos - b * sin).to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(out + half, (a * sin + b * cos).to(y_ptr.dtype.element_ty), mask=inside)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool, back: bool) -> Tensor:
    launch.check(x)
    batch, tokens, heads, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    y = torch.empty((batch, tokens, heads, width), dtype=x.dtype, device=x.device)
    if x.numel():
        n_rows = batch * tokens * heads
        rows, columns, warps = launch.tile(width // 2, elements=2048)
        launch.run(
            _rotate_kernel,
            (triton.cdiv(n_rows, rows),),
            x,
            cos,
            sin,
            y,
            *x.stride()[:3],
            cos.stride(0) if cos.ndim == 3 and cos.shape[0] > 1 else 0,
            width // 2,
            n_rows,
            tokens,
            heads,
            width // 2,
            BACK=back,
            ADJACENT=adjacent,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=warps,
        )
    return y


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.adjacent = adjacent
        return _rotate(x, cos, sin, adjacent, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        return _rotate(dy, *ctx.saved_tensors, ctx.adjacent, back=True), None, None, None
