"""Sparse attention as pictures: how an index chooses what is read, and what one query chose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, PAPER, SKY, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["index_diagram", "selection"]


def index_diagram(*, title: str, tokens: int = 16, chosen: Sequence[int] = (2, 7, 8, 13)) -> Picture:
    """One query of sparse attention: it scores the small keys of all tokens, and reads the latents of a few."""
    figure, (axes,) = canvas(title, height=2.7)
    bare(axes)
    heights = 0.25 + 0.35 * np.abs(np.sin(1.9 * np.arange(tokens)))
    heights[list(chosen)] = 0.8 + 0.15 * np.cos(np.arange(len(chosen)))
    for t in range(tokens):
        here = t in chosen
        _box(axes, t + 0.1, 3.15, 0.8, 0.5, "", VERMILION if here else SKY)  # index keys
        _box(axes, t + 0.1, 1.85, 0.8, heights[t], "", VERMILION if here else MUTED)  # scores
        _box(axes, t + 0.1, 0.2, 0.8, 1.2, "", TEAL if here else PAPER, MUTED)  # latents
    for y, text in ((3.4, "a small key of each token,\nall of them scored"), (2.3, "their index scores I"),
                    (0.8, "latents: only the k best\nare read, by all heads")):  # fmt: skip
        axes.text(tokens + 0.4, y, text, ha="left", va="center", fontsize=11)
    _box(axes, -3.2, 3.1, 2.6, 0.6, "indexer", GOLD)
    _box(axes, -3.2, 0.5, 2.6, 0.6, "attention", NAVY)
    for y in (3.4, 0.8):
        axes.annotate("", (-0.05, y), (-0.55, y), arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 2})
    axes.set(xlim=(-3.4, tokens + 6.4), ylim=(0.0, 3.9))
    return figure


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, edge: str = "none"
) -> None:
    shape = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor=edge))
    ink = INK if colour == GOLD else "white"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=12, fontweight="bold")


def selection(
    panels: dict[str, ArrayLike], chosen: ArrayLike, *, title: str, marks: dict[str, int] | None = None
) -> Picture:
    """What one query made of the tokens before it, panel above panel; what it chose in colour.

    Args:
        panels: what is drawn (an index score, a share of attention) -> (S,) numbers, none below zero.
        chosen: (S,) bool.
        title: the finding.
        marks: label -> token to point at.
    """
    picked = np.asarray(chosen, dtype=bool)
    figure, all_axes = canvas(title, rows=len(panels), height=1.0 + 1.5 * len(panels), sharex=True)
    for axes, (name, values) in zip(all_axes, panels.items(), strict=True):
        numbers = np.asarray(values, dtype=float)
        axes.bar(np.arange(len(numbers)), numbers, width=0.9, color=np.where(picked, VERMILION, SKY))
        axes.set_ylabel(name)
        axes.set_ylim(0, 1.3 * max(numbers.max(), 1e-9))
        for label, token in (marks or {}).items():
            axes.annotate(label, (token, numbers[token]), (0, 12), textcoords="offset points", ha="center", fontsize=10,
                          arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 1})  # fmt: skip
    all_axes[-1].set_xlabel("token (chosen ones in red)")
    return figure
