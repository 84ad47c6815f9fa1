"""Scaling laws as pictures: valleys and their floors, the laws through them, settings near the best, a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from minideepseek.train.laws import BUDGETS, NEAR_OPTIMAL, PowerLaw, PublishedRun, batch_opt, d_opt, lr_opt, m_opt
from minideepseek.train.scaling import Bootstrap, IsoFlop, Valley
from minideepseek.viz.style import GOLD, INK, MUTED, PAPER, SHADE, TEAL, VERMILION, Picture, canvas

__all__ = ["budget_plan", "forecast", "laws_of", "near_optimal", "three_axes", "valleys"]

_MARKS = "osD^vP"


def valleys(
    compute: ArrayLike,
    scale: ArrayLike,
    loss: ArrayLike,
    fitted: Sequence[Valley],
    *,
    title: str,
    live: tuple[ArrayLike, ArrayLike] | None = None,
    xlabel: str = "scale M of the model, FLOPs a token",
    ylabel: str = "held-out loss, bits a byte",
) -> Picture:
    """Loss against scale, a valley for each budget, its parabola and its floor.

    Args:
        compute, scale, loss: (runs,) as for ``scaling.fit_isoflop``.
        fitted: the parabolas to draw; a floor is marked where there is one.
        title: the finding.
        live: (scales, losses) of runs to set apart from the others.
        xlabel, ylabel: with units.
    """
    figure, (axes,) = canvas(title, height=4.6)
    compute, scale, loss = (np.asarray(values, dtype=float) for values in (compute, scale, loss))
    for budget, colour, mark in _ladder(compute):
        here = compute == budget
        axes.plot(scale[here], loss[here], mark, color=colour, markersize=5.5, alpha=0.75, markeredgewidth=0)
    for valley in fitted:
        colour = next(colour for budget, colour, _ in _ladder(compute) if budget == valley.compute)
        x = np.geomspace(valley.low / 1.15, valley.high * 1.15, 100)
        axes.plot(x, valley(x), color=colour, linestyle="-", linewidth=2)
        axes.annotate(f"C = {_power(valley.compute)}", (x[-1], valley(x)[-1].item()), (5, 0), color=colour,
                      textcoords="offset points", va="center", fontweight="bold")  # fmt: skip
    floors = [(valley.scale, valley.loss) for valley in fitted if valley.inside]
    if floors:
        x, y = np.array(floors).T
        axes.plot(x, y, color=VERMILION, linestyle=":", linewidth=1.6, zorder=4)
        axes.plot(x, y, "*", color=VERMILION, markersize=15, markeredgecolor=PAPER, zorder=5, label="floor: best M")
    if live is not None:
        axes.plot(*live, "o", markersize=10, markerfacecolor="none", markeredgecolor=TEAL, markeredgewidth=2.2,
                  zorder=6, label="trained just now")  # fmt: skip
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0.14)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    return figure


def laws_of(fit: IsoFlop, spread: Bootstrap, *, title: str) -> Picture:
    """The floors' scale and data against compute: the fitted law in its 90 % band, the report's own for comparison."""
    figure, panels = canvas(title, cols=2, height=3.9)
    budgets = np.array([valley.compute for valley in fit.valleys])
    scales = np.array([valley.scale for valley in fit.valleys])
    errors = 2 * np.array([valley.log_error for valley in fit.valleys])
    x, low, high = np.geomspace(budgets[0] / 2, budgets[-1] * 2, 50), *spread.interval()
    sides = (
        ("best model M, FLOPs a token", scales, fit.model, m_opt, (low, high)),
        ("best data D, tokens", budgets / scales, fit.data, d_opt, (1 - high, 1 - low)),
    )
    for axes, (label, y, law, published, band) in zip(panels, sides, strict=True):
        centre = np.exp(np.log(budgets).mean())
        edges = [law(centre) * (x / centre) ** exponent for exponent in band]
        axes.fill_between(x, *edges, color=VERMILION, alpha=0.16, linewidth=0)
        axes.plot(x, law(x), color=VERMILION, linestyle="-", label=f"our fit, exponent {law.exponent:.2f}")
        axes.plot(x, published(x), color=MUTED, linestyle="-", linewidth=1.2,
                  label=f"V1's law, {published.exponent:.2f}")  # fmt: skip
        bars = [y * (1 - np.exp(-errors)), y * (np.exp(errors) - 1)]
        axes.errorbar(
            budgets, y, bars, fmt="*", color=INK, markersize=11, capsize=3, linewidth=1.4, label="floors ± 2σ"
        )
        axes.set(xscale="log", yscale="log", xlabel="compute C, FLOPs", ylabel=label)
        axes.legend(loc="upper left")
    return figure


def three_axes(
    views: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]], *, budgets: ArrayLike, title: str
) -> Picture:
    """The same runs against compute counted in several ways, a panel each: columns where runs cost the same.

    Args:
        views: way of counting -> (compute, scale, loss) of the runs, in one order; the scale tells large dots from
            small ones.
        budgets: (runs,) which runs were meant to cost the same.
        title: the finding.
    """
    figure, panels = canvas(title, cols=len(views), height=3.7, sharex=True, sharey=True)
    budgets = np.asarray(budgets, dtype=float)
    for axes, (name, view) in zip(panels, views.items(), strict=True):
        compute, scale, loss = (np.asarray(values, dtype=float) for values in view)
        size = 14 + 60 * (np.log(scale) - np.log(scale).min()) / np.ptp(np.log(scale))
        for budget, colour, _ in _ladder(budgets):
            here = budgets == budget
            axes.scatter(compute[here], loss[here], size[here], color=colour, alpha=0.8, linewidth=0)
            axes.axvline(budget, color=colour, linewidth=1, linestyle=":")
        axes.set(xscale="log", xlabel=f"{name} · D, FLOPs")
        axes.xaxis.set_minor_formatter("")
    panels[0].set_ylabel("bits a byte")
    return figure


def near_optimal(maps: Mapping[float, ArrayLike], *, lr: Sequence[str], batch: Sequence[str], title: str) -> Picture:
    """How far from the best each pair of learning rate and batch ends, a panel for each budget.

    Args:
        maps: budget -> (lr, batch) losses. Cells within a quarter of a percent of the panel's best get a frame.
        lr, batch: how the rows and columns are called, in multiples of what the law says; "1" is the law itself.
        title: the finding.
    """
    figure, panels = canvas(title, cols=len(maps), height=4.0)
    for axes, (budget, losses) in zip(panels, maps.items(), strict=True):
        losses = np.asarray(losses, dtype=float)
        excess = losses / losses.min() - 1
        shade = np.clip(np.log10(np.maximum(excess, NEAR_OPTIMAL) / NEAR_OPTIMAL) / 2, 0, 1)
        axes.imshow(shade, cmap=ListedColormap(SHADE(np.linspace(0, 0.8, 64))), vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(excess):
            colour = PAPER if shade[i, j] > 0.55 else INK
            text = "best" if value == 0 else f"+{100 * value:.1f} %"
            text += "\nlaw" if (lr[i], batch[j]) == ("1", "1") else ""
            axes.annotate(text, (j, i), ha="center", va="center", fontsize=10, color=colour)
            if value <= NEAR_OPTIMAL:
                axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=GOLD, linewidth=3))
        axes.set_xticks(range(len(batch)), batch)
        axes.set_yticks(range(len(lr)), lr)
        axes.set(xlabel="batch, in multiples of the law's", title=f"C = {_power(budget)} FLOPs")
        axes.grid(visible=False)
        axes.tick_params(length=0)
    panels[0].set_ylabel("learning rate, in multiples")
    return figure


def forecast(
    budgets: ArrayLike, losses: ArrayLike, law: PowerLaw, *, used: int, title: str, errors: ArrayLike | None = None
) -> Picture:
    """Least loss against compute: a law through the first ``used`` budgets, and where the others came out.

    Args:
        budgets: (n,) compute.
        losses: (n,) the best loss of each.
        law: fitted to the first ``used``.
        used: how many the law has seen.
        title: the finding.
        errors: (n,) of the losses, two standard deviations.
    """
    figure, (axes,) = canvas(title, height=3.8)
    budgets, losses = np.asarray(budgets, dtype=float), np.asarray(losses, dtype=float)
    x = np.geomspace(budgets[0] / 1.5, budgets[-1] * 1.5, 60)
    axes.plot(x, law(x), color=MUTED, linestyle=":", linewidth=1.8, label="law, beyond what it has seen")
    seen = x <= budgets[used - 1]
    axes.plot(x[seen], law(x[seen]), color=VERMILION, linestyle="-", label="law, fitted here")
    bars = None if errors is None else np.asarray(errors, dtype=float)
    style: dict[str, Any] = {"capsize": 3, "linewidth": 1.4, "linestyle": "none"}
    for part, mark, colour, label in ((slice(0, used), "o", INK, "seen"), (slice(used, None), "*", TEAL, "not seen")):
        axes.errorbar(budgets[part], losses[part], None if bars is None else bars[part], marker=mark, color=colour,
                      markersize=13 if mark == "*" else 8, label=label, zorder=4, **style)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="compute C, FLOPs", ylabel="bits a byte at the floor")
    axes.set_xticks(budgets, [_power(budget) for budget in budgets])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.legend(loc="upper right")
    return figure


def budget_plan(compute: float, runs: Mapping[str, PublishedRun], *, title: str = "") -> Picture:
    """What V1's laws plan for one budget, and where runs that were really made stand.

    Args:
        compute: the budget in FLOPs.
        runs: name -> a run to mark in every panel.
        title: the finding; without one, the plan in words.
    """
    plan = f"C = {_power(compute)}: M = {_si(m_opt(compute))}, D = {_si(d_opt(compute))}, "
    plan += f"batch {_si(batch_opt(compute))}, learning rate {lr_opt(compute):.2g}"
    figure, panels = canvas(title or plan, cols=2, rows=2, height=5.4, sharex=True)
    x = np.geomspace(1e16, 1e26, 100)
    sides: tuple[tuple[str, PowerLaw, Any], ...] = (
        ("model M, FLOPs a token", m_opt, lambda run: run.scale),
        ("data D, tokens", d_opt, lambda run: run.tokens),
        ("batch, tokens", batch_opt, lambda run: run.batch_tokens),
        ("learning rate", lr_opt, lambda run: run.lr),
    )
    for axes, (label, law, of) in zip(panels, sides, strict=True):
        axes.axvspan(*BUDGETS, color=SHADE(0.07), linewidth=0, zorder=0)
        axes.plot(x, law(x), color=INK, linestyle="-", linewidth=1.8)
        for (name, run), colour, mark in zip(runs.items(), (TEAL, GOLD), "sD", strict=False):
            note = f"{name}: {of(run) / law(run.compute):.2f} × the law"
            axes.plot(run.compute, of(run), mark, color=colour, markersize=8, markeredgecolor=INK, label=note, zorder=4)
        axes.axvline(compute, color=VERMILION, linewidth=1.4, linestyle="-")
        axes.plot(compute, law(compute), "o", color=VERMILION, markersize=10, zorder=5)
        axes.set(xscale="log", yscale="log", title=label)
        axes.yaxis.set_minor_formatter("")
        if law is lr_opt:  # hardly more than a power of ten
            axes.set_yticks([2e-4, 5e-4, 1e-3, 2e-3], ["0.0002", "0.0005", "0.001", "0.002"])
        axes.legend(loc="upper left" if law.exponent > 0 else "lower left", handletextpad=0.2)
    figure.supxlabel("compute C, FLOPs (shaded: where the laws were fitted)", fontsize=12)
    return figure


def _ladder(compute: Any) -> list[tuple[float, str, str]]:
    """Each budget with a colour, the darker the larger, and a mark."""
    budgets = np.unique(compute)
    shades = np.linspace(0.42, 0.95, len(budgets)) if len(budgets) > 1 else [0.7]
    return [
        (float(budget), to_hex(SHADE(shade)), _MARKS[i % len(_MARKS)])
        for i, (budget, shade) in enumerate(zip(budgets, shades, strict=True))
    ]


def _power(x: float) -> str:
    """``6e10`` as 6·10¹⁰."""
    mantissa, exponent = f"{x:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1.0" else f"{mantissa.removesuffix('.0')}·{power}"


def _si(x: float) -> str:
    """``4.2e10`` as 42 G."""
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= factor:
            return f"{x / factor:.3g} {letter}"
    return f"{x:.3g}"
