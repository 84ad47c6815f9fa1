"""What happens to a corpus, as pictures: how much each step leaves, how copies are found, what a batch is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from minideepseek.viz.style import COLOURS, GOLD, INK, MUTED, NAVY, RULE, SKY, TEAL, VERMILION, Picture, canvas

__all__ = ["band_curve", "funnel", "pooling", "reading_order", "resemblance", "rows_of_documents", "two_rulers"]


def funnel(sizes: Mapping[str, float], *, unit: str, title: str, digits: str = ".2f") -> Picture:
    """A stream that narrows: as thick at each step as what the step leaves.

    Args:
        sizes: step -> what is left after it, in ``unit``; a ``\\n`` breaks a long name.
        unit: what is counted.
        title: the finding.
        digits: how sizes are written, as a format specification.
    """
    figure, (axes,) = canvas(title, height=3.2)
    steps, left = list(sizes), np.array(list(sizes.values()), dtype=float) / max(sizes.values())
    for i, step in enumerate(steps):
        colour = COLOURS[2] if i == len(steps) - 1 else NAVY
        axes.fill_between([i - 0.2, i + 0.2], [-left[i] / 2] * 2, [left[i] / 2] * 2, color=colour, linewidth=0)
        axes.annotate(step, (i, 0.56), ha="center", va="bottom", color=INK, fontweight="bold", linespacing=1.15)
        axes.annotate(f"{sizes[step]:{digits}} {unit}", (i, -0.56), ha="center", va="top", color=INK)
        if i + 1 < len(steps):
            _flow(axes, i, left[i], left[i + 1])
    axes.set(xlim=(-0.6, len(steps) - 0.4), ylim=(-0.78, 0.9))
    axes.set_axis_off()
    return figure


def _flow(axes: Axes, i: int, before: float, after: float) -> None:
    x = np.linspace(0, 1, 40)
    ease = x * x * (3 - 2 * x)
    half = (before + (after - before) * ease) / 2
    axes.fill_between(i + 0.2 + 0.6 * x, -half, half, color=SKY, linewidth=0)
    if (change := after / before - 1) < -0.005:
        axes.annotate(
            f"−{-100 * change:.0f} %", (i + 0.5, 0), ha="center", va="center", color=VERMILION, fontweight="bold"
        )


def resemblance(truth: ArrayLike, estimates: Mapping[int, ArrayLike], *, title: str) -> Picture:
    """Estimated against true similarity, a panel for each number of hash functions, in a band of two sigma.

    Args:
        truth: (pairs,) Jaccard similarities.
        estimates: number of hash functions k -> (pairs,) shares of equal minima, expected within
            2 sqrt(s (1 - s) / k) of the truth s.
        title: the finding.
    """
    true, s = np.asarray(truth, dtype=float), np.linspace(0, 1, 200)
    figure, panels = canvas(
        title, width=4.1 * len(estimates), height=4.2, cols=len(estimates), sharex=True, sharey=True
    )
    for axes, (k, estimate) in zip(panels, estimates.items(), strict=True):
        band = 2 * np.sqrt(s * (1 - s) / k)
        axes.fill_between(s, s - band, s + band, color=SKY, alpha=0.55, linewidth=0, label="two sigma, by theory")
        axes.plot(s, s, color=MUTED, linestyle="-", linewidth=1)
        axes.plot(true, np.asarray(estimate), "o", color=NAVY, markersize=4, alpha=0.75, markeredgewidth=0)
        axes.set(title=f"{k} hash functions", xlabel="true Jaccard similarity", xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.set_aspect("equal")
    panels[0].set_ylabel("share of equal minima")
    panels[0].legend(loc="lower right")
    return figure


def band_curve(
    bands: int, rows: int, *, measured: tuple[ArrayLike, ArrayLike] | None = None, threshold: float = 0.8
) -> Picture:
    """How likely two documents are to share a band of their signatures, by their similarity.

    Args:
        bands: how many there are.
        rows: minima in each.
        measured: (similarities, shares of pairs found) to draw as points.
        threshold: the similarity from which two documents count as copies.
    """
    s = np.linspace(0, 1, 400)
    found = 1 - (1 - s**rows) ** bands
    middle = (1 - 0.5 ** (1 / bands)) ** (1 / rows)
    figure, (axes,) = canvas(f"{bands} bands of {rows}: half of the pairs meet at similarity {middle:.2f}", height=3.9)
    copy = s >= threshold
    axes.fill_between(s[copy], found[copy], 1, color=VERMILION, alpha=0.3, linewidth=0, label="copies that are missed")
    axes.fill_between(s[~copy], 0, found[~copy], color=GOLD, alpha=0.35, linewidth=0, label="pairs compared in vain")
    axes.plot(s, found, color=NAVY, linestyle="-", label="1 − (1 − sʳ)ᵇ")
    if measured is not None:
        axes.plot(*map(np.asarray, measured), "o", color=TEAL, markersize=8, markeredgecolor="white", label="measured")
    axes.axvline(threshold, color=INK, linewidth=1, linestyle=":")
    axes.set(xlabel="Jaccard similarity s", ylabel="chance to meet in a band", xlim=(0, 1.01), ylim=(0, 1.03))
    axes.legend(loc="upper left")
    return figure


def pooling(
    rates: Mapping[str, ArrayLike], expected: ArrayLike, published: Mapping[int, float], *, title: str
) -> Picture:
    """The share of documents removed over the number of dumps pooled: ours in bands of two sigma, the paper as dots.

    Args:
        rates: label -> (seeds, dumps) shares removed from the first 1, 2, 3, ... dumps.
        expected: (dumps,) the share that goes by theory.
        published: number of dumps -> share removed.
        title: the finding.
    """
    figure, (axes,) = canvas(title, height=4.0)
    dumps = np.arange(1, len(np.asarray(expected)) + 1)
    paper, theory = 100 * np.array(list(published.values())), 100 * np.asarray(expected)
    axes.plot(list(published), paper, "D", color=NAVY, markersize=8, zorder=4, label="DeepSeek LLM, table 1")
    axes.plot(dumps, theory, color=MUTED, linestyle="-", linewidth=1.2, label="theory: no copy missed")
    for (label, values), colour, dash in zip(rates.items(), (TEAL, VERMILION, GOLD), ("-", "--", ":"), strict=False):
        runs = 100 * np.asarray(values, dtype=float)
        mean, spread = runs.mean(0), 2 * runs.std(0, ddof=1)
        axes.fill_between(dumps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.plot(dumps, mean, color=colour, linestyle=dash, label=label)
    axes.set(xlabel="dumps deduplicated together", ylabel="documents removed (%)", xscale="log", ylim=(0, 100))
    axes.set_xticks(list(published), [str(number) for number in published])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0.98))
    return figure


def rows_of_documents(layouts: Mapping[str, ArrayLike], *, title: str) -> Picture:
    """Rows of a batch as strips: each document a colour, padding hatched.

    Args:
        layouts: label -> (rows, tokens) document numbers; -1 where there is only padding.
        title: the finding.
    """
    height = 0.9 + 0.26 * sum(len(np.asarray(grid)) for grid in layouts.values()) + 0.5 * len(layouts)
    heights = [len(np.asarray(grid)) for grid in layouts.values()]
    figure, panels = canvas(title, rows=len(layouts), height=height, sharex=True, height_ratios=heights)
    for axes, (label, grid) in zip(panels, layouts.items(), strict=True):
        _strips(axes, np.asarray(grid))
        axes.set_title(label)
    panels[-1].set_xlabel("position in the row (tokens)")
    return figure


def _strips(axes: Axes, grid: np.ndarray) -> None:
    for y, row in enumerate(grid):
        starts = np.flatnonzero(np.diff(row, prepend=row[0] - 1))
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
            style: dict[str, Any] = (
                {"facecolor": "white", "edgecolor": "#aab2bd", "hatch": "////", "linewidth": 0}
                if row[start] < 0
                else {"facecolor": COLOURS[int(row[start]) % 6], "edgecolor": "white", "linewidth": 1}
            )
            axes.barh(y, end - start, left=start, height=0.82, **style)
    axes.set(xlim=(0, grid.shape[1]), ylim=(len(grid) - 0.4, -0.6), yticks=[])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def reading_order(windows: ArrayLike, n_windows: int, *, stop: int, title: str) -> Picture:
    """Which window of the corpus is read when; a run that stops and goes on changes colour, not path.

    Args:
        windows: (turns,) the window read at each turn.
        n_windows: in the corpus; an epoch is that many turns.
        stop: the turn at which the first process ended.
        title: the finding.
    """
    order = np.asarray(windows)
    figure, (axes,) = canvas(title, height=3.7)
    turns = np.arange(len(order))
    for label, part, colour in (
        ("before the stop", turns < stop, NAVY),
        ("a new process, from the saved state", turns >= stop, VERMILION),
    ):
        axes.plot(turns[part], order[part], "o", color=colour, markersize=4, markeredgewidth=0, label=label)
    for epoch in range(1, len(order) // n_windows + 1):
        axes.axvline(epoch * n_windows - 0.5, color=RULE if epoch * n_windows == len(order) else MUTED, linewidth=1)
    axes.set(xlabel="turn", ylabel="window of the corpus", xlim=(-2, len(order) + 1))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def two_rulers(sizes: ArrayLike, loss: ArrayLike, bits: ArrayLike, *, title: str) -> Picture:
    """The same models measured in two units, over the size of their vocabulary, in bands of two standard deviations.

    Args:
        sizes: (points,) of the vocabulary.
        loss: (seeds, points) nats per token.
        bits: (seeds, points) bits per byte.
        title: the finding.
    """
    figure, panels = canvas(title, cols=2, height=3.6, sharex=True)
    x = np.asarray(sizes)
    names = ("loss per token (nats)", "bits per byte of text")
    for axes, values, name, colour in zip(panels, (loss, bits), names, (VERMILION, TEAL), strict=True):
        runs = np.asarray(values, dtype=float)
        mean, spread = runs.mean(0), 2 * runs.std(0, ddof=1)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, mean, "o-", color=colour, markeredgecolor="white", markersize=8)
        axes.set(title=name, xlabel="size of the vocabulary", xscale="log", ylim=(0, 1.15 * mean.max()))
        axes.set_xticks(x, [f"{size:,}" for size in x])
        axes.minorticks_off()
    return figure
