"""Self-speculative decoding: the modules that look ahead draft the next tokens, the model judges them in one pass.

A decode step is bound by the memory it must read, not by arithmetic, so judging D drafted tokens costs hardly more than
one step. Those that stand are tokens for free; after the first that falls the model puts its own. Text is distributed
as if the model had written it alone (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318): a draft x,
drawn from q, stands with probability min(1, p(x)/q(x)), and its successor after a fall is drawn from what p has and q
has not, max(p - q, 0). Greedily that means: a draft stands if it is the likeliest token.

DeepSeek-V3 drafts this way with the module it was trained with (report, section 5.4.3: 85 to 90 % stand).

Time in this file: a row knows ``known`` tokens, of which the model has read all but the last. Module k at place i joins
what was read at i with token i + k and drafts token i + k + 1. What falls needs no removing from the caches: a token
written again at its place replaces the old one, and nobody looks beyond his own place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.context import Cache, Context
from minideepseek.errors import UserError
from minideepseek.generate.sampling import Sampling
from minideepseek.model import Transformer


@dataclass
class Speculation:
    """What drafting achieved: ``generate(..., speculative=record)`` adds to it, pass by pass.

    Attributes:
        passes: passes of the model that judged drafts, counted once for each row still being written.
        accepted: for each module of the chain, how often its draft stood, and so all before it.
    """

    passes: int = 0
    accepted: list[int] = field(default_factory=list)

    @property
    def drafted(self) -> int:
        """Tokens drafted."""
        return self.passes * len(self.accepted)

    @property
    def acceptance(self) -> list[float]:
        """For each module, the share of its drafts that stood where all before them did: V3's "acceptance rate"."""
        judged = [self.passes, *self.accepted[:-1]]
        return [stood / n if n else math.nan for stood, n in zip(self.accepted, judged, strict=True)]

    @property
    def tokens_per_pass(self) -> float:
        """Tokens written for each pass of the model; plain decoding writes 1."""
        return 1 + sum(self.accepted) / self.passes if self.passes else math.nan

    def count(self, accepted: Tensor) -> None:
        """Add one pass: accepted (rows,) drafts that stood in each row, of a chain as long as ``self.accepted``."""
        self.passes += len(accepted)
        for k in range(len(self.accepted)):
            self.accepted[k] += int((accepted > k).sum())


class _Page:
    """Texts (B, room) that grow at different speeds, and are read out column by column."""

    def __init__(self, prompts: Tensor, lengths: Tensor, room: int, max_new: int, eos_id: int | None) -> None:
        self.text = F.pad(prompts, (0, room - prompts.shape[1]))
        self.lengths, self.known, self.limit = lengths, lengths.clone(), lengths + max_new
        self.eos_id = eos_id
        self.finished = torch.zeros_like(lengths, dtype=torch.bool)
        self.told = 0

    def window(self, start: Tensor, n: int) -> Tensor:
        """The tokens (B, n) from place start (B,) on."""
        return self.text.gather(1, _places(start, n))

    def put(self, places: Tensor, tokens: Tensor) -> None:
        """Write a token (B,) in each row, at places (B,)."""
        self.text.scatter_(1, places[:, None], tokens[:, None])

    def grow(self, n: Tensor, most: int) -> Tensor:
        """The next n (B,) tokens of each row, at most ``most``, are valid. How many do count: up to the text's end."""
        n = torch.minimum(n, self.limit - self.known).masked_fill(self.finished, 0)
        if self.eos_id is not None:
            ends = self.window(self.known, most) == self.eos_id
            first = ends.int().argmax(1)
            ended = ends.any(1) & (first < n)
            n = torch.where(ended, first + 1, n)
            self.finished = self.finished | ended
        self.known = self.known + n
        self.finished = self.finished | (self.known == self.limit)
        return n

    def columns(self) -> Iterator[Tensor]:
        """Every next token (B,) that all rows know and that has not been read out yet; finished rows fill up."""
        new = self.known - self.lengths
        running = new.masked_fill(self.finished, int(new.max()))
        while self.told < int(running.min()):
            token = self.window(self.lengths + self.told, 1)[:, 0]
            if self.eos_id is not None:
                token = token.masked_fill(self.told >= new, self.eos_id)
            self.told += 1
            yield token


def speculate(
    model: Transformer,
    prompts: Tensor,
    lengths: Tensor,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None,
    eos_id: int | None,
    record: Speculation,
) -> Iterator[Tensor]:
    """Yield the next token of every row, (B,), as ``generate.stream`` does; several columns at a time may come at once.

    Args:
        model: with modules that look ahead (``cfg.mtp``).
        prompts: (B, T) int64, padded on the right.
        lengths: (B,) int64 of the prompts.
        max_new_tokens: columns at most.
        sampling: how tokens are drawn.
        generator: of random numbers.
        eos_id: ends a row.
        record: what to count in.

    Raises:
        UserError: the model has nothing to draft with, or ``record`` has counted for a chain of another length.
    """
    depth = len(model.mtp)
    if not depth:
        raise UserError(
            "speculative decoding needs a model with modules that look ahead, as v3 and v3-mini have (cfg.mtp); "
            "this one has none: decode without speculative=True"
        )
    record.accepted = record.accepted or [0] * depth
    if len(record.accepted) != depth:
        raise UserError(f"the Speculation given has counted {len(record.accepted)} modules, this model has {depth}")
    return _speculate(model, prompts, lengths, max_new_tokens, sampling, generator, eos_id, record)


