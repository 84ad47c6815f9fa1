"""Responses sampled from a model, with everything that training on them has to know about how they were drawn.

The probability that a method divides by is that of the sampler, temperature and truncation included, as it was when the
token was drawn: V3.2 (report, section 3.1) takes it from the inference engine instead of computing it anew, and hands
the trainer two more things. *Keep routing*: which experts each token went to, for with other experts the same weights
are another function. *Keep sampling mask*: which tokens top-p and top-k let through, for a policy that could draw
what the sampler could not is not the one that was sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minideepseek.align.batch import Batch, Example, encode_prompt, pad
from minideepseek.context import Routes
from minideepseek.data.tasks import Problem
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.generate import Sampling
from minideepseek.model import Transformer


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was drawn, one row a response.

    Attributes:
        batch: prompts and responses.
        logp: (B, T - 1) log-probabilities of the response tokens under the distribution they were drawn from.
        entropy: (B, T - 1) of that distribution, in nats.
        ended: (B,) bool, whether the response drew its end.
        routes: of each router that chooses, (B, T - 1, K) experts; None where they were not kept.
        allowed: (B, T - 1, V) bool, what could be drawn; None where that was not kept.
    """

    batch: Batch
    logp: Tensor
    entropy: Tensor
    ended: Tensor
    routes: list[Tensor] | None = None
    allowed: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of the responses, ends included."""
        return self.batch.mask.sum(1)

    def select(self, rows: Tensor) -> Samples:
        """Only the rows with these numbers."""
        return Samples(
            batch=self.batch.select(rows),
            logp=self.logp[rows],
            entropy=self.entropy[rows],
            ended=self.ended[rows],
            routes=None if self.routes is None else [experts[rows] for experts in self.routes],
            allowed=None if self.allowed is None else self.allowed[rows],
        )

    def responses(self) -> list[list[int]]:
        """The response tokens of each row."""
        chosen = zip(self.batch.targets, self.batch.mask, strict=True)
        return [targets[mask].tolist() for targets, mask in chosen]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Samples for problems, G of each: rows 0 to G - 1 answer the first problem, and so on.

    Attributes:
        problems: one a row.
        texts: of the responses, control tokens left out.
        samples: the responses as tokens.
        group: G.
    """

    problems: list[Problem]
    texts: list[str]
    samples: Samples
    group: int

    def select(self, questions: Tensor) -> Rollout:
        """Only the groups of the questions with these numbers."""
        rows = (questions[:, None] * self.group + torch.arange(self.group)).flatten()
        return Rollout(
            problems=[self.problems[row] for row in rows.tolist()],
            texts=[self.texts[row] for row in rows.tolist()],
            samples=self.samples.select(rows.to(self.samples.logp.device)),
            group=self.group,
        )

    def examples(self) -> list[Example]:
        """Each row's prompt and response."""
        ids, mask = self.samples.batch.ids, self.samples.batch.mask
        starts = mask.int().argmax(1) + 1
        prompts = [row[:start].tolist() for row, start in zip(ids, starts, strict=True)]
        return [Example(*pair) for pair in zip(prompts, self.samples.responses(), strict=True)]


@dataclass
class _Drawn:
    """Columns of a decode, one entry a step; ``passes`` are what routers chose in each pass, the prompts' first."""

    tokens: list[Tensor] = field(default_factory=list)
    logp: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    allowed: list[Tensor] = field(default_factory=list)
    passes: list[list[Tensor]] = field(default_factory=list)


def sample(
    model: Transformer,
    prompts: Sequence[list[int]],
    *,
    sampling: Sampling,
    max_new_tokens: int,
    eos_id: int,
    generator: torch.Generator | None = None,
    keep_routing: bool = False,
    keep_mask: bool = False,
) -> Samples:
    """Draw one response for each prompt.

    Args:
        model: in eval mode.
        prompts: token ids, of any lengths.
        sampling: how tokens are drawn; greedily they all have probability 1.
        max_new_tokens: of a response at most, its end included.
        eos_id: ends a response and belongs to it.
        generator: on the model's device; None draws from torch's global one.
        keep_routing: note which experts were chosen.
        keep_mask: note which tokens could be drawn.

    Raises:
        UserError: no prompts, an empty one, or no room for a response.
    """
    if not prompts or not all(prompts) or max_new_tokens < 1:
        raise UserError(
            f"{len(prompts)} prompts with {min(map(len, prompts), default=0)} tokens or more, max_new_tokens="
            f"{max_new_tokens}: there must be some of each"
        )
    device = model.embed.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
    drawn = _decode(model, rows, lengths, sampling, max_new_tokens, eos_id, generator, keep_routing, keep_mask)
    tokens = torch.stack(drawn.tokens, 1)
    # Behind its end a row draws nothing: its last tokens are no part of the response.
    ends = tokens == eos_id
    inside = ends.cumsum(1) - ends.long() == 0
    counts = inside.sum(1).tolist()
    found = [row[:n] for row, n in zip(tokens.tolist(), counts, strict=True)]
    batch = pad([Example(*pair) for pair in zip(prompts, found, strict=True)]).to(device)

    def place(columns: list[Tensor]) -> Tensor:
        return batch.spread(torch.stack(columns, 1)[inside])

    return Samples(
        batch=batch,
        logp=place(drawn.logp),
        entropy=place(drawn.entropy),
        ended=ends.any(1),
        routes=_routes(drawn.passes, rows, lengths, batch.mask.shape[1]) if keep_routing else None,
        allowed=place(drawn.allowed) if keep_mask else None,
    )


