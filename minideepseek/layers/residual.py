"""The residual stream, plain: one vector a token, to which every sub-layer adds what it found (He et al., 1512.03385).

A block asks its residual for what a sub-layer reads (``enter``), hands over what came out (``between``, ``leave``), and
need not know how many streams there are (see ``layers.hyper``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minideepseek.layers.norm import RMSNorm


@dataclass(frozen=True, kw_only=True)
class Residual:
    """The plain residual connection. It has no parameters, so it is its own module."""

    def build(self, d_model: int, norm_eps: float, layer: int) -> Residual:
        """What a block uses."""
        return self

    def ends(self, d_model: int, norm_eps: float) -> Residual:
        """What stands before the first block and behind the last."""
        return self

    def n_params(self, d_model: int, n_layers: int) -> int:
        """Parameters of all layers and the ends."""
        return 0

    def flops(self, d_model: int, n_layers: int) -> int:
        """Forward FLOPs for one token, beyond the additions."""
        return 0

    def spread(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, D) -> what blocks hand on, here (B, T, D)."""
        return x

    def collapse(self, x: Tensor) -> Tensor:
        """What the last block hands on -> (B, T, D) for the last norm."""
        return x

    def handed(self, x: Tensor, read: Tensor) -> Tensor:
        """What modules that look ahead start from: of what the last block handed on, and what the head reads of it."""
        return read

    def enter(self, x: Tensor) -> tuple[Tensor, Any]:
        """What a block was handed -> what attention's norm reads (B, T, D), and what to keep until it is through."""
        return x, x

    def between(self, y: Tensor, kept: Any, norm: RMSNorm) -> tuple[Tensor, Any]:
        """Attention's output (B, T, D) -> what the feed-forward layer reads, normed (B, T, D), and what to keep."""
        return norm.add(y, kept)

    def leave(self, y: Tensor, kept: Any) -> Tensor:
        """The feed-forward layer's output (B, T, D) -> what is handed on."""
        return kept + y
