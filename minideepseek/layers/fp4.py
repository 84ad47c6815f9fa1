"""Training that knows it will be rounded: forward in FP4, backward as if nothing had happened.

A model that is rounded after training loses what its weights had not been prepared for. If the forward pass already
rounds, and the gradient is handed through to the unrounded weights (``ops.quantise.straight_through``), they move until
their rounded copies do the work. V4 trains its experts and indexers so in its last stages (report, section 5.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minideepseek.ops.backend import needs_grad
from minideepseek.ops.mxfp4 import BLOCK, as_fp4
from minideepseek.ops.quantise import hadamard, straight_through


@dataclass(frozen=True, kw_only=True)
class FP4:
    """Simulates MXFP4 (``ops.mxfp4``), for the weights of experts or for an indexer's queries and keys.

    Attributes:
        rotate: by a Hadamard matrix first; products of two that are rotated stay as they are, and outliers are shared
            out among channels. For queries and keys; weights are multiplied by what is not rotated.
        block: numbers that share a scale.
    """

    rotate: bool = False
    block: int = BLOCK

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"block={self.block} must be positive")

    def __call__(self, x: Tensor) -> Tensor:
        """(..., N) -> the same, rounded; the gradient passes straight through the rounding."""
        x = hadamard(x) if self.rotate else x
        rounded = as_fp4(x, block=self.block)
        return straight_through(x, rounded) if needs_grad(x) else rounded
