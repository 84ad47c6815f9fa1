"""SwiGLU: a feed-forward layer whose hidden units are gated by a second projection (Shazeer, arXiv 2002.05202)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.linear import Linear


@dataclass(frozen=True, kw_only=True)
class SwiGLU:
    """down(silu(gate(x)) · up(x)), three matrices, no biases.

    Attributes:
        hidden: inner width. V1 uses about 8/3 of the model width, which makes three matrices cost what two of
            four times the width would.
        limit: clamp what gate and up give, see ``ops.swiglu`` (V4: 10); None does not.
    """

    hidden: int
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden={self.hidden}: the inner width must be positive")
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit={self.limit} must be positive, or None")

    def build(self, d_model: int, layer: int, vocab_size: int = 0) -> FeedForward:
        """The module for one layer."""
        return FeedForward(self, d_model)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer."""
        return 3 * d_model * self.hidden

    def n_activated(self, d_model: int) -> int:
        """Parameters that one token touches: all of them."""
        return self.n_params(d_model)


class FeedForward(nn.Module):
    """The module of a ``SwiGLU`` config. Gate and up are one matrix: one product reads the input once."""

    def __init__(self, cfg: SwiGLU, d_model: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.gate_up = Linear(d_model, cfg.hidden, cfg.hidden)
        self.down = Linear(cfg.hidden, d_model)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D)."""
        return self.down(ops.swiglu(self.gate_up(x), self.cfg.limit))
