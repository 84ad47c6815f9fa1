"""Rotary position embedding: turn channel pairs by an angle that grows with the position (Su et al., arXiv 2104.09864).

A query at position t and a key at position j meet as a function of t - j only, because rotations compose.

Which two channels make a pair is a convention of the weights, not of the idea, and the family uses both:
``half_split`` pairs channel i with i + R/2 (LLaMA's layout in transformers, and V1's); ``adjacent`` pairs 2i with
2i + 1 (the paper's layout, and that of the V2 and V3 weights). A model trained from scratch does not care; a checkpoint
read with the wrong one produces fluent nonsense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.yarn import YaRN

Layout = Literal["half_split", "adjacent"]


@dataclass(frozen=True, kw_only=True)
class RoPE:
    """How queries and keys are told their position.

    Attributes:
        theta: base of the geometric series of frequencies; pair i turns by theta^(-2i/R) radians a token.
        layout: which channels form a pair.
        dim: number of leading channels R that turn; None turns all of them.
        yarn: how the frequencies are stretched for longer texts; None leaves them.
    """

    theta: float = 10_000.0
    layout: Layout = "half_split"
    dim: int | None = None
    yarn: YaRN | None = None

    def __post_init__(self) -> None:
        if self.theta <= 1:
            raise ValueError(f"theta={self.theta}: the base of the frequencies must be greater than 1")
        if self.layout not in ("half_split", "adjacent"):
            raise ValueError(f"layout={self.layout!r}: choose 'half_split' or 'adjacent'")
        if self.dim is not None and (self.dim < 2 or self.dim % 2):
            raise ValueError(f"dim={self.dim}: rotated channels come in pairs")

    def rotated(self, head_dim: int) -> int:
        """Number of channels that turn in a head of ``head_dim`` channels."""
        dim = head_dim if self.dim is None else self.dim
        if dim > head_dim or dim % 2:
            raise ValueError(f"cannot rotate {dim} channels in pairs in a head of {head_dim}")
        return dim

    def frequencies(self, dim: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
        """(R/2,) radians a token, fastest first."""
        exponents = torch.arange(0, dim, 2, dtype=dtype, device=device) / dim
        frequencies = 1.0 / self.theta**exponents
        return frequencies if self.yarn is None else self.yarn.stretch(frequencies, dim, self.theta)

    def tables(self, positions: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """positions (..., T) -> cos, sin, each (..., T, R/2).

        Angles are made in float32 at least: in bfloat16 positions above 256 would already collide.
        """
        angles = positions.to(dtype)[..., None] * self.frequencies(dim, dtype, positions.device)
        amplitude = 1.0 if self.yarn is None else self.yarn.amplitude
        return angles.cos() * amplitude, angles.sin() * amplitude

    def rotate(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, H, Dh) -> (B, T, H, Dh), each token turned to its position in ``ctx``."""
        dim = self.rotated(x.shape[-1])
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        cos, sin = ctx.once((self, dim, dtype), lambda: self.tables(ctx.positions, dim, dtype))
        if dim == x.shape[-1]:
            return ops.rope(x, cos, sin, self.layout)
        return torch.cat([ops.rope(x[..., :dim], cos, sin, self.layout), x[..., dim:]], dim=-1)
