"""Matrices made doubly stochastic in Triton: all iterations of all tokens in one launch, one more on the way back.

Floor: latency. A token's 4 x 4 matrix is read and written once, 128 bytes, and normalised 2·I - 1 times, some 60·I
FLOPs: 8192 tokens are a megabyte and, with I = 20 iterations, 10 MFLOP, a fraction of a microsecond each. What costs is
starting kernels: plain PyTorch starts 4·I of them forward and twice as many back, some 5 us each. What matrices were
divided by is kept for the way back, 4·n·(2·I - 1) bytes a token. Time reached: not yet measured on a GPU.

What went into a division is what came out times its sums: the way back undoes the forward as it goes, and carries
p = m · dm, the gradient by log m, which a division by sums turns into p - m · sum(p).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """See ``minideepseek.ops.sinkhorn``."""
    launch.check(logits)
    if logits.shape[-1] > 32:
        raise ValueError(f"matrices of {logits.shape[-1]} x {logits.shape[-1]} do not fit a kernel's tile; at most 32")
    return _Sinkhorn.apply(logits, iterations, eps)


@triton.jit
def _place(n_tokens, n: tl.constexpr, TOKENS: tl.constexpr, N: tl.constexpr):
    """Tokens of this program and a matrix' indices; where the elements are, and which of them there are."""
    tokens, i = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, N)
    at = (tokens * n * n)[:, None, None] + (i * n)[None, :, None] + i[None, None, :]
    there = (tokens < n_tokens)[:, None, None] & (i < N)[None, :, None]
    if n < N:
        there = there & (i < n)[None, :, None] & (i < n)[None, None, :]
    return tokens, i, at, there


@triton.jit
def _forward_kernel(
    logits_ptr,
    m_ptr,
    sums_ptr,
    n_tokens,
    iterations,
    eps,
    n: tl.constexpr,
    KEEP: tl.constexpr,
    TOKENS: tl.constexpr,
    N: tl.constexpr,
):
    tokens, i, at, there = _place(n_tokens, n, TOKENS, N)
    x = tl.load(logits_ptr + at, mask=there, other=-float("inf")).to(tl.float32)
    highest = tl.max(x, 2)
    x = tl.exp(x - tl.where(highest == -float("inf"), 0.0, highest)[:, :, None])
    total = tl.sum(x, 2)
    m = tl.where(there, x / tl.where(total == 0.0, 1.0, total)[:, :, None] + eps, 0.0)
    kept = (tokens < n_tokens)[:, None] & (i < n)[None, :]
    sums_at = sums_ptr + (tokens * n)[:, None] + i[None, :]
    for step in range(2 * iterations - 1):
        # By columns, then by rows and columns in turn. Both sums are cheap; which one divides is chosen.
        if step % 2 == 0:
            s = tl.where(kept, tl.sum(m, 1) + eps, 1.0)
            m = m / s[:, None, :]
        else:
            s = tl.where(kept, tl.sum(m, 2) + eps, 1.0)
            m = m / s[:, :, None]
        if KEEP:
            tl.store(sums_at, s, mask=kept)
            sums_at += tl.cast(n_tokens, tl.int64) * n
    tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=there)


@triton.jit
def _backward_kernel(
    m_ptr,
    dm_ptr,
    sums_ptr,
    dlogits_ptr,
    n_tokens,
    iterations,
    eps,
    n: tl.constexpr,
    TOKENS: tl.constexpr,
    N: tl.constexpr,
):
    tokens, i, at, there = _place(n_tokens, n, TOKENS, N)
    m = tl.load(m_ptr + at, mask=there, other=0.0)
    p = m * tl.load(dm_ptr + at, mask=there, other=0.0).to(tl.float32)
    kept = (tokens < n_tokens)[:, None] & (i < n)[None, :]
    steps = 2 * iterations - 1
    step_stride = tl.cast(n_tokens, tl.int64) * n
    sums_at = sums_ptr + (tokens * n)[:, None] + i[None, :] + (steps - 1) * step_stride
    for back in range(steps):
        s = tl.load(sums_at, mask=kept, other=1.0)
        if (steps - 1 - back) % 2 == 0:
            p -= m * tl.sum(p, 1)[:, None, :]
            m *= s[:, None, :]
        else:
            p -= m * tl.sum(p, 2)[:, :, None]
            m *= s[:, :, None]
        sums_at -= step_stride
    softmax = m - eps
    p *= softmax / tl.where(there, m, 1.0)
    dlogits = p - softmax * tl.sum(p, 2)[:, :, None]
    tl.store(dlogits_ptr + at, dlogits.to(dlogits_ptr.dtype.element_ty), mask=there)


def _tile(n: int) -> dict[str, int]:
    size = triton.next_power_of_2(n)
    return {"TOKENS": max(1, 512 // (size * size)), "N": size, "num_warps": 4}


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int, eps: float) -> Tensor:
        logits, n = logits.contiguous(), logits.shape[-1]
        n_tokens = logits.numel() // max(1, n * n)
        keep = ctx.needs_input_grad[0]
        m = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        sums = torch.empty((2 * iterations - 1 if keep else 0, n_tokens, n), dtype=torch.float32, device=logits.device)
        if n_tokens:
            size = _tile(n)
            grid = (triton.cdiv(n_tokens, size["TOKENS"]),)
            launch.run(_forward_kernel, grid, logits, m, sums, n_tokens, iterations, eps, n=n, KEEP=keep, **size)
        ctx.save_for_backward(m, sums)
        ctx.iterations, ctx.eps, ctx.dtype = iterations, eps, logits.dtype
        return m.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dm: Tensor) -> tuple[Tensor, None, None]:
        m, sums = ctx.saved_tensors
        dlogits = torch.empty(m.shape, dtype=ctx.dtype, device=m.device)
        if n_tokens := sums.shape[1]:
            size = _tile(m.shape[-1])
            grid = (triton.cdiv(n_tokens, size["TOKENS"]),)
            tensors, numbers = (m, dm.contiguous(), sums, dlogits), (n_tokens, ctx.iterations, ctx.eps)
            launch.run(_backward_kernel, grid, *tensors, *numbers, n=m.shape[-1], **size)
        return dlogits, None, None
