"""Pictures of scaling laws show the runs, the floors and the laws that they were given."""

import numpy as np
import pytest

from minideepseek.train import laws, scaling
from minideepseek.viz.scaling import budget_plan, forecast, laws_of, near_optimal, three_axes, valleys

WORLD = scaling.Surface()
BUDGETS = np.repeat([1e18, 1e19, 1e20], 6)
SCALES = WORLD.m_opt(BUDGETS) * np.tile(np.geomspace(1 / 4, 4, 6), 3)
LOSSES = WORLD.loss(SCALES, BUDGETS / SCALES) + 0.003 * np.random.default_rng(0).standard_normal(18)
FIT = scaling.fit_isoflop(BUDGETS, SCALES, LOSSES)


def test_valleys_show_every_run_and_every_floor():
    axes = valleys(BUDGETS, SCALES, LOSSES, FIT.valleys, title="t").axes[0]
    dots = [line for line in axes.lines if line.get_linestyle() == "None" and line.get_marker() != "*"]
    shown = {(x, y) for line in dots for x, y in zip(*line.get_data(), strict=True)}
    assert shown == set(zip(SCALES, LOSSES, strict=True))
    stars = next(line for line in axes.lines if line.get_marker() == "*")
    assert np.allclose(stars.get_xdata(), [valley.scale for valley in FIT.valleys])
    assert [text.get_text() for text in axes.texts] == ["C = 10¹⁸", "C = 10¹⁹", "C = 10²⁰"]


def test_a_slope_gets_no_star():
    slope = scaling.fit_valley(1e18, SCALES[:6], np.log(SCALES[:6]))
    axes = valleys(BUDGETS[:6], SCALES[:6], np.log(SCALES[:6]), [slope], title="t").axes[0]
    assert not [line for line in axes.lines if line.get_marker() == "*"]


def test_both_laws_are_drawn_with_ours_in_its_band():
    figure = laws_of(FIT, scaling.bootstrap(BUDGETS, SCALES, LOSSES, resamples=200), title="t")
    for axes, law, published in zip(figure.axes, (FIT.model, FIT.data), (laws.m_opt, laws.d_opt), strict=True):
        x, ours = axes.lines[0].get_data()
        assert np.allclose(ours, law(x))
        assert np.allclose(axes.lines[1].get_ydata(), published(x))
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() < ours.min()
        assert band[:, 1].max() > ours.max()


def test_three_axes_move_runs_sideways_only():
    views = {"M": (BUDGETS, SCALES, LOSSES), "6N1": (BUDGETS / 2, SCALES / 2, LOSSES)}
    figure = three_axes(views, budgets=BUDGETS, title="t")
    one, two = (np.concatenate([c.get_offsets() for c in axes.collections]) for axes in figure.axes)
    assert np.allclose(one[:, 0], 2 * two[:, 0])
    assert np.allclose(one[:, 1], two[:, 1])


def test_frames_mark_what_is_within_a_quarter_percent():
    losses = 2.0 * np.array([[1.0, 1.0024], [1.0026, 1.5]])
    axes = near_optimal({1e9: losses}, lr=["½", "1"], batch=["1", "2"], title="t").axes[0]
    assert len(axes.patches) == 2
    assert [text.get_text() for text in axes.texts] == ["best", "+0.2 %", "+0.3 %\nlaw", "+50.0 %"]


def test_a_forecast_tells_the_seen_from_the_unseen():
    law = laws.PowerLaw(coefficient=5.0, exponent=-0.05)
    budgets = np.array([1e10, 3e10, 1e11])
    axes = forecast(budgets, law(budgets), law, used=2, title="t").axes[0]
    drawn = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert max(drawn["law, fitted here"].get_xdata()) <= 3e10 < max(drawn["law, beyond what it has seen"].get_xdata())


@pytest.mark.parametrize("compute", [1e17, 1e20, 1e24])
def test_a_plan_is_that_of_the_laws(compute):
    figure = budget_plan(compute, laws.RUNS)
    for axes, law in zip(figure.axes, (laws.m_opt, laws.d_opt, laws.batch_opt, laws.lr_opt), strict=True):
        assert axes.lines[-1].get_xydata().tolist() == [[compute, law(compute)]]
    assert "v1-7b: 4.25 × the law" in [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert f"{laws.lr_opt(compute):.2g}" in figure.heading
