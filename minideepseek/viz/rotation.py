"""The rotation of RoPE as dials: each pair of channels is a hand that turns at its own speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Wedge

from minideepseek.layers.rope import RoPE
from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, RULE, VERMILION, Picture, bare, canvas

__all__ = ["rotation_dials"]


def rotation_dials(
    *, query: int, key: int, rope: RoPE, dim: int, pairs: Sequence[int], reach: int = 64, title: str | None = None
) -> Picture:
    """Dials of some channel pairs with a query's and a key's hand, and the score as a function of the distance.

    Both hands start at angle 0 (query and key equal before the rotation), so the score is what the rotation alone
    makes of it: the mean over all pairs of cos(distance · frequency).

    Args:
        query: position of the query, in tokens.
        key: position of the key.
        rope: frequencies.
        dim: rotated channels R.
        pairs: which of the R/2 pairs get a dial.
        reach: distances drawn, 0 to ``reach``.
        title: the finding; by default the distance and what stays the same at it.
    """
    speeds = rope.frequencies(dim).numpy().astype(float)
    distance = query - key
    title = title or f"Query at {query}, key at {key}: only the distance, {distance}, sets the angles between hands"
    figure, axes = canvas(title, height=5.6, rows=2, cols=len(pairs), height_ratios=[1, 0.85])
    for panel, pair in zip(axes, pairs, strict=False):
        _dial(panel, query * speeds[pair], key * speeds[pair])
        panel.set_title(f"pair {pair}\n{2 * np.pi / speeds[pair]:,.0f} tokens a turn", loc="center", fontsize=11)
    for panel in axes[len(pairs) :]:
        panel.remove()
    below = figure.add_subplot(2, 1, 2)
    apart = np.arange(reach + 1)
    score = np.cos(np.outer(apart, speeds)).mean(1)
    below.plot(apart, score, color=NAVY)
    below.plot(abs(distance), np.cos(distance * speeds).mean(), "o", color=VERMILION, markersize=10, zorder=4)
    below.axhline(0, color=MUTED, linewidth=1, linestyle="-")
    below.set(xlim=(-1, reach + 1), ylim=(-0.35, 1.08))
    below.set(xlabel="distance between query and key (tokens)", ylabel="score of vectors equal\nbefore they turn")
    return figure


def _dial(axes: Axes, query: float, key: float) -> None:
    bare(axes)
    axes.add_patch(Circle((0, 0), 1, facecolor="#f6f9fc", edgecolor=RULE, linewidth=1.5))
    between = (query - key + np.pi) % (2 * np.pi) - np.pi  # the short way round
    start, end = sorted((key, key + between))
    axes.add_patch(Wedge((0, 0), 0.5, np.degrees(start), np.degrees(end), facecolor=GOLD, alpha=0.55))
    # Letters of hands that lie on each other step aside, each to its own side.
    aside = max(0.0, 0.3 - abs(between)) / 2 * (1 if between >= 0 else -1)
    for angle, step, colour, name in ((key, -aside, VERMILION, "k"), (query, aside, NAVY, "q")):
        tip = (0.98 * np.cos(angle), 0.98 * np.sin(angle))
        axes.annotate(
            "", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2.4, "shrinkA": 0}
        )
        letter = 1.18 * np.cos(angle + step), 1.18 * np.sin(angle + step)
        axes.text(*letter, name, ha="center", va="center", color=colour, fontsize=13, fontweight="bold")
    axes.plot(0, 0, "o", color=INK, markersize=4)
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35))
