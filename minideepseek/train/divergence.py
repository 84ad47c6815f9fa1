"""When to give up: a loss that is no number any more, or that has left everything learnt behind."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

LEAST_RISE = 2.0  # nats; between this and half of the first loss lies no accident of a single batch
MEMORY = 0.98  # of the running mean: about fifty steps
SHORT_MEMORY = 0.7  # about three steps, so that one odd batch does not stop a run


@dataclass
class Watch:
    """Follows the loss of a run and says when it is beyond hope.

    A run has diverged when its loss, over about three steps, stands above the running mean of about fifty by more
    than half of the very first loss (and by more than 2 nats): more than half of what can be learnt is lost.
    """

    first: float = math.nan
    mean: float = math.nan
    recent: float = math.nan

    def verdict(self, loss: float, grad_norm: float) -> str | None:
        """Why the run must stop, or None. To be asked once a step."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        if math.isnan(self.first):
            self.first = self.mean = self.recent = loss
        self.recent += (1 - SHORT_MEMORY) * (loss - self.recent)
        rise = self.recent - self.mean
        if rise > max(LEAST_RISE, self.first / 2):
            return f"the loss has risen to {self.recent:.3g}, far above its running mean of {self.mean:.3g}"
        self.mean += (1 - MEMORY) * (loss - self.mean)
        return None

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint."""
        for field in fields(self):
            setattr(self, field.name, float(state[field.name]))
