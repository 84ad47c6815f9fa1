"""Compressed blocks as a picture: what one query sees of a text, token by token and block by block."""

from __future__ import annotations

from collections.abc import Collection

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, PAPER, RULE, SKY, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["sight"]


def sight(
    query: int,
    *,
    length: int,
    window: int,
    rate: int,
    overlap: bool = False,
    chosen: Collection[int] | None = None,
    title: str | None = None,
) -> Picture:
    """What the query at position ``query`` sees: tokens of its window below, entries of closed blocks above.

    Args:
        query: its position, from 0.
        length: tokens drawn.
        window: tokens that it sees one by one, itself among them, W.
        rate: tokens in a block, m.
        overlap: whether an entry reads the block before its own, too (CSA); drawn as a thin line over both.
        chosen: numbers of the entries that it reads, of those it sees; None for all (HCA).
        title: the finding; by default it counts.
    """
    n_seen = (query + 1) // rate
    read = [i for i in range(n_seen) if chosen is None or i in chosen]
    words = min(window, query + 1)
    heading = f"Token {query} reads {_count(words, 'token')} and {_count(len(read), 'block')} of {n_seen}"
    figure, (axes,) = canvas(heading if title is None else title, height=2.6)
    bare(axes)
    for t in range(length):
        near, open_ = query - window < t <= query, n_seen * rate <= t <= query
        colour = VERMILION if t == query else NAVY if near else GOLD if open_ else SKY if t < query else PAPER
        _box(axes, t + 0.06, 0.0, 0.88, 0.88, colour, MUTED if t <= query else RULE)
        if t == query or (t % rate == 0 and abs(t - query) > 1):
            axes.text(t + 0.5, -0.45, str(t), ha="center", va="center", fontsize=9, color=MUTED)
    for i in range(length // rate):
        colour = TEAL if i in read else SKY if i < n_seen else PAPER
        _box(axes, i * rate + 0.1, 1.75, rate - 0.2, 1.1, colour, MUTED if i < n_seen else RULE)
        ink = PAPER if i in read else INK if i < n_seen else RULE
        axes.text((i + 0.5) * rate, 2.3, str(i), ha="center", va="center", fontsize=11, color=ink)
        if overlap and i in read:
            axes.plot(
                [max(i - 1, 0) * rate + 0.15, (i + 1) * rate - 0.15],
                [1.35, 1.35],
                color=TEAL,
                linewidth=1.5,
                linestyle="-",
            )
    legend = {
        VERMILION: "the query",
        NAVY: "read word by word",
        TEAL: "entries read",
        GOLD: "in the open block, out of sight",
        SKY: "earlier" if len(read) == n_seen else "earlier; entries closed but not chosen",
    }
    if n_seen * rate >= query - words + 1:
        del legend[GOLD]
    handles = [Patch(facecolor=colour, edgecolor=MUTED, label=text) for colour, text in legend.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=9.5, handlelength=1.0)
    axes.set(xlim=(-0.3, length + 0.3), ylim=(-0.8, 3.0))
    axes.set_aspect("auto")
    return figure


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, edge: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=edge,
            linewidth=0.8,
        )
    )
