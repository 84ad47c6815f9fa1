"""Lines and bars: what was measured, with the spread of its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minideepseek.viz.style import COLOURS, DASHES, GOLD, INK, MUTED, NAVY, SKY, VERMILION, Picture, canvas, ink_on

__all__ = ["bars", "curves", "shares"]


def curves(
    series: Mapping[str, ArrayLike],
    *,
    x: ArrayLike | None = None,
    title: str,
    xlabel: str,
    ylabel: str,
    log: str = "",
    marks: Mapping[str, float] | None = None,
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """One line for each series. Several seeds become their mean in a band of two standard deviations.

    On a logarithmic vertical axis mean and band are those of the logarithm.

    Args:
        series: label -> (points,) or (seeds, points). A label that starts with "theory" is drawn thin and grey: what
            was expected, not what was measured.
        x: (points,) the places on the horizontal axis; 1, 2, 3 ... by default.
        title: the finding.
        xlabel: with its unit.
        ylabel: with its unit.
        log: axes to make logarithmic: "x", "y" or "xy".
        marks: label -> place on the horizontal axis of a thin vertical line.
        levels: label -> height of a thin horizontal line.

    Raises:
        ValueError: a series whose length is not that of ``x``, or not above zero on a logarithmic axis.
    """
    figure, (axes,) = canvas(title)
    lines = {label: np.atleast_2d(np.asarray(values, dtype=float)) for label, values in series.items()}
    styles = cycle(zip(COLOURS, DASHES, strict=True))
    for label, runs in lines.items():
        places = np.arange(1, runs.shape[1] + 1) if x is None else np.asarray(x, dtype=float)
        if places.shape != runs.shape[1:]:
            raise ValueError(f"{label}: {runs.shape[1]} points for {len(places)} places on the horizontal axis")
        if "y" in log and not (runs > 0).all():
            raise ValueError(f"{label}: a logarithmic axis has no place for values that are not above zero")
        low, middle, high = np.exp(_band(np.log(runs))) if "y" in log else _band(runs)
        if label.startswith("theory"):
            axes.plot(places, middle, color=MUTED, linestyle="-", linewidth=1.2, label=label, zorder=3)
            continue
        colour, dash = next(styles)
        axes.plot(places, middle, color=colour, linestyle=dash, label=label)
        if len(runs) > 1:
            axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_xscale("log" if "x" in log else "linear")
    if "x" in log and places.size <= 8:  # powers of ten would name none of so few points
        axes.set_xticks(places, [f"{place:,g}" for place in places])
        axes.minorticks_off()
    axes.set_yscale("log" if "y" in log else "linear")
    thin: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": ":"}
    for label, place in (marks or {}).items():
        axes.axvline(place, **thin)
        axes.text(place, 0.99, f" {label}", transform=axes.get_xaxis_transform(), va="top", fontsize=10)
    for label, height in (levels or {}).items():
        axes.axhline(height, **thin)
        axes.text(0.01, height, label, transform=axes.get_yaxis_transform(), va="bottom", fontsize=10)
    if len(lines) > 1:
        # In the order of the lines at their right end: the eye goes straight across.
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: -lines[labels[i]][:, -1].mean())
        axes.legend([handles[i] for i in order], [labels[i] for i in order], loc="upper left", bbox_to_anchor=(1, 1.03))
    return figure


def _band(runs: np.ndarray) -> np.ndarray:
    """(seeds, points) -> mean minus two standard deviations, mean, mean plus two: (3, points)."""
    spread = 2 * runs.std(0, ddof=1) if len(runs) > 1 else np.zeros(runs.shape[1])
    return runs.mean(0) + np.array([[-1], [0], [1]]) * spread


def bars(
    values: Mapping[str, float], *, unit: str, title: str, emphasis: Iterable[str] = (), digits: str = ",.4g"
) -> Picture:
    """Horizontal bars, each with its number.

    Args:
        values: label -> length, in ``unit``.
        unit: what is counted, "GiB" for example.
        title: the finding.
        emphasis: labels to set apart by colour.
        digits: how numbers are written, as a format specification.
    """
    figure, (axes,) = canvas(title, height=1.1 + 0.48 * len(values))
    colours = [VERMILION if label in set(emphasis) else NAVY for label in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.66)
    axes.bar_label(drawn, [f"{value:{digits}}" for value in values.values()], padding=5)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    return figure


def shares(values: Mapping[str, Mapping[str, float]], *, unit: str, title: str, digits: str = ",.4g") -> Picture:
    """Horizontal bars made of parts, each part as wide as its share; the totals stand at the right.

    Args:
        values: label -> part -> amount, in ``unit``; every label has the same parts.
        unit: what is counted, "billion parameters" for example.
        title: the finding.
        digits: how the totals are written, as a format specification.
    """
    figure, (axes,) = canvas(title, height=1.5 + 0.6 * len(values))
    totals = np.array([sum(parts.values()) for parts in values.values()])
    names = list(next(iter(values.values())))
    left = np.zeros(len(values))
    colours = [NAVY, "#3f7fb5", SKY, GOLD, VERMILION, COLOURS[2]]
    for name, colour in zip(names, colours, strict=False):
        share = np.array([parts[name] for parts in values.values()]) / totals
        drawn = axes.barh(list(values), 100 * share, left=100 * left, color=colour, height=0.62, label=name)
        text = [f"{100 * s:.0f} %" if s >= 0.04 else "" for s in share]
        axes.bar_label(drawn, text, label_type="center", color=ink_on(colour in (NAVY, "#3f7fb5", VERMILION)))
        left += share
    for row, total in enumerate(totals):
        axes.annotate(f"{total:{digits}}", (100, row), (6, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(0, 100), xlabel=f"share of the total (right: {unit})")
    figure.legend(loc="outside lower center", ncols=len(names))
    return figure
