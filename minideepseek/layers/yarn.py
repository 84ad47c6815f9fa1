"""YaRN: read texts many times longer than the training ones, by stretching some rotations and not others.

Pairs that turn many times within the original length count neighbours and stay as they are; pairs that have not
finished one turn would meet angles never seen, so they are slowed by the whole factor; between the two a ramp blends
(Peng et al., arXiv 2309.00071; DeepSeek-V2 report, section 3.1.4; V3 report, section 4.3). Longer texts also flatten
the softmax, which a temperature puts right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class YaRN:
    """How rotary frequencies are stretched.

    Attributes:
        factor: new length over old, s.
        original_len: tokens the model was trained for before.
        beta_fast: pairs with at least this many turns in the original length are left alone (β).
        beta_slow: pairs with at most this many turns are slowed by ``factor`` (α).
        mscale: strength of the temperature 0.1·mscale·ln(s) + 1: V2 0.707, V3 1.
        mscale_all_dim: the same for channels that do not turn. The released models set both alike, so that cos and
            sin keep their length and the whole temperature sits in the scale of the softmax.
    """

    factor: float
    original_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.original_len < 1:
            raise ValueError(f"factor={self.factor} and original_len={self.original_len} must be at least 1")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow} must be positive and below beta_fast={self.beta_fast}")

    def ramp(self, dim: int, theta: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """(dim/2,) share of the slowing that each pair receives, from 0 (fast pairs) to 1 (slow pairs)."""
        low = max(math.floor(self._pair(self.beta_fast, dim, theta)), 0)
        high = min(math.ceil(self._pair(self.beta_slow, dim, theta)), dim - 1)
        pairs = torch.arange(dim // 2, dtype=dtype)
        return ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)

    def stretch(self, frequencies: Tensor, dim: int, theta: float) -> Tensor:
        """(dim/2,) radians a token -> the same, stretched."""
        ramp = self.ramp(dim, theta, frequencies.dtype).to(frequencies.device)
        return frequencies * (1 - ramp) + frequencies / self.factor * ramp

    @property
    def amplitude(self) -> float:
        """Length given to cos and sin."""
        return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)

    @property
    def softmax_scale(self) -> float:
        """Multiplies 1/sqrt(width) in the softmax: the temperature, once for the query and once for the key."""
        return self._temperature(self.mscale_all_dim) ** 2

    def _temperature(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0

    def _pair(self, turns: float, dim: int, theta: float) -> float:
        """Index (a fraction) of the pair that turns this often within the original length."""
        return dim * math.log(self.original_len / (turns * 2 * math.pi)) / (2 * math.log(theta))
