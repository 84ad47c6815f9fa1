"""The family on one page: a line of generations, what each changed, and what that does to size and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from minideepseek.accounting import cache_elements, report
from minideepseek.generations import generations
from minideepseek.model import ModelConfig
from minideepseek.viz.style import GOLD, INK, MUTED, NAVY, RULE, SKY, TEAL, Picture, bare, canvas

__all__ = ["FAMILY", "Step", "family"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One generation: its name, when it appeared, what it changed, and its config where the package has it."""

    name: str
    date: str
    change: str
    config: ModelConfig | None = None


def _step(name: str, date: str, change: str, key: str | None = None) -> Step:
    return Step(name=name, date=date, change=change, config=generations[key] if key else None)


FAMILY = (
    _step("V1", "Jan 2024", "LLaMA's block; own data, schedule, scaling laws", "v1-67b"),
    _step("MoE", "Jan 2024", "many small experts, of which a token uses a few", "moe-16b"),
    _step("V2", "May 2024", "attention that caches one small vector a token", "v2"),
    _step("V3", "Dec 2024", "balance without a loss; two tokens ahead; FP8", "v3"),
    _step("R1", "Jan 2025", "V3, taught to reason by rewards that can be checked"),
    _step("V3.2", "Dec 2025", "each token reads a few thousand others, not all", "v3.2"),
    _step("V4", "Jun 2026", "compressed attention, wider streams, Muon", "v4-pro"),
)


def family(steps: Sequence[Step] = FAMILY, *, title: str, seq_len: int = 131_072) -> Picture:
    """The generations from top to bottom: what changed, parameters (all and at work), cache for one long text.

    Sizes are computed from the configs (``mds.report``); a generation that the package does not hold yet has none.

    Args:
        steps: first to last.
        title: the finding.
        seq_len: tokens of the text whose cache is drawn, in bfloat16.
    """
    counts = [None if step.config is None else report(step.config) for step in steps]
    totals = [found.parameters for found in counts if found]
    caches = [2 * cache_elements(step.config, seq_len) for step in steps if step.config is not None]
    figure, (axes,) = canvas(title, height=0.62 * len(steps) + 0.9)
    bare(axes).set_aspect("auto")
    last = len(steps) - 1
    axes.plot([0.55, 0.55], [0, last], color=SKY, linewidth=5, linestyle="-", solid_capstyle="round", zorder=1)
    for x, heading in ((1.25, "what changed"), (6.55, "parameters"), (9.3, f"cache of {seq_len // 1024}K tokens")):
        axes.text(x, last + 0.72, heading, color=MUTED, fontsize=10.5)
    for row, (step, found) in enumerate(zip(steps, counts, strict=True)):
        y = last - row
        _name(axes, y, step, found is not None)
        axes.text(1.25, y, step.change, va="center", fontsize=10.5, color=INK)
        if found is None or step.config is None:
            axes.text(6.55, y, "later in the course", va="center", fontsize=10, color=MUTED, style="italic")
            continue
        atwork = found.activated["everything"]
        _bars(axes, 6.55, y, 2.3, found.parameters / max(totals), atwork / max(totals))
        of_them = "" if atwork == found.parameters else f", {_billions(atwork)} at work"
        axes.text(6.55, y - 0.3, f"{_billions(found.parameters)}{of_them}", va="center", fontsize=9.5, color=INK)
        cache = 2 * cache_elements(step.config, seq_len)
        axes.add_patch(Rectangle((9.3, y - 0.08), 1.9 * cache / max(caches), 0.26, color=GOLD))
        axes.text(9.3, y - 0.3, f"{cache / 2**30:.1f} GiB", va="center", fontsize=9.5, color=INK)
    axes.set(xlim=(-0.05, 11.3), ylim=(-0.6, last + 0.95))
    return figure


def _name(axes: Axes, y: float, step: Step, here: bool) -> None:
    box = FancyBboxPatch(
        (0.05, y - 0.27),
        1.0,
        0.54,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=NAVY if here else "white",
        edgecolor=NAVY,
        linewidth=1.5,
        zorder=2,
    )
    axes.add_patch(box)
    ink = "white" if here else NAVY
    axes.text(0.55, y + 0.08, step.name, ha="center", va="center", color=ink, fontweight="bold", fontsize=12, zorder=3)
    axes.text(0.55, y - 0.15, step.date, ha="center", va="center", color=ink, fontsize=7.5, zorder=3)


def _bars(axes: Axes, x: float, y: float, width: float, total: float, atwork: float) -> None:
    axes.add_patch(Rectangle((x, y - 0.08), width, 0.26, color=RULE, alpha=0.5))
    axes.add_patch(Rectangle((x, y - 0.08), width * total, 0.26, color=SKY))
    axes.add_patch(Rectangle((x, y - 0.08), width * atwork, 0.26, color=TEAL))


def _billions(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count < 1e11 else f"{count / 1e9:.0f} B"
