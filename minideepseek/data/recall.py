"""Planted recall: facts hidden in a row of noise, and questions about them at its end. What long context is for.

A row is a haystack of filler tokens, in which pairs (key, value) stand at random places, and then questions: a key
again, and after it the value to be named. Any length can be drawn, so a model that was trained on short rows can be
asked about long ones; and because the row says where each asked pair stands, about early places and late ones. The
"needle in a haystack" of the V2 report (figure 4) with many needles, made of numbers: nothing to know, all to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class RecallRows(NamedTuple):
    """Rows of planted recall.

    ids: (B, T) int64, questions and answers included.
    asked: (Q,) int64 columns of the questions' keys; the answer stands one column further.
    planted: (B, Q) int64 columns at which the asked keys stand in the haystack.
    """

    ids: Tensor
    asked: Tensor
    planted: Tensor

    @property
    def answers(self) -> Tensor:
        """(B, Q) the values to be named."""
        return self.ids[:, self.asked + 1]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The vocabulary of the task. Tokens count from 0: keys, then values, then fillers.

    Attributes:
        n_keys: keys; a row uses each at most once.
        n_values: values; a row may repeat them.
        n_fillers: fillers, which mean nothing.
    """

    n_keys: int = 32
    n_values: int = 32
    n_fillers: int = 8

    def __post_init__(self) -> None:
        if min(self.n_keys, self.n_values, self.n_fillers) < 1:
            raise ValueError(
                f"n_keys={self.n_keys}, n_values={self.n_values} and n_fillers={self.n_fillers} must be positive"
            )

    @property
    def vocab_size(self) -> int:
        """Tokens in all."""
        return self.n_keys + self.n_values + self.n_fillers

    def rows(self, n_rows: int, length: int, *, pairs: int, questions: int, generator: torch.Generator) -> RecallRows:
        """Draw ``n_rows`` rows of ``length`` tokens.

        Args:
            n_rows: B.
            length: T, questions and answers included; even.
            pairs: planted in each row.
            questions: asked at its end, about different pairs.
            generator: of all that is random.

        Raises:
            ValueError: more questions than pairs, more pairs than keys, or a row too short for all of it.
        """
        hay = length - 2 * questions
        if length % 2 or not 1 <= questions <= pairs <= self.n_keys or hay < 2 * pairs:
            raise ValueError(
                f"{pairs} pairs and {questions} questions do not fit into length={length} with {self.n_keys} keys: a "
                "row is even, and has two places for each pair and for each question"
            )
        ids = torch.randint(self.n_keys + self.n_values, self.vocab_size, (n_rows, length), generator=generator)
        keys = _choose(n_rows, self.n_keys, pairs, generator)
        values = torch.randint(self.n_keys, self.n_keys + self.n_values, (n_rows, pairs), generator=generator)
        planted = 2 * _choose(n_rows, hay // 2, pairs, generator)
        ids.scatter_(1, planted, keys).scatter_(1, planted + 1, values)
        ids[:, hay::2], ids[:, hay + 1 :: 2] = keys[:, :questions], values[:, :questions]
        return RecallRows(ids, torch.arange(hay, length, 2), planted[:, :questions])


def _choose(n_rows: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """(n_rows, k) different numbers below n in each row, in random order."""
    return torch.rand(n_rows, n, generator=generator).argsort(1)[:, :k]
