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
from minideepseek.judge.sandbox.steps import MAX_PRINTED, Failure, Result, Step

Source = tuple[str, str]  # file name, text
START_SECONDS = 120.0  # torch on a cold disk
CHANNEL = "it wrote into the judge's channel; no result can be taken from it"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the learner's code behaved in one check.

    Attributes:
        results: of the steps that ran, in order.
        printed: what the code wrote to stdout and stderr.
        problem: None, or one sentence: it ran out of time, it ended its process ...
        protections: what the kernel enforced; keys of ``isolation.PROTECTIONS``.
    """

    results: Sequence[Result] = ()
    printed: str = ""
    problem: str | None = None
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
        sources: Sequence[Source],
        checks: Sequence[Sequence[Step]],
        *,
        limits: Limits | None = None,
        forbid: Sequence[str] = (),
    ) -> list[Outcome]:
        """Execute cells in a fresh confined process and run the steps of each check on what they define.

        A check that ends the process, or runs out of time, costs its own outcome only: a fresh process goes on with
        the next one. After two that ran out of time the rest is not tried.

        Args:
            sources: file name (``<answer>`` for the learner's) and Python source of cells, in order.
            checks: what to do with the names they define.
            limits: time and memory of a process.
            forbid: names of ready-made functions of torch that must not be called.

        Raises:
            UserError: no sandbox can be started on this machine.
        """
        outcomes: list[Outcome] = []
        late = 0
        while (left := checks[len(outcomes) :]) and late < 2:
            answered, ran_out = self._fork(sources, left, limits or Limits(), forbid)
            outcomes += answered
            late += ran_out
        return outcomes + [Outcome(problem="not tried: two properties before it ran out of time")] * len(left)

    def _fork(
        self,
        sources: Sequence[Source],
        checks: Sequence[Sequence[Step]],
        limits: Limits,
        forbid: Sequence[str],
    ) -> tuple[list[Outcome], bool]:
        """Outcomes of the first few checks, one at least; and whether time ran out."""
        request = {
            "sources": [(file, source) for file, source in sources],
            "checks": [list(steps) for steps in checks],
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
            return [Outcome(problem="it ended the process that ran it, and got no result")] * len(checks), False
        ended = wire.loads(reply)
        late, code = bool(ended["late"]), int(ended["code"])
        outcomes = _outcomes(ended["answer"].numpy().tobytes(), len(checks))
        if outcomes is None:  # the cells themselves did not run through: so it would be in every check
            wrote = code == 0 and ended["answer"].numel()
            return [Outcome(problem=CHANNEL if wrote else _explain(late, code, limits))] * len(checks), False
        if len(outcomes) < len(checks):
            outcomes.append(Outcome(problem=_explain(late, code, limits)))
        return outcomes, late or code == _KILLED

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


_KILLED = 128 + 9  # by the limit on processor time, or by the system for want of memory


def _outcomes(answer: bytes, checks: int) -> list[Outcome] | None:
    """What a process answered before it ended: untrusted bytes. None if its cells did not run through."""
    outcomes: list[Outcome] = []
    head: Any = None
    try:
        for number, blob in enumerate(wire.messages(answer)):
            message = wire.loads(blob)
            if number == 0:
                head = message
                protections = [name for name in PROTECTIONS if name in head["protections"]]
                if isinstance(head["failure"], Failure):
                    return [Outcome(results=[Result(failure=head["failure"])], protections=protections)] * checks
            elif len(outcomes) < checks:
                results = [result for result in message["results"] if isinstance(result, Result)]
                printed = str(message["printed"])[:MAX_PRINTED]
                outcomes.append(Outcome(results=results, printed=printed, protections=protections))
    except (ValueError, KeyError, TypeError):
        outcomes += [Outcome(problem=CHANNEL)] * (checks - len(outcomes))
        return outcomes
    return None if head is None else outcomes


def _explain(late: bool, code: int, limits: Limits) -> str:
    if late:
        return f"no answer within {limits.wall_s:g} s (an endless loop?), or more output than fits"
    signals = {
        _KILLED: f"it used up {limits.cpu_s} s of processor time (an endless loop?), or all the memory there is",
        128 + 25: "it wrote more than the size a file may have",
        128 + 11: "it crashed the interpreter (segmentation fault)",
        128 + 6: "it aborted the interpreter",
    }
    return signals.get(code, f"it ended its own process (exit status {code}) before it returned a result")
