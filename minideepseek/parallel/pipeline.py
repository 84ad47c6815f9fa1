"""A pipeline of devices as a discrete-event simulation: who waits for whom, and for how long.

The layers are cut into stages, one after the other on different devices; a batch is cut into micro-batches that follow
each other. A device can only do what its neighbours have sent it, and what it has to wait is the *bubble*. What decides
about it is the order in which each device works: a ``Schedule`` (``schedules`` has the known ones). ``simulate`` plays
it with given durations, and the ``Timeline`` that comes out is where every number is read off: none is put in.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]
KINDS: tuple[Kind, ...] = ("F", "B", "I", "W")


class Op(NamedTuple):
    """What one stage does for one micro-batch.

    kind: F forward; B the whole backward pass, or its two parts: I the gradient of the stage's input, for which the
    stage before is waiting, and W that of its weights, for which nobody is (Qi et al., arXiv 2401.10241).
    micro: number of the micro-batch. stage: number of the stage.
    """

    kind: Kind
    micro: int
    stage: int


Step = tuple[Op, ...]
"""What a device does at a time: one thing, or a forward and a backward pass side by side (V3 report, section 3.2.1)."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """In which order each device works.

    Attributes:
        name: for people.
        stages: that a micro-batch passes.
        micros: micro-batches of a batch.
        devices: the steps of each device, first to last.
    """

    name: str
    stages: int
    micros: int
    devices: tuple[tuple[Step, ...], ...]

    def stages_of(self, device: int) -> set[int]:
        """The stages whose parameters a device must have."""
        return {op.stage for step in self.devices[device] for op in step}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """How long things take, in any unit; sending takes no time.

    Attributes:
        forward: of one stage and micro-batch, F.
        backward: all of it, B.
        weight: the part of it that weights need, W.
        pair: a forward and a backward pass side by side, F&B; None: as long as one after the other. It is less if the
            communication of each is hidden behind the computation of the other.
    """

    forward: float = 1
    backward: float = 2
    weight: float = 1
    pair: float | None = None

    def __post_init__(self) -> None:
        if not (self.forward > 0 and 0 < self.weight < self.backward):
            raise ValueError(
                f"forward={self.forward} must be positive, and weight={self.weight} a part of backward={self.backward}"
            )
        if self.pair is not None and self.pair <= 0:
            raise ValueError(f"pair={self.pair} must take some time")

    def of(self, step: Step) -> float:
        """How long a step takes."""
        alone = {"F": self.forward, "B": self.backward, "I": self.backward - self.weight, "W": self.weight}
        if len(step) > 1 and self.pair is not None:
            return self.pair
        return sum(alone[op.kind] for op in step)


class Slot(NamedTuple):
    """A step, and when its device is busy with it."""

    device: int
    step: Step
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What became of a schedule.

    Attributes:
        schedule: that was played.
        slots: every step of every device, in the order of their starts.
    """

    schedule: Schedule
    slots: tuple[Slot, ...]

    @property
    def length(self) -> float:
        """From the first start to the last end."""
        return max(slot.end for slot in self.slots)

    def of(self, device: int) -> list[Slot]:
        """The slots of one device."""
        return [slot for slot in self.slots if slot.device == device]

    def bubble(self, device: int) -> float:
        """How long a device is idle."""
        return self.length - sum(slot.end - slot.start for slot in self.of(device))

    def in_flight(self, device: int) -> int:
        """The most activations, one for a stage and a micro-batch, that a device must keep at a time.

        They are there from the start of the forward pass until the gradient of the weights is made.
        """
        moments: list[tuple[float, int]] = []
        for slot in self.of(device):
            moments += [(slot.start, 1) for op in slot.step if op.kind == "F"]
            moments += [(slot.end, -1) for op in slot.step if op.kind in "BW"]
        kept = most = 0
        for _, change in sorted(moments):  # of what happens at once, what is freed goes first
            kept += change
            most = max(most, kept)
        return most


