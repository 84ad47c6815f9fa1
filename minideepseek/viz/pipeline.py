"""What the devices of a pipeline do, and when they wait."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from minideepseek.parallel.pipeline import Kind, Op, Timeline
from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, PAPER, TEAL, VERMILION, Picture, canvas

__all__ = ["gantt"]

_LOOKS: dict[Kind, tuple[str, str, str]] = {  # colour, colour of the number, name
    "F": (NAVY, PAPER, "forward"),
    "B": (VERMILION, PAPER, "backward, all of it"),
    "I": (GOLD, INK, "backward, for the input"),
    "W": (TEAL, PAPER, "backward, for the weights"),
}
_READABLE = 0.085  # inches that a number needs, for each digit


def gantt(timelines: Mapping[str, Timeline], *, title: str, width: float = 9.0) -> Picture:
    """Every device's work over time, one panel a schedule, all on one clock; what is left empty is the bubble.

    A number is that of the micro-batch. A forward and a backward pass side by side stand one above the other.

    Args:
        timelines: heading of a panel -> what ``parallel.pipeline.simulate`` returned.
        title: the finding.
        width: in inches.
    """
    tall = [len(timeline.schedule.devices) for timeline in timelines.values()]
    figure, panels = canvas(
        title,
        rows=len(timelines),
        width=width,
        height=0.9 + sum(0.24 * n + 0.62 for n in tall),
        sharex=True,
        gridspec_kw={"height_ratios": tall},
    )
    length = max(timeline.length for timeline in timelines.values())
    inches = (width - 1.0) / length  # of a unit of time
    seen: set[Kind] = set()
    for axes, (heading, timeline) in zip(panels, timelines.items(), strict=True):
        devices = range(len(timeline.schedule.devices))
        axes.axvspan(0, timeline.length, color="#f0f2f5", linewidth=0)
        for slot in timeline.slots:
            share = 0.84 / len(slot.step)
            for row, op in enumerate(slot.step):
                y = slot.device - 0.42 + row * share
                _box(axes, op, slot.start, y, slot.end - slot.start, share, inches)
                seen.add(op.kind)
        axes.axvline(timeline.length, color=MUTED, linewidth=1.2)
        axes.set(xlim=(0, length * 1.005), ylim=(devices[-1] + 0.55, -0.55), ylabel="device")
        axes.set_yticks(devices if len(devices) <= 8 else devices[::2])
        axes.grid(visible=False)
        axes.set_title(heading)
    panels[-1].set_xlabel("time, in units of one forward pass of a stage" if _unit(timelines) else "time")
    shown = [(colour, name) for kind, (colour, _, name) in _LOOKS.items() if kind in seen]
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=name) for colour, name in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _box(axes: Axes, op: Op, x: float, y: float, width: float, height: float, inches: float) -> None:
    colour, ink, _ = _LOOKS[op.kind]
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=PAPER, linewidth=0.6))
    number = str(op.micro)
    if width * inches > _READABLE * len(number):
        size = 7.5 if height > 0.5 else 5.5
        axes.text(x + width / 2, y + height / 2, number, ha="center", va="center_baseline", color=ink, fontsize=size)


def _unit(timelines: Mapping[str, Timeline]) -> bool:
    """Whether a forward pass alone takes one unit everywhere."""
    alone = [
        slot.end - slot.start
        for timeline in timelines.values()
        for slot in timeline.slots
        if [op.kind for op in slot.step] == ["F"]
    ]
    return all(abs(duration - 1) < 1e-9 for duration in alone)
