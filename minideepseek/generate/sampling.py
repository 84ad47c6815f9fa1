"""From logits to a token: temperature, top-k, top-p."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from minideepseek.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens only; None from all.
        top_p: draw from the smallest set of tokens with this probability together.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and (self.top_k is None or self.top_k >= 1)):
            raise UserError(
                f"sampling needs 0 <= temperature, 0 < top_p <= 1 and top_k >= 1, not temperature={self.temperature}, "
                f"top_p={self.top_p}, top_k={self.top_k}"
            )

    @property
    def greedy(self) -> bool:
        """Whether there is nothing to draw."""
        return self.temperature == 0.0

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., V) -> (..., V): the distribution that tokens are drawn from, at a temperature above 0."""
        # The likeliest token at zero: however small the temperature, nothing overflows.
        scaled = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        return filter_logits(scaled, top_k=self.top_k, top_p=self.top_p).softmax(-1)

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One token for each row: logits (B, V) -> (B,) int64."""
        if self.greedy:
            return logits.argmax(-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=generator)[:, 0]


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
