"""The fits against worlds whose laws are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.train.laws import Array
from minideepseek.train.scaling import Surface, bootstrap, fit_isoflop, fit_power_law, fit_valley

WORLD = Surface()


def grid(world: Surface, *, noise: float = 0.0, seed: int = 0) -> tuple[Array, Array, Array]:
    """Compute, scale and loss of the report's design: 8 budgets from 1e17 to 3e20, 10 scales around each optimum."""
    compute = np.repeat(np.geomspace(1e17, 3e20, 8), 10)
    scale = world.m_opt(compute) * np.tile(np.geomspace(1 / 5, 5, 10), 8)
    loss = world.loss(scale, compute / scale)
    return compute, scale, loss + noise * np.random.default_rng(seed).standard_normal(len(loss))


def test_the_closed_form_optimum_is_where_the_loss_is_least() -> None:
    compute = 1e19
    scales = np.geomspace(1e6, 1e13, 20_001)
    best = scales[np.argmin(WORLD.loss(scales, compute / scales))]
    assert WORLD.m_opt(compute) == pytest.approx(best, rel=1e-3)


def test_exponents_of_a_known_world_come_back() -> None:
    fit = fit_isoflop(*grid(WORLD))
    assert WORLD.m_opt.exponent == pytest.approx(0.28 / 0.62)
    assert fit.model.exponent == pytest.approx(WORLD.m_opt.exponent, abs=1e-4)
    assert fit.data.exponent == pytest.approx(1 - WORLD.m_opt.exponent, abs=1e-4)


def test_exponents_of_a_known_world_come_back_through_noise() -> None:
    for seed in range(5):
        fit = fit_isoflop(*grid(WORLD, noise=0.005, seed=seed))
        assert abs(fit.model.exponent - WORLD.m_opt.exponent) < 4 * fit.model.error
        assert fit.model.error < 0.005


def test_the_closed_form_error_is_the_scatter_of_repeated_experiments() -> None:
    fits = [fit_isoflop(*grid(WORLD, noise=0.005, seed=seed)).model for seed in range(200)]
    scatter = np.std([fit.exponent for fit in fits])
    assert np.mean([fit.error for fit in fits]) == pytest.approx(scatter, rel=0.2)


def test_the_bootstrap_agrees_with_the_closed_form() -> None:
    runs = grid(WORLD, noise=0.005, seed=3)
    spread, fit = bootstrap(*runs), fit_isoflop(*runs)
    low, high = spread.interval()
    assert spread.lost == 0
    assert low < fit.model.exponent < high
    assert np.std(spread.exponents) == pytest.approx(fit.model.error, rel=0.25)


def test_ninety_of_a_hundred_intervals_hold_the_truth() -> None:
    held = [
        low < WORLD.m_opt.exponent < high
        for seed in range(100)
        for low, high in [bootstrap(*grid(WORLD, noise=0.005, seed=seed), resamples=300).interval(0.9)]
    ]
    assert 80 <= sum(held) <= 98


def test_data_that_teach_more_a_token_call_for_larger_models() -> None:
    exponents = [fit_isoflop(*grid(Surface(beta=beta))).model.exponent for beta in (0.24, 0.28, 0.32, 0.36)]
    assert exponents == sorted(exponents)
    assert exponents[-1] - exponents[0] > 0.05


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.5), st.floats(0.5, 20), st.floats(1e3, 1e12), st.integers(3, 12))
def test_a_parabola_is_found_exactly(curvature: float, floor: float, best: float, n: int) -> None:
    scale = best * np.geomspace(0.3, 5, n)
    valley = fit_valley(1e15, scale, floor + curvature * np.log(scale / best) ** 2)
    assert valley.inside
    assert valley.scale == pytest.approx(best, rel=1e-5)
    assert valley.loss == pytest.approx(floor, rel=1e-8)
    assert np.allclose(valley(scale), floor + curvature * np.log(scale / best) ** 2)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.01, 100), st.floats(-2, 2), st.integers(2, 9))
def test_a_power_law_is_found_exactly(coefficient: float, exponent: float, n: int) -> None:
    x = np.geomspace(1e10, 1e20, n)
    law = fit_power_law(x, coefficient * x**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.coefficient == pytest.approx(coefficient, rel=1e-6)
    assert law.error == pytest.approx(0, abs=1e-8) if n > 2 else np.isnan(law.error)


def test_given_errors_carry_on_to_the_exponent() -> None:
    x, errors = np.geomspace(1, 100, 3), np.array([0.1, 0.2, 0.1])
    draws = np.random.default_rng(0).standard_normal((20_000, 3)) * errors
    exponents = np.array([fit_power_law(x, np.exp(draw)).exponent for draw in draws[:2000]])
    assert fit_power_law(x, x, log_errors=errors).error == pytest.approx(exponents.std(), rel=0.1)


def test_a_slope_is_not_a_valley() -> None:
    compute, scale, _ = grid(WORLD)
    valley = fit_valley(1e17, scale[:10], np.log(scale[:10]))
    assert not valley.inside
    with pytest.raises(ValueError, match=r"no floor at C=1e\+17 between"):
        fit_isoflop(compute, scale, np.log(scale))
    with pytest.raises(ValueError, match="do not determine"):
        bootstrap(compute, scale, np.log(scale))


def test_resamples_without_a_floor_are_counted() -> None:
    compute, scale, loss = grid(WORLD, noise=0.01, seed=1)
    few = np.arange(len(compute)) % 10 > 2
    spread = bootstrap(compute[few], scale[few], loss[few], resamples=500)
    assert 0 < spread.lost < 500
    assert len(spread.exponents) + spread.lost == 500


def test_too_little_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs three"):
        fit_valley(1e17, [1.0, 2.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="two different x"):
        fit_power_law([1.0, 1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="nothing is left to vary"):
        bootstrap(np.ones(3), np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="must be positive"):
        Surface(beta=0.0)


def test_the_same_seed_draws_the_same_bootstrap() -> None:
    runs = grid(WORLD, noise=0.01, seed=2)
    np.testing.assert_array_equal(bootstrap(*runs, seed=5).exponents, bootstrap(*runs, seed=5).exponents)
