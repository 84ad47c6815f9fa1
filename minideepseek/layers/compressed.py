"""Attention to a window of tokens and, beyond it, to blocks of them: HCA and CSA of DeepSeek-V4.

DeepSeek-V4 report, section 2.3. Both add compressed entries (``compressor``) to the sliding window of ``shared_kv``,
under one softmax with it:

* HCA, heavily compressed: one entry for each m' = 128 tokens, and a query reads them all.
* CSA, compressed sparse: one entry for each m = 4 tokens, of blocks that overlap; an indexer scores them (it has a
  compressor of its own, and otherwise is V3.2's) and a query reads the k it chose.

A layer's memory grows by 1/128 or 1/4 of a vector a token, not by one: that, and layers of both kinds in turn, is what
makes a context of a million tokens affordable. What is recent is read word by word, in the window; without it a query
would not see the tokens of the block that is still open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.block_indexer import BlockIndexer, Lesson
from minideepseek.layers.compressor import BlockCache, Compressor, Entries
from minideepseek.layers.dsa import fetch
from minideepseek.layers.indexer import Indexer, Question, first_largest, index_scores, picked
from minideepseek.layers.ring import Ring
from minideepseek.layers.shared_kv import Near, SharedKV, SharedKVAttention

Stage = Literal["dense", "warm-up", "sparse"]

FAR_FEWER = 4  # times as many entries as are read: from then on fetching those costs less than hiding the others


@dataclass(frozen=True, kw_only=True)
class HCA:
    """Shape of a layer of heavily compressed attention.

    Attributes:
        mqa: the attention, whose window this widens.
        rate: tokens in a block, m'.
    """

    mqa: SharedKV
    rate: int

    def __post_init__(self) -> None:
        if self.rate < 2:
            raise ValueError(f"rate={self.rate}: a block needs two tokens at least")

    def build(self, d_model: int, layer: int) -> HeavilyCompressedAttention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return HeavilyCompressedAttention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer."""
        return self.mqa.n_params(d_model) + Compressor.count(d_model, self.mqa.head_dim, self.rate, overlap=False)

    def cache_elements(self, length: int) -> int:
        """Numbers kept for a text of ``length`` tokens by one layer: window, entries, and what waits."""
        entries = Compressor.cache_elements(length, self.mqa.head_dim, self.rate, overlap=False)
        return self.mqa.cache_elements(length) + entries

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of scores and weighted sum for one query token with ``n_keys`` tokens before it."""
        return self.mqa.score_flops(n_keys) + self.mqa.read_flops(n_keys / self.rate)


@dataclass(frozen=True, kw_only=True)
class CSA:
    """Shape of a layer of compressed sparse attention.

    Attributes:
        mqa: the attention, whose window this widens.
        rate: tokens in a block, m.
        indexer: what chooses; its ``top_k`` counts blocks.
        stage: ``sparse`` reads the chosen entries. ``dense`` reads all that are visible and leaves the indexer alone,
            as V4's pre-training begins; ``warm-up`` reads all, and only the indexers are to be trained
            (``train.stages`` freezes the rest).
    """

    mqa: SharedKV
    rate: int
    indexer: Indexer
    stage: Stage = "sparse"

    def __post_init__(self) -> None:
        if self.rate < 2:
            raise ValueError(f"rate={self.rate}: a block needs two tokens at least")
        if self.stage not in get_args(Stage):
            raise ValueError(f"stage={self.stage!r}: choose 'dense', 'warm-up' or 'sparse'")
        if self.mqa.d_rope > self.indexer.head_dim:
            raise ValueError(
                f"indexer.head_dim={self.indexer.head_dim} has no room for the mqa.d_rope={self.mqa.d_rope} channels "
                f"that turn"
            )

    def build(self, d_model: int, layer: int) -> CompressedSparseAttention:
        """The module for layer number ``layer`` (its place in the cache)."""
        return CompressedSparseAttention(self, d_model, layer)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer."""
        entries = Compressor.count(d_model, self.mqa.head_dim, self.rate, overlap=True)
        indexer = BlockIndexer.count(self.indexer, self.mqa, d_model, self.rate)
        return self.mqa.n_params(d_model) + entries + indexer

    def cache_elements(self, length: int) -> int:
        """Numbers kept for a text of ``length`` tokens by one layer: window, entries and the indexer's, what waits."""
        widths = self.mqa.head_dim, self.indexer.head_dim
        entries = sum(Compressor.cache_elements(length, width, self.rate, overlap=True) for width in widths)
        return self.mqa.cache_elements(length) + entries

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs of indexing, scores and weighted sum for one query token with ``n_keys`` tokens before it."""
        blocks = n_keys / self.rate
        read = self.mqa.read_flops(min(blocks, self.indexer.top_k))
        return self.indexer.score_flops(blocks) + self.mqa.score_flops(n_keys) + read


class HeavilyCompressedAttention(nn.Module):
    """The module of an ``HCA`` config: ``mqa`` attends, to its window and to what ``compressor`` makes."""

    def __init__(self, cfg: HCA, d_model: int, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.mqa: SharedKVAttention = cfg.mqa.build(d_model, layer)
        self.compressor = Compressor.beside(cfg.mqa, d_model, cfg.mqa.head_dim, cfg.rate, overlap=False)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); causal, or as ``ctx`` says."""
        cache = _cache(ctx, self.layer)
        _, query, vectors = self.mqa.project(x, ctx)
        near = self.mqa.near(vectors, ctx, None if cache is None else cache.window)
        entries = self.compressor(x, ctx, None if cache is None else cache.blocks)
        found = []
        for piece in self.mqa.pieces(query, entries.vectors.shape[1]):
            far = entries.vectors[:, : entries.reach(ctx, piece)], entries.visible(ctx, piece)
            found.append(self.mqa.read(query, near, ctx, piece, (far,))[0])
        return self.mqa.out(torch.cat(found, 1), ctx)

    def new_cache(self, batch_size: int, max_len: int) -> CompressedCache:
        """An empty cache with room for the entries of ``max_len`` tokens a row; it grows beyond by doubling."""
        window = self.mqa.new_cache(batch_size, max_len)
        return CompressedCache(window, self.compressor.new_cache(batch_size, max_len))


