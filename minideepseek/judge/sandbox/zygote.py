"""The process that runs learners' code: torch is loaded once, every task of every submission gets a fork of its own.

Started as a script by ``process.Sandbox``. It holds inputs only: no expected values, no solutions, and not the package
``minideepseek`` itself (of which it loads four small files by path), so there is nothing in its memory to find.

    zygote --fork--> server --fork--> watcher --new namespaces, fork--> process 1 of its own world: the learner's code

The server reads one request and ends: the zygote itself never holds an answer, which a later one could find in the
memory that it inherits.
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
MAX_ANSWER = 64 * 2**20  # bytes of results that are read from one process


def _load(name: str) -> Any:
    """A file of this folder as minideepseek.judge.sandbox.NAME, without importing the packages it belongs to."""
    for package in ("minideepseek", "minideepseek.judge", "minideepseek.judge.sandbox"):
        sys.modules.setdefault(package, types.ModuleType(package))
    full = f"minideepseek.judge.sandbox.{name}"
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
        if name.split(".")[0] in forbid.ANSWERS:
            raise ImportError(f"{name.split('.')[0]} is not available here: the answer is to be your own code")


def main(channel: socket.socket) -> None:
    """Serve requests until the other end closes."""
    torch.set_num_threads(1)  # a thread pool would not survive the fork
    # What a task uses first is loaded first, for all forks: an optimiser brings seconds of imports with it.
    weight = torch.ones(4, requires_grad=True)
    optimiser = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimiser.step()
    wire.send(channel, wire.dumps("ready"))
    with contextlib.suppress(OSError):
        while channel.recv(1, socket.MSG_PEEK):  # nothing: the other end has closed
            server = os.fork()
            if server == 0:
                isolation.die_with_parent()
                _serve_one(channel)
            if os.waitpid(server, 0)[1]:  # it sent nothing: end, so that the judge need not wait for an answer
                return


def _serve_one(channel: socket.socket) -> NoReturn:
    with contextlib.suppress(OSError):  # a judge that was killed reads no answer
        request = wire.receive(channel)
        if request is not None:
            wire.send(channel, wire.dumps(serve(wire.loads(request), channel)))
    os._exit(0)


def serve(request: Mapping[str, Any], channel: socket.socket) -> dict[str, Any]:
    """Run one answer in a world of its own; returns how it ended and what it answered (bytes not yet trusted)."""
    limits = isolation.Limits(**request["limits"])
    scratch = Path(tempfile.mkdtemp(prefix="mds-task-"))
    answer_r, answer_w = os.pipe()
    pid_r, pid_w = os.pipe()
    watcher = os.fork()
    if watcher == 0:
        isolation.die_with_parent()
        os.close(answer_r)
        os.close(pid_r)
        _watch(request, limits, scratch, answer_w, pid_w)
    os.close(answer_w)
    os.close(pid_w)
    head = os.read(pid_r, 4)
    os.close(pid_r)
    child = struct.unpack("i", head)[0] if len(head) == 4 else 0
    answer, late = _collect(answer_r, time.monotonic() + limits.wall_s, channel)
    os.close(answer_r)
    status = None if late else _ended(watcher)
    if status is None:  # the watcher outlives the learner's process: that is still there
        if child:
            _kill(child)
        status = os.waitpid(watcher, 0)[1]
    shutil.rmtree(scratch, ignore_errors=True)
    code = os.waitstatus_to_exitcode(status)
    blob = torch.frombuffer(bytearray(answer), dtype=torch.uint8) if answer else torch.empty(0, dtype=torch.uint8)
    return {"late": late, "code": code, "answer": blob}


def _watch(request: Mapping[str, Any], limits: Any, scratch: Path, answer_w: int, pid_w: int) -> NoReturn:
    protections = isolation.separate(scratch, limits.file)
    child = os.fork()
    if child == 0:
        isolation.die_with_parent()
        os.close(pid_w)
        try:
            _answer(request, limits, scratch, answer_w, protections)
        finally:
            os._exit(1)
    os.close(answer_w)
    os.write(pid_w, struct.pack("i", child))
    os.close(pid_w)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _answer(request: Mapping[str, Any], limits: Any, scratch: Path, answer_w: int, protections: list[str]) -> NoReturn:
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
    isolation.limit(limits)
    protections = protections + isolation.confine(LISTABLE, READABLE, scratch)
    sys.meta_path.insert(0, _Blocker())
    for name in [name for name in sys.modules if name.split(".")[0] in forbid.ANSWERS]:
        del sys.modules[name]
    with os.fdopen(answer_w, "wb") as pipe, forbid.forbidden(request["forbid"]):
        names, failure = define(request["sources"])
        wire.write(pipe, wire.dumps({"failure": failure, "protections": protections}))
        for check in request["checks"] if failure is None else ():
            results, printed = steps.run(names, check)
            wire.write(pipe, wire.dumps({"results": results, "printed": printed}))
    os._exit(0)


def define(sources: Sequence[tuple[str, str]]) -> tuple[dict[str, Any], Any]:
    """Execute cells, each with its file name, in one fresh module; what they define, and the first failure."""
    names: dict[str, Any] = {"__name__": "answer"}
    for file, source in sources:
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            exec(compile(source, file, "exec", dont_inherit=True), names)
        except BaseException as error:
            return names, steps.describe(error)
    return names, None


def _folders() -> tuple[list[Path], list[Path]]:
    """What Python and torch need to run: folders to look around in, and what may be read in them."""
    site = Path(torch.__file__).parent.parent
    roots = [Path(sys.prefix), Path(sys.base_prefix), site]
    system = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
    roots += [Path(name) for name in (*system, "/sys/devices/system", "/dev/zero", "/dev/urandom", "/dev/random")]
    hidden = {path.resolve() for path in (HERE.parents[1], *(site / name for name in forbid.ANSWERS))}
    pieces = [path for root in roots for path in isolation.without(root.resolve(), hidden)]
    return roots, list(dict.fromkeys(pieces))


LISTABLE, READABLE = _folders()


def _collect(descriptor: int, deadline: float, channel: socket.socket) -> tuple[bytes, bool]:
    """Everything written to a pipe until it closes or the deadline comes; too much counts as late.

    Also ends when the judge, at the other end of the channel, has gone.
    """
    blocks: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        selector.register(channel, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ready = {key.fileobj for key, _ in selector.select(left)}
            if descriptor not in ready:  # the deadline, or a judge that never sends while it waits: it has gone
                break
            block = os.read(descriptor, 2**20)
            if not block:
                return b"".join(blocks), False
            blocks.append(block)
            size += len(block)
            if size > MAX_ANSWER:
                break
    return b"".join(blocks), True


def _ended(watcher: int) -> int | None:
    """The status of a process that is about to end; None if it does not. A pipe closes a moment before its owner."""
    for _ in range(500):
        pid, status = os.waitpid(watcher, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.002)
    return None


def _kill(pid: int) -> None:
    """End a process, and with it its group; where it is process 1 of a namespace, everything in that."""
    for end in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
