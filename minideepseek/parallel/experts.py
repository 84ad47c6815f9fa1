"""Expert parallelism: every process has some of the experts, and tokens travel to them and back.

Two all-to-alls around the products (GShard, arXiv 2006.16668; V3 report, section 3.2.2): *dispatch* sends each token to
the processes that hold its experts, *combine* sends the results home, where they are weighed and summed. How much each
process gets is decided by the router, so sizes are exchanged first. Gradients take the same ways back: that of an
all-to-all is the reverse one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minideepseek import ops
from minideepseek.ops.experts import dispatch
from minideepseek.ops.reference import wide


def shard(experts: Tensor, rank: int, size: int) -> Tensor:
    """The experts (E/size, ...) that process ``rank`` of ``size`` keeps of all (E, ...).

    Raises:
        ValueError: they do not divide.
    """
    if len(experts) % size:
        raise ValueError(f"{len(experts)} experts do not divide among {size} processes")
    return experts.chunk(size)[rank]


def parallel_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None = None
) -> Tensor:
    """``ops.experts`` where each process of the group has its own tokens and its own experts; all must call it.

    Args:
        x: (N, D) tokens of this process; N may differ between processes, and be zero.
        gate_up: (E/P, 2F, D) experts of this process (``shard``).
        down: (E/P, D, F).
        indices: (N, K) int64 experts of each token, counted over all processes.
        weights: (N, K).
        limit: as in ``ops.experts``.

    Returns:
        (N, D). Experts get gradients from the tokens of all processes: the sum of them, which is to be divided by the
        number of processes where the loss is a mean over all tokens and each process took that of its own.
    """
    size, own = dist.get_world_size(), len(gate_up)
    plan = dispatch(indices, size * own)
    order = torch.empty_like(plan.slot)
    order[plan.slot] = torch.arange(len(plan.slot), device=x.device)  # assignments, expert by expert
    chosen = indices.flatten()[order]
    sizes = torch.bincount(chosen // own, minlength=size)
    arriving = torch.empty_like(sizes)
    dist.all_to_all_single(arriving, sizes)
    out_sizes, in_sizes = sizes.tolist(), arriving.tolist()

    rows = all_to_all(x[plan.source], out_sizes, in_sizes)
    asked = all_to_all(chosen, out_sizes, in_sizes) % own
    ones = torch.ones(len(rows), 1, dtype=weights.dtype, device=x.device)
    results = ops.experts(rows, gate_up, down, asked[:, None], ones, limit)
    home = all_to_all(results, in_sizes, out_sizes)
    return (wide(home)[plan.slot].unflatten(0, indices.shape) * weights[..., None]).sum(1).to(x.dtype)


def all_to_all(x: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Rows x (sum of send, ...), the first ``send[0]`` for process 0 -> those that came (sum of receive, ...)."""
    return _AllToAll.apply(x, send, receive)


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, send: list[int], receive: list[int]) -> Tensor:
        ctx.sizes = send, receive
        found = x.new_empty(sum(receive), *x.shape[1:])
        dist.all_to_all_single(found, x.contiguous(), receive, send)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        send, receive = ctx.sizes
        return all_to_all(grad, receive, send), None, None
