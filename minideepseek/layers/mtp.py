"""Multi-token prediction: small modules in a chain, each of which looks one token further than the model.

Module k joins what the one before it knows at position i, h_i^(k-1), with the embedding of token i + k, runs one block,
and predicts token i + k + 1 with the model's own embedding and head (V3 report, section 2.2, eq. 21-25). The chain
stays causal, unlike the parallel heads of Gloeckle et al. (arXiv 2404.19737). In training the modules make the trunk
plan ahead; afterwards they are dropped, or they draft tokens for the model to check (``generate(speculative=True)``).

What is handed from one module to the next is what the head reads, after the norm. The report does not say on which
side of the norm its h stands; everything that runs the released weights takes this one. In a model with residual
streams (``hyper``) it is the streams, which each module collapses and norms for the head itself (V4's released code).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.hyper import Ends
from minideepseek.layers.linear import Linear
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.residual import Residual
from minideepseek.layers.spec import AttentionSpec


@dataclass(frozen=True, kw_only=True)
class MTP:
    """How far beyond the next token is predicted.

    Attributes:
        depth: modules in the chain, D.
        weight: lambda; each of the D losses counts lambda/D.
        late_weight: what lambda becomes towards the end of training; None leaves it.
        late: share of the training after which it does. V3: from 0.3 to 0.1 after 10 of 14.8 T tokens (section 4.2).
        attention: of the modules' blocks; None takes that of the model's last layer. V4's see a sliding window only.
    """

    depth: int = 1
    weight: float = 0.3
    late_weight: float | None = None
    late: float = 10 / 14.8
    attention: AttentionSpec | None = None

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

    @staticmethod
    def build(d_model: int, norm_eps: float, block: nn.Module, ends: Residual | Ends) -> Predictor | StreamPredictor:
        """One module of the chain: ``block`` between ``ends``, those of the model's residual."""
        if isinstance(ends, Residual):
            return Predictor(d_model, norm_eps, block)
        return StreamPredictor(d_model, norm_eps, block, ends)


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
        self.join = Linear(2 * d_model, d_model, exact=True)
        self.block = block
        self.norm = RMSNorm(d_model, norm_eps)  # before the shared head, as in the released weights

    def forward(self, hidden: Tensor, embedded: Tensor, ctx: Context) -> Tensor:
        """What the head reads (B, T, D), one token further: from what it read before, and the next tokens' embeddings.

        The report writes [hidden ; embedding]; the released weights stand in the other order, and so does this.
        """
        joined = self.join(torch.cat([self.embed_norm(embedded), self.hidden_norm(hidden)], dim=-1))
        return self.norm(self.block(joined, ctx))

    def read(self, handed: Tensor) -> Tensor:
        """What the head reads of what this module handed on: all of it."""
        return handed


class StreamPredictor(nn.Module):
    """One module of the chain in a model with residual streams (V4's released code).

    Args:
        d_model: D.
        norm_eps: of its norms.
        block: the transformer block it runs.
        ends: its own collapse of the streams, for the head.
    """

    def __init__(self, d_model: int, norm_eps: float, block: nn.Module, ends: Ends) -> None:
        super().__init__()
        self.embed_norm = RMSNorm(d_model, norm_eps)
        self.stream_norm = RMSNorm(d_model, norm_eps)
        self.from_embedding = Linear(d_model, d_model)
        self.from_stream = Linear(d_model, d_model)
        self.block = block
        self.ends = ends
        self.norm = RMSNorm(d_model, norm_eps)

    def forward(self, streams: Tensor, embedded: Tensor, ctx: Context) -> Tensor:
        """Streams (B, T, n, D) and the next tokens' embeddings (B, T, D) -> streams, one token further.

        The next token is told to every stream alike.
        """
        told = self.from_embedding(self.embed_norm(embedded))
        return self.block(told[..., None, :] + self.from_stream(self.stream_norm(streams)), ctx)

    def read(self, handed: Tensor) -> Tensor:
        """What the head reads (..., D) of the streams that this module handed on (..., n, D)."""
        return self.norm(self.ends.collapse(handed))


def chain_losses(
    predictors: nn.ModuleList,
    handed: Tensor,
    ids: Tensor,
    segments: Tensor | None,
    embed: nn.Module,
    head: Tensor,
    context: Callable[..., Context],
) -> Iterator[tuple[Tensor, Context]]:
    """The cross-entropy of each module that has something to predict, and the context its layers reported to.

    Module k predicts token i + k + 1 from what was handed on at i, which saw 0..i, and tokens i + 1..i + k.

    Args:
        predictors: the chain.
        handed: what the model handed on, (B, T - 1, D) or with streams.
        ids: (B, T).
        segments: (B, T) document numbers of a packed batch, or None.
        embed: the model's embedding.
        head: (V, D), the model's.
        context: makes the context of a pass over ids, as ``Transformer.context`` does.
    """
    modules: Any = predictors  # nn.Module's attributes are typed as Tensor | Module
    for k, predictor in enumerate(modules, 1):
        n = ids.shape[1] - 1 - k
        if n < 1:
            return
        targets = ids[:, k + 1 :]
        if segments is not None:
            targets = targets.masked_fill(segments[:, k + 1 :] != segments[:, :n], -100)
        own = context(ids[:, :n], segments=None if segments is None else segments[:, :n])
        handed = predictor(handed[:, :n], embed(ids[:, k : k + n]), own)
        hidden = predictor.read(handed)
        yield ops.linear_cross_entropy(hidden.flatten(0, 1), head, targets.flatten()), own
