"""Training as pictures: the loop, runs side by side, and which updates are too small for the weights they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from minideepseek.train.metrics import Record
from minideepseek.viz.style import COLOURS, DASHES, GOLD, INK, MUTED, NAVY, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["loop_diagram", "runs", "update_sizes"]


def loop_diagram(*, title: str) -> Picture:
    """One update of the weights: forward along the top, backward along the bottom, and round again."""
    figure, (axes,) = canvas(title, height=3.5)
    bare(axes)
    forward: list[tuple[float, str, str, str]] = [
        (1.5, "batch", "B rows of text", NAVY),
        (6.0, "model", "scores the next token", NAVY),
        (10.5, "loss", "surprise, in nats", VERMILION),
    ]
    backward: list[tuple[float, str, str, str]] = [
        (10.5, "gradient", "one number a weight", VERMILION),
        (6.0, "clip", "no longer than 1", GOLD),
        (1.5, "AdamW", "moves every weight", TEAL),
    ]
    for row, stations in ((2.6, forward), (0.0, backward)):
        for x, name, role, colour in stations:
            _station(axes, x, row, name, role, colour)
    for start, end in (((3.0, 2.6), (4.5, 2.6)), ((7.5, 2.6), (9.0, 2.6)), ((9.0, 0.0), (7.5, 0.0)),
                       ((4.5, 0.0), (3.0, 0.0)), ((10.5, 1.95), (10.5, 0.65))):  # fmt: skip
        _arrow(axes, start, end, MUTED)
    _arrow(axes, (2.6, 0.65), (5.1, 1.95), TEAL)
    axes.text(4.15, 1.12, "new weights", color=TEAL, fontsize=11, va="center")
    axes.text(10.75, 1.1, "backward", color=MUTED, fontsize=11, va="center")
    axes.text(-0.35, 1.12, "the schedule says how far", color=MUTED, fontsize=11, va="center")
    _arrow(axes, (1.2, 0.98), (1.2, 0.65), MUTED)
    axes.set(xlim=(-0.5, 12.7), ylim=(-1.1, 3.3))
    return figure


def _station(axes: Axes, x: float, y: float, name: str, role: str, colour: str) -> None:
    box = FancyBboxPatch(
        (x - 1.4, y - 0.55), 2.8, 1.1, boxstyle="round,pad=0,rounding_size=0.18", facecolor=colour, edgecolor="none"
    )
    axes.add_patch(box)
    ink = INK if colour == GOLD else "white"
    axes.text(x, y + 0.16, name, ha="center", va="center", color=ink, fontsize=13, fontweight="bold")
    axes.text(x, y - 0.26, role, ha="center", va="center", color=ink, fontsize=9.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0})


def runs(series: Mapping[str, Sequence[Record]], *, title: str, what: str = "loss") -> Picture:
    """Runs above each other: the loss of every step and, as dots, on held-out text; below, the learning rate.

    Args:
        series: name -> the records of a run (``Result.metrics``).
        title: the finding.
        what: which recorded quantity to draw, in nats per token.
    """
    figure, (above, below) = canvas(title, height=4.4, rows=2, sharex=True, height_ratios=[3.2, 1])
    styles: Any = cycle(zip(COLOURS, DASHES, strict=True))
    for name, records in series.items():
        colour, dash = next(styles)
        steps = [record["step"] for record in records]
        above.plot(steps, [record[what] for record in records], color=colour, linestyle=dash, linewidth=1.6, label=name)
        below.plot(steps, [1e3 * record["lr"] for record in records], color=colour, linestyle=dash)
        held_out = [(record["step"], record["valid_loss"]) for record in records if "valid_loss" in record]
        if held_out:
            above.plot(*zip(*held_out, strict=True), "o", color=VERMILION if len(series) == 1 else colour,
                       markeredgecolor="white", markersize=8, label=f"{name}, held-out text")  # fmt: skip
    above.set(ylabel="loss (nats a token)")
    below.set(xlabel="step (updates of the weights)", ylabel="learning\nrate (10⁻³)")
    below.set_ylim(bottom=0)
    above.legend(loc="upper right")
    return figure


def update_sizes(ratios: Mapping[str, ArrayLike], *, title: str) -> Picture:
    """How large updates are beside the weights they change, and below which size a number format loses them.

    A sum ``w + u`` in a format with p bits of precision gives ``w`` again when ``u`` is below half of the distance to
    the next number: for certain below ``2^-(p+1)·w``, where the shading ends, and never above twice that.

    Args:
        ratios: label -> (N,) update divided by weight, absolute values.
        title: the finding.
    """
    figure, (axes,) = canvas(title)
    bins = np.linspace(-10, 0, 81).tolist()
    for (label, values), colour, dash in zip(ratios.items(), COLOURS, DASHES, strict=False):
        found = np.asarray(values, dtype=float)
        exponent = np.log10(np.clip(found, 1e-10, 1))
        axes.hist(exponent, bins, weights=np.full(len(found), 100 / len(found)), histtype="stepfilled", color=colour,
                  alpha=0.25)  # fmt: skip
        axes.hist(exponent, bins, weights=np.full(len(found), 100 / len(found)), histtype="step", color=colour,
                  linestyle=dash, linewidth=2, label=label)  # fmt: skip
    for name, bits, colour in (("bf16", 8, VERMILION), ("fp32", 24, MUTED)):
        edge = -(bits + 1) * np.log10(2)
        axes.axvspan(-10, edge, color=colour, alpha=0.10 if name == "bf16" else 0.25, linewidth=0)
        axes.text(edge - 0.06, 0.97, f"lost in {name}", transform=axes.get_xaxis_transform(), ha="right", va="top",
                  color=colour if name == "bf16" else INK, fontweight="bold")  # fmt: skip
    axes.set(xlim=(-9, 0), xlabel="size of the update, as a share of the weight", ylabel="share of the weights (%)")
    axes.set_xticks(range(-8, 1, 2), [f"10$^{{{power}}}$" for power in range(-8, 1, 2)])
    axes.legend(loc="center left")
    return figure
