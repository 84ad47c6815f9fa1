"""Token dropping: while training, a device does no more than its share of the work, and the weakest assignments fall.

DeepSeek-V2 (report, section 2.2.4): balance losses cannot promise an even load, so each device gets a budget of
assignments, and those with the lowest affinity there fall until it fits. The tokens of about a tenth of the sequences
never fall: so the model knows both ways, and inference is free not to drop. Outside of training nothing does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minideepseek.layers.router import Routing

PRIME = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How much a device takes on.

    Attributes:
        devices: equal groups of experts, one a device.
        factor: budget of a device over the mean load; V2: 1.0.
        spared: share of the sequences whose tokens never fall; V2: about 0.1.
    """

    devices: int
    factor: float = 1.0
    spared: float = 0.1

    def __post_init__(self) -> None:
        if self.devices < 1 or not self.factor > 0 or not 0 <= self.spared <= 1:
            raise ValueError(
                f"devices={self.devices} and factor={self.factor} must be positive, spared={self.spared} a share"
            )

    def check(self, n_experts: int) -> None:
        """Refuse experts that do not fill the devices equally."""
        if n_experts % self.devices:
            raise ValueError(f"{n_experts} experts do not make {self.devices} equal groups, one a device")

    def keep(self, routing: Routing, ids: Tensor) -> Tensor:
        """Which assignments stay.

        Args:
            routing: of the tokens, sequence by sequence.
            ids: (B, T) int64 of these tokens.

        Returns:
            (N, K) bool, N = B·T. Spared assignments count against their device's budget and stay beyond it.
        """
        n, k = routing.experts.shape
        budget = int(self.factor * n * k / self.devices)
        device = (routing.experts // (routing.scores.shape[1] // self.devices)).flatten()
        affinity = routing.scores.detach().gather(1, routing.experts).flatten()
        safe = self.spare(ids).repeat_interleave(n // len(ids) * k)
        # Stable sorts, the least important first: by affinity, the spared before the others, device by device.
        order = affinity.sort(descending=True, stable=True).indices
        order = order[safe[order].sort(descending=True, stable=True).indices]
        order = order[device[order].sort(stable=True).indices]
        load = torch.bincount(device, minlength=self.devices)
        begin = load.cumsum(0) - load
        rank = torch.empty_like(order)
        rank[order] = torch.arange(n * k, device=order.device) - begin[device[order]]
        return ((rank < budget) | safe).view(n, k)

    def spare(self, ids: Tensor) -> Tensor:
        """ids (B, T) -> (B,) bool: the sequences that are spared, told by their tokens, so that all layers agree."""
        factors = torch.arange(1, ids.shape[1] + 1, device=ids.device) * 40_503 % PRIME
        return ((ids + 1) * factors).sum(1) % PRIME < self.spared * PRIME
