"""Sampling: one token after the other, from a cache, for prompts of different lengths at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.model import Transformer

Prompts = Tensor | Sequence[Sequence[int] | Tensor]


def filter_logits(logits: Tensor, *, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Set the logits of tokens that may not be drawn to -inf.

    Args:
        logits: (..., V).
        top_k: keep the k likeliest (ties at the border are all kept); None keeps every token.
        top_p: keep the smallest set of likeliest tokens whose probability reaches ``top_p`` (nucleus sampling,
            Holtzman et al., arXiv 1904.09751); the likeliest token always stays.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        border = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < border, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability  # mass of the tokens ahead of this one
        drop = (before >= top_p).scatter(-1, order, before >= top_p)
        drop.scatter_(-1, order[..., :1], False)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def sample(
    logits: Tensor, *, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """Draw one token for each row: logits (B, V) -> (B,) int64. Temperature 0 takes the likeliest."""
    if temperature == 0.0:
        return logits.argmax(-1)
    # The likeliest token at zero: however small the temperature, nothing overflows.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    probability = filter_logits(scaled, top_k=top_k, top_p=top_p).softmax(-1)
    return torch.multinomial(probability, 1, generator=generator)[:, 0]


def _batch(model: Transformer, ids: Prompts) -> tuple[Tensor, Tensor]:
    """Prompts as a right-padded (B, T) tensor and their lengths (B,), on the model's device."""
    try:
        prompts = [torch.as_tensor(prompt) for prompt in ids]
    except (TypeError, ValueError, RuntimeError):
        prompts = []
    if not prompts or any(prompt.ndim != 1 or (prompt.is_floating_point() and len(prompt)) for prompt in prompts):
        raise UserError(
            "prompts must be token ids: a tensor of whole numbers (B, T), or a list with a list of ids for each; "
            "a tokenizer makes them of text"
        )
    if not all(len(prompt) for prompt in prompts):
        raise UserError("a prompt has no tokens; give at least one, for example the end-of-text token")
    device = model.embed.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device, torch.int64)
    if int(rows.min()) < 0 or int(rows.max()) >= model.cfg.vocab_size:
        raise UserError(
            f"a prompt holds token id {int(rows.max() if rows.min() >= 0 else rows.min())}, but the model's vocabulary "
            f"is 0..{model.cfg.vocab_size - 1}; was it written with another tokenizer?"
        )
    return rows, lengths


def stream(
    model: Transformer,
    ids: Prompts,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
    eos_id: int | None = None,
) -> Iterator[Tensor]:
    """Yield the next token of every prompt, (B,) int64, step by step.

    Arguments are those of ``generate``. A row that has ended keeps yielding ``eos_id``; the stream stops when all
    rows have ended.
    """
    fine = 0 <= temperature < math.inf and 0 < top_p <= 1 and (top_k is None or top_k >= 1) and max_new_tokens >= 0
    if not fine:
        raise UserError(
            f"sampling needs 0 <= temperature, 0 < top_p <= 1, top_k >= 1 and max_new_tokens >= 0, not "
            f"{temperature=}, {top_p=}, {top_k=}, {max_new_tokens=}"
        )
    rows, lengths = _batch(model, ids)
    steps = _stream(model, rows, lengths, max_new_tokens, temperature, top_k, top_p, seed, eos_id)
    return (token.clone() for token in steps)  # out here it is an ordinary tensor, which training may use too


@torch.inference_mode()
def _stream(
    model: Transformer,
    rows: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int | None,
    eos_id: int | None,
) -> Iterator[Tensor]:
    generator = None if seed is None else torch.Generator(rows.device).manual_seed(seed)
    batch, width = rows.shape
    ragged = bool((lengths < width).any())
    if max_new_tokens == 0:
        return
    cache = model.new_cache(batch, width + min(max_new_tokens, 1024))  # it grows; many texts end long before
    # Short rows are padded on the right: what the padding writes into the cache stands at positions that the row's
    # own tokens overwrite before anything may look at them. So the prompt runs as one plain causal pass.
    hidden = model.hidden(rows, model.context(rows, cache=cache))
    last = hidden[torch.arange(batch, device=rows.device), lengths - 1]  # (B, D): only this row of logits is needed
    ended = torch.zeros(batch, dtype=torch.bool, device=rows.device)
    for step in range(max_new_tokens):
        token = sample(model.logits(last), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        if eos_id is not None:
            token = token.masked_fill(ended, eos_id)
            ended |= token == eos_id
        yield token
        if step + 1 == max_new_tokens or (eos_id is not None and bool(ended.all())):
            return
        positions = (lengths + step)[:, None] if ragged else None
        ids = token[:, None]
        last = model.hidden(ids, model.context(ids, cache=cache, positions=positions))[:, -1]


def generate(
    model: Transformer,
    ids: Prompts,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | None = None,
    eos_id: int | None = None,
) -> Tensor | list[list[int]]:
    """Continue prompts.

    Args:
        model: any model of the family.
        ids: (B, T) int64 prompts of one length, or a list of lists of token ids of any lengths.
        max_new_tokens: how many tokens to add at most.
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: draw from the k likeliest tokens only.
        top_p: draw from the smallest set of tokens with this probability together.
        seed: the same seed gives the same text on the same machine; None draws from torch's global generator.
        eos_id: a row ends when it draws this token.

    Returns:
        For a tensor: prompts and continuations, (B, T + new), rows that ended early filled up with ``eos_id``.
        For a list: lists of ids, each cut after its ``eos_id``.

    Raises:
        UserError: an empty prompt, ids outside the vocabulary, or sampling settings out of range.
    """
    steps = stream(
        model,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_id=eos_id,
    )
    new = list(steps)
    if isinstance(ids, Tensor):
        return torch.cat([ids, torch.stack(new, 1).to(ids.device)], 1) if new else ids
    texts = []
    for row, prompt in enumerate(ids):
        added = [int(token[row]) for token in new]
        if eos_id is not None and eos_id in added:
            added = added[: added.index(eos_id) + 1]
        texts.append([*map(int, prompt), *added])
    return texts
