"""Residual streams as pictures: how a sub-layer reads and writes several of them, and where mixing matrices live."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from numpy.typing import ArrayLike

from minideepseek.viz.style import COLOURS, GOLD, INK, MUTED, NAVY, RULE, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["birkhoff", "stream_diagram"]

#: The six ways to permute three streams, as places of the ones: three turns, three swaps.
TURNS, SWAPS = ((0, 1, 2), (1, 2, 0), (2, 0, 1)), ((0, 2, 1), (2, 1, 0), (1, 0, 2))
_CORNERS = np.array([[np.sin(angle), np.cos(angle)] for angle in 2 * np.pi * np.arange(3) / 3])


def stream_diagram(*, title: str, streams: int = 4) -> Picture:
    """A sub-layer on the plain residual, and on several streams: what is read, mixed and written."""
    figure, (plain, several) = canvas(title, height=3.7, cols=2, ratios=[2, 3])
    for axes in (plain, several):
        bare(axes)
        axes.set_aspect("auto")
    _lane(plain, 2.0, 0.0, 6.0)
    _box(plain, 2.2, 0.2, 1.6, 0.7, "F", NAVY)
    _arrow(plain, (1.2, 2.0), (2.2, 0.75), TEAL)
    _arrow(plain, (3.8, 0.75), (4.8, 1.92), VERMILION)
    plain.text(4.8, 2.0, "+", ha="center", va="center", fontsize=20, color=VERMILION, fontweight="bold")
    plain.text(0.0, 2.25, "x", fontsize=13)
    plain.text(5.3, 2.25, "x + F(x)", fontsize=13)
    plain.set(title="one stream", xlim=(-0.3, 6.6), ylim=(-0.2, 3.9))
    heights = [2.0 + 0.4 * lane for lane in range(streams)]
    for y in heights:
        _lane(several, y, 0.0, 9.0)
        _arrow(several, (1.4, y), (3.4, 0.8), TEAL)
        _arrow(several, (5.2, 0.8), (7.2, y), VERMILION)
    top = heights[-1] + 0.25
    _box(several, 3.5, 1.75, 1.6, top - 1.75, "B\nmix", GOLD)
    _box(several, 3.5, 0.2, 1.6, 0.7, "F", NAVY)
    several.text(1.3, 1.0, "a: read", color=TEAL, fontsize=12, ha="right")
    several.text(7.0, 1.0, "c: write", color=VERMILION, fontsize=12)
    several.text(0.0, top + 0.1, "X", fontsize=13)
    several.text(6.9, top + 0.1, "B X + c F(a X)", fontsize=13)
    several.set(title=f"{streams} streams", xlim=(-0.3, 9.6), ylim=(-0.2, 3.9))
    return figure


def birkhoff(paths: Mapping[str, ArrayLike], *, title: str) -> Picture:
    """Doubly stochastic matrices of three streams, seen from two sides that together show everything.

    Their polytope has four dimensions and six corners, the permutations. Two planes at right angles hold three corners
    each, turns and swaps, and each plane sees the corners of the other in its middle.

    Args:
        paths: label -> (3, 3), a point, or (steps, 3, 3), a way with a dot at its end. Rows or columns sum to one.
        title: the finding.
    """
    figure, all_axes = canvas(title, height=3.9, cols=2)
    for axes, corners, name in zip(
        all_axes, (TURNS, SWAPS), ("the side of the turns", "the side of the swaps"), strict=True
    ):
        bare(axes)
        axes.set(title=name, xlim=(-1.75, 1.75), ylim=(-0.95, 1.45))
        axes.add_patch(Polygon(_CORNERS, closed=True, facecolor="#eef3f8", edgecolor=MUTED, linewidth=1.5))
        axes.plot(0, 0, marker="+", color=MUTED, markersize=9)
        for corner, (x, y), (dx, dy) in zip(corners, _CORNERS, ((0, 0.22), (0.32, 0.0), (-0.32, 0.0)), strict=True):
            _permutation(axes, x + dx, y + dy, corner)
        for (label, path), colour in zip(paths.items(), cycle(COLOURS[1:]), strict=False):
            seen = _project(np.asarray(path, dtype=float).reshape(-1, 3, 3), corners)
            axes.plot(*seen.T, color=colour, linewidth=1.5)
            axes.plot(*seen[-1], marker="o", markersize=8, color=colour, linestyle="none", label=label)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _project(matrices: np.ndarray, corners: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """(steps, 3, 3) -> (steps, 2): how much of each corner there is, times where the corner is drawn."""
    shares = np.stack([matrices[:, range(3), corner].sum(-1) for corner in corners], axis=-1) / 3
    return shares @ _CORNERS


def _permutation(axes: Axes, x: float, y: float, ones: tuple[int, ...]) -> None:
    size = 0.1
    for row in range(3):
        for column in range(3):
            colour = NAVY if ones[row] == column else "white"
            place = (x + size * (column - 1.5), y + size * (0.5 - row))
            axes.add_patch(Rectangle(place, size, size, facecolor=colour, edgecolor=RULE, linewidth=0.8))


def _lane(axes: Axes, y: float, start: float, end: float) -> None:
    axes.annotate("", (end, y), (start, y), arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 2.2})


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    shape = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor="none", zorder=3))
    ink = INK if colour == GOLD else "white"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=13, fontweight="bold",
              zorder=4)  # fmt: skip


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.8})
