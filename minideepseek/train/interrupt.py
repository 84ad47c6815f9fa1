"""Ctrl-C and SIGTERM ask a run to stop; it stops between two steps, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved a checkpoint; the message says how to go on.

    signum: the signal, so that a program can exit as one that was ended by it (128 + signum).
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum

    @classmethod
    def after(cls, step: int, steps: int, saved: Path | None, signum: int) -> Interrupted:
        """Of a run of ``steps`` steps that has made and saved ``step`` of them."""
        return cls(
            f"stopped after step {step} of {steps}; checkpoint saved in {saved}; "
            "to go on, repeat the command with --resume (in Python: resume=True)",
            signum,
        )


class Request:
    """Whether somebody has asked to stop: ``signum`` is 0 until then."""

    signum = 0


@contextlib.contextmanager
def stop_requests() -> Iterator[Request]:
    """Note the first SIGINT or SIGTERM instead of obeying it at once; a second one is obeyed.

    Only the main thread may handle signals; elsewhere nothing is noted and the signals do what they always do.
    """
    request = Request()
    before: dict[signal.Signals, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number) or signal.SIG_DFL
            signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
