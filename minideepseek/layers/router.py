"""Routing: which experts a token goes to, and with what weight.

A router is one matrix whose rows stand for the experts. Everything after the product is arithmetic on N_r numbers a
token, done in float32: an affinity function, a choice of K_r experts (perhaps only inside the best groups), weights.
What chooses and what weighs may differ: V3's bias takes part in the choice and never in the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context

Affinity = Literal["softmax", "sigmoid", "sqrt-softplus"]
AFFINITIES: dict[Affinity, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrt-softplus": lambda logits: F.softplus(logits).sqrt(),
}


class Routing(NamedTuple):
    """Where N tokens go.

    experts: (N, K) int64, best first; of equal scores the smaller index comes first.
    weights: (N, K) float32, what the experts' outputs are multiplied by.
    scores: (N, E) float32 affinities without bias, for the balance losses.
    """

    experts: Tensor
    weights: Tensor
    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Experts live on devices; a token may only go to some of them.

    Attributes:
        n: number of groups; expert e is in group e // (E / n).
        limit: groups a token may use, M.
        judged_by: how many of a group's best experts stand for it: 1 takes the maximum (V2, section 2.2.1), 2 the sum
            of the top two (V3, section 2.1.2, where K/M = 2).
    """

    n: int
    limit: int
    judged_by: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= self.n or self.judged_by < 1:
            raise ValueError(f"a token may use 1 to n={self.n} groups, not limit={self.limit}")


@dataclass(frozen=True, kw_only=True)
class TopK:
    """How experts are chosen.

    Attributes:
        k: experts for each token, K_r.
        affinity: what turns the product into a score: softmax over the experts (DeepSeekMoE, V2), the sigmoid of each
            by itself (V3), or sqrt(softplus), which does not saturate (V4, section 2.1).
        groups: only the best groups take part; None lets all.
        normalise: weights are divided by their sum (V3, V4).
        scale: multiplies the weights.
        bias: keep a correction for each expert, added to the scores for the choice alone (V3, eq. 16).
    """

    k: int
    affinity: Affinity = "softmax"
    groups: Groups | None = None
    normalise: bool = False
    scale: float = 1.0
    bias: bool = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: a token needs at least one expert")
        if self.affinity not in AFFINITIES:
            raise ValueError(f"affinity={self.affinity!r}: choose {', '.join(map(repr, AFFINITIES))}")

    def check(self, n_experts: int) -> None:
        """Refuse numbers that do not fit together.

        Raises:
            ValueError: more experts wanted than there are, or groups that do not divide them.
        """
        reachable = n_experts
        if self.groups is not None:
            if n_experts % self.groups.n or n_experts // self.groups.n < self.groups.judged_by:
                raise ValueError(f"{n_experts} experts do not make {self.groups.n} equal groups that can be judged")
            reachable = n_experts // self.groups.n * self.groups.limit
        if self.k > reachable:
            raise ValueError(f"k={self.k} experts are wanted, but only {reachable} can be reached")

    def build(self, d_model: int, n_experts: int, layer: int, vocab_size: int) -> Router:
        """The module for one layer; neither its number nor the vocabulary matters here."""
        return Router(self, d_model, n_experts)

    def route(self, logits: Tensor, bias: Tensor | None = None) -> Routing:
        """logits (N, E) float32, bias (E,) -> who goes where."""
        scores = AFFINITIES[self.affinity](logits)
        choice = scores.detach() if bias is None else scores.detach() + bias
        among = self.groups or Groups(n=1, limit=1)
        how = {"groups": among.n, "limit": among.limit, "judged_by": among.judged_by}
        experts = ops.choose_experts(choice, self.k, **how)
        return Routing(experts, self.weigh(scores, experts), scores)

    def score(self, x: Tensor, weight: Tensor) -> Tensor:
        """Affinities (N, E) of tokens x (N, D) with experts of rows (E, D), in float32 at least."""
        return AFFINITIES[self.affinity](_logits(x, weight))

    def weigh(self, scores: Tensor, experts: Tensor) -> Tensor:
        """What the outputs of the chosen experts (N, K) are multiplied by, given affinities (N, E)."""
        weights = scores.gather(1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self.scale


def _logits(x: Tensor, weight: Tensor) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(wide) @ weight.to(wide).T


def first_top_k(scores: Tensor, k: int) -> Tensor:
    """Indices (N, k) of the k largest in each row, best first; ties go to the smaller index, on every device."""
    return ops.choose_experts(scores, k)


class Router(nn.Module):
    """The module of a ``TopK`` config.

    Attributes:
        weight: (E, D), one row an expert.
        bias: (E,) float32 buffer where the config keeps one; moved by ``balance.LossFree``, never by a gradient.
    """

    bias: Tensor | None

    def __init__(self, cfg: TopK, d_model: int, n_experts: int) -> None:
        super().__init__()
        cfg.check(n_experts)
        self.cfg = cfg
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        nn.init.normal_(self.weight, std=d_model**-0.5)
        self.register_buffer("bias", torch.zeros(n_experts, dtype=torch.float32) if cfg.bias else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        # A model turned to bfloat16 keeps its corrections: steps of 0.001 would be lost in its 8 bits.
        before = self.bias
        super()._apply(fn, recurse)
        if before is not None and self.bias is not None and self.bias.dtype.itemsize < 4:
            self.bias = before.to(self.bias.device)
        return self

    def forward(self, x: Tensor, ctx: Context | None) -> Routing:
        """x: (N, D) -> where each token goes. A mixture may stand alone, without a context."""
        routes = None if ctx is None else ctx.routes
        if routes is not None and routes.given:
            scores = self.cfg.score(x, self.weight)
            experts = routes.take(len(x))
            return Routing(experts, self.cfg.weigh(scores, experts), scores)
        routing = self.cfg.route(_logits(x, self.weight), self.bias)
        if routes is not None:
            routes.note(routing.experts)
        return routing
