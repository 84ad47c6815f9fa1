"""The experts of a mixture: every token through its K experts, at the cost of the tokens and not of the experts.

Tokens are sorted by expert, each expert multiplies its rows in one product, and the results are gathered back. Four
things make it quick on a CPU (measured against a loop over experts: benchmarks/results):

* one function for all experts, whose backward writes each expert's gradient into its slice of one buffer. Indexing a
  stacked parameter E times makes autograd allocate E gradients of the full size;
* all of an expert's steps before the next expert's, while its rows are in the processor's cache;
* weighted gathers on the way back instead of scattered additions;
* where oneDNN multiplies, the rows of an expert are filled up to a multiple of 32: it compiles a product anew for every
  number of rows it has not seen, and routing changes that number every step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops.backend import kernel_in, needs_grad
from minideepseek.ops.gate import limit_needed, swiglu_backward, swiglu_forward
from minideepseek.ops.matmul import MKL_IS_SLOW, product, times_vector, weight_gradient

FEW = 16  # tokens: more would feel the needless products
# Multiples to fill up to, where the library compiles a product for each number of rows that it meets.
ROWS = {torch.bfloat16: 32, torch.float16: 32, torch.float32: 32 if MKL_IS_SLOW else 1}


@kernel_in("experts")
def experts(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None = None
) -> Tensor:
    """Weighted sum of each token's experts: sum over k of weights[n, k] · SwiGLU_{indices[n, k]}(x[n]).

    Args:
        x: (N, D) tokens.
        gate_up: (E, 2F, D), gate rows first.
        down: (E, D, F).
        indices: (N, K) int64 experts of each token.
        weights: (N, K) what their outputs are multiplied by.
        limit: of SwiGLU's factors, as in ``ops.swiglu``.

    Returns:
        (N, D) in x's dtype. An expert that nobody chose gets a gradient of zeros.
    """
    few = x.device.type == "cpu" and 0 < len(x) <= FEW and not needs_grad(x, gate_up, down, weights)
    if few and not torch.is_autocast_enabled("cpu"):
        sparse = _looked_up if torch.compiler.is_compiling() else _chosen
        return (_all if indices.numel() >= len(gate_up) else sparse)(x, gate_up, down, indices, weights, limit)
    return _Experts.apply(x, gate_up, down, indices, weights, limit)


def _chosen(x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None) -> Tensor:
    """A few tokens, a step of a decode: no filling up, and as few calls as there can be. No gradient."""
    # So few assignments are sorted sooner as a list than as a tensor.
    assigned, k = indices.flatten().tolist(), indices.shape[1]
    order = sorted(range(len(assigned)), key=assigned.__getitem__)
    busy = Counter(assigned[i] for i in order)  # keeps their order
    rows = x.index_select(0, indices.new_tensor([i // k for i in order])).split([*busy.values()])
    hidden = torch.cat([product(part, gate_up[expert]) for expert, part in zip(busy, rows, strict=True)])
    act = swiglu_forward(hidden, limit)[0].split([*busy.values()])
    out = torch.cat([product(part, down[expert]) for expert, part in zip(busy, act, strict=True)])
    slot = indices.new_tensor(sorted(range(len(order)), key=order.__getitem__)).view_as(indices)
    return F.embedding_bag(slot, out, mode="sum", per_sample_weights=weights.to(x.dtype))


def _looked_up(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None
) -> Tensor:
    """``_chosen`` for the compiler, which cannot follow a list, but fuses a lookup with what reads it. No gradient."""
    hidden = times_vector(gate_up[indices], x[:, None, None]).to(x.dtype)  # (N, K, 2F)
    act = swiglu_forward(hidden, limit)[0] * weights[..., None]
    return times_vector(down[indices], act[:, :, None]).sum(1).to(x.dtype)


def _all(x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None) -> Tensor:
    """A few tokens that between them choose most experts: every token through all, weighted by zero where not chosen.

    Such a step waits for the experts to arrive from memory; what it then multiplies too often it hardly feels.
    """
    hidden = product(x, gate_up.flatten(0, 1)).view(len(x), len(gate_up), -1)  # (N, E, 2F)
    act, _ = swiglu_forward(hidden, limit)
    weight = act.new_zeros(act.shape[:2]).scatter_add_(1, indices, weights.to(act.dtype))
    act = act * weight[..., None]
    if x.dtype == torch.float32 and len(x) <= 8:  # the quicker order
        return torch.bmm(down, act.permute(1, 2, 0)).sum(0).t()
    return torch.bmm(act.transpose(0, 1), down.mT).sum(0)


class Dispatch(NamedTuple):
    """Rows of all experts one after the other, each expert's filled up to a multiple.

    slot: (N·K,) the row that holds assignment n·K + k.
    source: (R,) the token in each row; filling rows repeat token 0 and weigh nothing.
    bounds: first row of each expert, and the end: E + 1 numbers.
    """

    slot: Tensor
    source: Tensor
    bounds: list[int]

    def busy(self) -> Iterator[tuple[int, int, int]]:
        """(expert, first row, one past the last) of each expert that has rows."""
        return ((expert, start, end) for expert, (start, end) in enumerate(pairwise(self.bounds)) if end > start)

    def idle(self) -> list[int]:
        """The experts that have none."""
        return [expert for expert, (start, end) in enumerate(pairwise(self.bounds)) if end == start]


def dispatch(indices: Tensor, n_experts: int, multiple: int = 1) -> Dispatch:
    """Sort assignments (N, K) by expert, keeping the tokens' order inside an expert."""
    chosen = indices.flatten()
    counts = torch.bincount(chosen, minlength=n_experts)
    ends = ((counts + multiple - 1) // multiple * multiple).cumsum(0)
    bounds = [0, *ends.tolist()]
    order = chosen.argsort(stable=True)
    # a row's place: where its expert begins, plus its rank among the expert's rows
    begin_of_sorted = counts.cumsum(0) - counts
    begin_of_rows = torch.cat([ends.new_zeros(1), ends[:-1]])
    shift = begin_of_rows - begin_of_sorted
    slot = torch.empty_like(chosen)
    slot[order] = torch.arange(len(chosen), device=chosen.device) + shift[chosen[order]]
    source = chosen.new_zeros(bounds[-1])
    source[slot] = torch.arange(len(chosen), device=chosen.device) // indices.shape[1]
    return Dispatch(slot, source, bounds)


class _Experts(torch.autograd.Function):
    # One expert after the other, from its tokens to its results: what one step writes, the next still finds in the
    # processor's cache. With g the gradient at an expert's output, w a row's weight and A = act:
    #   dA = w·(g W_down),  dw = rowsum(A · (g W_down)),  dW_down = (w·A)^T g, transposed.
    # So the output itself need not be kept for the gradient of the weights: <A W_down^T, g> = <A, g W_down>.
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None
    ) -> Tensor:
        plan = dispatch(indices, gate_up.shape[0], ROWS.get(x.dtype, 1))
        out = x.new_empty(len(plan.source), x.shape[1])
        kept: list[Tensor] = []
        limits: list[float | None] = []
        for expert, start, end in plan.busy():
            rows = x.index_select(0, plan.source[start:end])
            hidden = product(rows, gate_up[expert])
            limits.append(limit_needed(hidden, limit))
            act, gated = swiglu_forward(hidden, limits[-1])
            out[start:end] = product(act, down[expert])
            kept += [hidden, act, gated]
        ctx.save_for_backward(x, gate_up, down, weights, plan.slot, plan.source, *kept)
        ctx.bounds, ctx.limits = plan.bounds, limits
        # A bag of embeddings is a weighted sum of rows in one pass, which a gather and a product take three for.
        return F.embedding_bag(plan.slot.view_as(indices), out, mode="sum", per_sample_weights=weights.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, down, weights, slot, source, *kept = ctx.saved_tensors
        plan = Dispatch(slot, source, ctx.bounds)
        of_row = weights.new_zeros(len(source), 1).index_copy_(0, slot, weights.view(-1, 1))
        dgate_up, ddown = torch.empty_like(gate_up), torch.empty_like(down)
        for expert in plan.idle():
            dgate_up[expert], ddown[expert] = 0.0, 0.0
        drows, dof_row = grad.new_empty(len(source), grad.shape[1]), torch.empty_like(of_row)
        for n, (expert, start, end) in enumerate(plan.busy()):
            hidden, act, gated = kept[3 * n : 3 * n + 3]
            weight = of_row[start:end].to(grad.dtype)
            g = grad.index_select(0, source[start:end])
            dact = product(g, down[expert].t())
            dof_row[start:end] = torch.linalg.vecdot(dact, act)[:, None]
            weight_gradient(g, act * weight, ddown[expert])
            dhidden = swiglu_backward(dact.mul_(weight), hidden, gated, ctx.limits[n])
            weight_gradient(dhidden, x.index_select(0, source[start:end]), dgate_up[expert])
            drows[start:end] = product(dhidden, gate_up[expert].t())
        dx = F.embedding_bag(slot.view_as(weights), drows, mode="sum")
        dweights = dof_row.index_select(0, slot).view_as(weights)
        return dx, dgate_up, ddown, None, dweights, None
