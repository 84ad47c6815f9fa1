"""RMSNorm: divide by the root mean square, multiply by a learned gain (Zhang & Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minideepseek import ops


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) · weight, over the last axis; statistics in float32.

    Args:
        dim: size of the last axis, D.
        eps: inside the root, so that a row of zeros stays zero.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) -> (..., D), same dtype."""
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(norm(x + residual), x + residual)`` in one pass: where a block joins its residual stream."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)
