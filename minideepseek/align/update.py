"""One update of the weights, which all methods of this room share.

The model stays in eval mode throughout. What layers add for pre-training (balance losses, corrections of routers,
tokens dropped for capacity, modules that look ahead, indexers that learn) rests, so that what is trained is exactly the
function that writes: a response's probability is the same when it is sampled and when it is learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from minideepseek.errors import UserError
from minideepseek.train.config import TrainConfig
from minideepseek.train.metrics import Record
from minideepseek.train.optimizer import adamw, set_lr
from minideepseek.train.schedule import SCHEDULES, factor

Schedule = Literal["multi-step", "cosine", "wsd", "constant"]


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """What every method needs to know about updates; each has defaults of its own."""

    steps: int = 100
    """Steps."""
    lr: float = 1e-4
    """Peak learning rate."""
    warmup: int = 0
    """Updates in which the learning rate climbs to its peak."""
    schedule: Schedule = "constant"
    """What the learning rate does after the climb."""
    weight_decay: float = 0.0
    """Pull of every matrix towards zero."""
    clip: float = 1.0
    """Gradients together are made no longer than this; 0 leaves them as they are."""
    seed: int = 0
    """Of everything random: the same seed gives the same numbers on the same machine."""
    checkpoint_every: int = 50
    """Steps between checkpoints, in a folder; 0 saves only when interrupted and at the end."""
    keep: int = 2
    """Checkpoints kept, the newest."""

    def __post_init__(self) -> None:
        self.require(1, "steps", "keep")
        self.require(0, "warmup", "weight_decay", "clip", "seed", "checkpoint_every")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"lr={self.lr} must be positive")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule={self.schedule!r} is unknown; choose {', '.join(SCHEDULES)}")

    def require(self, least: float, *names: str) -> None:
        """Refuse settings of these names below ``least``, or not finite."""
        for name in names:
            if not least <= getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least:g}")


class Updater:
    """AdamW over a model's weights, with the schedule and the clipping of an ``UpdateConfig``.

    Args:
        model: trained in place, from now on in eval mode.
        cfg: of the updates.
        updates: how many there will be; None is one a step.
    """

    def __init__(self, model: nn.Module, cfg: UpdateConfig, *, updates: int | None = None) -> None:
        self.cfg, self.updates, self.done = cfg, updates or cfg.steps, 0
        self.parameters = [p for p in model.eval().parameters() if p.requires_grad]
        self.optimizer = adamw(model, TrainConfig(lr=cfg.lr, weight_decay=cfg.weight_decay))

    def update(self, losses: Iterable[Tensor]) -> Record:
        """One update, against the gradient of the sum of ``losses``.

        Args:
            losses: scalars, each differentiated and forgotten before the next is asked for: a generator of them never
                holds more than one piece of a batch.

        Returns:
            ``loss``, the sum; ``lr``; and ``grad_norm``, before clipping.

        Raises:
            UserError: the loss or its gradient is no number any more.
        """
        lr = self.cfg.lr * factor(self.cfg.schedule, self.done, steps=self.updates, warmup=self.cfg.warmup)
        set_lr(self.optimizer, lr)
        self.optimizer.zero_grad()
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip or math.inf).item()
        if not math.isfinite(total + norm):
            raise UserError(
                f"training stopped at update {self.done + 1}: the loss is {total} and its gradient's norm {norm}; "
                f"a smaller lr than {self.cfg.lr:g} usually helps"
            )
        self.optimizer.step()
        self.done += 1
        return {"loss": total, "lr": lr, "grad_norm": norm}
