"""Keeping experts equally busy: losses that push (DeepSeekMoE, V2), and a bias that corrects without one (V3).

With E experts, K chosen for each of T tokens: f_i = E/(K·T) · (tokens that chose i), 1 when all are equally busy, a
count without gradient; P_i = mean over tokens of the affinity s_i, through which the gradient flows. The expert-level
loss is alpha · sum_i f_i · P_i (DeepSeekMoE report, eq. 12-14).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from minideepseek.layers.router import Routing, first_top_k

Over = Literal["batch", "sequence"]


class BalanceLoss(Protocol):
    """What a mixture's config lists under ``balance``."""

    def check(self, n_experts: int) -> None: ...
    def loss(self, routing: Routing, batch_size: int) -> Tensor: ...


def load(experts: Tensor, n_experts: int) -> Tensor:
    """(..., K) chosen experts -> (E,) int64: how many assignments each expert got."""
    return torch.bincount(experts.flatten(), minlength=n_experts)


def max_violation(counts: Tensor) -> Tensor:
    """MaxVio of loads (E,): (largest - mean) / mean, 0 when balanced (Wang et al., arXiv 2408.15664, section 4.1)."""
    counts = counts.double()
    return (counts.max() - counts.mean()) / counts.mean().clamp(min=1e-12)  # nothing counted, nothing violated


def load_variation(counts: Tensor) -> Tensor:
    """Coefficient of variation of loads (E,): standard deviation over mean."""
    counts = counts.double()
    return counts.std(unbiased=False) / counts.mean().clamp(min=1e-12)


def _check(alpha: float, over: str, n_experts: int = 0, devices: int = 1) -> None:
    """What all balance losses ask of their numbers."""
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha={alpha} must be zero or a positive number")
    if over not in ("batch", "sequence"):
        raise ValueError(f"over={over!r}: choose 'batch' or 'sequence'")
    if devices < 1 or n_experts % devices:
        raise ValueError(f"{n_experts} experts do not make {devices} equal groups, one a device")


def _frequency_and_affinity(routing: Routing, rows: int, *, share: bool) -> tuple[Tensor, Tensor]:
    """f and P, each (rows, E), over ``rows`` equal stretches of tokens; ``share`` divides affinities by their sum."""
    n_experts = routing.scores.shape[-1]
    experts = routing.experts.reshape(rows, -1)  # (rows, T·K)
    counts = torch.zeros(rows, n_experts, dtype=routing.scores.dtype, device=experts.device)
    counts.scatter_add_(1, experts, torch.ones_like(experts, dtype=counts.dtype))
    scores = routing.scores
    if share:
        scores = scores / scores.sum(-1, keepdim=True)
    return counts * (n_experts / experts.shape[1]), scores.view(rows, -1, n_experts).mean(1)


