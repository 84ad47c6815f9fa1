"""Diagrams that compute something compute it rightly."""

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch, Wedge

from minideepseek.layers import RoPE
from minideepseek.viz import answer, attention_map, head_sharing, ledger, rotation_dials


def test_an_attention_map_hides_the_future_and_only_the_future():
    weights = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    shown = attention_map(weights, title="t").axes[0].images[0].get_array()
    assert np.array_equal(shown.mask, np.triu(np.ones((5, 5), dtype=bool), 1))
    assert np.allclose(shown.compressed(), weights[~shown.mask])


def test_panels_of_an_attention_map_share_one_scale():
    weights = np.stack([np.eye(4), 0.5 * np.eye(4)])
    figure = attention_map(weights, title="t")
    assert {image.get_clim() for axes in figure.axes for image in axes.images} == {(0.0, 1.0)}


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4, 8])
def test_head_sharing_draws_every_query_head_and_every_kv_head_once(n_kv_heads):
    axes = head_sharing(8, [n_kv_heads], title="t").axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == 8 + n_kv_heads
    assert len(axes.lines) == 8


@pytest.mark.parametrize(("query", "key"), [(12, 9), (1003, 1000), (5, 8)])
def test_the_angle_between_hands_depends_on_the_distance_alone(query, key):
    rope, pair = RoPE(), 3
    figure = rotation_dials(query=query, key=key, rope=rope, dim=32, pairs=[pair])
    wedge = next(patch for patch in figure.axes[0].patches if isinstance(patch, Wedge))
    turn = abs(query - key) * float(rope.frequencies(32)[pair])
    assert np.isclose(wedge.theta2 - wedge.theta1, np.degrees(min(turn % (2 * np.pi), -turn % (2 * np.pi))))


def test_the_dot_on_the_score_is_the_score_of_turned_vectors():
    figure = rotation_dials(query=20, key=13, rope=RoPE(), dim=32, pairs=[0])
    dot = figure.axes[-1].lines[1]
    q, k = (np.exp(1j * place * RoPE().frequencies(32).numpy()) for place in (20, 13))
    assert np.isclose(dot.get_ydata()[0], (q * k.conj()).real.mean(), atol=1e-6)
    assert dot.get_xdata()[0] == 7


def test_a_ledger_is_read_line_by_line():
    assert ledger("\na | b | c | tie\nd | e | f | exact\n").rows == (("a", "b", "c", "tie"), ("d", "e", "f", "exact"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("claim | paper | 0.1 | proved", "not 'proved'"), ("claim | 0.1 | tie", "3 columns")],
)
def test_a_ledger_refuses_what_it_cannot_read(line, complaint):
    with pytest.raises(ValueError, match=complaint):
        ledger(line)


def test_ledger_and_answer_escape_what_they_show():
    assert "a &lt; b" in ledger("a < b | paper | yes | shown")._repr_html_()
    assert "a &lt; b" in answer("A", "a < b")._repr_html_()
