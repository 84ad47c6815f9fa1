"""Learning-rate schedules."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.train.schedule import SCHEDULES, agree_until, factor, shared_steps

lengths = st.integers(1, 300)
names = st.sampled_from(sorted(SCHEDULES))


def test_multi_step_drops_after_80_and_90_percent_as_in_v1() -> None:
    rates = [factor("multi-step", done, steps=1000, warmup=0) for done in range(1000)]
    assert rates[:800] == [1.0] * 800
    assert rates[800:900] == [0.316] * 100
    assert rates[900:] == [0.1] * 100


def test_cosine_falls_from_the_peak_to_a_tenth() -> None:
    rates = [factor("cosine", done, steps=1000, warmup=0) for done in range(1000)]
    assert rates[0] == 1.0
    assert rates[500] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert rates == sorted(rates, reverse=True)


def test_wsd_is_flat_and_then_a_line_that_ends_at_a_tenth() -> None:
    rates = [factor("wsd", done, steps=1000, warmup=0) for done in range(1000)]
    assert rates[:800] == [1.0] * 800
    slopes = [a - b for a, b in itertools.pairwise(rates[800:])]
    assert max(slopes) == pytest.approx(min(slopes))
    assert rates[-1] == pytest.approx(0.1)


@given(names, lengths, st.integers(1, 50))
@settings(deadline=None, max_examples=30)
def test_warmup_is_a_straight_climb_whatever_follows(name: str, steps: int, warmup: int) -> None:
    for done in range(min(steps, warmup)):
        assert factor(name, done, steps=steps, warmup=warmup) == pytest.approx(
            (done + 1) / warmup * factor(name, done, steps=steps, warmup=0)
        )


@given(names, lengths, st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_every_rate_is_positive_and_at_most_the_peak(name: str, steps: int, warmup: int) -> None:
    for done in range(steps):
        assert 0 < factor(name, done, steps=steps, warmup=warmup) <= 1


@given(names, lengths, lengths, st.integers(0, 30))
@settings(deadline=None, max_examples=50)
def test_a_run_agrees_with_every_longer_one_up_to_its_extension_point(
    name: str, steps: int, more: int, warmup: int
) -> None:
    assert agree_until(name, steps=steps, other=steps + more, warmup=warmup) >= shared_steps(name, steps=steps)


def test_beyond_the_extension_point_it_does_not() -> None:
    assert agree_until("multi-step", steps=100, other=200, warmup=5) == 80 == shared_steps("multi-step", steps=100)
    assert agree_until("wsd", steps=100, other=200, warmup=5) == 80 == shared_steps("wsd", steps=100)
    assert agree_until("constant", steps=100, other=200, warmup=5) == 100 == shared_steps("constant", steps=100)
    assert agree_until("cosine", steps=100, other=200, warmup=5) <= 1  # both begin at the peak, and part at once


def test_two_equal_drops_make_a_tenth() -> None:
    assert math.sqrt(0.1) == pytest.approx(0.316, abs=3e-4)
    assert factor("multi-step", 85, steps=100, warmup=0) ** 2 == pytest.approx(0.1, abs=2e-4)