class CompressedSparseAttention(nn.Module):
    """The module of a ``CSA`` config: ``mqa`` attends, to its window and to those of ``compressor``'s entries that
    ``indexer`` chose.

    In training, but for the dense stage, it adds the loss ``indexer`` and reports ``recall/<layer>``: of the attention
    that falls on entries where all are read, the share of the chosen; over queries that see more than k.
    """

    def __init__(self, cfg: CSA, d_model: int, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.mqa: SharedKVAttention = cfg.mqa.build(d_model, layer)
        self.compressor = Compressor.beside(cfg.mqa, d_model, cfg.mqa.head_dim, cfg.rate, overlap=True)
        self.indexer = BlockIndexer(cfg.indexer, cfg.mqa, d_model, cfg.rate)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D); causal, or as ``ctx`` says."""
        cache = _cache(ctx, self.layer)
        latent, query, vectors = self.mqa.project(x, ctx)
        near = self.mqa.near(vectors, ctx, None if cache is None else cache.window)
        entries = self.compressor(x, ctx, None if cache is None else cache.blocks)
        asked = None
        if cache is not None or self.cfg.stage != "dense":
            with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
                asked = self.indexer(x.detach(), latent.detach(), ctx, None if cache is None else cache.index)
        n = entries.vectors.shape[1]
        learns = self.training and self.cfg.stage != "dense" and n > 0
        lesson = Lesson(self.cfg.indexer.top_k) if learns else None
        pieces = self.mqa.pieces(query, n, self.cfg.indexer.n_heads)
        found = [self._read(query, near, entries, asked, ctx, piece, lesson) for piece in pieces]
        if lesson is not None:
            lesson.report(ctx, self.layer)
        return self.mqa.out(torch.cat(found, 1), ctx)

    def _read(
        self,
        query: Tensor,
        near: Near,
        entries: Entries,
        asked: tuple[Question, Tensor] | None,
        ctx: Context,
        piece: slice,
        lesson: Lesson | None,
    ) -> Tensor:
        """What one piece of the queries finds, (B, t, H, c); see ``SharedKVAttention.read``.

        ``asked`` is what the indexer made of the pass, None where it rests.
        """
        n, visible, top_k = entries.reach(ctx, piece), entries.visible(ctx, piece), self.cfg.indexer.top_k
        vectors = entries.vectors[:, :n]
        choosing = self.cfg.stage == "sparse" and n > top_k
        if n == 0 or (lesson is None and not choosing):
            return self.mqa.read(query, near, ctx, piece, ((vectors, visible),))[0]
        assert asked is not None
        question, keys = asked
        scores = index_scores(Question(question.queries[:, piece], question.weights[:, piece]), keys[:, :n])
        possible = scores.detach() if visible is None else scores.detach().masked_fill(~visible, -torch.inf)
        if lesson is None and n >= FAR_FEWER * top_k:
            places, there = picked(possible, top_k)
            return self.mqa.read(query, near, ctx, piece, ((fetch(vectors, places), there),))[0]
        chosen = first_largest(possible, top_k)
        if lesson is None:
            return self.mqa.read(query, near, ctx, piece, ((vectors, chosen),))[0]
        visible = possible > -torch.inf
        found, (_, read) = self.mqa.read(query, near, ctx, piece, ((vectors, chosen if choosing else visible),))
        with torch.no_grad():
            every = self.mqa.read(query, near, ctx, piece, ((vectors, visible),))[1][1] if choosing else read
        lesson.add(scores, read.detach().sum(2), chosen if choosing else visible)
        lesson.judge(every.detach().sum(2), chosen, visible)
        return found

    def new_cache(self, batch_size: int, max_len: int) -> CompressedCache:
        """An empty cache with room for the entries of ``max_len`` tokens a row; it grows beyond by doubling."""
        blocks, index = (one.new_cache(batch_size, max_len) for one in (self.compressor, self.indexer.compressor))
        return CompressedCache(self.mqa.new_cache(batch_size, max_len), blocks, index)


class CompressedCache:
    """What HCA and CSA keep: the window, the compressor's blocks, and in CSA the indexer's."""

    def __init__(self, window: Ring, blocks: BlockCache, index: BlockCache | None = None) -> None:
        self.window, self.blocks, self.index = window, blocks, index

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.window.nbytes + self.blocks.nbytes + (0 if self.index is None else self.index.nbytes)

    @property
    def spare(self) -> int:
        """How many tokens may be taken back."""
        return self.window.spare


def _cache(ctx: Context, layer: int) -> CompressedCache | None:
    cache = None if ctx.cache is None else ctx.cache.layers[layer]
    assert cache is None or isinstance(cache, CompressedCache)
    return cache
