"""The pictures of a corpus show the numbers they were given."""

import numpy as np
import pytest

from minideepseek.viz import band_curve, funnel, pooling, reading_order, resemblance, rows_of_documents, two_rulers


def test_a_funnel_names_every_size_and_every_loss():
    texts = [text.get_text() for text in funnel({"all": 200.0, "half": 100.0}, unit="kB", title="t").axes[0].texts]
    assert {"200.00 kB", "100.00 kB", "−50 %"} <= set(texts)


@pytest.mark.parametrize(("bands", "rows"), [(9, 13), (128, 1), (1, 128), (25, 5)])
def test_a_band_curve_says_where_half_of_the_pairs_meet(bands, rows):
    figure = band_curve(bands, rows)
    s, found = figure.axes[0].lines[0].get_data()
    assert float(figure.heading.rsplit(" ", 1)[1]) == pytest.approx(np.interp(0.5, found, s), abs=0.006)


def test_the_band_of_an_estimate_narrows_with_the_root_of_the_hash_functions():
    truth = np.linspace(0, 1, 9)
    left, right = resemblance(truth, {16: truth, 64: truth}, title="t").axes
    widths = [axes.collections[0].get_paths()[0].get_extents().height - 1 for axes in (left, right)]
    assert widths[0] > widths[1] > 0


def test_pooling_puts_the_published_shares_beside_the_measured_ones():
    runs = np.array([[0.2, 0.4, 0.5], [0.3, 0.4, 0.6]])
    axes = pooling({"ours": runs}, [0.25, 0.4, 0.55], {1: 0.222, 3: 0.557}, title="t").axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert np.allclose(drawn["DeepSeek LLM, table 1"], [22.2, 55.7])
    assert np.allclose(drawn["ours"], 100 * runs.mean(0))


def test_every_token_of_a_row_is_drawn_once():
    grid = np.array([[0, 0, 0, -1], [1, 1, 2, 2]])
    axes = rows_of_documents({"rows": grid}, title="t").axes[0]
    strips = [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert [(round(y), x, width) for y, x, width in strips] == [(0, 0, 3), (0, 3, 1), (1, 0, 2), (1, 2, 2)]
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True, False, False]


def test_a_resumed_run_takes_over_where_the_first_one_stopped():
    order = np.array([2, 0, 1, 1, 2, 0])
    before, after = reading_order(order, 3, stop=4, title="t").axes[0].lines[:2]
    assert list(before.get_xdata()) == [0, 1, 2, 3]
    assert list(after.get_ydata()) == [2, 0]


def test_two_rulers_draw_the_mean_of_the_seeds_from_zero():
    loss, bits = np.array([[2.0, 4.0], [3.0, 5.0]]), np.array([[3.0, 2.0], [2.0, 1.0]])
    left, right = two_rulers([264, 512], loss, bits, title="t").axes
    assert np.allclose(left.lines[0].get_ydata(), [2.5, 4.5])
    assert np.allclose(right.lines[0].get_ydata(), [2.5, 1.5])
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0
