"""How likely a model finds responses, token by token, without ever holding the logits of all tokens.

Every method of this room is a formula over log pi(o_t | q, o_<t). Logits are V numbers a token, many times what the
model itself keeps; so a few rows at a time become logits and then one number each, and the backward pass makes them
anew. Prompts get no logits at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minideepseek import ops
from minideepseek.align.batch import Batch
from minideepseek.context import Routes
from minideepseek.model import Transformer

BUDGET = 2**22  # logits at a time: 16 MB of float32


def by_rows(function: Callable[..., Tensor], *rows: Tensor, vocab_size: int) -> Tensor:
    """``function(*rows)``, which maps N rows to N numbers by way of N·V logits, a few rows at a time.

    What ``function`` computes on the way is not kept for the backward pass but computed again.
    """
    size = max(1, BUDGET // vocab_size)
    pieces = zip(*(tensor.split(size) for tensor in rows), strict=True)
    return torch.cat([checkpoint(function, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces])


def scaled_logits(hidden: Tensor, weight: Tensor, temperature: float = 1.0, allowed: Tensor | None = None) -> Tensor:
    """hidden (N, D), head (V, D) -> logits (N, V), float32 at least, divided by the temperature.

    Args:
        hidden: what the head reads.
        weight: of the head.
        temperature: above 0.
        allowed: (N, V) bool, the tokens that could be drawn; all others get -inf.
    """
    logits = ops.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, allowed: Tensor | None = None
) -> Tensor:
    """Log-probabilities (N,) of ``targets`` (N,) after ``hidden`` (N, D), in nats; the rest as in ``scaled_logits``."""
    if allowed is None:
        return ops.linear_log_probs(hidden / temperature, weight, targets)

    def logprobs(hidden: Tensor, targets: Tensor, allowed: Tensor) -> Tensor:
        logits = scaled_logits(hidden, weight, temperature, allowed)
        return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)

    return by_rows(logprobs, hidden, targets, allowed, vocab_size=len(weight))


def token_entropies(hidden: Tensor, weight: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy (N,) in nats of what may follow each ``hidden`` (N, D): how undecided the model is."""

    def entropies(hidden: Tensor) -> Tensor:
        return torch.special.entr(scaled_logits(hidden, weight, temperature).softmax(-1)).sum(-1)

    return by_rows(entropies, hidden, vocab_size=len(weight))


def response_hidden(model: Transformer, batch: Batch, routes: Sequence[Tensor] | None = None) -> Tensor:
    """What the head reads before each response token: (N, D), row by row of the batch.

    Args:
        model: of any generation.
        batch: B rows.
        routes: of each router, the experts (B, T - 1, K) to use instead of choosing; None lets them choose.
    """
    given = None if routes is None else Routes([experts.flatten(0, 1) for experts in routes])
    segments = None if batch.segments is None else batch.segments[:, :-1]
    inputs = batch.ids[:, :-1]
    return model.hidden(inputs, model.context(inputs, segments=segments, routes=given))[batch.mask]


def response_logprobs(
    model: Transformer,
    batch: Batch,
    *,
    temperature: float = 1.0,
    allowed: Tensor | None = None,
    routes: Sequence[Tensor] | None = None,
) -> Tensor:
    """Log-probabilities (B, T - 1) of the response tokens, in nats; 0 where there is none.

    Args:
        model: of any generation.
        batch: prompts and responses.
        temperature: at which they were drawn.
        allowed: (B, T - 1, V) bool, what could be drawn for each of them; None is everything.
        routes: as in ``response_hidden``.
    """
    found = token_logprobs(
        response_hidden(model, batch, routes),
        model.head.weight,
        batch.targets[batch.mask],
        temperature=temperature,
        allowed=None if allowed is None else allowed[batch.mask],
    )
    return batch.spread(found)
