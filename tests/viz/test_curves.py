"""What lines, bands and bars show is what was measured."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from minideepseek.viz import bars, curves, shares

WORDS = {"title": "t", "xlabel": "x", "ylabel": "y"}


def test_seeds_become_their_mean_in_a_band_of_two_standard_deviations():
    runs = np.random.default_rng(0).normal(size=(5, 7))
    axes = curves({"a": runs}, **WORDS).axes[0]
    assert np.allclose(axes.lines[0].get_ydata(), runs.mean(0))
    band = next(c for c in axes.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    for place in range(7):
        heights = band[band[:, 0] == place + 1, 1]
        expected = runs[:, place].mean() + np.array([-2, 2]) * runs[:, place].std(ddof=1)
        assert np.allclose([heights.min(), heights.max()], expected)


def test_on_a_logarithmic_axis_the_band_is_that_of_the_logarithm():
    runs = np.exp(np.random.default_rng(0).normal(size=(5, 7)))
    axes = curves({"a": runs}, log="y", **WORDS).axes[0]
    assert np.allclose(axes.lines[0].get_ydata(), np.exp(np.log(runs).mean(0)))
    with pytest.raises(ValueError, match="not above zero"):
        curves({"a": [1.0, 0.0]}, log="y", **WORDS)


def test_one_run_has_no_band():
    assert not curves({"a": [1.0, 2.0]}, **WORDS).axes[0].collections


def test_a_series_of_another_length_is_refused():
    with pytest.raises(ValueError, match="b: 3 points for 2 places"):
        curves({"a": [1, 2], "b": [1, 2, 3]}, x=[10, 20], **WORDS)


def test_the_legend_follows_the_lines_from_top_to_bottom():
    axes = curves({"low": [3, 1], "theory": [0, 2], "high": [0, 3]}, **WORDS).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["high", "theory", "low"]


def test_lines_of_a_figure_differ_in_dash_and_not_in_colour_alone():
    axes = curves({str(i): [i, i] for i in range(6)}, **WORDS).axes[0]
    assert len({str(line._unscaled_dash_pattern) for line in axes.lines}) == 6


def test_a_bar_is_as_long_as_its_value_and_says_it():
    axes = bars({"a": 2.0, "b": 47.5}, unit="GiB", title="t").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 47.5]
    assert [text.get_text() for text in axes.texts] == ["2", "47.5"]


def test_shares_fill_each_bar_and_totals_are_sums():
    axes = shares({"a": {"x": 1, "y": 3}, "b": {"x": 6, "y": 2}}, unit="B", title="t").axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert np.allclose(ends, [25, 75, 100, 100])  # the part x of both rows, then y
    assert [text.get_text() for text in axes.texts if "%" not in text.get_text()] == ["4", "8"]
