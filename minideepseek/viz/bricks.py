"""The bricks of a block as pictures: the block itself, what a norm does to vectors, what a gate lets through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, SIGNED, TEAL, VERMILION, Picture, bare, canvas

__all__ = ["block_diagram", "gate_picture", "norm_picture"]


def block_diagram(*, title: str) -> Picture:
    """A pre-norm block: the stream runs straight through, two branches read a normed copy and add to it."""
    figure, (axes,) = canvas(title, height=2.9)
    bare(axes)
    axes.annotate("", (15.6, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "color": NAVY, "linewidth": 4})
    axes.text(0, -0.62, "stream x: B × T × D", color=NAVY, fontsize=12)
    axes.text(15.6, -0.62, "to the next block", color=NAVY, fontsize=12, ha="right")
    _branch(axes, 1.2, "attention", "tokens read\nfrom each other", VERMILION)
    _branch(axes, 8.5, "SwiGLU", "each token\nby itself", TEAL)
    axes.set(xlim=(-0.2, 15.8), ylim=(-0.9, 2.7))
    return figure


def _branch(axes: Axes, start: float, name: str, role: str, colour: str) -> None:
    end = start + 5.7
    path: dict[str, Any] = {"color": colour, "linewidth": 2, "linestyle": "-", "solid_joinstyle": "round"}
    axes.plot([start, start, start + 0.5], [0, 2, 2], **path)
    axes.plot([start + 1.9, start + 2.5], [2, 2], **path)
    axes.plot([start + 5.1, end, end], [2, 2, 0.3], **path)
    axes.plot(start, 0, "o", color=colour, markersize=7)
    for x, width, text, fill in ((start + 0.5, 1.4, "RMS-\nnorm", GOLD), (start + 2.5, 2.6, name, colour)):
        box = FancyBboxPatch(
            (x, 1.45), width, 1.1, boxstyle="round,pad=0,rounding_size=0.15", facecolor=fill, edgecolor="none"
        )
        axes.add_patch(box)
        ink = INK if fill == GOLD else "white"
        axes.text(x + width / 2, 2, text, ha="center", va="center", color=ink, fontsize=12, fontweight="bold")
    axes.text(start + 3.8, 1.22, role, ha="center", va="top", fontsize=11, color=INK, linespacing=1.25)
    axes.plot(end, 0, "o", markersize=19, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2, zorder=4)
    axes.text(end, 0, "+", ha="center", va="center_baseline", fontsize=17, color=colour, zorder=5)


def norm_picture(before: ArrayLike, after: Mapping[str, ArrayLike], *, title: str) -> Picture:
    """Vectors of two channels before and after each norm; a thin line joins each to where it went.

    Args:
        before: (N, 2) the vectors.
        after: name of a norm -> (N, 2) what it made of them.
        title: the finding.
    """
    start = np.asarray(before, dtype=float)
    figure, panels = canvas(title, height=4.3, cols=len(after), sharex=True, sharey=True)
    for axes, (name, vectors) in zip(panels, after.items(), strict=True):
        end = np.asarray(vectors, dtype=float)
        axes.plot(*np.stack([start, end]).transpose(2, 0, 1), color=MUTED, linewidth=0.5, linestyle="-", alpha=0.5)
        axes.plot(*start.T, "o", color=NAVY, markersize=3.5, label="before")
        axes.plot(*end.T, "o", color=VERMILION, markersize=7, markeredgecolor="white", label="after")
        axes.set(title=name, xlabel="channel 1", aspect="equal")
    panels[0].set_ylabel("channel 2")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def gate_picture(gate: ArrayLike, up: ArrayLike, *, title: str) -> Picture:
    """SiLU beside ReLU, and the surface silu(gate) · up with the hidden units of a layer on it.

    Args:
        gate: (N,) what the gate projection gave some hidden units.
        up: (N,) what the up projection gave the same units.
        title: the finding.
    """
    figure, (left, right) = canvas(title, height=4.0, cols=2, ratios=[1, 1.15])
    g, u = np.asarray(gate, dtype=float), np.asarray(up, dtype=float)
    reach = max(4.0, 1.05 * float(np.abs([g, u]).max()))
    line = np.linspace(-reach, reach, 201)
    left.plot(line, np.maximum(line, 0), color=MUTED, linewidth=1.4, linestyle="--", label="ReLU")
    left.plot(line, _silu(line), color=VERMILION, linestyle="-", label="SiLU(g) = g · sigmoid(g)")
    left.set(
        xlabel="gate value g", ylabel="factor on the up value", title="the gate: shut on the left, open on the right"
    )
    left.legend(loc="upper left")
    product = _silu(line)[None, :] * line[:, None]
    span = (-reach, reach, -reach, reach)
    image = right.imshow(product, cmap=SIGNED, vmin=-6, vmax=6, origin="lower", extent=span, interpolation="bilinear")
    right.contour(line, line, product, levels=[-4, -2, -0.5, 0.5, 2, 4], colors=MUTED, linewidths=0.7)
    right.plot(g, u, "o", color=INK, markersize=2.5, alpha=0.6)
    right.grid(visible=False)
    right.set(xlabel="gate value g", ylabel="up value u", aspect="equal", title="SiLU(g) · u (dots: hidden units)")
    bar = figure.colorbar(image, ax=right, shrink=0.85, aspect=24, extend="both")
    bar.outline.set_visible(False)
    return figure


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))