def needs(op: Op, stages: int) -> list[tuple[Op, ...]]:
    """What must be done before ``op``: of each tuple, one."""
    kind, micro, stage = op
    if kind == "W":
        return [(Op("I", micro, stage),)]
    if kind == "F":
        return [(Op("F", micro, stage - 1),)] if stage else []
    after = [(Op("B", micro, stage + 1), Op("I", micro, stage + 1))] if stage + 1 < stages else []
    return [(Op("F", micro, stage),), *after]


def simulate(schedule: Schedule, costs: Costs | None = None) -> Timeline:
    """Let every device work through its steps in order, each as soon as what it needs is there.

    Raises:
        ValueError: devices wait for each other for ever.
    """
    costs = costs or Costs()
    done: dict[Op, float] = {}
    free = [0.0] * len(schedule.devices)
    place = [0] * len(schedule.devices)
    slots: list[Slot] = []
    moved = True
    while moved:
        moved = False
        for device, steps in enumerate(schedule.devices):
            while place[device] < len(steps):
                step = steps[place[device]]
                ready = _ready(step, done, schedule.stages)
                if ready is None:
                    break
                start = max(free[device], ready)
                end = free[device] = start + costs.of(step)
                slots.append(Slot(device, step, start, end))
                done |= dict.fromkeys(step, end)
                place[device] += 1
                moved = True
    stuck = [device for device, steps in enumerate(schedule.devices) if place[device] < len(steps)]
    if stuck:
        step = schedule.devices[stuck[0]][place[stuck[0]]]
        raise ValueError(f"{schedule.name}: device {stuck[0]} waits for ever to begin {describe(step)}")
    return Timeline(schedule=schedule, slots=tuple(sorted(slots, key=lambda slot: (slot.start, slot.device))))


def _ready(step: Step, done: dict[Op, float], stages: int) -> float | None:
    """When everything that a step needs is there; None if that is not known yet."""
    moment = 0.0
    for op in step:
        for choice in needs(op, stages):
            found = [done[other] for other in choice if other in done]
            if not found:
                return None
            moment = max(moment, *found)
    return moment


def describe(step: Step) -> str:
    """``F3 at stage 2 with B1 at stage 5``: a step for people."""
    return " with ".join(f"{op.kind}{op.micro} at stage {op.stage}" for op in step)


def check(timeline: Timeline) -> None:
    """Refuse what no pipeline could do. It believes nothing but the slots, wherever they come from.

    Raises:
        ValueError: something is missing, done twice, split between devices or in two at a time, or done before what it
            needs. The message names the first thing found.
    """
    schedule = timeline.schedule
    where: dict[Op, Slot] = {}
    for slot in timeline.slots:
        kinds = [op.kind for op in slot.step]
        if len(kinds) != 1 and sorted(kinds) != ["B", "F"]:
            raise ValueError(f"{describe(slot.step)}: only a forward and a whole backward pass go side by side")
        for op in slot.step:
            if op in where:
                raise ValueError(f"{describe((op,))} is done twice")
            where[op] = slot
    for micro in range(schedule.micros):
        for stage in range(schedule.stages):
            found = [op for kind in KINDS if (op := Op(kind, micro, stage)) in where]
            if [op.kind for op in found] not in (["F", "B"], ["F", "I", "W"]):
                raise ValueError(
                    f"micro-batch {micro} at stage {stage}: F and B, or F, I and W, are due, not "
                    f"{', '.join(op.kind for op in found) or 'nothing'}"
                )
            if len({where[op].device for op in found}) > 1:
                raise ValueError(f"micro-batch {micro} leaves its activations of stage {stage} on another device")
    for op, slot in where.items():
        if not (0 <= op.micro < schedule.micros and 0 <= op.stage < schedule.stages):
            raise ValueError(f"{describe((op,))}: there is no such micro-batch or stage")
        for choice in needs(op, schedule.stages):
            if not any(where[other].end <= slot.start for other in choice if other in where):
                raise ValueError(f"{describe((op,))} begins before {describe(choice[:1])} is done")
    for device in range(len(schedule.devices)):
        slots = sorted(timeline.of(device), key=lambda slot: slot.start)
        for first, second in pairwise(slots):
            if second.start < first.end:
                raise ValueError(f"device {device} does {describe(first.step)} and {describe(second.step)} at a time")
