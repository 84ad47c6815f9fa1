"""Communication behind computation: what a pair of passes takes, and that nothing is done before its time."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.parallel.overlap import SENDING, Layer, Moment, needs, one_after_the_other, side_by_side
from minideepseek.parallel.pipeline import simulate
from minideepseek.parallel.schedules import dual_pipe, one_f_one_b

SOME = st.floats(0.1, 3)
LAYERS = st.builds(Layer, attention=SOME, experts=SOME, dispatch=SOME, combine=SOME)


def length(moments: list[Moment]) -> float:
    return max(moment.end for moment in moments)


def computing(layer: Layer) -> float:
    return 3 * (layer.attention + layer.experts)


def sending(layer: Layer) -> float:
    return 2 * (layer.dispatch + layer.combine)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.integers(1, 5))
def test_nothing_begins_before_what_it_needs_and_a_hand_does_one_thing_at_a_time(layer: Layer, n: int) -> None:
    for moments in (side_by_side(layer, n), one_after_the_other(layer, n)):
        assert len({moment.piece for moment in moments}) == len(moments) == 10 * n
        ends = {moment.piece: moment.end for moment in moments}
        for moment in moments:
            needed = needs(moment.piece)
            assert needed is None or ends[needed] <= moment.start
        for links in (True, False):
            own = sorted((m.start, m.end) for m in moments if (m.piece.part in SENDING) == links)
            assert all(first[1] <= second[0] for first, second in pairwise(own))


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.integers(1, 6))
def test_side_by_side_takes_as_long_as_the_busier_hand_at_least_and_as_both_at_most(layer: Layer, n: int) -> None:
    found = length(side_by_side(layer, n))
    assert found >= n * max(computing(layer), sending(layer)) - 1e-9
    assert found <= n * (computing(layer) + sending(layer)) + 1e-9
    assert length(one_after_the_other(layer, n)) == pytest.approx(n * (computing(layer) + sending(layer)))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_what_is_sent_in_no_more_time_than_is_computed_is_hidden_wholly(share: float) -> None:
    """V3's ratio is about one to one, forward: two to two, and six to four for both passes (section 3.2.1)."""
    layer = Layer(dispatch=share, combine=share)
    assert length(side_by_side(layer, 4)) == 4 * computing(layer) == 24


def test_what_takes_longer_to_send_decides_itself() -> None:
    layer = Layer(dispatch=3, combine=3)
    assert length(side_by_side(layer, 10)) == pytest.approx(10 * sending(layer), rel=0.02)


def test_a_pipeline_of_pairs_saves_more_than_its_bubble() -> None:
    """Eight devices, four layers each, as long to send as to compute: DualPipe against 1F1B."""
    costs = Layer().costs(4)
    assert (costs.forward, costs.backward, costs.weight, costs.pair) == (16, 24, 8, 24)
    plain, dual = (simulate(make(8, 32), costs) for make in (one_f_one_b, dual_pipe))
    saved = plain.length - dual.length
    assert plain.bubble(0) - min(dual.bubble(d) for d in range(8)) < 0.5 * saved
    assert dual.length < 0.65 * plain.length


def test_without_sending_a_pair_is_nothing_special() -> None:
    costs = Layer(dispatch=0, combine=0).costs(3)
    assert costs.pair == costs.forward + costs.backward


def test_what_makes_no_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="what is computed takes time"):
        Layer(attention=0)
    with pytest.raises(ValueError, match="nothing takes less than none"):
        Layer(combine=-1)
    with pytest.raises(ValueError, match="layers=0 must be positive"):
        side_by_side(Layer(), 0)
