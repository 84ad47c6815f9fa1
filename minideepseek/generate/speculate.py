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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq
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

    def count(self, accepted: list[int]) -> None:
        """Add one pass: how many drafts stood in each row, of a chain as long as ``self.accepted``."""
        self.passes += len(accepted)
        for k in range(len(self.accepted)):
            self.accepted[k] += sum(n > k for n in accepted)


# The books are plain lists. A pass over one or two tokens of a small model is a few hundred calls of a microsecond or
# two; keeping places, drafts and ends as tensors would add a hundred, and eat what drafting gains.
@dataclass(slots=True)
class _Row:
    """One text. ids: all known tokens; drafts: what may follow them; start: tokens of the prompt; end: at most."""

    ids: list[int]
    start: int
    end: int
    drafts: list[int] = field(default_factory=list)
    finished: bool = False

    def grow(self, tokens: list[int], eos_id: int | None) -> int:
        """Append tokens up to the text's end; how many."""
        if self.finished:
            return 0
        for n, token in enumerate(tokens, 1):
            self.ids.append(token)
            if token == eos_id or len(self.ids) == self.end:
                self.finished = True
                return n
        return len(tokens)

    def window(self, begin: int, n: int) -> list[int]:
        """The tokens at places begin to begin + n - 1, known or drafted.

        Before the text stands its first token, behind it anything: neither is ever looked at.
        """
        text = [*self.ids[max(begin, 0) :], *self.drafts[max(begin - len(self.ids), 0) :]]
        return ([self.ids[0]] * -begin + text + [0] * n)[:n]


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
        UserError: the model has nothing to draft with, or ``record`` has counted for a chain of another length; when
            the first token is asked for: a chain longer than the model's caches can take back.
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
    return _speculate(model, prompts, lengths.tolist(), max_new_tokens, sampling, generator, eos_id, record)


@torch.inference_mode()
def _speculate(
    model: Transformer,
    prompts: Tensor,
    lengths: list[int],
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
    layers = [module.block.attention.new_cache(batch, room) for module in modules]
    own = [Cache(layers, batch) for _ in modules]  # each keeps count of what its module has read
    _check_spare([cache, *own], depth)
    rows = [_Row(ids[:n], n, n + max_new_tokens) for ids, n in zip(prompts.tolist(), lengths, strict=True)]
    told = 0

    starts = [0] * batch  # place of the first column of ``read``, what is at hand of the model's reading
    short = prompts.new_tensor(lengths) if min(lengths) < width else None
    hidden, read = model.trunk(prompts, model.context(prompts, cache=cache, lengths=short))  # (B, columns, ...)
    newest = [n - 1 for n in lengths]  # column of ``read`` that the last known token was drawn from
    for row, token in zip(rows, sampling.draw(model.logits(_columns(hidden, newest)), generator).tolist(), strict=True):
        row.grow([token], eos_id)
    while True:
        for column in _ready(rows, told, eos_id):
            told += 1
            yield prompts.new_tensor(column)
        if all(row.finished for row in rows):
            return
        chances, handed = [], read
        for row in rows:
            row.drafts.clear()
        for k, module in enumerate(modules, 1):
            ids = _window(rows, [start + k for start in starts], read.shape[1], prompts)
            handed = module(handed, model.embed(ids), _standing(model, ids, own[k - 1], starts, short))
            chances.append(_chances(model.logits(module.read(_columns(handed, newest))), sampling))
            for row, token in zip(rows, _draw(chances[-1], sampling, generator), strict=True):
                row.drafts.append(token)
        short = None  # only prompts are padded
        begins = [len(row.ids) - 1 for row in rows]  # the last known token, which the model has not read yet
        ids = _window(rows, begins, depth + 1, prompts)
        hidden, judged = model.trunk(ids, _standing(model, ids, cache, begins))
        wanted = _chances(model.logits(hidden), sampling)
        accepted, tokens = _judge(wanted, chances, [row.drafts for row in rows], sampling, generator)
        record.count([n for n, row in zip(accepted, rows, strict=True) if not row.finished])
        if depth > 1:
            # Module k has drafted from drafts; it reads the last k - 1 places again when their true tokens are known.
            again = [begin - depth + 1 for begin in begins]
            columns = [_places(a - start, depth - 1) for a, start in zip(again, starts, strict=True)]
            read, starts = torch.cat([read[torch.arange(batch)[:, None], columns], judged], 1), again
        else:
            read, starts = judged, begins
        newest = [
            max(depth - 2 + row.grow([*row.drafts[:n], token], eos_id), 0)
            for row, n, token in zip(rows, accepted, tokens, strict=True)
        ]


def _check_spare(caches: list[Cache], depth: int) -> None:
    back = 2 * depth - 1  # modules read the last depth - 1 places again, after at most depth drafts that fell
    spare = min((cache.spare for cache in caches if cache.spare is not None), default=back)
    if back > spare:
        raise UserError(
            f"a chain of {depth} modules takes back up to {back} tokens, and this model's layers can take back "
            f"{spare}: they keep no more than a window; decode without speculative=True"
        )


def _chances(logits: Tensor, sampling: Sampling) -> Tensor:
    """What a token is drawn from: probabilities (..., V); greedily the logits will do."""
    return logits if sampling.greedy else sampling.probabilities(logits)


def _draw(chances: Tensor, sampling: Sampling, generator: torch.Generator | None) -> list[int]:
    """A token for each row of (B, V)."""
    drawn = chances.argmax(-1) if sampling.greedy else torch.multinomial(chances, 1, generator=generator)[:, 0]
    return drawn.tolist()


def _judge(
    wanted: Tensor,
    chances: list[Tensor],
    drafts: list[list[int]],
    sampling: Sampling,
    generator: torch.Generator | None,
) -> tuple[list[int], list[int]]:
    """How many drafts stand in each row, and the token that follows them.

    Args:
        wanted: (B, depth + 1, V) the model's chances, once it has read the last known token and the drafts.
        chances: for each module (B, V), what its drafts were drawn from.
        drafts: of each row.
        sampling: how tokens are drawn.
        generator: of random numbers.
    """
    if sampling.greedy:
        best = wanted.argmax(-1).tolist()
        accepted = [_leading(map(eq, own, row)) for own, row in zip(best, drafts, strict=True)]
        return accepted, [own[n] for own, n in zip(best, accepted, strict=True)]
    drawn, index = torch.stack(chances, 1), torch.tensor(drafts, device=wanted.device)[..., None]
    p, q = (x.gather(2, index)[..., 0] for x in (wanted[:, :-1], drawn))
    luck = torch.rand(q.shape, generator=generator, device=q.device, dtype=q.dtype)
    accepted = [_leading(row) for row in (luck * q < p).tolist()]
    rest = own = _columns(wanted, accepted)
    if min(accepted) < len(chances):  # where all stand nothing was drawn: q = 0
        rest = (own - _columns(F.pad(drawn, (0, 0, 0, 1)), accepted)).clamp(min=0)
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, own)  # p = q but for rounding
    return accepted, _draw(rest, sampling, generator)


