"""How many processor threads to use, and memory that is not given back after every operation.

Two threads on two free cores are nearly twice as quick as one. On two *busy* cores they are many times slower: each
operation ends with a barrier, and a thread that has lost its core to another process lets the other one spin. So a
thread is worth having only on a core that is free.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch


def usable_cores() -> int:
    """Cores that this process may use: what the system, a container's quota or OMP_NUM_THREADS allow it."""
    # sched_getaffinity knows about taskset and cpusets; only Linux has it.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    # PyTorch starts with one thread a physical core, or with OMP_NUM_THREADS; hyper-threads gain nothing in products.
    return max(1, min(cores, _initial_threads))


def busy_cores() -> float:
    """Cores' worth of work that others are doing: now, or over the last minute if that was more.

    The larger counts because the mistakes differ: a thread too few costs a half, a thread too many ten times that.
    """
    return max(_busy_now(), _busy_lately())


def choose_threads(wish: int = 0) -> int:
    """``wish`` if it is given, else one thread for each core that is free, and always at least one."""
    if wish:
        return wish
    cores = usable_cores()
    return max(1, min(cores, math.floor(cores - busy_cores() + 0.5)))


def explain_threads() -> str:
    """One line for ``doctor``: what would be chosen now, and why."""
    return f"{choose_threads()} of {usable_cores()} cores ({busy_cores():.1f} busy with other work)"


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> bool:
    """Tell glibc's allocator to keep large blocks for the next use; False where there is another allocator.

    Left alone it fetches every tensor beyond 128 KiB (later 32 MiB) from the system page by page and gives it back a
    moment later; zeroing fresh pages then costs as much as small operations themselves. The process's memory stays at
    its peak in exchange.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    settings = {mmap_threshold: 1 << 30, trim_threshold: (1 << 31) - 1, top_pad: 64 << 20}
    accepted = [mallopt(key, value) for key, value in settings.items()]
    return all(accepted)


def prepare_cpu(wish: int = 0) -> int:
    """Set this process up for quick work on the CPU, once, at the start of a program or a lesson: both of the above.

    Args:
        wish: number of threads; 0 looks how busy the machine is.

    Returns:
        The number of threads that PyTorch uses from now on.
    """
    keep_memory()
    n = choose_threads(wish)
    torch.set_num_threads(n)
    return n


def _busy_now(seconds: float = 0.2) -> float:
    """Cores that are not idle while this process sleeps; 0 where the system does not say."""
    try:
        before = _idle_and_total()
        time.sleep(seconds)
        idle, total = (after - start for after, start in zip(_idle_and_total(), before, strict=True))
    except (OSError, ValueError):  # only Linux has /proc/stat
        return 0.0
    return (os.cpu_count() or 1) * (1 - idle / total) if total else 0.0


def _idle_and_total() -> tuple[int, int]:
    """Clock ticks that all cores together have been idle (waiting for a disk included), and have existed."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _busy_lately() -> float:
    """The load average of the last minute without this process's own part in it; 0 where there is none."""
    if not hasattr(os, "getloadavg"):  # Windows
        return 0.0
    own = min(torch.get_num_threads(), time.process_time() / 60)
    return max(0.0, os.getloadavg()[0] - own)


_initial_threads = torch.get_num_threads()
