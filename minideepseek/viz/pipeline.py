"""What the devices of a pipeline do, when they wait, and what they send meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from minideepseek.parallel.overlap import SENDING, Moment, Part
from minideepseek.parallel.pipeline import Kind, Op, Timeline
from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, PAPER, TEAL, VERMILION, Picture, canvas

__all__ = ["gantt", "hands"]

_LOOKS: dict[Kind, tuple[str, str, str]] = {  # colour, colour of the number, name
    "F": (NAVY, PAPER, "forward"),
    "B": (VERMILION, PAPER, "backward, all of it"),
    "I": (GOLD, INK, "backward, for the input"),
    "W": (TEAL, PAPER, "backward, for the weights"),
}
_SHORT: dict[Part, str] = {"attention": "attn", "experts": "exp", "dispatch": "disp", "combine": "comb"}
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
        room = _READABLE * len(str(timeline.schedule.micros - 1)) / inches  # for any of the numbers, or for none
        devices = range(len(timeline.schedule.devices))
        axes.axvspan(0, timeline.length, color="#f0f2f5", linewidth=0)
        for slot in timeline.slots:
            share = 0.84 / len(slot.step)
            for row, op in enumerate(slot.step):
                y = slot.device - 0.42 + row * share
                _box(axes, op, slot.start, y, slot.end - slot.start, share, room)
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


def _box(axes: Axes, op: Op, x: float, y: float, width: float, height: float, room: float) -> None:
    colour, ink, _ = _LOOKS[op.kind]
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=PAPER, linewidth=0.6))
    if width > room:
        size = 7.5 if height > 0.5 else 5.5
        place = x + width / 2, y + height / 2
        axes.text(*place, str(op.micro), ha="center", va="center_baseline", color=ink, fontsize=size)


def _unit(timelines: Mapping[str, Timeline]) -> bool:
    """Whether a forward pass alone takes one unit everywhere."""
    alone = [
        slot.end - slot.start
        for timeline in timelines.values()
        for slot in timeline.slots
        if [op.kind for op in slot.step] == ["F"]
    ]
    return all(abs(duration - 1) < 1e-9 for duration in alone)


def hands(charts: Mapping[str, Sequence[Moment]], *, title: str) -> Picture:
    """What a device computes and what it sends, over time, one panel for each way to order it.

    Args:
        charts: heading of a panel -> what ``parallel.overlap`` returned.
        title: the finding.
    """
    figure, panels = canvas(title, rows=len(charts), height=0.9 + 1.25 * len(charts), sharex=True)
    length = max(moment.end for moments in charts.values() for moment in moments)
    colours: dict[str, Kind] = {"F": "F", "B": "I", "W": "W"}
    for axes, (heading, moments) in zip(panels, charts.items(), strict=True):
        for (part, way, _), start, end in moments:
            colour, ink, _ = _LOOKS[colours[way]]
            y = 1 if part in SENDING else 0
            axes.add_patch(Rectangle((start, y - 0.42), end - start, 0.84, facecolor=colour, edgecolor=PAPER))
            if (end - start) * 7.6 / length > 0.075 * len(_SHORT[part]):
                axes.text(
                    (start + end) / 2, y, _SHORT[part], ha="center", va="center_baseline", color=ink, fontsize=8.5
                )
        last = max(moment.end for moment in moments)
        axes.axvline(last, color=MUTED, linewidth=1.2)
        axes.set(xlim=(0, length * 1.005), ylim=(1.55, -0.55), yticks=(0, 1), yticklabels=("computes", "sends"))
        axes.grid(visible=False)
        axes.set_title(heading)
    panels[-1].set_xlabel("time")
    names = [(_LOOKS[kind][0], _LOOKS[kind][2]) for kind in colours.values()]
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=name) for colour, name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
