"""Processes that work together: what they add up, how tokens reach experts elsewhere, and what becomes of a failure."""

import multiprocessing
import os
import socket
import sys

import pytest
import torch
from torch import Tensor

from minideepseek import UserError, ops
from minideepseek.parallel.experts import parallel_experts, shard
from minideepseek.parallel.team import Team, joined, together


def arithmetic() -> tuple[list[Tensor], Team]:
    team = Team.current()
    mine = [torch.full((2, 3), 1.0 + team.rank), torch.tensor([10**12 + team.rank]), torch.tensor(5.0 + team.rank)]
    team.total(mine)
    means = [torch.tensor([1.0, 3.0]) * team.rank, torch.zeros(())]
    team.average(means)
    shared = torch.tensor([7.0 - team.rank])
    team.share([shared])
    team.wait()
    return [*mine, *means, shared], team


def test_what_a_team_adds_up_every_process_has() -> None:
    results = together(arithmetic, 2)
    assert [team for _, team in results] == [Team(rank=0, size=2), Team(rank=1, size=2)]
    for found, _ in results:
        assert torch.equal(found[0], torch.full((2, 3), 3.0))
        assert found[1].item() == 2 * 10**12 + 1  # counts stay exact
        assert found[2].item() == 11.0
        assert torch.equal(found[3], torch.tensor([0.5, 1.5]))
        assert found[5].item() == 7.0


def test_alone_there_is_nothing_to_add() -> None:
    team = Team.current()
    assert team == Team()
    ones = torch.ones(3)
    team.total([ones])
    team.average([ones])
    team.share([ones])
    team.wait()
    assert torch.equal(ones, torch.ones(3))
    with joined() as found:
        assert found == Team()


def as_torchrun_starts_them(port: int, place: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place)}
    with joined() as team:
        own = torch.tensor([10.0**team.rank])
        team.total([own])
        largest = team.largest(team.rank + 5)
    os._exit(0 if (team.size, team.rank, own.item(), largest) == (2, place, 11.0, 6) else 1)


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="forks of a process without a GPU")
def test_processes_of_torchrun_find_each_other() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=as_torchrun_starts_them, args=(port, place)) for place in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]


def fails_on_the_second() -> None:
    team = Team.current()
    if team.rank == 1:
        raise UserError("the second is tired")
    team.wait()


def test_a_failure_ends_all_and_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed:(.|\n)*the second is tired"):
        together(fails_on_the_second, 2)


def dies() -> None:
    os._exit(3)


@pytest.mark.skipif(sys.platform != "linux", reason="starting processes anew takes too long elsewhere")
def test_a_death_without_words_is_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"processes \[.*\] of 2 died with exit codes \[3"):
        together(dies, 2)


TOKENS, WIDTH, HIDDEN, EXPERTS = 11, 8, 6, 6


def problem() -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    x, gate_up, down, weights, grad = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in (
            (TOKENS, WIDTH),
            (EXPERTS, 2 * HIDDEN, WIDTH),
            (EXPERTS, WIDTH, HIDDEN),
            (TOKENS, 2),
            (TOKENS, WIDTH),
        )
    )
    indices = torch.stack(
        [torch.randperm(EXPERTS - 1, generator=draw)[:2] for _ in range(TOKENS)]
    )  # nobody asks the last
    indices[:4] = torch.tensor([0, 1])  # the first process keeps these tokens to itself
    return x, gate_up, down, indices, weights, grad


def distributed(sizes: list[int], limit: float | None) -> list[Tensor]:
    team = Team.current()
    x, gate_up, down, indices, weights, grad = problem()
    mine, theirs = (tensor.split(sizes)[team.rank] for tensor in (x, weights))
    own = [tensor.clone().requires_grad_() for tensor in (mine, theirs)]
    experts = [shard(tensor, team.rank, team.size).clone().requires_grad_() for tensor in (gate_up, down)]
    y = parallel_experts(own[0], *experts, indices.split(sizes)[team.rank], own[1], limit)
    grads = torch.autograd.grad(y, [*own, *experts], grad.split(sizes)[team.rank])
    return [y.detach(), *grads]


@pytest.mark.parametrize(("sizes", "limit"), [([4, 7], None), ([11, 0], 0.5), ([3, 4, 4], None)])
def test_experts_elsewhere_are_experts_like_any_other(sizes: list[int], limit: float | None) -> None:
    """Outputs and all gradients, also where a process has no tokens or an expert no takers."""
    x, gate_up, down, indices, weights, grad = problem()
    leaves = [tensor.requires_grad_() for tensor in (x, weights, gate_up, down)]
    y = ops.experts(x, gate_up, down, indices, weights, limit)
    expected = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
    parts = together(distributed, len(sizes), sizes, limit)
    for n, whole in enumerate(expected):
        torch.testing.assert_close(torch.cat([part[n] for part in parts]), whole)


def test_experts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="6 experts do not divide among 4 processes"):
        shard(torch.zeros(6, 1), 0, 4)