@dataclass(frozen=True, kw_only=True)
class ExpertBalance:
    """The expert-level loss (DeepSeekMoE report, eq. 12-14; V2 report, eq. 23-25; V3 report, eq. 17-20).

    Attributes:
        alpha: its weight: 0.001-0.01 (MoE), 0.003 (V2), 0.0001 (V3).
        over: average over the whole batch, or within each sequence as the released V2 and V3 do.
        share: use each affinity's share of the token's sum (V3, whose sigmoids do not sum to one).
    """

    alpha: float
    over: Over = "sequence"
    share: bool = False

    def __post_init__(self) -> None:
        _check(self.alpha, self.over)

    def check(self, n_experts: int) -> None:
        """Any number of experts can be balanced."""

    def loss(self, routing: Routing, batch_size: int) -> Tensor:
        """A scalar: alpha when perfectly balanced and affinities sum to one."""
        rows = batch_size if self.over == "sequence" else 1
        experts = routing.experts
        if self.share:
            # V3 counts the choice that the affinities alone would make (section 2.1.2): the bias is not to be judged.
            experts = first_top_k(routing.scores.detach(), experts.shape[-1])
        frequency, affinity = _frequency_and_affinity(routing._replace(experts=experts), rows, share=self.share)
        return self.alpha * (frequency * affinity).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class DeviceBalance:
    """The device-level loss: experts in equal groups, one a device (DeepSeekMoE report, eq. 15-17; V2, eq. 26-28).

    Attributes:
        alpha: its weight: 0.05 (MoE 145B, V2).
        devices: number of groups, D.
        over: as in ``ExpertBalance``.
    """

    alpha: float
    devices: int
    over: Over = "sequence"

    def __post_init__(self) -> None:
        _check(self.alpha, self.over, devices=self.devices)

    def check(self, n_experts: int) -> None:
        """Refuse experts that do not fill the devices equally."""
        _check(self.alpha, self.over, n_experts, self.devices)

    def loss(self, routing: Routing, batch_size: int) -> Tensor:
        """alpha · sum_j (mean of f in group j) · (sum of P in group j)."""
        rows = batch_size if self.over == "sequence" else 1
        frequency, affinity = _frequency_and_affinity(routing, rows, share=False)
        grouped = frequency.unflatten(-1, (self.devices, -1)).mean(-1)
        return self.alpha * (grouped * affinity.unflatten(-1, (self.devices, -1)).sum(-1)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class CommunicationBalance:
    """Every device should *receive* as many tokens (V2 report, eq. 29-31); what it sends is bounded by the routing.

    Attributes:
        alpha: its weight: 0.02 (V2).
        devices: D.
        limit: devices a token may use, M.
        over: as in ``ExpertBalance``.
    """

    alpha: float
    devices: int
    limit: int
    over: Over = "sequence"

    def __post_init__(self) -> None:
        _check(self.alpha, self.over, devices=self.devices)
        if not 1 <= self.limit <= self.devices:
            raise ValueError(f"a token may use 1 to devices={self.devices} devices, not limit={self.limit}")

    def check(self, n_experts: int) -> None:
        """Refuse experts that do not fill the devices equally."""
        _check(self.alpha, self.over, n_experts, self.devices)

    def loss(self, routing: Routing, batch_size: int) -> Tensor:
        """alpha · sum_j D/(M·T) · (tokens sent to device j) · (sum of P in group j)."""
        rows = batch_size if self.over == "sequence" else 1
        _, affinity = _frequency_and_affinity(routing, rows, share=False)
        size = routing.scores.shape[-1] // self.devices
        sent = torch.zeros(len(routing.experts), self.devices, dtype=affinity.dtype, device=affinity.device)
        sent.scatter_(1, routing.experts // size, 1.0)  # once for each device, however many experts there
        received = sent.view(rows, -1, self.devices).mean(1) * (self.devices / self.limit)
        return self.alpha * (received * affinity.unflatten(-1, (self.devices, -1)).sum(-1)).sum(-1).mean()


@dataclass(frozen=True, kw_only=True)
class LossFree:
    """Auxiliary-loss-free balancing: after each step the bias of busy experts goes down, of idle ones up.

    Wang et al., arXiv 2408.15664, algorithm 1; V3 report, section 2.1.2. The loads are those of the whole batch of the
    step that is over: a bias that followed the current text would tell the past about the future.

    Attributes:
        speed: gamma, the size of a correction: 0.001 (V3).
        until: share of the training after which the bias rests: 14.3 of 14.8 T tokens (V3, section 4.2).
    """

    speed: float = 0.001
    until: float = 14.3 / 14.8

    def __post_init__(self) -> None:
        if not 0 <= self.speed < math.inf or not 0 <= self.until <= 1:
            raise ValueError(f"speed={self.speed} must not be negative, until={self.until} a share of the training")

    def correct(self, bias: Tensor, counts: Tensor, progress: float) -> None:
        """Move ``bias`` (E,) in place by ±speed according to the loads (E,) of the step at ``progress`` in 0..1."""
        if progress <= self.until:
            counts = counts.to(bias.dtype)
            bias += self.speed * torch.sign(counts.mean() - counts)
