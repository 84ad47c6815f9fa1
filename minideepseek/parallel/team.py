"""Processes that train one model together: who I am among them, and how we add up.

A process started by ``torchrun`` finds the others with ``joined()``; ``together`` starts a few on this machine, for
tests and lessons. Everything else asks ``Team.current()``, which is a team of one where nobody was looked for.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minideepseek.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes of a run. All of them must call the same methods in the same order.

    Attributes:
        rank: number of this process, from 0; process 0 writes the files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Team:
        """The team of this process: alone, unless ``joined``, ``together`` or someone else found the others."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(rank=dist.get_rank(), size=dist.get_world_size())

    def total(self, tensors: Sequence[Tensor]) -> None:
        """Add up each tensor, in place, over the team; one message for each dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in own])
            dist.all_reduce(flat)
            for tensor, summed in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """The mean of each tensor over the team, in place."""
        self.total(tensors)
        if self.size > 1:
            torch._foreach_div_(list(tensors), self.size)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give every process what process 0 has in these tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def largest(self, number: int) -> int:
        """The largest of everyone's numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Team]:
    """Find the others that ``torchrun`` started, and leave them at the end; a process by itself is a team of one.

    Raises:
        UserError: more processes than GPUs on a machine that trains on them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Team.current()
        return
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if gpus and place >= gpus:
        raise UserError(f"process {place} of this machine finds {gpus} GPUs; give torchrun --nproc-per-node {gpus}")
    if gpus:
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    try:
        yield Team.current()
    finally:
        dist.destroy_process_group()


def together(work: Callable[..., Any], size: int, *args: Any) -> list[Any]:
    """Call ``work(*args)`` in ``size`` processes of this machine that know each other, and return what each returns.

    On Linux processes are forks, so functions of a notebook's cells will do; elsewhere ``work`` must be importable.

    Raises:
        RuntimeError: one of them failed; with its traceback.
    """
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_member, args=(work, rank, size, folder, args)) for rank in range(size)]
        for process in processes:
            process.start()
        try:
            while any(process.is_alive() for process in processes):
                for process in processes:
                    process.join(timeout=0.02)
                    if process.exitcode:  # the others would wait for it for ever
                        raise RuntimeError(_last_words(Path(folder), processes))
        finally:
            for process in processes:
                process.kill()
                process.join()
        if any(process.exitcode for process in processes):
            raise RuntimeError(_last_words(Path(folder), processes))
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _member(work: Callable[..., Any], rank: int, size: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
        torch.save(work(*args), Path(folder) / f"{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)  # destroying the group would wait for those that wait for us


def _last_words(folder: Path, processes: Sequence[Any]) -> str:
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    for rank in failed:
        path = folder / f"{rank}.error"
        if path.exists():
            return f"process {rank} of {len(processes)} failed:\n{path.read_text()}"
    return (
        f"processes {failed} of {len(processes)} died with exit codes {[processes[rank].exitcode for rank in failed]}"
    )
