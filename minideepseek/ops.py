"""The hot operations, each defined once in plain PyTorch: the definition of correct, and what the layers call."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Root-mean-square norm over the last dimension. x: (..., D), weight: (D,) -> (..., D) in x's dtype.

    Statistics in fp32; the normalised value is rounded to x's dtype *before* the weight multiplies it, which is the
    order of Llama and of every DeepSeek checkpoint (Zhang & Sennrich 2019, eq. 4).
    """
    wide = x.float() if x.dtype.itemsize < 4 else x
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normal.to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """What a block does between two sublayers: ``(rms_norm(x + residual), x + residual)``."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def rope(x: Tensor, cos: Tensor, sin: Tensor, layout: str = "half_split") -> Tensor:
    """Rotate channel pairs by their position's angles. x: (B, T, H, R); cos, sin: (T, R/2) or (B, T, R/2).

    ``layout`` says which channels are a pair: "half_split" (i, i + R/2), "adjacent" (2i, 2i + 1). Computed in fp32.
    """
    if layout not in ("half_split", "adjacent"):
        raise ValueError(f"layout must be 'half_split' or 'adjacent', not {layout!r}")
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    wide = x.float() if x.dtype.itemsize < 4 else x
    a, b = wide.chunk(2, -1) if layout == "half_split" else (wide[..., 0::2], wide[..., 1::2])
    turned = (a * cos - b * sin, a * sin + b * cos)
    out = torch.cat(turned, -1) if layout == "half_split" else torch.stack(turned, -1).flatten(-2)
    return out.to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """gate_up: (..., 2F), gate first -> silu(gate) * up: (..., F) (Shazeer 2020, eq. 6)."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Softmax attention. q: (B, H, T, E), k: (B, G, S, E), v: (B, G, S, Ev), H a multiple of G -> (B, H, T, Ev).

    ``causal`` lines up the last query with the last key, so T < S continues a cache. ``mask`` broadcasts to
    (B, H, T, S), True where a query may look; with both, both must allow it.
    """
    (B, H, T, E), (_, G, S, _) = q.shape, k.shape
    scale = E**-0.5 if scale is None else scale
    if G != H:
        k, v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
    scores = (q @ k.transpose(-2, -1)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Mean cross-entropy of ``hidden @ weight.T``. hidden: (N, D), weight: (V, D), targets: (N,) -> fp32 scalar."""
    logits = hidden @ weight.T
    return F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, ignore_index=ignore_index
    )
