"""From training runs to scaling laws: IsoFLOP curves, their valleys, the power laws through the valleys, and how far
to trust them.

The way of the V1 report (arXiv 2401.02954, section 3.2, after Hoffmann et al., arXiv 2203.15556, approach 2): at each
budget C train models of several scales M on D = C / M tokens each; loss against log M is a valley; a parabola finds
its floor M_opt(C); a power law goes through the floors. Nothing here knows what a model is: arrays go in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from minideepseek.train.laws import Array, PowerLaw


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A made-up world whose laws are known: loss = floor + a·M^-alpha + b·D^-beta (Hoffmann et al. 2022, eq. 2).

    Attributes:
        floor: what no model and no data get below.
        a, alpha: what a small model costs, and how quickly a larger one mends it.
        b, beta: what little data cost, and how quickly more of them mend it. Better data: a larger ``beta``.
    """

    floor: float = 1.69
    a: float = 406.4
    alpha: float = 0.34
    b: float = 410.7
    beta: float = 0.28

    def __post_init__(self) -> None:
        if min(self.a, self.alpha, self.b, self.beta) <= 0:
            raise ValueError("a, alpha, b and beta must be positive: more model and more data never hurt here")

    def loss(self, scale: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss of models of these scales on so many tokens; any shapes that broadcast."""
        scale, tokens = np.asarray(scale, dtype=float), np.asarray(tokens, dtype=float)
        return np.asarray(self.floor + self.a * scale**-self.alpha + self.b * tokens**-self.beta)

    @property
    def m_opt(self) -> PowerLaw:
        """The best scale for C = M·D, from setting the derivative to zero: its exponent is beta / (alpha + beta)."""
        both = self.alpha + self.beta
        coefficient = (self.alpha * self.a / (self.beta * self.b)) ** (1 / both)
        return PowerLaw(coefficient=coefficient, exponent=self.beta / both)


@dataclass(frozen=True, kw_only=True)
class Valley:
    """The parabola through the runs of one budget: loss = c0 + c1·u + c2·u², with u = ln(scale / middle).

    Attributes:
        compute: the budget C.
        middle: where u = 0, the geometric mean of the scales.
        coefficients: (c0, c1, c2).
        log_error: standard error of ln(scale at the floor), from the scatter of the runs around the parabola (delta
            method); nan where there are only three runs.
        low, high: the smallest and the largest scale that was run.
    """

    compute: float
    middle: float
    coefficients: tuple[float, float, float]
    log_error: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether there is a floor, and it lies between scales that were run; if not, ``scale`` means nothing."""
        return self.coefficients[2] > 0 and self.low < self.scale < self.high

    @property
    def scale(self) -> float:
        """The scale at the floor: the optimum, if the valley is one (``inside``)."""
        _, c1, c2 = self.coefficients
        return self.middle * float(np.exp(-c1 / (2 * c2)))

    @property
    def loss(self) -> float:
        """The loss at the floor."""
        c0, c1, c2 = self.coefficients
        return c0 - c1**2 / (4 * c2)

    def __call__(self, scale: ArrayLike) -> Array:
        """The parabola at ``scale``."""
        u = np.log(np.asarray(scale, dtype=float) / self.middle)
        c0, c1, c2 = self.coefficients
        return np.asarray(c0 + c1 * u + c2 * u**2)


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """What the valleys of several budgets say together.

    Attributes:
        valleys: one a budget, from the smallest on.
        model: the power law of the best scale; its ``error`` is the valleys' own errors carried on to the slope.
        data: the power law of the best number of tokens, C / scale: exponents of both add up to one.
        loss: the power law of the least loss.
    """

    valleys: tuple[Valley, ...]
    model: PowerLaw
    data: PowerLaw
    loss: PowerLaw


def fit_power_law(x: ArrayLike, y: ArrayLike, *, log_errors: ArrayLike | None = None) -> PowerLaw:
    """The straight line through ln y against ln x, by least squares.

    Args:
        x: (n,) positive numbers, at least two different ones.
        y: (n,) positive numbers.
        log_errors: (n,) standard errors of ln y. The error of the exponent comes from them; without them from the
            scatter of the points about the line, which needs three points (nan for two).

    Raises:
        ValueError: fewer than two different x, or numbers that have no logarithm.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or len(np.unique(x)) < 2 or min(x.min(), y.min()) <= 0:
        raise ValueError("a power law needs as many y as x, two different x at least, and positive numbers")
    centred = np.log(x) - np.log(x).mean()
    weights = centred / (centred**2).sum()  # the slope is this combination of ln y
    exponent = float(weights @ np.log(y))
    intercept = float(np.log(y).mean() - exponent * np.log(x).mean())
    if log_errors is not None:
        error = float(np.sqrt(weights**2 @ np.asarray(log_errors, dtype=float) ** 2))
    elif len(x) > 2:
        residuals = np.log(y) - intercept - exponent * np.log(x)
        error = float(np.sqrt((residuals**2).sum() / (len(x) - 2) * (weights**2).sum()))
    else:
        error = float("nan")
    return PowerLaw(coefficient=float(np.exp(intercept)), exponent=exponent, error=error)


def fit_valley(compute: float, scale: ArrayLike, loss: ArrayLike) -> Valley:
    """The parabola of one budget, by least squares in ln(scale).

    Args:
        compute: the budget.
        scale: (runs,) FLOPs for a token; seeds of one shape simply repeat its scale.
        loss: (runs,) what each reached.

    Raises:
        ValueError: fewer than three different scales: no parabola.
    """
    scale, loss = np.asarray(scale, dtype=float), np.asarray(loss, dtype=float)
    middle, design, solve = _parabola(scale)
    c = solve @ loss
    n = len(loss)
    if n > 3:
        variance = ((loss - design @ c) ** 2).sum() / (n - 3)
        slope = np.array([0.0, -1 / (2 * c[2]), c[1] / (2 * c[2] ** 2)])  # of -c1 / 2c2
        log_error = float(np.sqrt(variance * slope @ (solve @ solve.T) @ slope))
    else:
        log_error = float("nan")
    return Valley(
        compute=float(compute),
        middle=middle,
        coefficients=(float(c[0]), float(c[1]), float(c[2])),
        log_error=log_error,
        low=float(scale.min()),
        high=float(scale.max()),
    )


def fit_isoflop(compute: ArrayLike, scale: ArrayLike, loss: ArrayLike) -> IsoFlop:
    """Valleys of all budgets and the power laws through their floors.

    Args:
        compute: (runs,) the budget of each run.
        scale: (runs,) FLOPs for a token.
        loss: (runs,) what each reached.

    Raises:
        ValueError: fewer than two budgets, fewer than three scales in one, or a budget whose floor lies outside the
            scales that were run (it is named: run smaller or larger models there, or leave it out).
    """
    compute, scale, loss = (np.asarray(values, dtype=float) for values in (compute, scale, loss))
    budgets = np.unique(compute)
    valleys = tuple(fit_valley(c, scale[compute == c], loss[compute == c]) for c in budgets)
    for valley in valleys:
        if not valley.inside:
            raise ValueError(
                f"no floor at C={valley.compute:.3g} between M={valley.low:.3g} and {valley.high:.3g}: "
                "run smaller or larger models at this budget, or leave it out"
            )
    floors = np.array([valley.scale for valley in valleys])
    errors = [valley.log_error for valley in valleys]
    return IsoFlop(
        valleys=valleys,
        model=fit_power_law(budgets, floors, log_errors=errors),
        data=fit_power_law(budgets, budgets / floors, log_errors=errors),
        loss=fit_power_law(budgets, [valley.loss for valley in valleys]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Bootstrap:
    """What the exponent of the best scale would have been, had the runs come out a little differently.

    Attributes:
        exponents: (resamples,) the exponents, of those resamples in which every budget had a floor.
        lost: how many had not. More than a few of a hundred: the runs do not determine an exponent.
    """

    exponents: Array
    lost: int

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The middle ``level`` of the exponents."""
        low, high = np.quantile(self.exponents, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def bootstrap(
    compute: ArrayLike, scale: ArrayLike, loss: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> Bootstrap:
    """The spread of the model exponent, by drawing the runs' deviations anew.

    At each budget the deviations from the parabola are shuffled (with replacement) among the runs, and everything is
    fitted again. Deviations hold both the luck of a seed and what a parabola gets wrong, so both widen the interval.
    They are stretched by sqrt(n / (n - 3)), for three of the n degrees of freedom went into the parabola (Efron &
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 9).

    Args:
        compute, scale, loss: (runs,) as for ``fit_isoflop``.
        resamples: how often.
        seed: of the draws.

    Raises:
        ValueError: as ``fit_isoflop``; or a budget has three runs only, or no resample has a floor at every budget.
    """
    compute, scale, loss = (np.asarray(values, dtype=float) for values in (compute, scale, loss))
    budgets = np.unique(compute)
    generator = np.random.default_rng(seed)
    floors = np.empty((resamples, len(budgets)))  # ln(scale)
    for i, budget in enumerate(budgets):
        here = compute == budget
        middle, design, solve = _parabola(scale[here])
        fitted = design @ (solve @ loss[here])
        n = len(fitted)
        if n < 4:
            raise ValueError(f"C={budget:.3g} has {n} runs: a parabola takes three, and nothing is left to vary")
        deviations = (loss[here] - fitted) * np.sqrt(n / (n - 3))
        drawn = generator.choice(deviations, (resamples, n))
        _, c1, c2 = solve @ (fitted + drawn).T
        u = np.divide(-c1, 2 * c2, out=np.full(resamples, np.nan), where=c2 > 0)
        u[(u <= design[:, 1].min()) | (u >= design[:, 1].max())] = np.nan
        floors[:, i] = np.log(middle) + u
    floors = floors[~np.isnan(floors).any(1)]
    if not len(floors):
        raise ValueError("no resample has a floor at every budget: the runs do not determine an exponent")
    centred = np.log(budgets) - np.log(budgets).mean()
    exponents = floors @ (centred / (centred**2).sum())
    return Bootstrap(exponents=exponents, lost=resamples - len(floors))


def _parabola(scale: Array) -> tuple[float, Array, Array]:
    """The middle of the scales, the design matrix (n, 3) and its pseudo-inverse (3, n)."""
    if len(np.unique(scale)) < 3:
        raise ValueError(f"{len(np.unique(scale))} different scales: a parabola needs three")
    middle = float(np.exp(np.log(scale).mean()))
    design = np.vander(np.log(scale / middle), 3, increasing=True)
    return middle, design, np.linalg.pinv(design)
