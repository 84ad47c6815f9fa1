"""How many threads, and the allocator."""

import subprocess
import sys

import pytest
import torch

from minideepseek.train import threads
from minideepseek.train.threads import choose_threads, keep_memory, prepare_cpu


def test_an_explicit_number_wins_however_busy_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "busy_cores", lambda: 100.0)
    assert choose_threads(3) == 3


@pytest.mark.parametrize(
    ("cores", "busy", "chosen"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 1.0, 1), (2, 7.5, 1), (8, 0.0, 8), (8, 5.0, 3), (1, 0.0, 1)],
)
def test_a_thread_for_each_free_core_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, busy: float, chosen: int
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    assert choose_threads() == chosen


def test_a_busy_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            assert threads._busy_now(0.5) > 0.3 or not sys.platform.startswith("linux")
        finally:
            busy.kill()


def test_omp_num_threads_is_a_limit() -> None:
    program = "from minideepseek.train.threads import usable_cores; print(usable_cores())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 1  # conftest.py sets OMP_NUM_THREADS=1, and children inherit it


def test_threads_are_given_back_after_the_block() -> None:
    before = torch.get_num_threads()
    with threads.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_preparing_sets_the_number_and_says_it() -> None:
    before = torch.get_num_threads()
    try:
        assert prepare_cpu(1) == 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_the_allocator_is_told_only_where_it_is_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert keep_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_the_allocator_keeps_large_blocks() -> None:
    """A freed block of 64 MB is used again in place, instead of fresh pages that fault one by one."""
    program = """
import resource, torch
from minideepseek.train.threads import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults(); kept = keep_memory(); faults(); print(kept, without, faults())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "True"
    assert int(found[2]) < int(found[1]) / 10
