"""Latent attention as pictures: what is kept of a token, and a product of matrices that a rotation keeps apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, SHADE, SIGNED, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["latent_diagram", "matrices"]


def latent_diagram(*, title: str, heads: int = 4) -> Picture:
    """One token in multi-head latent attention: what is kept of it, and what is made of that for every head."""
    figure, (axes,) = canvas(title, height=3.9)
    bare(axes)
    _box(axes, 0.0, 1.55, 1.9, 1.3, "token h", NAVY)
    _box(axes, 4.2, 2.55, 2.9, 1.3, "latent c", GOLD)
    _box(axes, 4.2, 0.3, 2.9, 1.1, "rotary key kᴿ", VERMILION)
    _arrow(axes, (1.95, 2.4), (4.15, 3.2), "down, norm", (-8, 8), "right")
    _arrow(axes, (1.95, 2.0), (4.15, 0.85), "turn", (-8, -16), "right")
    frame = FancyBboxPatch(
        (3.85, -0.15), 3.6, 4.35, boxstyle="round,pad=0,rounding_size=0.2", facecolor="none", edgecolor=INK,
        linewidth=1.6, linestyle=(0, (4, 2)),
    )  # fmt: skip
    axes.add_patch(frame)
    axes.text(5.65, -0.3, "kept in the cache, once for all heads", ha="center", va="top", fontsize=11)
    for head in range(heads):
        x = 10.2 + 1.75 * head
        _box(axes, x, 2.55, 0.68, 1.3, "k", TEAL)
        _box(axes, x + 0.74, 2.55, 0.68, 1.3, "v", "#3f7fb5")
        _box(axes, x, 0.3, 0.68, 1.1, "kᴿ", VERMILION)
        axes.text(x + 0.7, 4.05, f"head {head + 1}", ha="center", va="bottom", fontsize=11)
    _arrow(axes, (7.5, 3.2), (10.1, 3.2), "up: Wᵁᴷ, Wᵁⱽ")
    _arrow(axes, (7.5, 0.85), (10.1, 0.85), "shared")
    axes.text(10.2 + 1.75 * heads / 2 - 0.15, -0.3, "made anew for every head, or never", ha="center", va="top",
              fontsize=11)  # fmt: skip
    axes.set(xlim=(-0.2, 10.1 + 1.75 * heads), ylim=(-0.9, 4.7))
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    shape = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor="none"))
    ink = INK if colour == GOLD else "white"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=12, fontweight="bold")


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str,
    offset: tuple[float, float] = (0, 8),
    align: str = "center",
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 2})
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.annotate(text, middle, offset, textcoords="offset points", fontsize=11, ha=align, va="bottom")


def matrices(panels: Mapping[str, ArrayLike], *, title: str, xlabel: str, ylabel: str) -> Picture:
    """Matrices beside each other in one scale of colours: around zero, or from zero where nothing is below.

    Args:
        panels: name -> (rows, columns).
        title: the finding.
        xlabel, ylabel: what columns and rows are.
    """
    shown = {name: np.asarray(values, dtype=float) for name, values in panels.items()}
    top = max(np.abs(values).max() for values in shown.values())
    signed = min(values.min() for values in shown.values()) < 0
    scale: dict[str, Any] = {"cmap": SIGNED if signed else SHADE, "vmin": -top if signed else 0, "vmax": top}
    figure, all_axes = canvas(title, cols=len(shown), height=3.1, sharey=True)
    for axes, (name, values) in zip(all_axes, shown.items(), strict=True):
        image = axes.imshow(values, **scale)
        axes.set(title=name, xlabel=xlabel)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
    all_axes[0].set_ylabel(ylabel)
    bar = figure.colorbar(image, ax=all_axes, shrink=0.82, aspect=20, pad=0.02)
    bar.outline.set_visible(False)
    return figure
