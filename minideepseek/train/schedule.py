"""Learning-rate schedules: pure functions of how many updates have been made, out of how many.

V1 replaced the cosine by steps so that a run can be extended: up to the first drop nothing depends on how long the
run will be, so its checkpoint is exactly the beginning of any longer run (V1 report, arXiv 2401.02954, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

Shape = Callable[[int, int], float]

FLOOR = 0.1  # of the peak: where every decay ends


def multi_step(done: int, steps: int) -> float:
    """1 until 80 % of the steps, 0.316 until 90 %, then 0.1: two equal drops of sqrt(0.1)."""
    if done < steps * 8 // 10:
        return 1.0
    return 0.316 if done < steps * 9 // 10 else FLOOR


def cosine(done: int, steps: int) -> float:
    """Half a cosine from 1 down to 0.1: every value depends on the end (Loshchilov & Hutter, arXiv 1608.03983)."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done / max(1, steps)))


def warmup_stable_decay(done: int, steps: int) -> float:
    """1 until 80 % of the steps, then a straight line down to 0.1 (MiniCPM, arXiv 2404.06395, section 4)."""
    start = steps * 8 // 10
    return 1.0 if done < start else 1 - (1 - FLOOR) * (done - start + 1) / (steps - start)


def constant(done: int, steps: int) -> float:
    """1 throughout."""
    return 1.0


SCHEDULES: MappingProxyType[str, Shape] = MappingProxyType(
    {"multi-step": multi_step, "cosine": cosine, "wsd": warmup_stable_decay, "constant": constant}
)


def factor(schedule: str, done: int, *, steps: int, warmup: int) -> float:
    """What multiplies the peak learning rate in the update that follows ``done`` updates, out of ``steps``.

    The first ``warmup`` updates climb in a straight line, whatever the schedule.
    """
    climb = min(1.0, (done + 1) / warmup) if warmup else 1.0
    return climb * SCHEDULES[schedule](done, steps)


def shared_steps(schedule: str, *, steps: int) -> int:
    """How many updates of a run of ``steps`` are also the beginning of every longer run: its extension point."""
    match schedule:
        case "multi-step" | "wsd":
            return steps * 8 // 10
        case "constant":
            return steps
    return 0


def agree_until(schedule: str, *, steps: int, other: int, warmup: int) -> int:
    """How many updates runs of ``steps`` and of ``other`` steps have in common, learning rate for learning rate."""
    for done in range(min(steps, other)):
        mine = factor(schedule, done, steps=steps, warmup=warmup)
        if mine != factor(schedule, done, steps=other, warmup=warmup):
            return done
    return min(steps, other)
