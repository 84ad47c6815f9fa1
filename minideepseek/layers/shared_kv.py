"""Multi-query attention whose one key is its own value, in a sliding window: the core of every layer of DeepSeek-V4.

DeepSeek-V4 report, section 2.3. A token leaves one vector, normed and turned to its position, that all heads read as
key and as value; a query sees those of the last W tokens, itself included. ``compressed`` lets it see further: vectors
that stand for whole blocks join the same softmax.

Three things follow from key and value being one vector:

* A value carries its token's rotation. Turning the output back by the *query's* position leaves the difference of the
  two, so what comes out depends on distances only (section 2.3.3).
* All heads score the same vectors, so a norm on queries and on keys bounds every score by sqrt(head_dim); nothing else
  (no clipping) is needed to keep attention from saturating.
* Heads' outputs are as wide as the vector; a full output matrix would be the largest of the layer. Heads are grouped,
  each group goes through a narrow matrix of its own, and one more matrix joins the groups.

Each head may also look at nothing: its *sink*, a learnt score that takes part in the softmax and brings no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.linear import Linear
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.ring import Ring
from minideepseek.layers.rope import RoPE

Part = tuple[Tensor, Tensor | None]  # vectors, and which of them are visible

AT_ONCE = 2**24  # scores held at a time; a long prompt goes piece by piece
PIECE = 128  # queries in a piece at most: with more, most of what they score lies outside of their windows


@dataclass(frozen=True, kw_only=True)
class SharedKV:
    """Shape of attention over a sliding window of shared keys/values; a layer by itself, and the core of HCA and CSA.

    Attributes:
        n_heads: query heads H.
        head_dim: channels of a query and of the one key/value vector, c.
        d_rope: of these, how many turn: the last.
        d_query_latent: width of the latent that queries are made of, d_c.
        window: tokens that a query sees, itself among them, W.
        out_groups: groups of neighbouring heads, g.
        d_out_latent: width of each group's output latent, d_g.
        rope: how the turning channels turn. Layers that compress use another base than those that do not, and YaRN
            without its temperature (``mscale=0``).
        norm_eps: epsilon of the norms.
    """

    n_heads: int
    head_dim: int
    d_rope: int
    d_query_latent: int
    window: int
    out_groups: int
    d_out_latent: int
    rope: RoPE = field(default_factory=lambda: RoPE(layout="adjacent"))
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("n_heads", "head_dim", "d_rope", "d_query_latent", "window", "out_groups", "d_out_latent"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.d_rope > self.head_dim:
            raise ValueError(f"d_rope={self.d_rope} channels cannot turn among head_dim={self.head_dim}")
        if self.rope.rotated(self.d_rope) != self.d_rope:
            raise ValueError(f"rope.dim={self.rope.dim}: say how many channels turn with d_rope, leave it None")
        if self.n_heads % self.out_groups:
            raise ValueError(f"n_heads={self.n_heads} do not divide into out_groups={self.out_groups}")

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        yarn = self.rope.yarn
        return self.head_dim**-0.5 * (1.0 if yarn is None else yarn.softmax_scale)

    @cached_property
    def turns(self) -> RoPE:
        """``rope`` with the number of channels that turn."""
        return replace(self.rope, dim=self.d_rope)

    def build(self, d_model: int, layer: int) -> SharedKVAttention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return SharedKVAttention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer: two latents and their norms, queries, sinks, and the grouped output."""
        heads = self.n_heads * self.head_dim
        latents = d_model * (self.d_query_latent + self.head_dim) + self.d_query_latent + self.head_dim
        out = heads * self.d_out_latent + self.out_groups * self.d_out_latent * d_model
        return latents + self.d_query_latent * heads + self.n_heads + out

    def cache_elements(self, length: int) -> int:
        """Numbers kept for a text of ``length`` tokens by one layer: always the window, and a few slots to spare."""
        return Ring.size(self.window) * self.head_dim

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of scores and weighted sum for one query token with ``n_keys`` tokens before it."""
        return self.read_flops(min(n_keys, self.window))

    def read_flops(self, n_vectors: float) -> float:
        """Forward FLOPs of scores and weighted sum for one query token that reads ``n_vectors``."""
        return 4 * self.n_heads * self.head_dim * n_vectors


class Near(NamedTuple):
    """What the window of a pass consists of.

    vectors: (B, P + T, c), those of earlier tokens and then those of this pass.
    before: P.
    seen: how many tokens came before this pass; (B,) where the rows differ.
    """

    vectors: Tensor
    before: int
    seen: int | Tensor


class SharedKVAttention(nn.Module):
    """The module of a ``SharedKV`` config.

    What reads the same input is one matrix: ``down`` makes the query latent and the key/value vector, in this order of
    rows. ``out_down`` is (g, d_g, H·c/g), one matrix for each group of neighbouring heads.
    """

    def __init__(self, cfg: SharedKV, d_model: int, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        heads = cfg.n_heads * cfg.head_dim
        self.down = Linear(d_model, cfg.d_query_latent, cfg.head_dim)
        self.query_norm = RMSNorm(cfg.d_query_latent, cfg.norm_eps)
        self.query_up = Linear(cfg.d_query_latent, heads)
        self.kv_norm = RMSNorm(cfg.head_dim, cfg.norm_eps)
        self.sink = nn.Parameter(torch.zeros(cfg.n_heads))
        self.out_down = nn.Parameter(torch.empty(cfg.out_groups, cfg.d_out_latent, heads // cfg.out_groups))
        self.out_up = Linear(cfg.out_groups * cfg.d_out_latent, d_model)
        nn.init.normal_(self.out_down, std=self.out_down.shape[-1] ** -0.5)

    def initialise_own(self) -> None:
        """Sinks start at a score of zero: as one more token that does not stand out."""
        nn.init.zeros_(self.sink)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); each token sees the last W."""
        _, query, vectors = self.project(x, ctx)
        ring = None if ctx.cache is None else ctx.cache.layers[self.layer]
        assert ring is None or isinstance(ring, Ring)
        near = self.near(vectors, ctx, ring)
        found = [self.read(query, near, ctx, piece)[0] for piece in self.pieces(query)]
        return self.out(torch.cat(found, 1), ctx)

    def project(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D) -> query latent (B, T, d_c), queries (B, T, H, c) and key/value vectors (B, T, c), turned."""
        cfg = self.cfg
        latent, vectors = self.down(x).split([cfg.d_query_latent, cfg.head_dim], dim=-1)
        latent = self.query_norm(latent)
        query = self.query_up(latent).unflatten(-1, (cfg.n_heads, cfg.head_dim))
        query = F.rms_norm(query, query.shape[-1:], eps=cfg.norm_eps)  # each head by itself, without a gain
        vectors = self.kv_norm(vectors)
        # A token's vector turns by its queries' angles: as one more head of theirs.
        ends = torch.cat([query[..., -cfg.d_rope :], vectors[:, :, None, -cfg.d_rope :]], 2)
        turned = turn_last(ends, cfg.turns, ctx)
        query = torch.cat([query[..., : -cfg.d_rope], turned[:, :, :-1]], -1)
        return latent, query, torch.cat([vectors[..., : -cfg.d_rope], turned[:, :, -1]], -1)

    def near(self, vectors: Tensor, ctx: Context, ring: Ring | None) -> Near:
        """The window of a pass with key/value vectors (B, T, c), which ``ring`` then remembers."""
        if ring is None:
            return Near(vectors, 0, 0)
        seen = ctx.starts()
        before = self.cfg.window - 1 if isinstance(seen, Tensor) else min(seen, self.cfg.window - 1)
        found = torch.cat([ring.last(before, seen), vectors], 1) if before else vectors
        ring.write(vectors, seen, ctx.lengths)
        return Near(found, before, seen)

    def pieces(self, query: Tensor, n_far: int = 0, n_heads: int = 0) -> Iterator[slice]:
        """Queries (B, T, H, c), in pieces small enough to score their window and ``n_far`` other vectors at once.

        Args:
            query: of which only the shape counts.
            n_far: how many other vectors.
            n_heads: heads of an indexer that scores those too.
        """
        batch, tokens, heads, _ = query.shape
        each = batch * max(heads, n_heads) * (self.cfg.window + n_far)
        size = min(PIECE, max(AT_ONCE // each, 1))
        for start in range(0, tokens, size):
            yield slice(start, min(start + size, tokens))

    def read(
        self, query: Tensor, near: Near, ctx: Context, piece: slice, far: tuple[Part, ...] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """What one piece of the queries finds in its window and among the vectors ``far``, before ``out``.

        Args:
            query: (B, T, H, c), all of the pass.
            near: the window.
            ctx: of the pass.
            piece: which queries.
            far: vectors and what of them is visible, as in ``joint_attention``.

        Returns:
            (B, t, H, c); and attention to the window and to each of ``far``, (B, t, H, S).
        """
        first = max(near.before + piece.start - self.cfg.window + 1, 0)
        visible = self._in_window(near, ctx, first, piece)
        window = near.vectors[:, first : near.before + piece.stop], visible
        return joint_attention(query[:, piece], (window, *far), self.sink, self.cfg.scale)

    def _in_window(self, near: Near, ctx: Context, first: int, piece: slice) -> Tensor | None:
        """Which vectors from column ``first`` on the queries see, (B or 1, t, S) bool; None for all."""
        if piece.stop - piece.start == 1 and not isinstance(near.seen, Tensor) and ctx.segments is None:
            return None
        columns = torch.arange(first, near.before + piece.stop, device=near.vectors.device)
        own = columns[piece.start - piece.stop :, None]
        visible = ((columns <= own) & (columns > own - self.cfg.window))[None]
        if isinstance(near.seen, Tensor):
            visible = visible & (columns >= near.before - near.seen[:, None, None])
        if ctx.segments is not None:
            mine = ctx.segments[:, first : piece.stop]
            visible = visible & (mine[:, piece.start - piece.stop :, None] == mine[:, None])
        return visible

    def out(self, heads: Tensor, ctx: Context) -> Tensor:
        """What the heads found (B, T, H, c) -> (B, T, D)."""
        cfg = self.cfg
        turned = turn_last(heads, cfg.turns, ctx, back=True)
        groups = turned.reshape(-1, cfg.out_groups, self.out_down.shape[-1]).transpose(0, 1)  # (g, B·T, H·c/g)
        latents = torch.bmm(groups, self.out_down.mT).transpose(0, 1)
        return self.out_up(latents.reshape(*heads.shape[:2], -1))

    def new_cache(self, batch_size: int, max_len: int) -> Ring:
        """An empty window; its size does not depend on ``max_len``."""
        return Ring.empty(self.down.weight, batch_size, self.cfg.window, self.cfg.head_dim)


def joint_attention(query: Tensor, parts: tuple[Part, ...], sink: Tensor, scale: float) -> tuple[Tensor, list[Tensor]]:
    """One softmax over the vectors of all parts and the sink, in float32 at least.

    Args:
        query: (B, T, H, c).
        parts: each with its vectors, (B, S, c) or, where each query has its own, (B, T, S, c); and which of them each
            query may see, (B or 1, T, S) bool, or None for all.
        sink: (H,) a score that takes its share and brings nothing.
        scale: factor on the other scores.

    Returns:
        (B, T, H, c), a query that sees nothing gets zeros; and the attention to each part, (B, T, H, S).
    """
    tokens, heads = query.shape[1:3]
    scores = []
    for vectors, visible in parts:
        if vectors.ndim == 3:  # all heads of all queries are rows of one product
            products = (query.flatten(1, 2) @ vectors.mT).unflatten(1, (tokens, heads))
        else:
            products = query @ vectors.mT
        products = products.to(torch.promote_types(products.dtype, torch.float32)) * scale
        scores.append(products if visible is None else products.masked_fill(~visible[:, :, None], -torch.inf))
    scores.append(sink.to(scores[0].dtype)[:, None].expand(*query.shape[:3], 1))
    attention = torch.cat(scores, -1).softmax(-1)
    *shares, _ = attention.split([part.shape[-1] for part in scores], -1)
    found = []
    for (vectors, _), share in zip(parts, shares, strict=True):
        share = share.to(query.dtype)
        if vectors.ndim == 3:
            found.append((share.flatten(1, 2) @ vectors).unflatten(1, (tokens, heads)))
        else:
            found.append(share @ vectors)
    return sum(found[1:], found[0]), shares


def turn_last(x: Tensor, rope: RoPE, at: Context | Tensor, *, back: bool = False) -> Tensor:
    """Turn the last ``rope.dim`` channels of ``x`` (B, T, H, c) to the tokens' positions; ``back`` turns them back.

    Args:
        x: what to turn.
        rope: how, with the number of channels.
        at: whose positions: those of a pass, or (T,) or (B, T).
        back: by the same angles, the other way round.
    """
    dim = rope.rotated(x.shape[-1])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if isinstance(at, Context):
        positions = at.positions
        cos, sin = at.once((rope, dim, dtype), lambda: rope.tables(positions, dim, dtype))
    else:
        cos, sin = rope.tables(at, dim, dtype)
    turned = ops.rope(x[..., -dim:], cos, -sin if back else sin, rope.layout)
    return turned if dim == x.shape[-1] else torch.cat([x[..., :-dim], turned], dim=-1)
