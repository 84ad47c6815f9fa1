"""Who looks at whom: attention weights as a map, and which query heads share keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from minideepseek.viz.style import COLOURS, INK, RULE, SHADE, Picture, bare, canvas, ink_on

__all__ = ["attention_map", "head_sharing"]


def attention_map(
    weights: ArrayLike, *, title: str, tokens: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> Picture:
    """Attention weights, a row for each query, a column for each key; what the causal mask hides stays empty.

    Args:
        weights: (T, T), or (P, T, T) for P panels: heads, or variants.
        title: the finding.
        tokens: T labels for the axes; positions 0, 1, 2 ... by default.
        names: P labels for the panels.
    """
    maps = np.asarray(weights, dtype=float)
    maps = maps[None] if maps.ndim == 2 else maps
    panels, length, _ = maps.shape
    size = 3.4 if panels > 1 else 4.4
    figure, all_axes = canvas(title, width=max(5.4, size * panels), height=size + 0.5, cols=panels, sharey=True)
    hidden = np.triu(np.ones((length, length), dtype=bool), 1)
    top = maps[:, ~hidden].max()
    for index, (axes, panel) in enumerate(zip(all_axes, maps, strict=True)):
        image = axes.imshow(np.ma.array(panel, mask=hidden), cmap=SHADE, vmin=0, vmax=top)
        axes.grid(visible=False)
        axes.set_xlabel("key")
        if names:
            axes.set_title(names[index])
        if tokens is not None:
            axes.set_xticks(range(length), tokens, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(length), tokens)
        if length <= 8:
            _write_numbers(axes, panel, hidden, top)
    all_axes[0].set_ylabel("query")
    bar = figure.colorbar(image, ax=all_axes, shrink=0.82, aspect=28, pad=0.02)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    return figure


def _write_numbers(axes: Axes, panel: np.ndarray, hidden: np.ndarray, top: float) -> None:
    for (row, column), value in np.ndenumerate(panel):
        if not hidden[row, column]:
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink_on(value / top))


def head_sharing(n_heads: int, groups: Sequence[int], *, title: str) -> Picture:
    """Query heads above, the key/value heads they read from below, one panel for each number in ``groups``.

    Args:
        n_heads: query heads, H.
        groups: numbers of key/value heads, each a divisor of H.
        title: the finding.
    """
    figure, panels = canvas(title, height=2.3, cols=len(groups))
    for axes, n_kv in zip(panels, groups, strict=True):
        bare(axes)
        share = n_heads // n_kv
        name = {n_heads: "multi-head", 1: "multi-query"}.get(n_kv, "grouped-query")
        axes.set_title(f"{name}: {n_kv} key/value head{'s' if n_kv > 1 else ''}", loc="center")
        for group in range(n_kv):
            colour = COLOURS[group % 6]
            centre = (group + 0.5) * share - 0.5
            _box(axes, centre, 0, colour, "kv")
            for head in range(group * share, (group + 1) * share):
                axes.plot([head, centre], [1.62, 0.38], color=colour, linewidth=1.4, linestyle="-")
                _box(axes, head, 2, colour, "q")
        axes.set(xlim=(-0.7, n_heads - 0.3), ylim=(-0.5, 2.5))
    return figure


def _box(axes: Axes, x: float, y: float, colour: str, text: str) -> None:
    light = colour in COLOURS[3:4] + COLOURS[5:]
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.3, y - 0.3), 0.6, 0.6, boxstyle="round,pad=0.06", facecolor=colour, edgecolor=RULE, linewidth=0.5
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=INK if light else "white")
