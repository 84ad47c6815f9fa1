"""Multi-head latent attention: cache one small vector a token, from which all heads' keys and values are made.

Notation of the DeepSeek-V2 report (section 2.1, eq. 9-19 and appendix C): a token's normed input h gives a latent
c (d_c numbers) and one rotary key k^R (d_r numbers) that all heads share; W^UK and W^UV expand c into keys and values.
Two ways to attend, equal in exact arithmetic:

* expanded: make keys and values of all heads, then attend as usual. Fewest operations where many queries meet.
* absorbed: move W^UK to the query (q·(W^UK c) = (W^UK^T q)·c) and W^UV behind the weighted sum, and attend to the
  latents themselves, as multi-query attention with one key of d_c + d_r numbers. Nothing is expanded, which is what
  makes a decode step cheap.

This is why the rotary part is a separate vector: a rotation that depends on the position, standing between q and
W^UK, could not be moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.linear import Linear
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.rope import RoPE

Form = Literal["expanded", "absorbed"]
NORM_EPS = 1e-6  # of the norms on the latents, in every release whatever the model's own


@dataclass(frozen=True, kw_only=True)
class MLA:
    """Shape of a layer of multi-head latent attention.

    Attributes:
        n_heads: heads H.
        d_latent: width of the key/value latent, d_c; cached.
        d_rope: width of the shared rotary key, d_r; cached.
        d_nope: channels of a head's query and key that do not turn, d_h.
        d_value: channels of a head's value.
        d_query_latent: width of the query latent, d_c'; None leaves queries uncompressed (V2-Lite).
        rope: how the rotary channels turn; the released weights pair adjacent channels.
    """

    n_heads: int
    d_latent: int
    d_rope: int
    d_nope: int
    d_value: int
    d_query_latent: int | None = None
    rope: RoPE = field(default_factory=lambda: RoPE(layout="adjacent"))

    def __post_init__(self) -> None:
        for name in ("n_heads", "d_latent", "d_rope", "d_nope", "d_value", "d_query_latent"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.rope.rotated(self.d_rope) != self.d_rope:
            raise ValueError(f"rope.dim={self.rope.dim}: the rotary key turns as a whole, leave it None")

    @property
    def d_query(self) -> int:
        """Channels of a head's query and key: d_nope + d_rope."""
        return self.d_nope + self.d_rope

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        yarn = self.rope.yarn
        return self.d_query**-0.5 * (1.0 if yarn is None else yarn.softmax_scale)

    def build(self, d_model: int, layer: int) -> LatentAttention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return LatentAttention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer (V2 report, section 2.1; with the two norms that it mentions in section 3.1.2)."""
        heads = self.n_heads
        if self.d_query_latent is None:
            query = d_model * heads * self.d_query
        else:
            query = d_model * self.d_query_latent + self.d_query_latent + self.d_query_latent * heads * self.d_query
        latent = d_model * (self.d_latent + self.d_rope) + self.d_latent
        return query + latent + self.d_latent * heads * (self.d_nope + self.d_value) + heads * self.d_value * d_model

    def cache_elements(self, length: int) -> int:
        """Numbers cached for ``length`` tokens by one layer: d_c + d_r each."""
        return length * (self.d_latent + self.d_rope)

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of scores and weighted sum for one query token that sees ``n_keys`` keys, expanded."""
        return 2 * self.n_heads * (self.d_query + self.d_value) * n_keys


