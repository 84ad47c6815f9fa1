"""One vector for a block of tokens: a softmax over the block, in each channel by itself.

DeepSeek-V4 report, section 2.3.1, eq. 9-12 and 2.3.2, eq. 20-23. A token offers a value C_j and a score Z_j, both as
wide as the entry. With a learnt bias P for each place in a block of m tokens, entry i is

    E_i = sum_j softmax_j(Z_j + P_{j - m·i}) * C_j,          over the tokens j of block i

a normed, weighted mean whose weights differ from channel to channel, turned to the position of the block's *first*
token. Two kinds:

* plain: each token belongs to its own block alone.
* overlapping: each token offers two pairs (C, Z), one to its own block's entry and one to the next. Entry i is a
  softmax over 2m offers, so what is said across the edge of two blocks is not torn apart.

A block makes an entry when it is complete, and its last token is the first that sees it: entry i is visible to the
query at position t if i < (t + 1) // m. Until then its tokens wait, in decoding as rows of (C, Z) in a ring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.linear import Linear
from minideepseek.layers.mla import LatentCache
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.ring import Ring
from minideepseek.layers.rope import RoPE
from minideepseek.layers.shared_kv import SharedKV, turn_last


class Entries(NamedTuple):
    """What blocks were compressed to.

    vectors: (B, N, d), turned; some may belong to blocks that no query of this pass sees yet.
    rate: tokens in a block.
    closes: (B, N) the column of each block's last token, in a packed batch; elsewhere block i closes at m·(i+1) - 1.
    segments: (B, N) the document of each, in a packed batch.
    """

    vectors: Tensor
    rate: int
    closes: Tensor | None = None
    segments: Tensor | None = None

    def reach(self, ctx: Context, piece: slice) -> int:
        """How many of the entries, from the first on, a piece of the queries may see at most."""
        seen = ctx.starts()
        if self.closes is not None or isinstance(seen, Tensor):
            return self.vectors.shape[1]
        return (seen + piece.stop) // self.rate

    def visible(self, ctx: Context, piece: slice) -> Tensor | None:
        """Which of the first ``reach`` entries a piece of the queries may see: (B or 1, t, n) bool, or None for all."""
        n, seen = self.reach(ctx, piece), ctx.starts()
        if self.closes is not None:
            assert self.segments is not None
            assert ctx.segments is not None
            now = torch.arange(piece.start, piece.stop, device=self.closes.device)
            same = self.segments[:, None] == ctx.segments[:, piece, None]
            return same & (self.closes[:, None] <= now[:, None])
        if not isinstance(seen, Tensor):
            if piece.stop - piece.start == 1:
                return None
            seen = torch.tensor([seen], device=self.vectors.device)
        now = seen[:, None, None] + torch.arange(piece.start, piece.stop, device=seen.device)[:, None]
        return torch.arange(n, device=seen.device) < (now + 1) // self.rate


class Compressor(nn.Module):
    """Makes entries of width ``width`` of blocks of ``rate`` tokens.

    ``down`` makes C and then Z; where blocks overlap, each for the next block's entry and then for its own.

    Args:
        d_model: D.
        width: channels of an entry, d.
        rate: tokens in a block, m.
        overlap: whether an entry reads the block before, too.
        rope: how entries turn, with the number of channels (the last of them).
        norm_eps: of the norm.
        rounding: of finished entries; None leaves them.
    """

    def __init__(
        self,
        d_model: int,
        width: int,
        rate: int,
        *,
        overlap: bool,
        rope: RoPE,
        norm_eps: float,
        rounding: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.rate, self.overlap, self.rope = width, rate, overlap, rope
        streams = 2 if overlap else 1
        self.down = Linear(d_model, *[width] * (2 * streams), exact=True)
        self.place = nn.Parameter(torch.zeros(rate, streams * width))
        self.norm = RMSNorm(width, norm_eps)
        self.rounding = rounding

    @classmethod
    def beside(
        cls,
        mqa: SharedKV,
        d_model: int,
        width: int,
        rate: int,
        *,
        overlap: bool,
        rounding: Callable[[Tensor], Tensor] | None = None,
    ) -> Compressor:
        """The compressor of a layer whose attention is ``mqa``: its entries turn as that one's vectors do."""
        return cls(d_model, width, rate, overlap=overlap, rope=mqa.turns, norm_eps=mqa.norm_eps, rounding=rounding)

    @staticmethod
    def count(d_model: int, width: int, rate: int, *, overlap: bool) -> int:
        """Parameters."""
        streams = 2 if overlap else 1
        return 2 * streams * width * d_model + rate * streams * width + width

    def initialise_own(self) -> None:
        """No place in a block is preferred at first."""
        nn.init.zeros_(self.place)

    def forward(self, x: Tensor, ctx: Context, cache: BlockCache | None) -> Entries:
        """x: (B, T, D) -> the entries of all blocks so far, those of ``cache`` among them."""
        raw = self.down(x)  # (B, T, 2w)
        if cache is not None:
            return self._go_on(raw, ctx, cache)
        if ctx.segments is not None:
            return self._packed(raw, ctx)
        rate, n = self.rate, raw.shape[1] // self.rate
        before = rate if self.overlap else 0
        blocks = F.pad(raw[:, : n * rate], (0, 0, before, 0)).unflatten(1, (-1, rate))
        numbers = torch.arange(n, device=x.device)
        vectors = self.compress(blocks[:, -n:] if n else blocks[:, :0], blocks[:, :n], numbers == 0)
        return Entries(self._turn(vectors, ctx.positions[..., numbers * rate]), rate)

    def compress(self, own: Tensor, previous: Tensor, first: Tensor) -> Tensor:
        """Blocks to entries, not turned yet.

        Args:
            own: (B, N, m, 2w) what the tokens of each block offer.
            previous: the same of the blocks before; read only where blocks overlap.
            first: (N,) or (B, N) bool, blocks that have none before.

        Returns:
            (B, N, d).
        """
        place: Tensor = self.place
        if self.overlap:
            halves = [block.unflatten(-1, (4, self.width)) for block in (previous, own)]
            values = torch.cat([halves[0][..., 0, :], halves[1][..., 1, :]], 2)  # (B, N, 2m, d)
            scores = torch.cat([halves[0][..., 2, :], halves[1][..., 3, :]], 2)
            place = torch.cat(place.chunk(2, -1))
        else:
            values, scores = own.chunk(2, -1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        scores = scores.to(wide) + place.to(wide)
        if self.overlap:
            none = torch.arange(2 * self.rate, device=own.device) < self.rate
            scores = scores.masked_fill((first[..., None] & none)[..., None], -torch.inf)
        return self.norm((scores.softmax(2) * values).sum(2).to(own.dtype))

    def _turn(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Entries (B, N, d) to the positions (N,) or (B, N) of their blocks' first tokens."""
        turned = turn_last(vectors[:, :, None], self.rope, positions)[:, :, 0]
        return turned if self.rounding is None else self.rounding(turned)

    def _packed(self, raw: Tensor, ctx: Context) -> Entries:
        """Blocks of documents that share a row; each document's begin where it begins, as if it stood alone."""
        assert ctx.segments is not None
        rate, (batch, tokens, _) = self.rate, raw.shape
        columns = torch.arange(tokens, device=raw.device)
        new = F.pad(ctx.segments[:, 1:] != ctx.segments[:, :-1], (1, 0), value=True)
        place = columns - (columns * new).cummax(1).values  # of each token in its document
        closing = place % rate == rate - 1
        n = int(closing.sum(1).max())
        closes = closing.int().argsort(stable=True, dim=1, descending=True)[:, :n]  # a row with fewer has others behind
        rows = torch.arange(batch, device=raw.device)[:, None]
        first = (closes - (rate - 1)).clamp(min=0)
        own = first[..., None] + torch.arange(rate, device=raw.device)
        blocks = [raw[rows[..., None], at.clamp(0, tokens - 1)] for at in (own, own - rate)]
        vectors = self.compress(blocks[0], blocks[1], place[rows, closes] < rate)
        positions = ctx.positions[first] if ctx.positions.ndim == 1 else ctx.positions[rows, first]
        complete = closing[rows, closes]
        entries = self._turn(vectors, positions)
        return Entries(entries, rate, closes.masked_fill(~complete, tokens), ctx.segments[rows, closes])

    def _go_on(self, raw: Tensor, ctx: Context, cache: BlockCache) -> Entries:
        """Complete what blocks can be completed, and remember the rest."""
        rate, tokens, seen = self.rate, raw.shape[1], ctx.starts()
        # Rows at different places complete different numbers of blocks: all make the most that any may, and what is
        # made too early is made again, of the true tokens, before its last token lets anyone see it.
        n = -(-tokens // rate) if isinstance(seen, Tensor) else (seen % rate + tokens) // rate
        if n:
            waiting = rate * (2 if self.overlap else 1) - 1
            offers = torch.cat([cache.ring.last(waiting, seen), raw], 1)
            begin = waiting - seen % rate - (rate if self.overlap else 0)  # column of the first token read
            length = (n + (1 if self.overlap else 0)) * rate
            if isinstance(seen, Tensor):
                assert isinstance(begin, Tensor)
                rows = torch.arange(len(seen), device=raw.device)[:, None]
                columns = begin[:, None] + torch.arange(length, device=raw.device)
                blocks = offers[rows, columns.clamp(max=offers.shape[1] - 1)]
                numbers = seen[:, None] // rate + torch.arange(n, device=raw.device)
            else:
                blocks = offers[:, begin : begin + length]
                numbers = torch.arange(seen // rate, seen // rate + n, device=raw.device)
            blocks = blocks.unflatten(1, (-1, rate))
            vectors = self._turn(self.compress(blocks[:, -n:], blocks[:, :n], numbers == 0), numbers * rate)
            first = 0 if isinstance(seen, Tensor) else seen // rate
            last = -(-ctx.columns[1] // rate) if isinstance(seen, Tensor) else first + n
            cache.entries.write(vectors, numbers, (first, last))
        cache.ring.write(raw, seen, ctx.lengths)
        return Entries(cache.entries.latents[:, : ctx.columns[1] // rate], rate)

    def new_cache(self, batch_size: int, max_len: int) -> BlockCache:
        """An empty cache with room for the entries of ``max_len`` tokens a row; it grows beyond by doubling."""
        like, waiting = self.down.weight, self.rate * (2 if self.overlap else 1)
        entries = like.new_zeros(batch_size, -(-max_len // self.rate), self.width)
        return BlockCache(Ring.empty(like, batch_size, waiting, self.down.out_features), LatentCache(entries))

    @staticmethod
    def cache_elements(length: int, width: int, rate: int, *, overlap: bool) -> int:
        """Numbers kept for a text of ``length`` tokens: an entry a block, and what waits of the open one."""
        streams = 2 if overlap else 1
        return -(-length // rate) * width + Ring.size(streams * rate) * 2 * streams * width


class BlockCache:
    """What a compressor keeps: the entries (B, capacity, d), and what the tokens of open blocks offer, in a ring.

    Where blocks overlap the ring holds the last complete block, too, which the open one's entry will read.
    """

    def __init__(self, ring: Ring, entries: LatentCache) -> None:
        self.ring, self.entries = ring, entries

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.ring.nbytes + self.entries.nbytes
