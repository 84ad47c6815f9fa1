"""What few bits can say: the numbers of a format on a line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from minideepseek.viz.style import COLOURS, Picture, canvas

__all__ = ["number_lines"]


def number_lines(
    formats: Mapping[str, ArrayLike], *, title: str, span: tuple[float, float] | None = None, log: bool = True
) -> Picture:
    """Every number that a format can hold, as a tick on its line.

    Equal steps look equal on a plain axis; on a logarithmic one, equal *relative* steps do: there one sees how many
    digits a format has (how dense its ticks are) and how far it reaches.

    Args:
        formats: name -> the numbers, as ``ops.quantise.held`` gives them; those that the axis cannot show are left out.
        title: the finding.
        span: least and greatest number shown; all of them by default.
        log: draw powers of two equally far apart.
    """
    figure, (axes,) = canvas(title, height=1.2 + 0.55 * len(formats))
    for row, (values, colour) in enumerate(zip(formats.values(), COLOURS * len(formats), strict=False)):
        shown = np.asarray(values, dtype=float).ravel()
        shown = shown[shown > 0] if log else shown
        if span is not None:
            shown = shown[(shown >= span[0]) & (shown <= span[1])]
        axes.vlines(shown, row - 0.32, row + 0.32, color=colour, linewidth=0.9)
    if log:
        axes.set_xscale("log", base=2)
    if span is not None:
        axes.set_xlim(*span)
    axes.set(ylim=(len(formats) - 0.4, -0.6), yticks=range(len(formats)), yticklabels=list(formats))
    axes.set_xlabel("number, powers of two equally far apart" if log else "number")
    axes.grid(visible=False)
    return figure
