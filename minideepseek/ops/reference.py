"""The definition of correct: each hot operation as its formula, in plain PyTorch that autograd differentiates.

Nothing here is tuned. The layers call ``minideepseek.ops``, which computes the same in fewer passes over memory or
in a Triton kernel; the tests hold those to these lines. Sums and exponentials are taken in float32 at least.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where it already has that many bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """See ``ops.rms_norm``."""
    normal = wide(x) * torch.rsqrt(wide(x).square().mean(-1, keepdim=True) + eps)
    return (normal.to(x.dtype) * weight).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """See ``ops.add_rms_norm``."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half_split") -> Tensor:
    """See ``ops.rope``."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # the same angle for every head
    pairs = (2, -1) if layout == "half_split" else (-1, 2)
    axis = -2 if layout == "half_split" else -1
    a, b = wide(x).unflatten(-1, pairs).unbind(axis)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], axis).flatten(-2).to(x.dtype)


def swiglu(gate_up: Tensor, limit: float | None = None) -> Tensor:
    """See ``ops.swiglu``."""
    gate, up = gate_up.chunk(2, -1)
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return F.silu(gate) * up


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """See ``ops.attention``."""
    heads_per_group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(heads_per_group, 1), v.repeat_interleave(heads_per_group, 1)
    visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    if causal:
        visible = visible.tril(k.shape[2] - q.shape[2])
    if mask is not None:
        visible = visible & mask
    scores = wide(q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    probabilities = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    # The softmax of nothing is 0/0; a query that sees no key brings nothing home.
    return probabilities.masked_fill(~visible, 0.0).to(v.dtype) @ v


def latent_attention(
    q: Tensor,
    latents: Tensor,
    d_value: int,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """See ``ops.latent_attention``."""
    keys = latents[:, None]
    return attention(q, keys, keys[..., :d_value], scale=scale, causal=causal, mask=mask)


def index_scores(queries: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """See ``ops.index_scores``."""
    products = torch.einsum("bthd,bsd->bths", queries, keys)
    return torch.einsum("bth,bths->bts", wide(weights), wide(products).relu())


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """See ``ops.linear_cross_entropy``."""
    return F.cross_entropy(wide(hidden @ weight.T), targets, ignore_index=ignore_index)


def linear_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """See ``ops.linear_log_probs``."""
    logits = wide(hidden @ weight.T)
    return 0.0 - F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")


def choose_experts(scores: Tensor, k: int, *, groups: int = 1, limit: int = 1, judged_by: int = 1) -> Tensor:
    """See ``ops.choose_experts``."""
    if limit < groups:
        grouped = scores.unflatten(-1, (groups, -1))
        judged = grouped.topk(judged_by, dim=-1).values.sum(-1)  # (N, groups)
        best = judged.sort(dim=-1, descending=True, stable=True).indices[:, :limit]
        allowed = torch.zeros_like(judged, dtype=torch.bool).scatter_(1, best, True)
        # -inf and not 0: with a negative bias a masked expert would otherwise beat an allowed one.
        scores = grouped.masked_fill(~allowed[..., None], -torch.inf).flatten(-2)
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def experts(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None = None
) -> Tensor:
    """See ``ops.experts``."""
    out = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        token, choice = (indices == expert).nonzero(as_tuple=True)
        y = swiglu(x[token] @ gate_up[expert].T, limit) @ down[expert].T
        out = out.index_add(0, token, (y * weights[token, choice, None]).to(x.dtype))
    return out


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """See ``ops.sinkhorn``."""
    m = logits.softmax(-1) + eps
    m = m / (m.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        m = m / (m.sum(-1, keepdim=True) + eps)
        m = m / (m.sum(-2, keepdim=True) + eps)
    return m


def rms_linear(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See ``ops.rms_linear``."""
    x = wide(x)
    return F.rms_norm(x, x.shape[-1:], eps=eps) @ weight.to(x.dtype).T


def read_streams(x: Tensor, read: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """See ``ops.read_streams``."""
    both = torch.cat([read[..., None, :], mix], dim=-2) @ x.to(mix.dtype)
    return both[..., 0, :].to(x.dtype), both[..., 1:, :]


def write_streams(mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
    """See ``ops.write_streams``."""
    return (mixed + write[..., None] * y[..., None, :]).to(y.dtype)
