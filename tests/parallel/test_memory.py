"""Parameters on a device: V3's, by hand, and what dividing each way saves."""

from dataclasses import replace

import pytest

from minideepseek.accounting.counts import mtp_parameters, parameters
from minideepseek.generations import generations
from minideepseek.parallel.memory import Division, memory

V3 = generations["v3"]
GB = 1e9


def test_v3_on_2048_devices_by_hand() -> None:
    """58 layers and the module of 256 experts, 3 · 7168 · 2048 each: by far the most, dealt out 64 ways."""
    routed = 59 * 256 * 3 * 7168 * 2048
    dense = parameters(V3) + mtp_parameters(V3) - routed
    assert routed / (routed + dense) > 0.97
    found = memory(V3, Division())
    assert found.parameters == pytest.approx(2 * (dense / 16 + routed / 1024))
    assert found.weights == 2 * found.parameters
    assert found.gradients == 4 * found.parameters
    assert found.optimizer == pytest.approx(8 * (routed + dense) / 2048)


def test_a_second_copy_is_cheap_because_experts_are_dealt_out_so_widely() -> None:
    """V3 report, section 3.2.1. Dealt out within a node only, it would not fit beside activations into 80 GB."""

    def total(ways: int, copies: int) -> float:
        return memory(V3, Division(expert_ways=ways, copies=copies)).total / GB

    assert (total(64, 1), total(64, 2)) == pytest.approx((13.1, 23.6), abs=0.05)
    assert (total(8, 1), total(8, 2)) == pytest.approx((40.4, 78.1), abs=0.05)


def test_all_that_devices_share_is_there_once_in_all() -> None:
    whole = parameters(V3) + mtp_parameters(V3)
    alone = memory(V3, Division(devices=1, stages=1, expert_ways=1, copies=1))
    assert alone.parameters == whole
    for division in (Division(), Division(copies=1, stages=8), Division(devices=64, stages=1)):
        assert memory(V3, division).optimizer * division.devices == pytest.approx(alone.optimizer)


def test_a_model_without_experts_gains_from_stages_alone() -> None:
    dense = generations["v1-7b"]
    ways = [memory(dense, Division(expert_ways=n, copies=1)).parameters for n in (1, 64)]
    assert ways[0] == ways[1] == parameters(dense) / 16


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="devices=100 do not divide into 16 stages of 64 devices"):
        Division(devices=100)
    with pytest.raises(ValueError, match="nothing less than 1"):
        replace(Division(), copies=0)
