"""Multi-token prediction: small modules in a chain, each of which looks one token further than the model.

Module k joins what the one before it knows at position i, h_i^(k-1), with the embedding of token i + k, runs one block,
and predicts token i + k + 1 with the model's own embedding and head (V3 report, section 2.2, eq. 21-25). The chain
stays causal, unlike the parallel heads of Gloeckle et al. (arXiv 2404.19737). In training the modules make the trunk
plan ahead; afterwards they are dropped, or they draft tokens for the model to check (``generate(speculative=True)``).

What is handed from one module to the next is what the head reads, after the norm. The report does not say on which
side of the norm its h stands; everything that runs the released weights takes this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.linear import Linear
from minideepseek.layers.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class MTP:
    """How far beyond the next token is predicted.

    Attributes:
        depth: modules in the chain, D.
        weight: lambda; each of the D losses counts lambda/D.
        late_weight: what lambda becomes towards the end of training; None leaves it.
        late: share of the training after which it does. V3: from 0.3 to 0.1 after 10 of 14.8 T tokens (section 4.2).
    """

    depth: int = 1
    weight: float = 0.3
    late_weight: float | None = None
    late: float = 10 / 14.8

    def __post_init__(self) -> None:
        if self.depth < 1 or self.weight < 0 or (self.late_weight is not None and self.late_weight < 0):
            raise ValueError(
                f"depth={self.depth} must be at least 1, weight={self.weight} and late_weight={self.late_weight} "
                f"must not be negative"
            )
        if not 0 <= self.late <= 1:
            raise ValueError(f"late={self.late} must be a share of the training, from 0 to 1")

    def weight_at(self, progress: float) -> float:
        """lambda when the share ``progress`` of the training is over."""
        return self.weight if self.late_weight is None or progress < self.late else self.late_weight

    def n_params(self, d_model: int, block: int) -> int:
        """Parameters of all modules, given those of a block without norms; embedding and head are the model's."""
        return self.depth * (2 * d_model * d_model + 5 * d_model + block)


class Predictor(nn.Module):
    """One module of the chain.

    Args:
        d_model: D.
        norm_eps: of its norms.
        block: the transformer block it runs, of the kind of the model's last.
    """

    def __init__(self, d_model: int, norm_eps: float, block: nn.Module) -> None:
        super().__init__()
        self.embed_norm = RMSNorm(d_model, norm_eps)
        self.hidden_norm = RMSNorm(d_model, norm_eps)
        self.join = Linear(2 * d_model, d_model)
        self.block = block
        self.norm = RMSNorm(d_model, norm_eps)  # before the shared head, as in the released weights

    def forward(self, hidden: Tensor, embedded: Tensor, ctx: Context) -> Tensor:
        """What the head reads (B, T, D), one token further: from what it read before, and the next tokens' embeddings.

        The report writes [hidden ; embedding]; the released weights stand in the other order, and so does this.
        """
        joined = self.join(torch.cat([self.embed_norm(embedded), self.hidden_norm(hidden)], dim=-1))
        return self.norm(self.block(joined, ctx))
