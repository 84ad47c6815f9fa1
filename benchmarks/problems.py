"""What benchmarks/kernels.py measures: each operation's inputs, and the least that it must move and compute."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one layer: tokens of a batch, widths, heads, vocabulary, experts."""

    batch: int
    tokens: int
    width: int
    hidden: int
    heads: int
    groups: int
    head: int
    vocab: int
    experts: int
    expert_hidden: int
    top_k: int


SHAPE = {
    "cpu": Shape(
        batch=16, tokens=256, width=256, hidden=704, heads=4, groups=2, head=64, vocab=4096,
        experts=16, expert_hidden=128, top_k=4,
    ),
    "cuda": Shape(
        batch=2, tokens=4096, width=8192, hidden=22016, heads=64, groups=8, head=128, vocab=102400,
        experts=64, expert_hidden=1408, top_k=6,
    ),
}[DEVICE]  # fmt: skip
STREAMS = 4
INDEX = {"cpu": (4, 32), "cuda": (64, 128)}[DEVICE]  # heads of an indexer, and their channels
MLA_WIDTHS, LATENT, CACHED = {"cpu": ((48, 32), (64, 16), 4096), "cuda": ((192, 128), (512, 64), 16384)}[DEVICE]


@dataclass(frozen=True)
class Problem:
    """What an operation is called with, and the least it must do.

    Attributes:
        inputs: tensors to differentiate, the first arguments.
        numbers: numbers read and written, in inference and in training.
        flops: floating-point operations, in inference and in training.
        rest: further arguments.
        options: keyword arguments.
        trained: whether its backward pass matters.
    """

    inputs: tuple[Tensor, ...]
    numbers: tuple[int, int]
    flops: tuple[int, int] = (0, 0)
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool = True


