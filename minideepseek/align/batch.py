"""Prompts with their responses as rows of tokens, and which tokens a model is held to account for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError


class Example(NamedTuple):
    """Token ids of a prompt and of a response to it, which ends with the end-of-sentence token if it is finished."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of prompt and response.

    Attributes:
        ids: (B, T) int64, filled up on the right.
        mask: (B, T - 1) bool, aligned with what is predicted: ``mask[b, t]`` says that token t + 1 of row b belongs to
            a response. Whatever is said about response tokens (log-probabilities, advantages ...) has this shape.
        segments: (B, T) int64 which of several examples in a row each token belongs to; None where there is one.
    """

    ids: Tensor
    mask: Tensor
    segments: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """(B, T - 1) what is predicted."""
        return self.ids[:, 1:]

    def select(self, rows: Tensor) -> Batch:
        """Only the rows with these numbers."""
        segments = None if self.segments is None else self.segments[rows]
        return Batch(ids=self.ids[rows], mask=self.mask[rows], segments=segments)

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        segments = None if self.segments is None else self.segments.to(device)
        return Batch(ids=self.ids.to(device), mask=self.mask.to(device), segments=segments)

    def spread(self, values: Tensor) -> Tensor:
        """Values of the response tokens alone, (N, ...) row by row -> (B, T - 1, ...), zero everywhere else."""
        mask = self.mask.reshape(*self.mask.shape, *(1 for _ in values.shape[1:]))
        return values.new_zeros(*self.mask.shape, *values.shape[1:]).masked_scatter(mask, values)


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """A prompt as tokens, behind an end-of-sentence token: so texts begin in pre-training, and in ``generate``."""
    return [tokenizer.eos_id, *tokenizer.encode(text)]


def encode_example(tokenizer: Tokenizer, prompt: str, response: str) -> Example:
    """The example that these texts make; the response ends with an end-of-sentence token."""
    return Example(encode_prompt(tokenizer, prompt), [*tokenizer.encode(response), tokenizer.eos_id])


def pad(examples: Sequence[Example]) -> Batch:
    """One example a row. What fills a row up stands behind everything that can be seen, so any token will do: 0.

    Raises:
        UserError: no examples, or one whose prompt or response is empty.
    """
    _check(examples)
    lengths = [len(prompt) + len(response) for prompt, response in examples]
    ids = torch.zeros(len(examples), max(lengths), dtype=torch.int64)
    mask = torch.zeros(len(examples), max(lengths) - 1, dtype=torch.bool)
    for row, ((prompt, response), length) in enumerate(zip(examples, lengths, strict=True)):
        ids[row, :length] = torch.tensor([*prompt, *response])
        mask[row, len(prompt) - 1 : length - 1] = True
    return Batch(ids=ids, mask=mask)


def pack(examples: Sequence[Example], length: int) -> Batch:
    """Several examples a row of ``length`` tokens, none of which sees another.

    V3's fine-tuning packs its samples and masks them from each other (report, section 5.1).

    Args:
        examples: put into rows in this order, a new row where the next one does not fit any more.
        length: T.

    Raises:
        UserError: as ``pad``; or an example is longer than a row.
    """
    _check(examples)
    rows: list[list[Example]] = []
    left = 0
    for example in examples:
        size = len(example.prompt) + len(example.response)
        if size > length:
            raise UserError(f"an example of {size} tokens does not fit into rows of {length}; make them longer")
        if size > left:
            rows.append([])
            left = length
        rows[-1].append(example)
        left -= size
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    segments = torch.zeros_like(ids)
    mask = torch.zeros(len(rows), length - 1, dtype=torch.bool)
    for row, packed in enumerate(rows):
        start = 0
        for number, (prompt, response) in enumerate(packed):
            end = start + len(prompt) + len(response)
            ids[row, start:end] = torch.tensor([*prompt, *response])
            segments[row, start:] = number
            mask[row, start + len(prompt) - 1 : end - 1] = True
            start = end
        segments[row, start:] = len(packed)
    return Batch(ids=ids, mask=mask, segments=segments)


def _check(examples: Sequence[Example]) -> None:
    if not examples:
        raise UserError("there are no examples to make a batch of")
    for number, (prompt, response) in enumerate(examples):
        if not prompt or not response:
            raise UserError(
                f"example {number} has {len(prompt)} tokens of prompt and {len(response)} of response; it needs both: "
                "an end-of-sentence token at least, before the prompt and behind the response"
            )
