"""A schedule, not played but worked through: every device a process, every arrow a message.

``pipeline.simulate`` says what an order of work would cost; ``run_schedule`` does the work in that order, with any
schedule whatever, and comes to the gradients that one process would have found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minideepseek.parallel.pipeline import Schedule
from minideepseek.parallel.team import Team


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a process has of a run.

    loss: the mean over all micro-batches, the same in every process.
    kept: the most activations that this process had to keep at a time.
    """

    loss: float
    kept: int


def run_schedule(
    schedule: Schedule,
    stages: Mapping[int, nn.Module],
    inputs: Sequence[Tensor],
    loss: Callable[[Tensor, int], Tensor],
    *,
    between: Tensor,
) -> Run:
    """Forward and backward passes of a batch; gradients are added to the stages' parameters. All processes call it.

    Args:
        schedule: one process for each of its devices, in order of their ranks.
        stages: number -> module, of those that this device has (``schedule.stages_of``).
        inputs: what the first stage gets, for each micro-batch.
        loss: of what the last stage gives, and of which micro-batch it is.
        between: a tensor of the shape and type of what stages hand on.

    Raises:
        ValueError: the team has another size than the schedule, or a stage is missing.
    """
    team = Team.current()
    if team.size != len(schedule.devices):
        raise ValueError(f"{schedule.name} is for {len(schedule.devices)} processes, not {team.size}")
    missing = schedule.stages_of(team.rank) - set(stages)
    if missing:
        raise ValueError(f"process {team.rank} needs stages {sorted(missing)} for {schedule.name}")
    # Copies of a stage are added up, and what they had before is no part of that.
    parameters = [p for number in schedule.stages_of(team.rank) for p in stages[number].parameters()]
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    device = _Device(schedule, team.rank, stages, inputs, loss, between)
    for step in schedule.devices[team.rank]:
        for op in step:
            {"F": device.forward, "B": device.backward, "I": device.for_input, "W": device.for_weights}[op.kind](
                op.micro, op.stage
            )
    for sending in device.sending:
        sending.wait()
    _add_up_copies(schedule, team.rank, stages)
    for p, earlier in zip(parameters, before, strict=True):
        if earlier is not None:
            p.grad = earlier if p.grad is None else earlier + p.grad
    total = torch.tensor(device.total)
    team.total([total])
    return Run(loss=total.item(), kept=device.most)


@dataclass
class _Device:
    """The work of one device, and what it holds meanwhile."""

    schedule: Schedule
    rank: int
    stages: Mapping[int, nn.Module]
    inputs: Sequence[Tensor]
    loss: Callable[[Tensor, int], Tensor]
    between: Tensor
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)  # input and output of a stage
    grads: dict[tuple[int, int], Tensor | None] = field(default_factory=dict)  # of outputs, for weights that must wait
    at_home: dict[int, Tensor] = field(default_factory=dict)  # messages to ourselves, by their tags
    sending: list[Any] = field(default_factory=list)
    total: float = 0.0
    most: int = 0

    def __post_init__(self) -> None:
        self.owner = {
            (op.micro, op.stage): device
            for device, steps in enumerate(self.schedule.devices)
            for step in steps
            for op in step
        }

    def forward(self, micro: int, stage: int) -> None:
        if stage == 0:
            x = self.inputs[micro]
        else:
            x = self._receive(micro, stage - 1, backward=False).requires_grad_()
        y = self.stages[stage](x)
        if stage + 1 == self.schedule.stages:
            y = self.loss(y, micro) / self.schedule.micros
            self.total += y.item()
        else:
            self._send(y.detach(), micro, stage, to=stage + 1, backward=False)
        self.kept[micro, stage] = x, y
        self.most = max(self.most, len(self.kept))

    def backward(self, micro: int, stage: int) -> None:
        x, y = self.kept.pop((micro, stage))
        torch.autograd.backward(y, self._gradient(micro, stage))
        if stage:
            assert x.grad is not None
            self._send(x.grad, micro, stage, to=stage - 1, backward=True)

    def for_input(self, micro: int, stage: int) -> None:
        x, y = self.kept[micro, stage]
        grad = self.grads[micro, stage] = self._gradient(micro, stage)
        if stage:
            (dx,) = torch.autograd.grad(y, x, grad, retain_graph=True)
            self._send(dx, micro, stage, to=stage - 1, backward=True)

    def for_weights(self, micro: int, stage: int) -> None:
        _, y = self.kept.pop((micro, stage))
        parameters = [p for p in self.stages[stage].parameters() if p.requires_grad]
        grads = torch.autograd.grad(y, parameters, self.grads.pop((micro, stage)))
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def _gradient(self, micro: int, stage: int) -> Tensor | None:
        """Of what the stage gave; None for the loss itself."""
        return None if stage + 1 == self.schedule.stages else self._receive(micro, stage + 1, backward=True)

    def _tag(self, micro: int, stage: int, backward: bool) -> int:
        return 2 * (micro * self.schedule.stages + stage) + backward

    def _send(self, x: Tensor, micro: int, stage: int, *, to: int, backward: bool) -> None:
        tag, owner = self._tag(micro, stage, backward), self.owner[micro, to]
        if owner == self.rank:
            self.at_home[tag] = x
        else:
            self.sending.append(dist.isend(x.contiguous(), owner, tag=tag))

    def _receive(self, micro: int, stage: int, *, backward: bool) -> Tensor:
        tag, owner = self._tag(micro, stage, backward), self.owner[micro, stage]
        if owner == self.rank:
            return self.at_home.pop(tag)
        found = torch.empty_like(self.between)
        dist.recv(found, owner, tag=tag)
        return found


def _add_up_copies(schedule: Schedule, rank: int, stages: Mapping[int, nn.Module]) -> None:
    """Where two devices have the same stage, as in DualPipe, each has met half of the batch."""
    for stage in range(schedule.stages):
        owners = [device for device in range(len(schedule.devices)) if stage in schedule.stages_of(device)]
        if rank not in owners or len(owners) == 1:
            continue
        grads = [p.grad for p in stages[stage].parameters() if p.grad is not None]
        own = torch.cat([grad.flatten() for grad in grads])
        others = [torch.empty_like(own) for _ in owners[1:]]
        sending: list[Any] = [dist.isend(own, other) for other in owners if other != rank]
        for other, place in zip([owner for owner in owners if owner != rank], others, strict=True):
            dist.recv(place, other)
        for message in sending:
            message.wait()
        summed = own + sum(others)
        for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
