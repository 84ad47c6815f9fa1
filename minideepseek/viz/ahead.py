"""Looking further than the next token: the chain of modules as a picture, and drafts as a text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["chain_diagram"]


def chain_diagram(tokens: Sequence[str], *, title: str) -> Picture:
    """The model and one module beside it, over the same places: what each reads, hands on and answers.

    Args:
        tokens: five of a text, t1 to t5; the model reads the first three.
        title: the finding.
    """
    figure, (axes,) = canvas(title, height=4.3)
    bare(axes)
    for x0, name, first, colour in ((0.0, "the model", 0, NAVY), (8.2, "the module", 1, VERMILION)):
        _box(axes, x0, 2.2, 6.2, 1.0, f"{name}: {'all its blocks' if first == 0 else 'one block'}", colour)
        _box(axes, x0, 4.0, 6.2, 0.62, "the head" if first == 0 else "the same head", TEAL)
        for i in range(3):
            x = x0 + 1.1 + 2.0 * i
            _word(axes, x, 0.0, tokens[first + i], MUTED)
            _arrow(axes, (x, 0.3), (x, 1.0 if first else 2.15), MUTED)
            _arrow(axes, (x, 3.25), (x, 3.95), colour)
            _arrow(axes, (x, 4.67), (x, 5.25), colour)
            _word(axes, x, 5.55, tokens[first + i + 1], colour, bold=True)
    _box(axes, 8.2, 1.05, 6.2, 0.62, "join: 2D numbers to D", GOLD)
    for i in range(3):
        _arrow(axes, (9.3 + 2.0 * i, 1.7), (9.3 + 2.0 * i, 2.15), VERMILION)
    axes.annotate(
        "",
        (8.15, 1.36),
        (6.25, 3.6),
        arrowprops={"arrowstyle": "-|>", "color": NAVY, "linewidth": 2.4, "connectionstyle": "arc3,rad=-0.15"},
    )
    axes.text(7.15, 3.75, "h: what the\nhead reads", ha="center", va="bottom", color=NAVY, fontsize=10.5)
    axes.text(-0.5, 0.0, "reads", ha="right", va="center", color=MUTED, fontsize=11)
    axes.text(-0.5, 5.55, "answers", ha="right", va="center", color=INK, fontsize=11)
    axes.set(xlim=(-2.2, 14.8), ylim=(-0.4, 5.95))
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.14", facecolor=colour, edgecolor="none"
        )
    )
    ink = INK if colour == GOLD else "white"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=ink, fontsize=12, fontweight="bold")


def _word(axes: Axes, x: float, y: float, text: str, colour: str, *, bold: bool = False) -> None:
    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=12, fontweight="bold" if bold else "normal")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0})
