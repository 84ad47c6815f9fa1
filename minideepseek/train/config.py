"""How a model is trained: every number the loop needs, and nothing about the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from minideepseek.errors import UserError
from minideepseek.train.schedule import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run. The defaults suit the minis: v1-mini tells stories after a minute on two laptop cores."""

    steps: int = 300
    """Updates of the weights."""
    batch_size: int = 16
    """Sequences in an update."""
    seq_len: int = 128
    """Tokens in a sequence."""
    accumulation: int = 1
    """Pieces that a batch is cut into, one after the other, when it does not fit into memory at once."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The rule of the updates: AdamW for all weights, or Muon for matrices and AdamW for the rest, as in V4."""
    lr: float = 6e-3
    """Peak learning rate."""
    warmup: int = 20
    """Updates in which the learning rate climbs to its peak."""
    schedule: Literal["multi-step", "cosine", "wsd", "constant"] = "multi-step"
    """What the learning rate does after the climb: V1's steps at 80 and 90 %, cosine, warm-up-stable-decay, nothing."""
    anticipate: int = 0
    """Let experts be chosen by the weights of so many updates ago, as V4 does after a spike of the loss; 0 does not."""
    weight_decay: float = 0.1
    """Pull of every matrix (the embedding included) towards zero; gains of norms are left alone."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Memories of AdamW: of the gradient and of its square."""
    clip: float = 1.0
    """Gradients together are made no longer than this; 0 leaves them as they are."""
    dtype: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """Arithmetic of the passes; weights are kept in fp32. auto: bf16 where the processor multiplies it faster. fp8: as
    V3 was trained, simulated and therefore slower."""
    compile: bool = False
    """Use torch.compile: a minute or so of compiling, then quicker steps; plain where that is not possible."""
    device: str = "auto"
    """Where to train: cpu, cuda, cuda:1, ...; auto takes the first GPU, if there is one."""
    threads: int = 0
    """Processor threads; 0 looks how busy the machine is."""
    seed: int = 0
    """Of the initial weights and of the order of the data."""
    checkpoint_every: int = 100
    """Updates between checkpoints; 0 saves only where the run can be extended from, and at the end."""
    keep: int = 2
    """Checkpoints kept, the newest; the one the run can be extended from stays in addition."""
    eval_every: int = 100
    """Updates between looks at held-out text; 0 never looks."""
    eval_batches: int = 8
    """Batches of held-out text in a look."""
    tensorboard: bool = False
    """Write TensorBoard event files beside the metrics."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "accumulation", "keep", "eval_batches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("warmup", "threads", "checkpoint_every", "eval_every", "seed", "anticipate"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"lr={self.lr} must be positive; the minis like 1e-3 to 8e-3")
        for name in ("weight_decay", "clip"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UserError(f"{name}={getattr(self, name)} must be 0 or a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas={self.betas} must be two numbers from 0 up to, not including, 1")
        if self.optimizer not in ("adamw", "muon"):
            raise UserError(f"optimizer={self.optimizer!r} is unknown; choose adamw or muon")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule={self.schedule!r} is unknown; choose {', '.join(SCHEDULES)}")
        if self.dtype not in ("auto", "fp32", "bf16", "fp8"):
            raise UserError(f"dtype={self.dtype!r} is unknown; choose auto, fp32, bf16 or fp8")
        if self.anticipate and self.compile:
            raise UserError(f"anticipate={self.anticipate} hands choices to layers, which compile=True cannot follow")
        if self.batch_size % self.accumulation:
            raise UserError(f"batch_size={self.batch_size} cannot be cut into accumulation={self.accumulation} pieces")

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in an update."""
        return self.batch_size * self.seq_len
