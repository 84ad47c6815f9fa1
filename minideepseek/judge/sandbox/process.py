"""A place to run learners' code: hand it sources and steps, get results back, whatever the code tries meanwhile."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from minideepseek.errors import UserError
from minideepseek.judge.sandbox import wire
from minideepseek.judge.sandbox.isolation import PROTECTIONS, Limits
from minideepseek.judge.sandbox.steps import MAX_PRINTED, Result, Step

START_SECONDS = 120.0  # torch on a cold disk


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the learner's code behaved.

    Attributes:
        results: of the steps that ran, in order.
        printed: what the code wrote to stdout and stderr.
        problem: None, or one sentence: it ran out of time, it ended its process ...
        defined: the cells themselves ran through; otherwise every other check will end the same way.
        late: it ran out of time.
        protections: what the kernel enforced; keys of ``isolation.PROTECTIONS``.
    """

    results: Sequence[Result] = ()
    printed: str = ""
    problem: str | None = None
    defined: bool = True
    late: bool = False
    protections: Sequence[str] = ()


class Sandbox:
    """A running zygote; use it as a context manager. One check at a time; start several to grade in parallel."""

    def __enter__(self) -> Sandbox:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(
        self,
        sources: Sequence[tuple[str, str]],
        steps: Sequence[Step],
        *,
        limits: Limits | None = None,
        forbid: Sequence[str] = (),
    ) -> Outcome:
        """Execute cells in a fresh confined process and run the steps on what they define.

        Args:
            sources: file name (``<answer>`` for the learner's) and Python source of cells, in order.
            steps: what to do with the names they define.
            limits: time and memory.
            forbid: names of ready-made functions of torch that must not be called.

        Raises:
            UserError: no sandbox can be started on this machine.
        """
        limits = limits or Limits()
        request = {
            "sources": [(file, source) for file, source in sources],
            "steps": list(steps),
            "limits": asdict(limits),
            "forbid": list(forbid),
        }
        self._channel.settimeout(limits.wall_s + START_SECONDS)
        try:
            wire.send(self._channel, wire.dumps(request))
            reply = wire.receive(self._channel)
        except OSError:
            reply = None
        if reply is None:  # only where the kernel protects little can an answer get this far; the next one must not pay
            self._stop()
            self._start()
            return Outcome(problem="it ended the process that ran it, and got no result")
        return _outcome(wire.loads(reply), limits)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("zygote.py")
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", str(script), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**env, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
        theirs.close()
        self._channel = ours
        self._channel.settimeout(START_SECONDS)
        with contextlib.suppress(OSError):
            if wire.receive(self._channel) is not None:
                return
        self._stop()
        raise UserError("the sandbox did not start: `python -c 'import torch'` must work in this environment")

    def _stop(self) -> None:
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


def _outcome(ended: dict[str, Any], limits: Limits) -> Outcome:
    blob = ended["answer"].numpy().tobytes()
    late, defined = ended["ended"] == "late", blob[:1] == wire.DEFINED
    blob = blob.removeprefix(wire.DEFINED)
    if late or not blob:
        code = int(ended["code"])
        return Outcome(problem=_explain(late, code, limits), defined=defined, late=late or code == 128 + 9)
    try:
        message = wire.loads(blob)
        return Outcome(
            results=[result for result in message["results"] if isinstance(result, Result)],
            printed=str(message["printed"])[:MAX_PRINTED],
            defined=defined,
            protections=[name for name in PROTECTIONS if name in message["protections"]],
        )
    except (ValueError, KeyError, TypeError):
        return Outcome(problem="it wrote into the judge's channel; no result can be taken from it", defined=defined)


def _explain(late: bool, code: int, limits: Limits) -> str:
    if late:
        return f"no answer within {limits.wall_s:g} s (an endless loop?), or more output than fits"
    signals = {
        128 + 25: "it wrote more than the size a file may have",
        128 + 9: f"it used up {limits.cpu_s} s of processor time (an endless loop?), or all the memory there is",
        128 + 11: "it crashed the interpreter (segmentation fault)",
        128 + 6: "it aborted the interpreter",
    }
    return signals.get(code, f"it ended its own process (exit status {code}) before it returned a result")
