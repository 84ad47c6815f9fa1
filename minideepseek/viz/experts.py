"""Mixtures of experts as pictures: what a layer is made of, and who does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, SIGNED, Picture, bare, canvas

__all__ = ["Slices", "expert_slices", "load_map"]

_REACH = 2  # powers of two: loads are told apart from a quarter of the fair share to four times it


class Slices(NamedTuple):
    """How a layer is cut: routed experts, how many of them a token uses, shared experts, which all tokens use."""

    routed: int
    used: int
    shared: int = 0


def expert_slices(layers: Mapping[str, Slices], *, title: str) -> Picture:
    """Layers of one size as strips cut into experts; what one token uses is coloured.

    Args:
        layers: label -> how it is cut. All strips are equally long: equal parameters.
        title: the finding.
    """
    figure, (axes,) = canvas(title, height=0.9 + 0.62 * len(layers))
    bare(axes)
    axes.set_aspect("auto")
    for row, (label, cut) in enumerate(layers.items()):
        n = cut.routed + cut.shared
        # Which ones a token uses is the router's choice: any spread will do for a picture.
        chosen = {cut.shared + (5 * i + 2) * cut.routed // (5 * cut.used) for i in range(cut.used)}
        for i in range(n):
            colour = GOLD if i < cut.shared else NAVY if i in chosen else "#e9eef4"
            box = Rectangle((i / n, -row - 0.34), 1 / n, 0.68, facecolor=colour, edgecolor="white", linewidth=1.2)
            axes.add_patch(box)
        axes.text(-0.015, -row, label, ha="right", va="center", color=INK)
        ways = _combinations(cut.routed, cut.used)
        axes.text(1.015, -row, ways, ha="left", va="center", color=INK)
    for colour, name in ((GOLD, "shared: every token"), (NAVY, "routed, chosen by this token"), ("#e9eef4", "routed")):
        axes.add_patch(Rectangle((0, 0), 0, 0, facecolor=colour, label=name))
    axes.text(1.015, 0.62, "choices", ha="left", va="center", color=MUTED)
    axes.set(xlim=(-0.28, 1.2), ylim=(-len(layers) + 0.45, 0.8))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _combinations(n: int, k: int) -> str:
    ways = 1
    for i in range(k):
        ways = ways * (n - i) // (i + 1)
    return f"{ways:,}"


def load_map(
    loads: Mapping[str, ArrayLike],
    *,
    title: str,
    xlabel: str,
    rows: Sequence[str] | None = None,
    columns: ArrayLike | None = None,
    ylabel: str = "",
    height: float | None = None,
) -> Picture:
    """How busy experts are, against a fair share: dark blue far more, dark red far less, white fair.

    Args:
        loads: name of a panel -> (rows, columns) loads over the fair one: 1 is fair.
        title: the finding.
        xlabel, ylabel: what columns and rows are.
        rows: labels of the rows; numbers by default.
        columns: places of the columns on the horizontal axis, evenly spaced; numbers by default.
        height: in inches.
    """
    maps = {name: np.atleast_2d(np.asarray(values, dtype=float)) for name, values in loads.items()}
    most = max(len(values) for values in maps.values())
    figure, panels = canvas(title, cols=len(maps), height=height or 1.7 + 0.3 * most, sharey=True)
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        shade = np.clip(np.log2(np.maximum(values, 2.0 ** -(_REACH + 1))), -_REACH, _REACH)
        x = np.arange(values.shape[1]) if columns is None else np.asarray(columns, dtype=float)
        half = (x[1] - x[0]) / 2 if len(x) > 1 else 0.5
        span = (x[0] - half, x[-1] + half, len(values) - 0.5, -0.5)
        image = axes.imshow(
            shade, cmap=SIGNED, vmin=-_REACH, vmax=_REACH, aspect="auto", extent=span, interpolation="nearest"
        )
        axes.grid(visible=False)
        axes.set(title=name, xlabel=xlabel)
        if columns is None and values.shape[1] <= 40:
            axes.set_xticks(range(0, values.shape[1], 1 if values.shape[1] <= 8 else 4))
        if rows is not None:
            axes.set_yticks(range(len(rows)), rows)
        for x0 in np.arange(1, len(values)) - 0.5:
            axes.axhline(x0, color="white", linewidth=0.8)
    panels[0].set_ylabel(ylabel)
    bar = figure.colorbar(image, ax=panels, shrink=0.9, aspect=24, pad=0.02, extend="both")
    bar.set_ticks(range(-_REACH, _REACH + 1), labels=["1/4", "1/2", "fair", "2×", "4×"])
    bar.outline.set_visible(False)
    return figure