def _leading(agreed: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, agreed))


def _ready(rows: list[_Row], told: int, eos_id: int | None) -> Iterator[list[int]]:
    """The columns from ``told`` on that all rows know; rows that have ended fill up with ``eos_id``."""
    new = [len(row.ids) - row.start for row in rows]
    running = [n for n, row in zip(new, rows, strict=True) if not row.finished]
    for column in range(told, min(running) if running else max(new)):
        yield [
            row.ids[row.start + column] if column < n else eos_id  # type: ignore[misc]  # a row has ended: there is one
            for n, row in zip(new, rows, strict=True)
        ]


def _window(rows: list[_Row], starts: list[int], n: int, like: Tensor) -> Tensor:
    """The tokens (B, n) of all rows, each from its own place on."""
    return like.new_tensor([row.window(start, n) for row, start in zip(rows, starts, strict=True)])


def _places(start: int, n: int) -> list[int]:
    """start, start + 1, ...; what would stand before the text stands at its beginning, again."""
    return [max(place, 0) for place in range(start, start + n)]


def _columns(x: Tensor, index: list[int]) -> Tensor:
    """One column of each row: (B, n, ...) -> (B, ...)."""
    return x[:, index[0]] if len(index) == 1 else x[torch.arange(len(x)), index]


def _standing(
    model: Transformer, ids: Tensor, cache: Cache, starts: list[int], lengths: Tensor | None = None
) -> Context:
    """The context of a pass over ids (B, T) whose rows stand at ``starts`` and on, whatever the cache holds there."""
    if starts[0] >= 0 and len(set(starts)) == 1:  # rows in step need neither a mask nor index arithmetic
        cache.length = starts[0]
        return model.context(ids, cache=cache, lengths=lengths)
    return model.context(
        ids, cache=cache, lengths=lengths, positions=ids.new_tensor([_places(s, ids.shape[1]) for s in starts])
    )