@torch.inference_mode()
def _decode(
    model: Transformer,
    rows: Tensor,
    lengths: Tensor,
    sampling: Sampling,
    max_new_tokens: int,
    eos_id: int,
    generator: torch.Generator | None,
    keep_routing: bool,
    keep_mask: bool,
) -> _Drawn:
    drawn = _Drawn()
    batch, width = rows.shape
    ragged = bool((lengths < width).any())
    cache = model.new_cache(batch, width + max_new_tokens)
    ids, positions, real = rows, None, lengths if ragged else None
    last, ended = lengths - 1, torch.zeros(batch, dtype=torch.bool, device=rows.device)
    for step in range(max_new_tokens):
        routes = Routes() if keep_routing else None
        hidden = model.hidden(ids, model.context(ids, cache=cache, positions=positions, lengths=real, routes=routes))
        if routes is not None:
            drawn.passes.append(routes.chosen)
        logits = model.logits(hidden[torch.arange(batch, device=rows.device), last])
        if sampling.greedy:
            chances = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        else:
            chances = sampling.probabilities(logits)
        token = torch.multinomial(chances, 1, generator=generator)
        drawn.tokens.append(token[:, 0])
        drawn.logp.append(chances.gather(1, token)[:, 0].log())
        drawn.entropy.append(torch.special.entr(chances).sum(-1))
        if keep_mask:
            drawn.allowed.append(chances > 0)
        ended |= token[:, 0] == eos_id
        if bool(ended.all()):
            break
        ids, last, real = token, torch.zeros_like(lengths), None
        positions = (lengths + step)[:, None] if ragged else None
    return drawn


def _routes(passes: list[list[Tensor]], rows: Tensor, lengths: Tensor, columns: int) -> list[Tensor]:
    """What each router chose in a decode, (B, columns, K), as one pass over prompt and response would note it."""
    batch, width = rows.shape
    every = torch.arange(batch, device=rows.device)
    found = []
    for first, *later in zip(*passes, strict=True):
        table = first.new_zeros(batch, width + len(later), first.shape[-1])  # nobody asks where padding goes
        table[:, :width] = first.view(batch, width, -1)
        for step, experts in enumerate(later):
            table[every, lengths + step] = experts
        found.append(table[:, :columns])
    return found


def rollout(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    group: int,
    sampling: Sampling,
    max_new_tokens: int,
    generator: torch.Generator | None = None,
    keep_routing: bool = False,
    keep_mask: bool = False,
) -> Rollout:
    """Draw ``group`` responses to each problem; the arguments are those of ``sample``."""
    repeated = [problem for problem in problems for _ in range(group)]
    samples = sample(
        model,
        [encode_prompt(tokenizer, problem.prompt) for problem in repeated],
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.eos_id,
        generator=generator,
        keep_routing=keep_routing,
        keep_mask=keep_mask,
    )
    texts = [tokenizer.decode(response) for response in samples.responses()]
    return Rollout(problems=repeated, texts=texts, samples=samples, group=group)


def join(rollouts: Sequence[Rollout]) -> Rollout:
    """Rollouts of the same kind, one below the other; shorter rows are filled up on the right."""
    samples = [found.samples for found in rollouts]

    def stack(tensors: Iterable[Tensor | None]) -> Tensor:
        found = [tensor for tensor in tensors if tensor is not None]
        width = max(tensor.shape[1] for tensor in found)
        fill = [tensor.new_zeros(len(tensor), width - tensor.shape[1], *tensor.shape[2:]) for tensor in found]
        return torch.cat([torch.cat(pair, 1) for pair in zip(found, fill, strict=True)])

    routes = None
    if samples[0].routes is not None:
        routes = [stack(layer) for layer in zip(*(one.routes or [] for one in samples), strict=True)]
    joined = Samples(
        batch=Batch(ids=stack(one.batch.ids for one in samples), mask=stack(one.batch.mask for one in samples)),
        logp=stack(one.logp for one in samples),
        entropy=stack(one.entropy for one in samples),
        ended=torch.cat([one.ended for one in samples]),
        routes=routes,
        allowed=None if samples[0].allowed is None else stack(one.allowed for one in samples),
    )
    return Rollout(
        problems=[problem for found in rollouts for problem in found.problems],
        texts=[text for found in rollouts for text in found.texts],
        samples=joined,
        group=rollouts[0].group,
    )