@torch.inference_mode()
def _speculate(
    model: Transformer,
    prompts: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None,
    eos_id: int | None,
    record: Speculation,
) -> Iterator[Tensor]:
    if max_new_tokens == 0:
        return
    depth, (batch, width) = len(model.mtp), prompts.shape
    modules: Any = model.mtp
    room = width + min(max_new_tokens, 1024) + depth  # of the caches; they grow, many texts end long before
    cache = model.new_cache(batch, room)
    own = Cache([module.block.attention.new_cache(batch, room) for module in modules], batch)
    page = _Page(prompts, lengths, width + max_new_tokens + 2 * depth, max_new_tokens, eos_id)

    start = torch.zeros_like(lengths)  # place of the first column of what is at hand of the model's reading
    read = model.hidden(prompts, model.context(prompts, cache=cache))  # (B, columns, D)
    newest = lengths - 1  # column of ``read`` that the last known token was drawn from
    page.put(page.known, sampling.draw(model.logits(_column(read, newest)), generator))
    page.grow(torch.ones_like(lengths), 1)
    while True:
        yield from page.columns()
        if bool(page.finished.all()):
            return
        begin = page.known - 1  # the last known token, which the model has not read yet
        chances, handed = [], read
        for k, module in enumerate(modules, 1):
            ids = page.window(start + k, read.shape[1])
            handed = module(handed, model.embed(ids), _standing(model, ids, own, start))
            logits = model.logits(_column(handed, newest))
            chances.append(logits if sampling.greedy else sampling.probabilities(logits))
            page.put(begin + k, _draw(chances[-1], sampling, generator))
        ids = page.window(begin, depth + 1)
        judged = model.hidden(ids, _standing(model, ids, cache, begin))
        accepted, token = _judge(model.logits(judged), torch.stack(chances, 1), ids[:, 1:], sampling, generator)
        record.count(accepted[~page.finished])
        page.put(page.known + accepted, token)
        # Module k has drafted from drafts; it reads the last k - 1 places again, now that their true tokens are known.
        again = begin - depth + 1
        kept = read.gather(1, _places(again - start, depth - 1)[..., None].expand(-1, -1, read.shape[2]))
        read, start = torch.cat([kept, judged], 1), again
        newest = (depth - 2 + page.grow(accepted + 1, depth + 1)).clamp(min=0)


def _judge(
    logits: Tensor, chances: Tensor, drafts: Tensor, sampling: Sampling, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """How many drafts stand, (B,), and the token that follows them, (B,).

    Args:
        logits: (B, depth + 1, V) of the model, which has read the last known token and the drafts.
        chances: (B, depth, V) probabilities that the drafts were drawn from; logits where nothing was drawn.
        drafts: (B, depth).
        sampling: how tokens are drawn.
        generator: of random numbers.
    """
    if sampling.greedy:
        best = logits.argmax(-1)
        accepted = (best[:, :-1] == drafts).int().cumprod(1).sum(1)
        return accepted, _column(best, accepted)
    wanted = sampling.probabilities(logits)
    p, q = (x.gather(2, drafts[..., None])[..., 0] for x in (wanted[:, :-1], chances))
    luck = torch.rand(q.shape, generator=generator, device=q.device, dtype=q.dtype)
    accepted = (luck * q < p).int().cumprod(1).sum(1)
    wanted = _column(wanted, accepted)
    drawn = _column(F.pad(chances, (0, 0, 0, 1)), accepted)  # where all stand nothing was drawn: q = 0
    rest = (wanted - drawn).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, wanted)  # p = q but for rounding
    return accepted, torch.multinomial(rest, 1, generator=generator)[:, 0]


def _draw(chances: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """A token (B,) from probabilities (B, V), or the largest logit."""
    return chances.argmax(-1) if sampling.greedy else torch.multinomial(chances, 1, generator=generator)[:, 0]


def _places(start: Tensor, n: int) -> Tensor:
    """(B,) -> (B, n): start, start + 1, ...; what would stand before the text stands at its beginning, again."""
    return (start[:, None] + torch.arange(n, device=start.device)).clamp(min=0)


def _column(x: Tensor, index: Tensor) -> Tensor:
    """Column index (B,) of each row: (B, n, ...) -> (B, ...)."""
    return x[torch.arange(len(x), device=x.device), index]


def _standing(model: Transformer, ids: Tensor, cache: Cache, start: Tensor) -> Context:
    """The context of a pass over ids (B, T) that stand at ``start`` (B,) and on, whatever the cache holds there."""
    first = int(start[0])
    if first >= 0 and bool((start == first).all()):  # rows in step need neither a mask nor index arithmetic
        cache.length = first
        return model.context(ids, cache=cache)
    return model.context(ids, cache=cache, positions=_places(start, ids.shape[1]))
