"""An indexer's queries and keys in eight bits, as the released code of V3.2 has them.

What layers multiply in eight bits while training is another matter: ``ops.products``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minideepseek.ops.backend import needs_grad
from minideepseek.ops.quantise import as_fp8, hadamard, straight_through


@dataclass(frozen=True, kw_only=True)
class FP8:
    """Simulates the arithmetic of the released inference code: queries and keys rotated, then rounded to E4M3.

    Attributes:
        rotate: by a Hadamard matrix first; products stay as they are, and outliers are shared out among channels.
        power_of_two: scales, one a vector, are powers of two.
    """

    rotate: bool = True
    power_of_two: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(..., d^I) -> the same, rounded; the gradient passes straight through the rounding."""
        x = hadamard(x) if self.rotate else x
        rounded = as_fp8(x, block=x.shape[-1], power_of_two=self.power_of_two)
        return straight_through(x, rounded) if needs_grad(x) else rounded
