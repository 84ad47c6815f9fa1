"""Cross-entropy of an output layer in Triton, and the log-probabilities of given tokens: the logits never whole.

Floor: arithmetic. With N rows of D numbers and a vocabulary of V, the products cost

    linear_cross_entropy    loss alone 2·N·D·V FLOPs, with gradients 6·N·D·V
    linear_log_probs        forward 2·N·D·V, forward and backward 8·N·D·V: the logits are computed twice

At 790 TFLOP/s (an H200's bfloat16 product), N = 8192, D = 8192 and V = 102,400 take 52 ms with gradients. The products
are left to the library, which is at that speed. What stands between them is ours and bound by memory: the loss reads
a block of logits twice and overwrites it with its own gradient, 3·n·V·b bytes for n rows of b-byte numbers, where
separate softmax, gather and subtraction move them a dozen times (2.3 ms against 10 or so for the sizes above). Fraction
of the floor reached: not yet measured on a GPU.

Log-probabilities are weighted by something that the backward pass alone knows, one number a row. That scales a row's
share of the hidden gradient, but the weight's gradient is a sum over rows: so each block of logits is computed again,
and turned into its gradient with the normaliser that the forward pass kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch

#: Logits held at a time: half a gigabyte of bfloat16. With fewer rows a block, adding up the weight's gradient, V·D
#: float32 read and written for each block, would show beside the products.
AT_ONCE = 2**28


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """See ``minideepseek.ops.linear_cross_entropy``."""
    return _CrossEntropy.apply(*launch.autocast(hidden, weight), targets, ignore_index)


def linear_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """See ``minideepseek.ops.linear_log_probs``."""
    return _LogProbs.apply(*launch.autocast(hidden, weight), targets, ignore_index)


@triton.jit
def _write_gradient(row_ptr, target, normaliser, scale, vocab, BLOCK: tl.constexpr):
    """Overwrite one row of logits with (probability - onehot) · scale."""
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + columns, mask=columns < vocab, other=0.0).to(tl.float32)
        # Subtracted before rounding: a certain prediction has p near 1, where bfloat16 has no digits for what is left.
        gradient = (tl.exp(x - normaliser) - tl.where(columns == target, 1.0, 0.0)) * scale
        gradient = tl.where(scale == 0.0, 0.0, gradient)  # a row that does not count, whatever it holds
        tl.store(row_ptr + columns, gradient.to(row_ptr.dtype.element_ty), mask=columns < vocab)


@triton.jit
def _loss_kernel(
    logits_ptr,
    targets_ptr,
    loss_ptr,
    normaliser_ptr,
    stride,
    vocab,
    ignore,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * stride
    target = tl.load(targets_ptr + row)
    counts = target != ignore
    chosen = tl.load(row_ptr + tl.where(counts, target, 0)).to(tl.float32)

    # Each lane keeps its own maximum and sum, brought together once at the end. The lowest finite number instead of
    # -inf, because -inf less itself is no number.
    highest = tl.full((BLOCK,), -3.0e38, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + columns, mask=columns < vocab, other=-float("inf")).to(tl.float32)
        smaller = tl.exp(-tl.abs(x - highest))  # of the two the one that is not 1: one exponential a number, not two
        total = tl.where(x > highest, total * smaller + 1.0, total + smaller)
        highest = tl.maximum(highest, x)
    peak = tl.max(highest)
    normaliser = peak + tl.log(tl.sum(total * tl.exp(highest - peak)))
    tl.store(loss_ptr + row, tl.where(counts, normaliser - chosen, 0.0))
    tl.store(normaliser_ptr + row, normaliser)
    if GRADIENT:
        tl.debug_barrier()  # every warp has read the target's logit before one overwrites it
        _write_gradient(row_ptr, target, normaliser, tl.where(counts, 1.0, 0.0), vocab, BLOCK)


@triton.jit
def _gradient_kernel(
    logits_ptr, targets_ptr, normaliser_ptr, scale_ptr, stride, scale_stride, vocab, ignore, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    # A log-probability falls where the loss rises.
    scale = tl.where(target != ignore, -tl.load(scale_ptr + row * scale_stride).to(tl.float32), 0.0)
    _write_gradient(logits_ptr + row * stride, target, tl.load(normaliser_ptr + row), scale, vocab, BLOCK)


def _tile(vocab: int) -> dict[str, int]:
    block = min(4096, max(16, triton.next_power_of_2(vocab)))
    return {"BLOCK": block, "num_warps": min(8, max(1, block // 512))}


def _losses(logits: Tensor, targets: Tensor, ignore: int, gradient: bool) -> tuple[Tensor, Tensor]:
    """Loss and log-normaliser of every row (n,), float32; with ``gradient`` the logits become that of the losses."""
    n, vocab = logits.shape
    loss, normaliser = (torch.empty(n, dtype=torch.float32, device=logits.device) for _ in range(2))
    if n:
        strides = logits.stride(0), vocab, ignore
        launch.run(_loss_kernel, (n,), logits, targets, loss, normaliser, *strides, GRADIENT=gradient, **_tile(vocab))
    return loss, normaliser


def _blocks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows after the other, and their logits (n, V), all in the same memory."""
    vocab = weight.shape[0]
    size = min(len(hidden), max(256, AT_ONCE // vocab))
    logits = torch.empty(size, vocab, dtype=hidden.dtype, device=hidden.device)
    for start in range(0, len(hidden), size or 1):
        block = slice(start, min(start + size, len(hidden)))
        yield block, torch.mm(hidden[block], weight.t(), out=logits[: block.stop - start])


class _Gradients:
    """The two products that make gradients of a block's logits into those of hidden and weight, where wanted."""

    def __init__(self, hidden: Tensor, weight: Tensor, wanted: tuple[bool, ...]) -> None:
        self.weight = weight
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.total = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None

    def add(self, block: slice, dlogits: Tensor, hidden: Tensor) -> None:
        if self.hidden is not None:
            torch.mm(dlogits, self.weight, out=self.hidden[block])
        if self.total is None:
            return
        if hidden.is_cuda and hidden.dtype != torch.float32:  # the product adds to what is there, in float32
            torch.addmm(self.total, dlogits.t(), hidden, out_dtype=torch.float32, out=self.total)
        else:
            self.total += dlogits.t() @ hidden


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int) -> Tensor:
        launch.check(hidden, weight)
        targets = targets.contiguous()
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for block, logits in _blocks(hidden, weight):
            loss += _losses(logits, targets[block], ignore, any(ctx.needs_input_grad))[0].sum()
            gradients.add(block, logits, hidden[block])
        counted = (targets != ignore).sum()
        # The mean's share last: in float16 it would push small probabilities below the smallest number.
        share = 1 / counted.clamp(min=1)
        kept = [
            None if gradients.hidden is None else gradients.hidden.mul_(share.to(hidden.dtype)),
            None if gradients.total is None else gradients.total.mul_(share).to(weight.dtype),
        ]
        ctx.save_for_backward(*kept)
        return loss / counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if kept is None else kept * grad.to(kept.dtype) for kept in ctx.saved_tensors), None, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore: int) -> Tensor:
        launch.check(hidden, weight)
        targets = targets.contiguous()
        loss, normaliser = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
        for block, logits in _blocks(hidden, weight):
            loss[block], normaliser[block] = _losses(logits, targets[block], ignore, False)
        ctx.save_for_backward(hidden, weight, targets, normaliser)
        ctx.ignore = ignore
        return loss.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normaliser = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        for block, logits in _blocks(hidden, weight):
            rows = logits, targets[block], normaliser[block], grad[block]
            numbers = logits.stride(0), grad.stride(0), logits.shape[1], ctx.ignore
            launch.run(_gradient_kernel, (len(logits),), *rows, *numbers, **_tile(logits.shape[1]))
            gradients.add(block, logits, hidden[block])
        dweight = None if gradients.total is None else gradients.total.to(weight.dtype)
        return gradients.hidden, dweight, None, None
