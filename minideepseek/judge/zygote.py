"""The process that runs learners' code: torch is loaded once, every task of every submission gets a fork of its own.

Started as a script by ``sandbox.Sandbox``. It holds inputs only: no expected values, no solutions, and not the package
``minideepseek`` itself (of which it loads three small files by path), so there is nothing in its memory to find.

    zygote --fork--> watcher --new namespaces, fork--> process 1 of its own world: the learner's code
"""

from __future__ import annotations

import contextlib
import importlib.util
import linecache
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy  # noqa: F401  loaded here, once, for all forks
import torch

HERE = Path(__file__).parent
MAX_ANSWER = 64 * 2**20  # bytes of results that are read from one task
HIDDEN = ("minideepseek", "transformers", "exercises")


def _load(name: str) -> Any:
    """A file of this folder as minideepseek.judge.NAME, without importing the package it belongs to."""
    for package in ("minideepseek", "minideepseek.judge"):
        sys.modules.setdefault(package, types.ModuleType(package))
    full = f"minideepseek.judge.{name}"
    spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


steps, isolation, forbid = _load("steps"), _load("isolation"), _load("forbid")
wire = _load("wire")


class _Blocker:
    """Refuses imports that would be the answer."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in HIDDEN:
            raise ImportError(f"{name.split('.')[0]} is not available here: the answer is to be your own code")


def main(channel: socket.socket) -> None:
    """Serve requests until the other end closes."""
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    torch.ones(4, requires_grad=True).square().sum().backward()  # warms what every task uses
    while (request := receive(channel)) is not None:
        send(channel, wire.dumps(serve(wire.loads(request))))


def serve(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task in a world of its own; returns how it ended and what it answered (bytes not yet trusted)."""
    scratch = Path(tempfile.mkdtemp(prefix="mds-task-"))
    answer_r, answer_w = os.pipe()
    pid_r, pid_w = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        os.close(answer_r)
        os.close(pid_r)
        _watch(request, scratch, answer_w, pid_w)
    os.close(answer_w)
    os.close(pid_w)
    head = os.read(pid_r, 4)
    os.close(pid_r)
    child = struct.unpack("i", head)[0] if len(head) == 4 else 0
    answer, late = _collect(answer_r, time.monotonic() + float(request["limits"]["wall_s"]))
    os.close(answer_r)
    if child:
        _kill(child)  # process 1 of its namespace: everything in it goes with it
    status = os.waitpid(watcher, 0)[1]
    shutil.rmtree(scratch, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    return {"ended": "late" if late else "ok", "code": code, "answer": _hex(answer)}


def _hex(blob: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(blob), dtype=torch.uint8) if blob else torch.empty(0, dtype=torch.uint8)


def _watch(request: Mapping[str, Any], scratch: Path, answer_w: int, pid_w: int) -> NoReturn:
    protections = isolation.separate(_answers())
    child = os.fork()
    if child == 0:
        os.close(pid_w)
        try:
            _answer(request, scratch, answer_w, protections)
        finally:
            os._exit(1)
    os.close(answer_w)
    os.write(pid_w, struct.pack("i", child))
    os.close(pid_w)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _answer(request: Mapping[str, Any], scratch: Path, answer_w: int, protections: list[str]) -> NoReturn:
    os.setsid()
    os.chdir(scratch)
    os.environ.clear()
    os.environ.update({"HOME": str(scratch), "TMPDIR": str(scratch), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    tempfile.tempdir = str(scratch)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for descriptor in range(3, 64):
        if descriptor != answer_w:
            _close(descriptor)
    isolation.limit(isolation.Limits(**request["limits"]))
    protections = protections + isolation.confine(_readable(), scratch)
    sys.meta_path.insert(0, _Blocker())
    for name in [name for name in sys.modules if name.split(".")[0] in HIDDEN]:
        del sys.modules[name]
    with forbid.forbidden(request["forbid"]):
        names, error = define(request["sources"])
        if error is None:
            results, printed = steps.run(names, request["steps"])
        else:
            results, printed = [steps.Result(error=error)], ""
    message = {"results": results, "printed": printed, "protections": protections}
    with os.fdopen(answer_w, "wb") as pipe:
        pipe.write(wire.dumps(message))
    os._exit(0)


def define(sources: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """Execute the learner's cells in one fresh module; what they define, and the first error in one line."""
    names: dict[str, Any] = {"__name__": "answer", "torch": torch}
    for number, source in enumerate(sources):
        file = f"<answer {number}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            exec(compile(source, file, "exec"), names)
        except SystemExit:
            return names, "your answer calls exit(); a notebook cell never should"
        except BaseException as error:
            return names, steps.describe(error)
    return names, None


def _answers() -> list[Path]:
    """Installed packages that hold the answers, whether they can be imported or only read."""
    site = Path(torch.__file__).parent.parent
    return [path for path in {HERE.parent, site / "minideepseek", site / "transformers"} if path.is_dir()]


def _readable() -> list[Path]:
    """What Python and torch need to run, and nothing else."""
    roots = {Path(sys.prefix), Path(sys.base_prefix), Path(torch.__file__).parent.parent}
    system = (
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/usr/share/zoneinfo",
        "/sys/devices/system",
    )
    devices = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
    return [*roots, *map(Path, system), *map(Path, devices)]


def _collect(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Everything written to a pipe until it closes, or until the deadline; too much counts as late."""
    blocks: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                break
            block = os.read(descriptor, 2**20)
            if not block:
                return b"".join(blocks), False
            blocks.append(block)
            size += len(block)
            if size > MAX_ANSWER:
                return b"", True
    return b"", True


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def send(channel: socket.socket, message: bytes) -> None:
    """One message, its length first."""
    channel.sendall(struct.pack("Q", len(message)) + message)


def receive(channel: socket.socket) -> bytes | None:
    """The next message, or None when the other end has closed."""
    head = _exactly(channel, 8)
    return None if head is None else _exactly(channel, struct.unpack("Q", head)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        block = channel.recv(min(size - len(data), 2**20))
        if not block:
            return None
        data += block
    return bytes(data)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
