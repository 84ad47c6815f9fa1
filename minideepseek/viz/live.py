"""A curve that grows while a run goes on, and stays as a picture when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minideepseek.train.metrics import Record
from minideepseek.viz.style import Picture
from minideepseek.viz.training import runs

__all__ = ["LiveCurve", "live_curve"]

SECONDS = 2.0  # between two drawings: a picture costs a tenth of a second of the processor that is training


class LiveCurve:
    """What ``live_curve`` hands out: call it with each record of a run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self._shown: Any = None
        self._next = 0.0

    def __call__(self, record: Record) -> None:
        """Take in one step; redraw if the last drawing is old enough."""
        self.records.append(record)
        if time.monotonic() >= self._next:
            self.draw()
            self._next = time.monotonic() + SECONDS

    def draw(self) -> None:
        """Show the curve as it is now, in the place where it was shown before."""
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if getattr(get_ipython(), "kernel", None) is None:  # a terminal: there is no place to draw in
            return
        if self._shown is None:
            self._shown = display(self._picture(), display_id=True)
        else:
            self._shown.update(self._picture())

    def _picture(self) -> Picture:
        last = self.records[-1]
        held_out = next((record["valid_loss"] for record in reversed(self.records) if "valid_loss" in record), None)
        beside = "" if held_out is None else f", on held-out text {held_out:.2f}"
        return runs({self.name: self.records}, title=f"Step {last['step']}: loss {last['loss']:.2f}{beside}")


@contextmanager
def live_curve(name: str = "loss") -> Iterator[LiveCurve]:
    """Draw the loss of a run while it goes on.

    >>> with live_curve("v1-mini") as watch:
    ...     train(cfg, data, settings, on_step=watch)

    In a notebook one picture is redrawn every two seconds, and a last time at the end; elsewhere nothing is shown.

    Args:
        name: of the run, for the legend.
    """
    curve = LiveCurve(name)
    try:
        yield curve
    finally:
        if curve.records:
            curve.draw()
