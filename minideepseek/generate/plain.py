"""Sampling: one token after the other, from a cache, for prompts of different lengths at once."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minideepseek.compiling import or_plain
from minideepseek.context import Context
from minideepseek.errors import UserError
from minideepseek.generate.sampling import Sampling
from minideepseek.generate.speculate import Speculation, speculate
from minideepseek.model import Transformer

Prompts = Tensor | Sequence[Sequence[int] | Tensor]
Step = Callable[[Transformer, Tensor, Context], Tensor]


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
    speculative: bool | Speculation = False,
    compile: bool = False,
) -> Iterator[Tensor]:
    """Yield the next token of every prompt, (B,) int64, step by step.

    Arguments are those of ``generate``. A row that has ended keeps yielding ``eos_id``; the stream stops when all
    rows have ended.
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens={max_new_tokens} must not be negative")
    if compile and speculative is not False:
        raise UserError("compile=True does not go with speculative decoding; choose one of them")
    rows, lengths = _batch(model, ids)
    generator = None if seed is None else torch.Generator(rows.device).manual_seed(seed)
    if speculative is False:
        steps = _stream(model, rows, lengths, max_new_tokens, sampling, generator, eos_id, compile)
    else:
        steps = speculate(
            model,
            rows,
            lengths,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            generator=generator,
            eos_id=eos_id,
            record=Speculation() if speculative is True else speculative,
        )
    return (token.clone() for token in steps)  # out here it is an ordinary tensor, which training may use too


@torch.inference_mode()
def _stream(
    model: Transformer,
    rows: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator | None,
    eos_id: int | None,
    compile: bool,
) -> Iterator[Tensor]:
    batch, width = rows.shape
    ragged = bool((lengths < width).any())
    if max_new_tokens == 0:
        return
    cache = model.new_cache(batch, width + min(max_new_tokens, 1024))  # it grows; many texts end long before
    if compile and cache.spare is not None:
        raise UserError(
            "compile=True: this model's layers keep windows and blocks, so that steps differ from place to place, and "
            "each would be compiled anew; decode without it"
        )
    # Short rows are padded on the right: what the padding writes into the cache stands at positions that the row's
    # own tokens overwrite before anything may look at them, or is not written where the cache is told not to. So the
    # prompt runs as one plain causal pass.
    hidden = model.hidden(rows, model.context(rows, cache=cache, lengths=lengths if ragged else None))
    logits = model.logits(hidden[torch.arange(batch, device=rows.device), lengths - 1])  # only these rows are needed
    next_logits: Step = _next_logits
    if compile:
        next_logits = or_plain(lambda: _compiled(), next_logits, warn=_warn)  # mypy takes no cached function
    ended = torch.zeros(batch, dtype=torch.bool, device=rows.device)
    for step in range(max_new_tokens):
        token = sampling.draw(logits, generator)
        if eos_id is not None:
            token = token.masked_fill(ended, eos_id)
            ended |= token == eos_id
        yield token
        if step + 1 == max_new_tokens or (eos_id is not None and bool(ended.all())):
            return
        positions = (lengths + step)[:, None] if ragged else None
        ids = token[:, None]
        logits = next_logits(model, ids, model.context(ids, cache=cache, positions=positions))


def _next_logits(model: Transformer, ids: Tensor, ctx: Context) -> Tensor:
    """One step: the newest token of each row (B, 1) -> logits of the next (B, V)."""
    return model.logits(model.hidden(ids, ctx)[:, -1])


@functools.cache
def _compiled() -> Step:
    return torch.compile(_next_logits, dynamic=True)  # one graph for texts and caches of every length


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=2)


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
    speculative: bool | Speculation = False,
    compile: bool = False,
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
        speculative: let the modules that look ahead draft and the model judge several tokens in one pass: the same
            greedy text (but for ties in the last bit), drawn text of the same distribution, sooner. A ``Speculation``
            counts what was accepted.
        compile: let ``torch.compile`` make one loop of what a step does piece by piece; needs a C++ compiler. The first
            step takes half a minute or more, which pays back over thousands of tokens; the text is the same but for
            ties in the last bit.

    Returns:
        For a tensor: prompts and continuations, (B, T + new), rows that ended early filled up with ``eos_id``.
        For a list: lists of ids, each cut after its ``eos_id``.

    Raises:
        UserError: an empty prompt, ids outside the vocabulary, sampling settings out of range, or speculation with a
            model that has no modules that look ahead; ``compile`` together with it, or with a model that forgets (V4).
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
        speculative=speculative,
        compile=compile,
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
