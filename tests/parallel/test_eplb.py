"""Placing experts: greedy against brute force, and what must always hold."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.parallel.eplb import Placement, pack, place, place_by_groups, replicate

LOADS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(LOADS, st.integers(0, 10))
def test_no_expert_is_left_out_and_no_slot_is_left_over(loads: list[int], more: int) -> None:
    replicas = replicate(loads, len(loads) + more)
    assert min(replicas) >= 1
    assert sum(replicas) == len(loads) + more


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=2, max_size=4), st.integers(0, 5))
def test_no_other_way_to_replicate_leaves_the_busiest_with_less(loads: list[int], more: int) -> None:
    slots = len(loads) + more
    every = itertools.product(range(1, more + 2), repeat=len(loads))
    best = min(max(x / n for x, n in zip(loads, way, strict=True)) for way in every if sum(way) == slots)
    assert max(x / n for x, n in zip(loads, replicate(loads, slots), strict=True)) == best


def best_packing(weights: list[float], boxes: int) -> float:
    """The least that the heaviest box can weigh, by trying everything."""
    room = len(weights) // boxes
    if boxes == 1:
        return sum(weights)
    rest = range(1, len(weights))  # the first item is in the first box: boxes are alike
    return min(
        max(
            weights[0] + sum(weights[i] for i in chosen),
            best_packing([weights[i] for i in rest if i not in chosen], boxes - 1),
        )
        for chosen in itertools.combinations(rest, room - 1)
    )


def test_greedy_packing_is_near_the_best() -> None:
    draw = random.Random(0)
    ratios = []
    for _ in range(60):
        boxes, room = draw.choice([(2, 3), (2, 4), (3, 2), (3, 3)])
        weights = [draw.expovariate(1) for _ in range(boxes * room)]
        heaviest = max(sum(weights[i] for i in box) for box in pack(weights, boxes))
        ratios.append(heaviest / best_packing(weights, boxes))
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) < 1.25
    assert sum(ratios) / len(ratios) < 1.04


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_boxes_hold_every_item_once_and_equally_many(boxes: int, room: int, seed: int) -> None:
    draw = random.Random(seed)
    found = pack([draw.random() for _ in range(boxes * room)], boxes)
    assert sorted(item for box in found for item in box) == list(range(boxes * room))
    assert {len(box) for box in found} == {room}


def test_the_example_of_the_released_code() -> None:
    """deepseek-ai/EPLB, README: two layers of 12 experts in 4 groups, 16 slots on 8 devices of 2 nodes."""
    layers = {
        (90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86): (5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1),
        (20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27): (7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1),
    }
    for loads, slots in layers.items():
        expected = Placement(devices=tuple(slots[i : i + 2] for i in range(0, 16, 2)))
        found = place_by_groups(loads, slots=16, devices=8, groups=4, nodes=2)
        assert found.replicas(12) == expected.replicas(12)
        assert sorted(found.loads(loads)) == sorted(expected.loads(loads))  # equals change places


def skewed(n: int, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.paretovariate(1.5) for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_replicas_even_out_what_placing_alone_cannot(seed: int) -> None:
    """256 experts and 32 redundant ones on 32 devices, as V3's prefill has them (report, section 3.4.1)."""
    loads = skewed(256, seed)
    as_they_come = Placement(devices=tuple(tuple(range(i, i + 8)) for i in range(0, 256, 8)))
    packed, replicated = place(loads, slots=256, devices=32), place(loads, slots=288, devices=32)
    assert {len(device) for device in replicated.devices} == {9}
    assert as_they_come.imbalance(loads) > packed.imbalance(loads) > replicated.imbalance(loads)
    assert 1 <= replicated.imbalance(loads) < 1.1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_groups_stay_together_on_a_node(per_node: int, nodes: int, size: int, seed: int) -> None:
    groups, devices = per_node * nodes, 2 * nodes
    loads = skewed(groups * size, seed)
    slots = devices * (-(-len(loads) // devices) + 1)
    found = place_by_groups(loads, slots=slots, devices=devices, groups=groups, nodes=nodes)
    assert min(found.replicas(len(loads))) >= 1
    assert {len(device) for device in found.devices} == {slots // devices}
    assert sum(found.loads(loads)) == pytest.approx(sum(loads))
    homes = [{d // 2 for d, device in enumerate(found.devices) if e in device} for e in range(len(loads))]
    for group in range(groups):
        assert len(set.union(*homes[group * size : (group + 1) * size])) == 1


def test_one_node_of_one_group_is_no_constraint() -> None:
    loads = skewed(12)
    assert place_by_groups(loads, slots=16, devices=4, groups=1, nodes=1) == place(loads, slots=16, devices=4)


def test_nothing_to_do_is_balanced() -> None:
    assert place([0, 0, 0], slots=4, devices=2).imbalance([0, 0, 0]) == 1


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="3 slots are not enough for 4 experts"):
        place([1, 2, 3, 4], slots=3, devices=3)
    with pytest.raises(ValueError, match="5 items do not fill 2 boxes evenly"):
        place([1, 2, 3, 4], slots=5, devices=2)
    with pytest.raises(ValueError, match="3 groups do not divide into 2 equal parts; place"):
        place_by_groups([1] * 6, slots=8, devices=4, groups=3, nodes=2)
    with pytest.raises(ValueError, match="7 slots do not fill 4 devices"):
        place_by_groups([1] * 4, slots=7, devices=4, groups=2, nodes=2)
