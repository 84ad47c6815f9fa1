"""When a run is beyond hope, and when it is not."""

import math
import random

import pytest

from minideepseek.train.divergence import Watch


def verdicts(losses: list[float]) -> list[str | None]:
    watch = Watch()
    return [watch.verdict(loss, 1.0) for loss in losses]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_at_once(loss: float) -> None:
    assert "loss is" in (Watch().verdict(loss, 1.0) or "")


def test_a_gradient_that_is_no_number_stops_at_once() -> None:
    assert "gradient" in (Watch().verdict(5.0, math.nan) or "")


def test_a_loss_that_falls_with_noise_is_let_alone() -> None:
    rng = random.Random(0)
    assert not any(verdicts([7.6 * 0.99**i + rng.gauss(0.5, 0.2) for i in range(500)]))


def test_one_odd_batch_is_let_alone() -> None:
    assert not any(verdicts([7.0, 5.0, 4.0, *[3.0] * 100, 9.0, *[3.0] * 10]))


def test_a_loss_that_climbs_back_to_its_start_is_stopped() -> None:
    losses = [7.6 * 0.98**i for i in range(150)] + [7.6] * 10
    found = verdicts(losses)
    assert not any(found[:150])
    assert any("risen" in (verdict or "") for verdict in found[150:])


def test_a_loss_that_explodes_in_the_first_steps_is_stopped() -> None:
    assert any(verdicts([7.6, 20.0, 50.0, 60.0]))


def test_its_memory_survives_a_checkpoint() -> None:
    watch, other = Watch(), Watch()
    for loss in (7.0, 6.0, 5.5):
        watch.verdict(loss, 1.0)
    other.load_state_dict(watch.state_dict())
    assert watch == other
