"""Teach a model to find what was planted (``data.recall``), and ask it.

Only answers are trained on: the rest of a row is noise, of which there is nothing to learn. Short rows come first.
Finding takes two layers that must learn together (one to see what stands before a value, one to look for it), and
long rows alone leave a small model for thousands of steps at guessing among the values it has seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.context import Context
from minideepseek.data.recall import Recall, RecallRows
from minideepseek.model import Transformer


def answer_logits(model: Transformer, rows: RecallRows) -> Tensor:
    """(B, Q, V) what the model says after each question; it sees the answers to earlier ones."""
    return _asked(model, rows)[0]


def _asked(model: Transformer, rows: RecallRows) -> tuple[Tensor, Context]:
    ids = rows.ids[:, :-1]
    ctx = model.context(ids)
    return model.logits(model.hidden(ids, ctx)[:, rows.asked]), ctx


def found(model: Transformer, rows: RecallRows) -> Tensor:
    """(B, Q) bool: which questions the model answers correctly."""
    with torch.no_grad():
        return answer_logits(model, rows).argmax(-1) == rows.answers


def teach(
    model: Transformer,
    task: Recall,
    *,
    length: int,
    pairs: int,
    steps: int = 200,
    lr: float = 4e-3,
    tokens: int = 4096,
    short_first: float = 0.6,
    seed: int = 0,
    watch: Callable[[int, Context], object] | None = None,
) -> list[float]:
    """Train ``model`` in place on rows that grow from two pairs without noise to ``pairs`` in ``length`` tokens.

    Args:
        model: of ``task.vocab_size`` tokens at least.
        task: the vocabulary.
        length: of the longest rows.
        pairs: in the longest rows; all of them are asked.
        steps: updates.
        lr: peak learning rate; it falls to zero over the last three tenths.
        tokens: in a batch, about.
        short_first: share of the steps in which rows grow; 0 shows long rows from the beginning.
        seed: of the rows.
        watch: called after each step with its number and the context of its pass, which has what layers reported.

    Returns:
        The loss of the answers in each step, in nats an answer; what layers add (an indexer's loss) is learnt from too.

    Raises:
        ValueError: ``length`` is odd or too short for that many pairs and questions.
    """
    if length % 2 or 4 * pairs > length:
        raise ValueError(f"length={length} must be even, with four places for each of {pairs} pairs")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    losses = []
    for step in range(steps):
        grown = min(1.0, step / (short_first * steps)) if short_first else 1.0
        n = 2 + round(grown * (pairs - 2))
        long = max(4 * n, 2 * int(4 + grown * (length / 2 - 4)))
        rows = task.rows(max(1, tokens // long), long, pairs=n, questions=n, generator=generator)
        logits, ctx = _asked(model, rows)
        loss = F.cross_entropy(logits.flatten(0, 1), rows.answers.flatten())
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20, (steps - step) / (0.3 * steps))
        optimizer.zero_grad()
        sum(ctx.losses.values(), loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if watch is not None:
            watch(step, ctx)
    model.eval()
    return losses
