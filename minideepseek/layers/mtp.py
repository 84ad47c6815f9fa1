"""Multi-token prediction: small modules in a chain, each of which looks one token further than the model.

Module k joins what the one before it knows at position i, h_i^(k-1), with the embedding of token i + k, runs one block,
and predicts token i + k + 1 with the model's own embedding and head (V3 report, section 2.2, eq. 21-25). The chain
stays causal, unlike the parallel heads of Gloeckle et al. (arXiv 2404.19737). In training the modules make the trunk
plan ahead; afterwards they are dropped, or they draft tokens for the model to check (``generate(speculative=True)``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class MTP:
    """How far beyond the next token is predicted.

    Attributes:
        depth: modules in the chain, D.
        weight: lambda; each of the D losses counts lambda/D. V3: 0.3, and 0.1 for the last third of the tokens.
    """

    depth: int = 1
    weight: float = 0.3

    def __post_init__(self) -> None:
        if self.depth < 1 or self.weight < 0:
            raise ValueError(f"depth={self.depth} must be at least 1 and weight={self.weight} must not be negative")

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
        self.join = nn.Linear(2 * d_model, d_model, bias=False)
        self.block = block
        self.norm = RMSNorm(d_model, norm_eps)  # before the shared head, as in the released weights

    def forward(self, hidden: Tensor, embedded: Tensor, ctx: Context) -> Tensor:
        """Stream (B, T, D) of the module before, embeddings (B, T, D) of the tokens one further -> stream (B, T, D).

        The report writes [hidden ; embedding]; the released weights stand in the other order, and so does this.
        """
        joined = self.join(torch.cat([self.embed_norm(embedded), self.hidden_norm(hidden)], dim=-1))
        return self.block(joined, ctx)