def problem(name: str, dtype: torch.dtype) -> Problem:
    """The inputs of operation ``name``; its floor counts what the files under kernels/ count."""
    s, make = SHAPE, functools.partial(_make, dtype)
    n, m = s.batch * s.tokens * s.width, s.batch * s.tokens
    if name == "rms_norm":
        return Problem((make(s.batch, s.tokens, s.width), make(s.width)), (2 * n, 5 * n))
    if name == "add_rms_norm":
        return Problem((*(make(s.batch, s.tokens, s.width) for _ in range(2)), make(s.width)), (4 * n, 8 * n))
    if name == "rope":
        angles = torch.rand(s.tokens, s.head // 2, device=DEVICE)
        x = make(s.batch, s.tokens, s.heads + s.groups, s.head)
        return Problem((x,), (2 * x.numel(), 4 * x.numel()), rest=(angles.cos(), angles.sin()))
    if name == "swiglu":
        return Problem((make(s.batch, s.tokens, 2 * s.hidden),), (3 * m * s.hidden, 8 * m * s.hidden))
    if name == "linear":
        flops = 2 * m * s.width * 2 * s.hidden
        moved = m * s.width + 2 * s.hidden * s.width + 2 * m * s.hidden
        return Problem((make(m, s.width), make(2 * s.hidden, s.width)), (moved, 3 * moved), (flops, 3 * flops))
    if name == "linear_fp8":  # eight bits are multiplied twice as fast
        flops = m * s.width * 2 * s.hidden
        moved = m * s.width + 2 * s.hidden * s.width + 2 * m * s.hidden
        return Problem((make(m, s.width), make(2 * s.hidden, s.width)), (moved, 3 * moved), (flops, 3 * flops))
    if name == "attention":
        q = make(s.batch, s.heads, s.tokens, s.head)
        k, v = (make(s.batch, s.groups, s.tokens, s.head) for _ in range(2))
        flops = 2 * s.batch * s.heads * s.tokens**2 * s.head  # two products, half of each seen
        moved = 2 * q.numel() + 2 * k.numel()
        return Problem((q, k, v), (moved, 3 * moved), (flops, 7 * flops // 2), options={"causal": True})
    if name == "attention_mla":
        width, value = MLA_WIDTHS
        batch, heads = s.batch // 2, 2 * s.heads  # as many scores as above: the definition holds them all
        q, k = (make(batch, heads, s.tokens, width) for _ in range(2))
        v = make(batch, heads, s.tokens, value)
        pairs = batch * heads * s.tokens**2 // 2
        moved = 2 * (q.numel() + v.numel())
        flops = 2 * pairs * (width + value), 2 * pairs * (4 * width + 3 * value)
        return Problem((q, k, v), (moved, 3 * moved), flops, options={"causal": True})
    if name == "attention_decode":
        q, k, v = (make(s.batch, h, t, s.head) for h, t in ((s.heads, 1), (s.groups, CACHED), (s.groups, CACHED)))
        numbers, flops = 2 * k.numel(), 4 * s.batch * s.heads * CACHED * s.head
        return Problem((q, k, v), (numbers, 0), (flops, 0), options={"causal": True}, trained=False)
    if name == "latent_attention":
        latent, turned = LATENT
        q, latents = make(s.batch, 2 * s.heads, 1, latent + turned), make(s.batch, CACHED, latent + turned)
        flops = 2 * s.batch * 2 * s.heads * CACHED * (2 * latent + turned)
        return Problem((q, latents), (latents.numel(), 0), (flops, 0), (latent,), {"causal": True}, trained=False)
    if name == "linear_cross_entropy":
        flops = 2 * m * s.width * s.vocab
        targets = torch.randint(0, s.vocab, (m,), device=DEVICE)
        moved = (m + s.vocab) * s.width
        return Problem((make(m, s.width), make(s.vocab, s.width)), (moved, 2 * moved), (flops, 3 * flops), (targets,))
    if name == "linear_log_probs":
        flops = 2 * m * s.width * s.vocab
        targets = torch.randint(0, s.vocab, (m,), device=DEVICE)
        moved = (m + s.vocab) * s.width
        return Problem((make(m, s.width), make(s.vocab, s.width)), (moved, 3 * moved), (flops, 4 * flops), (targets,))
    if name == "experts":
        weights = make(s.experts, 2 * s.expert_hidden, s.width), make(s.experts, s.width, s.expert_hidden)
        scores, indices = torch.rand(m, s.experts, device=DEVICE).topk(s.top_k)
        flops = 6 * m * s.top_k * s.width * s.expert_hidden
        moved = 2 * n + sum(w.numel() for w in weights)
        return Problem(
            (make(m, s.width), *weights), (moved, 3 * moved), (flops, 3 * flops), (indices, scores.to(dtype))
        )
    if name == "index_scores":
        heads, channels = INDEX
        q, w = make(s.batch, s.tokens, heads, channels), torch.rand(s.batch, s.tokens, heads, device=DEVICE)
        flops = 2 * q.numel() * s.tokens
        scores = 4 * s.batch * s.tokens**2 // dtype.itemsize  # float32
        moved = q.numel() + scores
        inputs = q, w.requires_grad_(), make(s.batch, s.tokens, channels)
        return Problem(inputs, (moved, 3 * moved), (flops, 4 * flops))
    if name == "choose_experts":
        groups = {"groups": 8, "limit": 4, "judged_by": 2}
        scores = torch.rand(m, 256, device=DEVICE)
        return Problem((scores,), (scores.numel() * 4 // dtype.itemsize, 0), (0, 0), (8,), groups, trained=False)
    if name == "rms_linear":
        outputs = STREAMS * (STREAMS + 2)
        inputs = make(m, STREAMS * s.width), torch.rand(outputs, STREAMS * s.width, device=DEVICE, requires_grad=True)
        return Problem(inputs, (STREAMS * n, 3 * STREAMS * n), rest=(1e-6,))
    if name == "sinkhorn":
        logits = make(m, STREAMS, STREAMS).float().detach().requires_grad_()
        numbers = 4 * logits.numel() // dtype.itemsize  # all of it float32
        return Problem((logits,), (2 * numbers, 5 * numbers), rest=(20, 1e-6))
    if name in ("read_streams", "write_streams"):
        wide = 4 * STREAMS * n // dtype.itemsize  # mixed streams are float32
        x, read = make(m, STREAMS, s.width), torch.rand(m, STREAMS, device=DEVICE, requires_grad=True)
        mix = torch.rand(m, STREAMS, STREAMS, device=DEVICE, requires_grad=True)
        forward = STREAMS * n + n + wide
        if name == "read_streams":
            return Problem((x, read, mix), (forward, forward + 2 * STREAMS * n + n + wide))
        mixed = x.detach().float().requires_grad_()
        return Problem((mixed, read, make(m, s.width)), (forward, forward + STREAMS * n + 2 * n + wide))
    raise KeyError(name)


def _make(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).mul_(0.1).requires_grad_()


#: Cases named after something else than the operation.
OPERATION = {"attention_mla": "attention", "attention_decode": "attention"}

OPS = (
    "rms_norm",
    "add_rms_norm",
    "rope",
    "swiglu",
    "linear",
    "linear_fp8",
    "attention",
    "attention_mla",
    "attention_decode",
    "latent_attention",
    "linear_cross_entropy",
    "linear_log_probs",
    "experts",
    "index_scores",
    "choose_experts",
    "rms_linear",
    "sinkhorn",
    "read_streams",
    "write_streams",
)
