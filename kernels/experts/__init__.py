"""The experts of a mixture in Triton: every token through its K experts, as grouped matrix products.

Floor: arithmetic where an expert has some 200 rows or more, the experts' weights below. With N tokens of D numbers, K
experts each of E with F hidden channels, b bytes a number:

    forward     6·N·K·D·F FLOPs      bytes: 3·E·D·F·b of weights, 2·N·K·(D + F)·b or so of rows
    backward    12·N·K·D·F FLOPs

At 790 TFLOP/s (an H200's bfloat16 product), 32,768 tokens through 8 experts each, of 2048 x 768, take 3.1 ms forward
and 6.3 ms backward. Fraction of the floor reached: not yet measured on a GPU.

Assignments are sorted by expert and cut into tiles of one expert each (plan.py), without asking the GPU how many there
are. Two products go forward (products.py): up, which gathers its rows and ends with SwiGLU, and down, which weighs its
rows and writes each where its assignment stands, so that a token's outputs lie together and are summed by one plain
pass. Of three back, one goes through down and SwiGLU in one go, and the other two are the same kernels as before or a
sum over an expert's own rows (weights.py). Nothing is ever added to atomically: the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch
from minideepseek.kernels.experts.plan import Plan, plan
from minideepseek.kernels.experts.products import back, by_rows, most_rows, up
from minideepseek.kernels.experts.weights import gradient


def experts(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None = None
) -> Tensor:
    """See ``minideepseek.ops.experts.experts``."""
    x, gate_up, down = launch.autocast(x, gate_up, down)
    launch.check(x, gate_up, down, weights)
    return _Experts.apply(x.contiguous(), gate_up.contiguous(), down.contiguous(), indices, weights, limit)


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None
    ) -> Tensor:
        ctx.limit = limit
        if not (indices.numel() and x.numel()):
            ctx.save_for_backward(x, gate_up, down, weights, None, None, None, None)
            return torch.zeros_like(x)
        found, flat = plan(indices, len(gate_up), most_rows(x)), weights.flatten()
        hidden, act = up(x, gate_up, found, limit, keep=any(ctx.needs_input_grad))
        parts = by_rows(act, down.mT, flat, found)
        ctx.rows = found.rows
        ctx.save_for_backward(x, gate_up, down, weights, hidden, *found[1:])
        return parts.view(*indices.shape, -1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, weights, hidden, *rest = ctx.saved_tensors
        if hidden is None:
            nothing = [torch.zeros_like(tensor) for tensor in (x, gate_up, down, weights)]
            return *nothing[:3], None, nothing[3], None
        found, dy = Plan(ctx.rows, *rest), dy.contiguous()
        dhidden, act, dweights = back(dy, down, hidden, weights.flatten(), found, ctx.limit)
        dx = by_rows(dhidden, gate_up, None, found).view(*weights.shape, -1).sum(1)
        dgate_up, ddown = torch.empty_like(gate_up), torch.empty_like(down)
        gradient(dhidden, x, found, dgate_up)
        gradient(act, dy, found, ddown.mT)
        return dx, dgate_up, ddown, None, dweights.to(weights.dtype).view_as(weights), None
