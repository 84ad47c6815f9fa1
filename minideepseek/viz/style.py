"""The house style of figures: one set of colours, sizes and habits for every lesson.

Six colours form a ladder of lightness, so they stay apart in greyscale and for colour-blind readers (a test measures
both); lines differ in dash as well. Letters are large enough for a projector. A title states what the figure shows,
in a sentence; axes carry units.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

NAVY, VERMILION, TEAL, GOLD, PURPLE, SKY = "#14305f", "#c43d14", "#159b8f", "#eaa023", "#7a3b9a", "#a6d8ee"
COLOURS = (NAVY, VERMILION, TEAL, GOLD, PURPLE, SKY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), "-.", (0, (1, 1)), (0, (7, 1.5, 1, 1.5, 1, 1.5)), (0, (3, 1)))
INK, MUTED, RULE, PAPER = "#1c2333", "#69727f", "#d9dee5", "#ffffff"

#: light to dark in one hue: weights, shares, probabilities
SHADE = LinearSegmentedColormap.from_list("shade", ["#f6f9fc", "#a6d8ee", "#3f7fb5", NAVY, "#0a1834"])
#: dark - paper - dark around zero: signed values
SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#6d1f08", VERMILION, "#f6ddd3", PAPER, "#d3e3f1", "#3f7fb5", NAVY]
)

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 12,
    "text.color": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "figure.titlesize": 14,
    "figure.titleweight": "bold",
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Make the house style matplotlib's own; importing ``minideepseek.viz`` does it once."""
    mpl.rcParams.update(STYLE)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, the same for the same figure."""
    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    # 256 colours look the same and take a quarter of the room: a notebook carries a dozen figures.
    full = Image.open(drawn).convert("RGB")
    full.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


class Picture(Figure):
    """A figure that a notebook shows where it is the value of a cell: once, and without pyplot's hidden state."""

    heading = ""

    def _repr_png_(self) -> bytes:
        return png(self)

    def __repr__(self) -> str:
        return f"<Picture: {self.heading}>"  # what a reader has who does not see the image


def canvas(
    title: str,
    *,
    width: float = 9.0,
    height: float = 3.6,
    rows: int = 1,
    cols: int = 1,
    ratios: Sequence[float] | None = None,
    **subplots: Any,
) -> tuple[Picture, list[Axes]]:
    """An empty figure under its title, and its axes in reading order.

    Args:
        title: the finding, as a sentence.
        width: in inches; 9 fills a notebook's column.
        height: in inches.
        rows: of panels.
        cols: of panels.
        ratios: relative widths of the columns.
        subplots: passed on to ``Figure.subplots`` (``sharey=True`` ...).
    """
    figure = Picture(figsize=(width, height))
    figure.heading = title
    figure.suptitle(title, x=0.01, ha="left")
    axes = figure.subplots(rows, cols, squeeze=False, width_ratios=ratios, **subplots)
    return figure, list(np.ravel(axes))


def bare(axes: Axes) -> Axes:
    """Take everything off ``axes`` that a diagram does not need: ticks, frame, grid; keep the aspect."""
    axes.set_axis_off()
    axes.set_aspect("equal")
    return axes


def ink_on(shade: float) -> str:
    """The colour of letters on a cell of ``SHADE`` at ``shade`` in [0, 1]."""
    return PAPER if shade > 0.45 else INK
