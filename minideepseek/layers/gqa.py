"""Grouped-query attention (Ainslie et al., arXiv 2305.13245), with multi-head and multi-query as its two ends.

H query heads share G key/value heads: G = H is multi-head attention (V1-7B), G = 1 multi-query, between them
grouped-query (V1-67B: 64 query heads on 8). What is saved is the cache: 2·G·Dh numbers a token and layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.linear import Linear
from minideepseek.layers.rope import RoPE


@dataclass(frozen=True, kw_only=True)
class GQA:
    """Shape of an attention layer.

    Attributes:
        n_heads: query heads H.
        n_kv_heads: key/value heads G, a divisor of H.
        head_dim: channels of a head, Dh.
        rope: how positions enter.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope: RoPE = field(default_factory=RoPE)

    def __post_init__(self) -> None:
        for name in ("n_heads", "n_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}")
        self.rope.rotated(self.head_dim)

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        yarn = self.rope.yarn
        return self.head_dim**-0.5 * (1.0 if yarn is None else yarn.softmax_scale)

    def build(self, d_model: int, layer: int) -> Attention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return Attention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer: queries and output, keys and values."""
        return 2 * d_model * self.n_heads * self.head_dim + 2 * d_model * self.n_kv_heads * self.head_dim

    def cache_elements(self, length: int) -> int:
        """Numbers cached for ``length`` tokens by one layer: keys and values."""
        return length * 2 * self.n_kv_heads * self.head_dim

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of scores and weighted sum for one query token that sees ``n_keys`` keys."""
        return 2 * self.n_heads * (self.head_dim + self.head_dim) * n_keys


class Attention(nn.Module):
    """The module of a ``GQA`` config. Queries, keys and values are one matrix, in this order of rows."""

    def __init__(self, cfg: GQA, d_model: int, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.qkv = Linear(d_model, *(n * cfg.head_dim for n in (cfg.n_heads, cfg.n_kv_heads, cfg.n_kv_heads)))
        self.out = Linear(cfg.n_heads * cfg.head_dim, d_model)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); causal, or as ``ctx`` says."""
        cfg = self.cfg
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, -1, cfg.head_dim)  # (B, T, H + 2G, Dh)
        qk, v = qkv.split([cfg.n_heads + cfg.n_kv_heads, cfg.n_kv_heads], 2)
        # Queries and keys turn by the same angle, so they turn together.
        q, k = cfg.rope.rotate(qk, ctx).transpose(1, 2).split([cfg.n_heads, cfg.n_kv_heads], 1)
        v = v.transpose(1, 2)  # q (B, H, T, Dh), k and v (B, G, T, Dh)
        if ctx.cache is not None:
            cache = ctx.cache.layers[self.layer]
            assert isinstance(cache, KVCache)
            k, v = cache.write(k, v, ctx.positions, ctx.columns)
        mask = ctx.visible(k.shape[2])
        y = ops.attention(q, k, v, scale=cfg.scale, causal=mask is None, mask=mask)  # (B, H, T, Dh)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1))

    def new_cache(self, batch_size: int, max_len: int) -> KVCache:
        """An empty cache for ``max_len`` tokens a row; it grows beyond by doubling."""
        weight = self.qkv.weight
        shape = (batch_size, self.cfg.n_kv_heads, max_len, self.cfg.head_dim)
        return KVCache(weight.new_zeros(shape), weight.new_zeros(shape))


class KVCache:
    """Keys (already rotated) and values of the tokens seen: two tensors (B, G, capacity, Dh).

    Columns that were never written hold zeros, not whatever memory held: a short row's attention gives them weight
    zero, and zero times NaN is NaN.
    """

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.k.nbytes + self.v.nbytes

    def write(self, k: Tensor, v: Tensor, positions: Tensor, columns: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Store (B, G, T, Dh) keys and values at their positions; return all keys and values up to the last one.

        Args:
            k: rotated keys.
            v: values.
            positions: (T,) when all rows stand at the same place, or (B, T) with a place of its own for each.
            columns: columns in use before and after (``Context.columns``).
        """
        start, end = columns
        self._reserve(end)
        if positions.ndim == 1:
            self.k.narrow(2, start, end - start).copy_(k)
            self.v.narrow(2, start, end - start).copy_(v)
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            self.k[rows, :, positions] = k.transpose(1, 2)
            self.v[rows, :, positions] = v.transpose(1, 2)
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)

    def _reserve(self, length: int) -> None:
        capacity = self.k.shape[2]
        if length <= capacity:
            return
        batch, heads, _, dim = self.k.shape
        for name in ("k", "v"):
            old = getattr(self, name)
            new = old.new_zeros(batch, heads, max(length, 2 * capacity), dim)
            new[:, :, :capacity] = old
            setattr(self, name, new)
