"""Schedules that are really worked through: the gradients of one process, and no more kept than was foreseen."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from minideepseek.parallel.pipeline import Schedule, simulate
from minideepseek.parallel.run import Run, run_schedule
from minideepseek.parallel.schedules import dual_pipe, dual_pipe_v, gpipe, one_f_one_b, zero_bubble
from minideepseek.parallel.team import Team, together

WIDTH, STAGES, MICROS = 6, 4, 8
EARLIER = 0.5


class Stage(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(number)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=draw, dtype=torch.float64) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x @ self.weight)


def batch() -> tuple[list[Tensor], list[Tensor]]:
    draw = torch.Generator().manual_seed(9)
    x, target = (torch.randn(MICROS, 3, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2))
    return list(x), list(target)


def work(schedules: list[Schedule]) -> list[tuple[dict[int, Tensor], Run]]:
    inputs, targets = batch()
    found = []
    for schedule in schedules:
        stages = {number: Stage(number) for number in schedule.stages_of(Team.current().rank)}
        for stage in stages.values():  # of an earlier batch
            stage.weight.grad = torch.full_like(stage.weight, EARLIER)
        run = run_schedule(
            schedule, stages, inputs, lambda y, micro: (y - targets[micro]).square().mean(), between=inputs[0]
        )
        grads = {number: stage.weight.grad for number, stage in stages.items() if stage.weight.grad is not None}
        found.append((grads, run))
    return found


def alone() -> tuple[list[Tensor], float]:
    inputs, targets = batch()
    net = nn.Sequential(*(Stage(number) for number in range(STAGES)))
    loss = (net(torch.stack(inputs)) - torch.stack(targets)).square().mean()
    loss.backward()
    return [parameter.grad for parameter in net.parameters() if parameter.grad is not None], loss.item()


@pytest.mark.parametrize(
    ("processes", "makers"), [(4, [gpipe, one_f_one_b, zero_bubble, dual_pipe]), (2, [dual_pipe_v])]
)
def test_every_order_of_work_adds_the_same_gradients(
    processes: int, makers: list[Callable[[int, int], Schedule]]
) -> None:
    expected, loss = alone()
    schedules = [make(STAGES, MICROS) for make in makers]
    results = together(work, processes, schedules)
    for n, schedule in enumerate(schedules):
        timeline = simulate(schedule)
        for rank in range(processes):
            grads, run = results[rank][n]
            assert set(grads) == schedule.stages_of(rank)
            for stage, grad in grads.items():
                torch.testing.assert_close(grad, EARLIER + expected[stage])
            assert run.loss == pytest.approx(loss, rel=1e-6)
            assert run.kept == timeline.in_flight(rank)


def test_a_schedule_for_others_is_refused() -> None:
    inputs, _ = batch()
    with pytest.raises(ValueError, match="1F1B is for 2 processes, not 1"):
        run_schedule(one_f_one_b(2, 2), {}, inputs, lambda y, _: y.sum(), between=inputs[0])
    with pytest.raises(ValueError, match=r"process 0 needs stages \[0\] for GPipe"):
        run_schedule(gpipe(1, 2), {}, inputs, lambda y, _: y.sum(), between=inputs[0])