class LatentAttention(nn.Module):
    """The module of an ``MLA`` config.

    What reads the same input is one matrix: ``down`` makes the query latent (or, without one, the queries), the
    key/value latent and the rotary key, in this order of rows.
    """

    def __init__(self, cfg: MLA, d_model: int, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        queries = cfg.n_heads * cfg.d_query
        first = queries if cfg.d_query_latent is None else cfg.d_query_latent
        self.widths = [first, cfg.d_latent, cfg.d_rope]
        self.down = Linear(d_model, *self.widths)
        if cfg.d_query_latent is not None:
            self.query_norm = RMSNorm(cfg.d_query_latent, NORM_EPS)
            self.query_up = Linear(cfg.d_query_latent, queries)
        self.latent_norm = RMSNorm(cfg.d_latent, NORM_EPS)
        self.latent_up = Linear(cfg.d_latent, cfg.n_heads * (cfg.d_nope + cfg.d_value))
        self.out = Linear(cfg.n_heads * cfg.d_value, d_model)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); causal, or as ``ctx`` says."""
        query, latents = self.project(x, ctx)
        if ctx.cache is not None:
            cache = ctx.cache.layers[self.layer]
            assert isinstance(cache, LatentCache)
            latents = cache.write(latents, ctx.positions, ctx.columns)
        form = self.cheaper_form(x.shape[1], latents.shape[1]) if ctx.cache is not None else "expanded"
        return self.attend(query, latents, ctx.visible(latents.shape[1]), form)

    def project(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """x (B, T, D) -> queries (B, T, H, d_nope + d_rope), and what is cached: [c ; k^R] (B, T, d_c + d_r)."""
        return self.turn(*self.compress(x), ctx)

    def compress(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> normed query latent (or, without one, the queries), normed latent, rotary key not turned."""
        query, latent, key = self.down(x).split(self.widths, dim=-1)
        if self.cfg.d_query_latent is not None:
            query = self.query_norm(query)
        return query, self.latent_norm(latent), key

    def turn(self, query: Tensor, latent: Tensor, key: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """What ``compress`` returned -> what ``project`` returns."""
        cfg = self.cfg
        if cfg.d_query_latent is not None:
            query = self.query_up(query)
        query = query.unflatten(-1, (cfg.n_heads, cfg.d_query))
        # The rotary key is one more head of the rotary query: they turn by the same angles.
        turned = cfg.rope.rotate(torch.cat([query[..., cfg.d_nope :], key[:, :, None]], dim=2), ctx)
        query = torch.cat([query[..., : cfg.d_nope], turned[:, :, :-1]], dim=-1)
        return query, torch.cat([latent, turned[:, :, -1]], dim=-1)

    def attend(self, query: Tensor, latents: Tensor, mask: Tensor | None, form: Form) -> Tensor:
        """queries (B, T, H, d_nope + d_rope) and latents (B, S, d_c + d_r) -> (B, T, D), in one of the two forms.

        Args:
            query: rotated.
            latents: normed latent and rotated key of every token so far.
            mask: (B, 1, T, S) bool, True = visible; None for plain causal order.
            form: ``expanded`` or ``absorbed``; the result is the same.
        """
        how = {"scale": self.cfg.scale, "causal": mask is None, "mask": mask}
        heads = self._absorbed(query, latents, how) if form == "absorbed" else self._expanded(query, latents, how)
        return self.out(heads.flatten(2))

    def cheaper_form(self, n_queries: int, n_keys: int) -> Form:
        """The form with fewer multiplications for this many queries and cached tokens a row."""
        cfg = self.cfg
        up = cfg.d_latent * (cfg.d_nope + cfg.d_value)  # W^UK and W^UV of one head, for one vector
        expanded = n_keys * up + n_queries * n_keys * (cfg.d_query + cfg.d_value)
        absorbed = n_queries * up + n_queries * n_keys * (2 * cfg.d_latent + cfg.d_rope)
        return "absorbed" if absorbed < expanded else "expanded"

    def expand(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """latents (B, S, d_c + d_r) -> keys (B, H, S, d_nope + d_rope) and values (B, H, S, d_value) of all heads."""
        cfg = self.cfg
        latent, key = latents.split([cfg.d_latent, cfg.d_rope], dim=-1)
        expanded = self.latent_up(latent).unflatten(-1, (cfg.n_heads, -1))  # (B, S, H, d_nope + d_value)
        nope, value = expanded.split([cfg.d_nope, cfg.d_value], dim=-1)
        keys = torch.cat([nope, key[:, :, None].expand(-1, -1, cfg.n_heads, -1)], dim=-1)
        return keys.transpose(1, 2), value.transpose(1, 2)

    def _expanded(self, query: Tensor, latents: Tensor, how: dict) -> Tensor:
        y = ops.attention(query.transpose(1, 2), *self.expand(latents), **how)
        return y.transpose(1, 2)  # (B, T, H, d_value)

    def _absorbed(self, query: Tensor, latents: Tensor, how: dict) -> Tensor:
        cfg, (batch, tokens) = self.cfg, query.shape[:2]
        up = self.latent_up.weight.view(cfg.n_heads, cfg.d_nope + cfg.d_value, cfg.d_latent)
        up_key, up_value = up.split([cfg.d_nope, cfg.d_value], dim=1)  # (H, d_nope | d_value, d_c)
        # Each head's matrix meets the queries of all rows in one product; row by row it would be read B times over.
        nope, turned = query.permute(2, 0, 1, 3).flatten(1, 2).split([cfg.d_nope, cfg.d_rope], dim=-1)  # (H, B·T, ...)
        query = torch.cat([torch.bmm(nope, up_key), turned], dim=-1).unflatten(1, (batch, tokens)).transpose(0, 1)
        y = ops.latent_attention(query, latents, cfg.d_latent, **how)  # (B, H, T, d_c)
        values = torch.bmm(up_value, y.transpose(0, 1).flatten(1, 2).mT)  # (H, d_value, B·T): the quicker order
        # In the order of ``out``'s rows: a view would have its matrix copied for each row of the batch.
        return values.unflatten(2, (batch, tokens)).permute(2, 3, 0, 1).contiguous()

    def new_cache(self, batch_size: int, max_len: int) -> LatentCache:
        """An empty cache for ``max_len`` tokens a row; it grows beyond by doubling."""
        return LatentCache(self.down.weight.new_zeros(batch_size, max_len, self.cfg.cache_elements(1)))


class LatentCache:
    """What MLA keeps: one tensor (B, capacity, d_c + d_r) of normed latents and rotated keys, and nothing else."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.latents.nbytes

    def write(self, latents: Tensor, positions: Tensor, columns: tuple[int, int]) -> Tensor:
        """Store (B, T, d_c + d_r) at the tokens' positions; return everything up to the last one.

        Args:
            latents: of the new tokens.
            positions: (T,) when all rows stand at the same place, or (B, T).
            columns: columns in use before and after (``Context.columns``).
        """
        start, end = columns
        batch, capacity, width = self.latents.shape
        if end > capacity:
            grown = self.latents.new_zeros(batch, max(end, 2 * capacity), width)
            grown[:, :capacity] = self.latents
            self.latents = grown
        if positions.ndim == 1:
            self.latents[:, start:end] = latents
        else:
            self.latents[torch.arange(batch, device=latents.device)[:, None], positions] = latents
        return self.latents[:, :end]
