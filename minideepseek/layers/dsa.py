"""DeepSeek sparse attention: latent attention in which each token reads only what an indexer chose for it.

DeepSeek-V3.2 report, section 2.1. The attention is MLA as it was; beside it stands a lightning indexer (``indexer``)
that scores all earlier tokens and picks k of them. Because one choice serves all heads, what is read is k latents, and
a decode step costs the same at any length but for the indexer's own look. Two forms, equal in exact arithmetic:

* masked: compute as MLA does and hide what was not chosen. For prompts and training, where queries together want all.
* gathered: fetch the k chosen latents of each query and attend to them, absorbed. For decoding.

A dense model becomes a sparse one in two stages (section 2.1.1). In the *warm-up* attention stays dense and frozen, and
the indexer learns to imitate it; in the *sparse* stage everything trains on what was chosen, the indexer still from
its own loss alone: its input is detached, so the language model is not bent to be easy to index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.indexer import Indexer, LightningIndexer, Question, first_largest, index_loss, index_scores
from minideepseek.layers.mla import MLA, LatentAttention, LatentCache

Stage = Literal["warm-up", "sparse"]


@dataclass(frozen=True, kw_only=True)
class DSA:
    """Shape of a layer of sparse attention.

    Attributes:
        mla: the attention; its queries come from a latent, which the indexer reads too.
        indexer: what chooses.
        stage: ``sparse`` reads the chosen tokens; ``warm-up`` reads everything, and only the indexers are to be
            trained (``train.stages`` freezes the rest).
    """

    mla: MLA
    indexer: Indexer
    stage: Stage = "sparse"

    def __post_init__(self) -> None:
        if self.stage not in ("warm-up", "sparse"):
            raise ValueError(f"stage={self.stage!r}: choose 'warm-up' or 'sparse'")
        if self.mla.d_query_latent is None:
            raise ValueError("mla.d_query_latent=None: the indexer makes its queries of the query latent, give it one")
        if self.mla.d_rope > self.indexer.head_dim:
            raise ValueError(
                f"indexer.head_dim={self.indexer.head_dim} has no room for the mla.d_rope={self.mla.d_rope} channels "
                f"that turn"
            )

    def build(self, d_model: int, layer: int) -> SparseAttention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return SparseAttention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer."""
        assert self.mla.d_query_latent is not None
        return self.mla.n_params(d_model) + self.indexer.n_params(d_model, self.mla.d_query_latent)

    def cache_elements(self, length: int) -> int:
        """Numbers cached for ``length`` tokens by one layer: d_c + d_r each, and the indexer's key d^I."""
        return self.mla.cache_elements(length) + length * self.indexer.head_dim

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of indexing, scores and weighted sum for one query token that sees ``n_keys`` keys, expanded.

        Beyond ``top_k`` the attention no longer grows. So an average ``n_keys`` gives no less than the average FLOPs.
        """
        return self.indexer.score_flops(n_keys) + self.mla.score_flops(min(n_keys, self.indexer.top_k))


class SparseAttention(nn.Module):
    """The module of a ``DSA`` config: ``mla`` attends, ``indexer`` chooses.

    In training it adds the loss ``indexer`` and reports ``recall/<layer>``: the share of attention, had it been dense,
    that falls on the chosen tokens; averaged over heads and over the queries that see more than k.
    """

    def __init__(self, cfg: DSA, d_model: int, layer: int) -> None:
        super().__init__()
        assert cfg.mla.d_query_latent is not None
        self.cfg, self.layer = cfg, layer
        self.mla: LatentAttention = cfg.mla.build(d_model, layer)
        rope = replace(cfg.mla.rope, dim=cfg.mla.d_rope)
        self.indexer = LightningIndexer(cfg.indexer, d_model, cfg.mla.d_query_latent, rope)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); causal, or as ``ctx`` says."""
        compressed = self.mla.compress(x)
        query, latents = self.mla.turn(*compressed, ctx)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            question, keys = self.indexer(x.detach(), compressed[0].detach(), ctx)
        if ctx.cache is not None:
            cache = ctx.cache.layers[self.layer]
            assert isinstance(cache, SparseCache)
            latents, keys = cache.write(latents, keys, ctx.positions, ctx.columns)
        n_keys, top_k = keys.shape[1], self.cfg.indexer.top_k
        chosen = self._learn(question, keys, query, latents, ctx) if self.training else None
        if self.cfg.stage == "warm-up" or n_keys <= top_k:
            return self._masked(query, latents, ctx.visible(n_keys), ctx)
        if chosen is None and ctx.cache is not None and query.shape[1] * top_k < n_keys:
            return self.gathered(query, latents, *self._pick(question, keys, ctx))
        if chosen is None:
            with torch.no_grad():
                chosen = self.indexer.choose(question, keys, seen(ctx, n_keys))
        return self._masked(query, latents, chosen[:, None], ctx)

    @torch.no_grad()
    def _pick(self, question: Question, keys: Tensor, ctx: Context) -> tuple[Tensor, Tensor | None]:
        n_keys = keys.shape[1]
        if ctx.ids.shape[1] == 1 and ctx.visible(n_keys) is None:  # the last token sees everything, and reads k of it
            return self.indexer.pick(question, keys, None).places, None
        return self.indexer.pick(question, keys, seen(ctx, n_keys))

    def _masked(self, query: Tensor, latents: Tensor, mask: Tensor | None, ctx: Context) -> Tensor:
        form = "expanded" if ctx.cache is None else self.mla.cheaper_form(query.shape[1], latents.shape[1])
        return self.mla.attend(query, latents, mask, form)

    def gathered(self, query: Tensor, latents: Tensor, places: Tensor, there: Tensor | None = None) -> Tensor:
        """Attend to the chosen latents alone.

        Args:
            query: (B, T, H, d_nope + d_rope), rotated.
            latents: (B, S, d_c + d_r).
            places: (B, T, k) int64, which of them each query reads.
            there: (B, T, k) bool, False where a place only fills up the row; None where none does.

        Returns:
            (B, T, D).
        """
        own = fetch(latents, places).flatten(0, 1)  # each query is a row with a text of its own
        mask = None if there is None else there.flatten(0, 1)[:, None, None]
        y = self.mla.attend(query.flatten(0, 1)[:, None], own, mask, "absorbed")
        return y.view(*places.shape[:2], -1)

    def _learn(self, question: Question, keys: Tensor, query: Tensor, latents: Tensor, ctx: Context) -> Tensor:
        """Add the loss and report the recall; returns what was chosen, (B, T, S) bool."""
        visible = seen(ctx, keys.shape[1])
        scores = index_scores(question, keys)
        chosen = first_largest(scores.detach().masked_fill(~visible, -torch.inf), self.cfg.indexer.top_k)
        allowed = visible if self.cfg.stage == "warm-up" else chosen
        target, kept = self._imitated(query, latents, visible, chosen, allowed)
        ctx.add_loss("indexer", index_loss(scores, target, allowed))
        choosing = (visible.sum(-1) > self.cfg.indexer.top_k).expand_as(kept)
        if keys.shape[1] > self.cfg.indexer.top_k:
            recall = (kept * choosing).sum() / choosing.sum().clamp(min=1)
            ctx.metrics[f"recall/{self.layer}"] = torch.where(choosing.any(), recall, 1.0)
        return chosen

    @torch.no_grad()
    def _imitated(
        self, query: Tensor, latents: Tensor, visible: Tensor, chosen: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attention over the allowed keys, mean of the heads (B, T, S); and what of dense attention was chosen (B, T).

        Head by head: all heads at once would take H times the memory of the scores.
        """
        keys, _ = self.mla.expand(latents)
        target = torch.zeros((), device=keys.device)
        kept = torch.zeros((), device=keys.device)
        for q, k in zip(query.unbind(2), keys.unbind(1), strict=True):
            scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * self.cfg.mla.scale
            target = target + scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            kept = kept + (scores.masked_fill(~visible, -torch.inf).softmax(-1) * chosen).sum(-1)
        return target / self.cfg.mla.n_heads, kept / self.cfg.mla.n_heads

    def new_cache(self, batch_size: int, max_len: int) -> SparseCache:
        """An empty cache for ``max_len`` tokens a row; it grows beyond by doubling."""
        keys = self.indexer.key.weight.new_zeros(batch_size, max_len, self.cfg.indexer.head_dim)
        return SparseCache(self.mla.new_cache(batch_size, max_len), LatentCache(keys))


def fetch(vectors: Tensor, places: Tensor) -> Tensor:
    """vectors (B, S, W) at places (B, T, k) -> (B, T, k, W)."""
    # Row by row the library copies whole vectors; one index for all rows would make it go number by number.
    rows = [row.index_select(0, place) for row, place in zip(vectors, places.flatten(1), strict=True)]
    return (rows[0] if len(rows) == 1 else torch.cat(rows)).view(*places.shape, -1)


def seen(ctx: Context, n_keys: int) -> Tensor:
    """(B or 1, T, S) bool: what ``ctx`` lets each query see, plain causal order spelled out."""
    mask = ctx.visible(n_keys)
    if mask is not None:
        return mask[:, 0]

    def causal() -> Tensor:
        n_queries = ctx.ids.shape[1]
        every = torch.ones(1, n_queries, n_keys, dtype=torch.bool, device=ctx.ids.device)
        return every.tril(n_keys - n_queries)

    return ctx.once(("seen", n_keys), causal)


class SparseCache:
    """What DSA keeps: MLA's latents (B, capacity, d_c + d_r), and beside them the indexer's keys (B, capacity, d^I).

    Two tensors, because a step reads all keys and few latents.
    """

    def __init__(self, latents: LatentCache, keys: LatentCache) -> None:
        self.latents, self.keys = latents, keys

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.latents.nbytes + self.keys.nbytes

    def write(
        self, latents: Tensor, keys: Tensor, positions: Tensor, columns: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Store both at the tokens' positions; return everything up to the last one (see ``LatentCache.write``)."""
        return self.latents.write(latents, positions, columns), self.keys.write(keys, positions, columns)
