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

from minideepseek.errors import UserError
from minideepseek.judge import wire
from minideepseek.judge.isolation import Limits
from minideepseek.judge.steps import Result, Step
from minideepseek.judge.zygote import receive, send

START_SECONDS = 120.0  # torch on a cold disk


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the learner's code behaved.

    Attributes:
        results: of the steps that ran, in order.
        printed: what the code wrote to stdout and stderr.
        problem: None, or one sentence: it ran out of time, it ended its process ...
        protections: what the kernel enforced: files, fork, processes, network.
    """

    results: Sequence[Result] = ()
    printed: str = ""
    problem: str | None = None
    protections: Sequence[str] = ()


class Sandbox:
    """A running zygote; use it as a context manager. One task at a time; start several to grade in parallel."""

    def __enter__(self) -> Sandbox:
        ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("zygote.py")
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", str(script), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**env, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
        theirs.close()
        self._channel = ours
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def run(
        self, sources: Sequence[str], steps: Sequence[Step], *, limits: Limits | None = None, forbid: Sequence[str] = ()
    ) -> Outcome:
        """Execute cells in a fresh confined process and run the steps on what they define.

        Args:
            sources: Python source of the learner's cells, in order.
            steps: what to do with the names they define.
            limits: time and memory.
            forbid: full names of ready-made functions that must not be called.
        """
        limits = limits or Limits()
        request = {"sources": list(sources), "steps": list(steps), "limits": asdict(limits), "forbid": list(forbid)}
        self._channel.settimeout(limits.wall_s + START_SECONDS)
        try:
            send(self._channel, wire.dumps(request))
            reply = receive(self._channel)
        except OSError:
            reply = None
        if reply is None:
            raise UserError("the sandbox process ended unexpectedly; run the same command again, finished work is kept")
        ended = wire.loads(reply)
        try:
            message = wire.loads(bytes(ended["answer"].tolist())) if ended["answer"].numel() else None
            if message is not None:
                return Outcome(
                    results=[r for r in message["results"] if isinstance(r, Result)],
                    printed=str(message["printed"]),
                    protections=[str(p) for p in message["protections"]],
                )
        except (ValueError, KeyError, TypeError):
            return Outcome(problem="the answer wrote into the judge's channel; no result can be taken from it")
        return Outcome(problem=_explain(ended["ended"], int(ended["code"]), limits))


def _explain(ended: str, code: int, limits: Limits) -> str:
    if ended == "late":
        return f"no answer within {limits.wall_s:g} s (an endless loop?), or more output than fits"
    signals = {
        128 + 25: "it wrote more than the size a file may have",
        128 + 9: f"it used more than {limits.cpu_s} s of processor time, or more memory than there is",
        128 + 11: "it crashed the interpreter (segmentation fault)",
        128 + 6: "it aborted the interpreter",
    }
    return signals.get(code, f"it ended its own process (exit status {code}) before it returned a result")
