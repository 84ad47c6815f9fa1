"""Hash routing: which experts a token goes to is written in a table, by its id, and never learnt.

Roller et al. (arXiv 2106.04426) route every token by a fixed hash of its id. DeepSeek-V4 does so in its first layers
(report, section 2.1), where the hidden state says little more than the id: the load is even from the first step on, and
no router has to settle. *How much* each of the chosen experts counts is still learnt, by affinities as in any layer.

How V4's tables were made is not published. Ours are dealt like cards: tokens in the order of their frequency, in rounds
of E. In each round expert number p + s_j (mod E) is the j-th of the token at place p, for K different shifts s_j that
are drawn anew for each round and layer. So a token's experts are different ones, in every round every expert gets K
tokens of about the same frequency, and tokens that share their experts in one layer part in the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.router import Routing, TopK


@dataclass(frozen=True, kw_only=True)
class HashRouting:
    """Experts by a table, weights by affinity.

    Attributes:
        gate: how many experts, and how much each counts. Its choice is the table's, so it has no groups and no bias.
    """

    gate: TopK
    bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.gate.bias or self.gate.groups is not None:
            raise ValueError("gate.bias and gate.groups move a choice, and hash routing has none: leave them out")

    @property
    def k(self) -> int:
        """Experts for each token, K_r."""
        return self.gate.k

    def check(self, n_experts: int) -> None:
        """Refuse more experts for a token than there are."""
        self.gate.check(n_experts)

    def build(self, d_model: int, n_experts: int, layer: int, vocab_size: int) -> HashRouter:
        """The module for layer number ``layer`` of a model with ``vocab_size`` tokens."""
        return HashRouter(self, d_model, n_experts, layer, vocab_size)


def deal(frequency: Tensor, n_experts: int, k: int, layer: int) -> Tensor:
    """The experts of each token: (V, K) int64, different ones in each row.

    Args:
        frequency: (V,) how often each token occurs; of equals the smaller id is dealt first.
        n_experts: E.
        k: K.
        layer: number of the layer; each deals otherwise.
    """
    generator = torch.Generator().manual_seed(layer)
    order = frequency.cpu().sort(descending=True, stable=True).indices
    rounds = -(-len(order) // n_experts)
    shifts = torch.rand(rounds, n_experts, generator=generator, device="cpu").argsort(-1)[:, :k]
    place = torch.arange(len(order), device="cpu")
    table = torch.empty(len(order), k, dtype=torch.int64, device="cpu")
    table[order] = (place[:, None] + shifts[place // n_experts]) % n_experts
    return table


class HashRouter(nn.Module):
    """The module of a ``HashRouting`` config.

    Attributes:
        weight: (E, D), one row an expert.
        table: (V, K) int64 buffer, the experts of each token; part of a checkpoint.
    """

    table: Tensor

    def __init__(self, cfg: HashRouting, d_model: int, n_experts: int, layer: int, vocab_size: int) -> None:
        super().__init__()
        cfg.check(n_experts)
        if vocab_size < 1:
            raise ValueError(f"vocab_size={vocab_size}: a table of experts needs to know how many tokens there are")
        self.cfg, self.layer = cfg, layer
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        nn.init.normal_(self.weight, std=d_model**-0.5)
        self.register_buffer("table", torch.empty(vocab_size, cfg.k, dtype=torch.int64))
        self.initialise_own()

    def initialise_own(self) -> None:
        """As if ids were in the order of frequency, as a tokenizer that merges the most frequent pairs makes them."""
        self.follow(torch.zeros(len(self.table), device="cpu"))

    def follow(self, frequency: Tensor) -> None:
        """Deal anew, by how often each token occurs (V,). Before training only: what was learnt stays where it is."""
        if frequency.shape != self.table.shape[:1]:
            raise ValueError(f"frequencies of {len(frequency)} tokens, and the table has {len(self.table)}")
        self.table.copy_(deal(frequency, len(self.weight), self.cfg.k, self.layer))

    def fits(self) -> bool:
        """Whether the table names only experts that there are."""
        return bool(((self.table >= 0) & (self.table < len(self.weight))).all())

    def forward(self, x: Tensor, ctx: Context) -> Routing:
        """x: (N, D), the tokens of ``ctx.ids`` one after the other -> where each goes."""
        gate = self.cfg.gate
        scores = gate.score(x, self.weight)
        experts = self.table[ctx.ids.flatten()]
        return Routing(experts, gate.weigh(scores, experts), scores)
