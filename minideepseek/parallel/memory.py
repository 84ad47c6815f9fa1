"""What a device must remember of a model that is divided among many, before a single activation.

Layers are cut into stages (pipeline parallelism), a layer's routed experts are dealt out (expert parallelism), and what
is then left on a device is there many times over, on devices that read other data (data parallelism). ZeRO-1
(Rajbhandari et al., arXiv 1910.02054) lets those share what only the optimiser needs. That DualPipe keeps every stage
twice costs V3 little, because experts, nearly all of its parameters, are dealt out so widely (report, section 3.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from minideepseek.accounting.counts import mtp_parameters, parameters
from minideepseek.layers.moe import MoE
from minideepseek.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a model is divided. The defaults are V3's (report, section 3.2).

    Attributes:
        devices: in all.
        stages: of the pipeline.
        expert_ways: devices among which a layer's routed experts are dealt out.
        copies: of every stage: 2 for DualPipe, 1 for other pipelines.
    """

    devices: int = 2048
    stages: int = 16
    expert_ways: int = 64
    copies: int = 2

    def __post_init__(self) -> None:
        if min(self.devices, self.stages, self.expert_ways, self.copies) < 1:
            raise ValueError(f"{self}: nothing less than 1 makes sense")
        if self.devices % (self.stages * self.expert_ways):
            raise ValueError(
                f"devices={self.devices} do not divide into {self.stages} stages of {self.expert_ways} devices each"
            )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one device, on average over stages.

    parameters: that it holds, copies counted.
    weights, gradients: bytes for them. optimizer: bytes of its share.
    """

    parameters: float
    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Bytes of all three."""
        return self.weights + self.gradients + self.optimizer


def memory(
    cfg: ModelConfig, division: Division, *, weight: float = 2, gradient: float = 4, optimizer: float = 8
) -> Memory:
    """Bytes of weights, gradients and optimiser on one device.

    Args:
        cfg: of the model; modules that predict further ahead are counted with it.
        division: among devices.
        weight: bytes of a weight that computes, bfloat16.
        gradient: bytes of a gradient, added up in float32 (V3 report, section 3.3.3).
        optimizer: bytes that it remembers of a parameter: float32 itself, two moments in bfloat16 (section 3.3.3). They
            are shared among all that hold the parameter.
    """
    everything = parameters(cfg) + mtp_parameters(cfg)
    ffns = [ffn for _, ffn in cfg.layers] + [cfg.layer_ahead[1]] * (0 if cfg.mtp is None else cfg.mtp.depth)
    routed = sum(3 * cfg.d_model * ffn.hidden * ffn.n_experts for ffn in ffns if isinstance(ffn, MoE))
    stage = (everything - routed) / division.stages + routed / division.stages / division.expert_ways
    held = division.copies * stage
    return Memory(
        parameters=held,
        weights=held * weight,
        gradients=held * gradient,
        optimizer=everything / division.devices * optimizer,
    )
