"""Which experts a token goes to, in Triton: groups judged, experts chosen, all in one launch.

Floor: memory, and below some ten thousand tokens latency: N tokens' scores of E experts are read once, 4·N·E bytes, and
K places written, 8·N·K bytes. At 4.3 TB/s (an H200's copy) 65,536 tokens of 256 experts take 0.02 ms. Plain PyTorch
starts some ten kernels for it, two of which sort all experts. Fraction of the floor reached: not yet measured on a GPU.

The largest is looked for K times over in registers; of equal ones the first is taken, as everywhere else.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minideepseek.kernels import launch


def choose_experts(scores: Tensor, k: int, *, groups: int = 1, limit: int = 1, judged_by: int = 1) -> Tensor:
    """See ``minideepseek.ops.choose_experts``."""
    launch.check(scores)
    n, n_experts = scores.shape
    out = torch.empty((n, k), dtype=torch.int64, device=scores.device)
    if out.numel():
        scores = launch.channels_last(scores)
        size = n_experts // groups
        padded = triton.next_power_of_2(groups), triton.next_power_of_2(size)
        tokens = max(1, 1024 // (padded[0] * padded[1]))
        launch.run(
            _choose_kernel,
            (triton.cdiv(n, tokens),),
            scores,
            out,
            n,
            scores.stride(0),
            k,
            groups=groups,
            size=size,
            limit=limit,
            judged_by=judged_by,
            TOKENS=tokens,
            GROUPS=padded[0],
            SIZE=padded[1],
            num_warps=4,
        )
    return out


@triton.jit
def _first_largest(x, free, place):
    """Per row (T, C): the first largest of those that are ``free``, which may be -inf itself."""
    largest = tl.max(tl.where(free, x, -float("inf")), 1)
    return tl.min(tl.where(free & (x == largest[:, None]), place, 2**30), 1)


@triton.jit
def _choose_kernel(
    scores_ptr,
    out_ptr,
    n,
    stride,
    k,
    groups: tl.constexpr,
    size: tl.constexpr,
    limit: tl.constexpr,
    judged_by: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    group, member = tl.arange(0, GROUPS), tl.arange(0, SIZE)
    expert = group[:, None] * size + member[None, :]
    real = (group < groups)[:, None] & (member < size)[None, :]
    there = (tokens < n)[:, None, None] & real[None, :, :]
    x = tl.load(scores_ptr + (tokens * stride)[:, None, None] + expert[None, :, :], mask=there, other=-float("inf"))
    x = x.to(tl.float32)
    free = there
    if limit < groups:
        judged = tl.zeros((TOKENS, GROUPS), dtype=tl.float32)
        unjudged = there
        for _ in tl.static_range(judged_by):
            best = tl.max(tl.where(unjudged, x, -float("inf")), 2)
            judged += best
            first = tl.min(tl.where(unjudged & (x == best[:, :, None]), member[None, None, :], SIZE), 2)
            unjudged = unjudged & (member[None, None, :] != first[:, :, None])
        unused = (tokens < n)[:, None] & (group < groups)[None, :]
        allowed = tokens[:, None] + group[None, :] < 0  # nobody yet
        for _ in tl.static_range(limit):
            best_group = _first_largest(judged, unused, group[None, :])
            taken = group[None, :] == best_group[:, None]
            allowed = allowed | taken
            unused = unused & ~taken
        free = free & allowed[:, :, None]
    x = tl.reshape(x, (TOKENS, GROUPS * SIZE))
    free = tl.reshape(free, (TOKENS, GROUPS * SIZE))
    place = tl.reshape(expert, (1, GROUPS * SIZE))
    for number in range(k):
        chosen = _first_largest(x, free, place)
        free = free & (place != chosen[:, None])
        tl.store(out_ptr + tokens * k + number, chosen.to(tl.int64), mask=tokens < n)
