"""Pipelines: what waits for what, the bubbles of the papers read off simulated schedules, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.parallel.pipeline import Costs, Op, Schedule, Slot, Timeline, check, simulate
from minideepseek.parallel.schedules import dual_pipe, dual_pipe_v, gpipe, one_f_one_b, zero_bubble

Maker = Callable[[int, int], Schedule]
MAKERS: list[Maker] = [gpipe, one_f_one_b, zero_bubble, dual_pipe, dual_pipe_v]


def bubbles(timeline: Timeline) -> list[float]:
    return [timeline.bubble(device) for device in range(len(timeline.schedule.devices))]


def kept(timeline: Timeline) -> list[int]:
    return [timeline.in_flight(device) for device in range(len(timeline.schedule.devices))]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (8, {"1F1B": 21, "ZB1P": 7, "DualPipe": 6, "DualPipeV": 6}),
        (16, {"1F1B": 45, "ZB1P": 15, "DualPipe": 14, "DualPipeV": 14}),
    ],
)
def test_table_2_of_the_v3_report_is_what_schedules_come_to(stages: int, expected: dict[str, float]) -> None:
    """F = 1, B = 2, W = 1, F&B = 3: every device of a schedule idles as long as the formula says."""
    for make in (one_f_one_b, zero_bubble, dual_pipe, dual_pipe_v):
        timeline = simulate(make(stages, 3 * stages))
        assert set(bubbles(timeline)) == {expected[timeline.schedule.name]}


def formula(name: str, p: int, c: Costs) -> float:
    """V3 report, table 2."""
    pair = c.forward + c.backward if c.pair is None else c.pair
    return {
        "GPipe": (p - 1) * (c.forward + c.backward),
        "1F1B": (p - 1) * (c.forward + c.backward),
        "ZB1P": (p - 1) * (c.forward + c.backward - 2 * c.weight),
        "DualPipe": (p / 2 - 1) * (pair + c.backward - 3 * c.weight),
        "DualPipeV": (p / 2 - 1) * (pair + c.backward - 3 * c.weight),
    }[name]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("stages", [2, 4, 6, 8])
def test_bubbles_do_not_grow_with_the_batch(make: Maker, stages: int) -> None:
    for micros in (2 * stages, 2 * stages + 2, 5 * stages):
        timeline = simulate(make(stages, micros))
        assert set(bubbles(timeline)) == {formula(timeline.schedule.name, stages, Costs())}


@pytest.mark.parametrize(("stages", "bubble"), [(8, 3), (16, 7)])
def test_hiding_half_of_a_pair_halves_the_bubble(stages: int, bubble: int) -> None:
    costs = Costs(pair=2)
    timeline = simulate(dual_pipe(stages, 4 * stages), costs)
    assert max(bubbles(timeline)) == bubble == formula("DualPipe", stages, costs)
    assert timeline.length < 0.75 * simulate(dual_pipe(stages, 4 * stages)).length


@pytest.mark.parametrize("stages", [4, 8])
def test_at_the_turn_of_a_long_backward_pass_no_forward_pass_waits_for_a_partner(stages: int) -> None:
    costs = Costs(backward=3, pair=3)
    largest = max(bubbles(simulate(dual_pipe(stages, 4 * stages), costs)))
    assert largest == formula("DualPipe", stages, costs) - costs.forward


@pytest.mark.parametrize("make", [one_f_one_b, zero_bubble, dual_pipe])
def test_activations_kept_are_those_of_table_2(make: Maker) -> None:
    for stages in (4, 8):
        found = kept(simulate(make(stages, 3 * stages)))
        assert max(found) == {one_f_one_b: stages, zero_bubble: stages, dual_pipe: stages + 1}[make]
        assert found == (list(range(stages, 0, -1)) if make is one_f_one_b else [max(found)] * stages)


def test_gpipe_keeps_the_whole_batch_and_waits_as_long_as_1f1b() -> None:
    all_first, soon = simulate(gpipe(4, 20)), simulate(one_f_one_b(4, 20))
    assert kept(all_first) == [20] * 4
    assert bubbles(all_first) == bubbles(soon)


def test_dual_pipe_has_every_parameter_twice_and_its_half_has_none_twice() -> None:
    both, line, half = dual_pipe(8, 16), zero_bubble(8, 16), dual_pipe_v(8, 16)
    copies = {s.name: sum(len(s.stages_of(d)) for d in range(len(s.devices))) / s.stages for s in (both, line, half)}
    assert copies == {"DualPipe": 2, "ZB1P": 1, "DualPipeV": 1}
    assert [both.stages_of(d) for d in range(8)] == [{d, 7 - d} for d in range(8)]
    assert (len(both.devices), len(half.devices)) == (8, 4)


def test_dual_pipe_is_its_own_mirror_image() -> None:
    schedule = dual_pipe(6, 12)
    mirrored = tuple(
        tuple(tuple(op._replace(micro=(op.micro + 6) % 12) for op in step) for step in steps)
        for steps in reversed(schedule.devices)
    )
    assert schedule.devices == mirrored


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MAKERS),
    st.integers(1, 4),
    st.integers(0, 6),
    st.floats(0.2, 3),
    st.floats(0.5, 4),
    st.floats(0.05, 0.95),
)
def test_any_schedule_is_possible_at_any_costs(
    make: Maker, half: int, more: int, forward: float, backward: float, share: float
) -> None:
    """And never better than doing all that is to be done, from the moment that the first micro-batch arrives."""
    stages = 2 * half
    costs = Costs(forward=forward, backward=backward, weight=share * backward)
    timeline = simulate(make(stages, 2 * (stages + more)), costs)
    check(timeline)
    busiest = max(sum(slot.end - slot.start for slot in timeline.of(d)) for d in range(len(timeline.schedule.devices)))
    assert timeline.length >= busiest * (1 - 1e-9)
    assert timeline.length >= stages * (forward + backward - costs.weight) + costs.weight - 1e-9
    for step in timeline.schedule.devices[0][:1]:  # the first device is never late to begin
        assert timeline.of(0)[0] == Slot(0, step, 0.0, forward)


@pytest.mark.parametrize("make", [gpipe, one_f_one_b, zero_bubble])
@pytest.mark.parametrize("micros", [1, 2, 3])
def test_few_micro_batches_make_a_valid_pipeline_too(make: Maker, micros: int) -> None:
    check(simulate(make(5, micros)))
    assert simulate(make(1, micros)).length == 3 * micros


def test_devices_that_wait_for_each_other_are_found() -> None:
    good = one_f_one_b(2, 2)
    first = (good.devices[0][2], good.devices[0][0], *good.devices[0][1:2], *good.devices[0][3:])
    with pytest.raises(ValueError, match="1F1B: device 0 waits for ever to begin B0 at stage 0"):
        simulate(replace(good, devices=(first, good.devices[1])))


def change(timeline: Timeline, n: int, **slot: object) -> Timeline:
    slots = list(timeline.slots)
    slots[n] = slots[n]._replace(**slot)  # type: ignore[arg-type]
    return replace(timeline, slots=tuple(slots))


def place(timeline: Timeline, *step: Op) -> int:
    return next(n for n, slot in enumerate(timeline.slots) if slot.step == step)


def test_what_no_pipeline_could_do_is_refused() -> None:
    good = simulate(zero_bubble(3, 4))
    check(good)
    f, i, w = (place(good, Op(kind, 1, 1)) for kind in "FIW")  # type: ignore[arg-type]
    last = len(good.slots) - 1
    cases = {
        "F1 at stage 1 begins before F1 at stage 0": change(good, f, start=0.0, end=1.0),
        "I1 at stage 1 begins before": change(good, i, start=good.slots[f].end - 0.1),
        "W1 at stage 1 begins before I1": change(good, w, start=good.slots[f].end),
        "F, I and W, are due, not F, I$": replace(good, slots=(*good.slots[:w], *good.slots[w + 1 :])),
        "F1 at stage 1 is done twice": replace(good, slots=(*good.slots, good.slots[f])),
        "leaves its activations of stage 1 on another device": change(good, w, device=0),
        "does .* and .* at a time": change(good, last, start=good.slots[last].start - 0.5),
        "only a forward and a whole backward pass": change(good, f, step=(Op("F", 1, 1), Op("F", 2, 1))),
        "F9 at stage 1: there is no such": replace(good, slots=(*good.slots, Slot(1, (Op("F", 9, 1),), 90.0, 91.0))),
    }
    for message, bad in cases.items():
        with pytest.raises(ValueError, match=message):
            check(bad)


@pytest.mark.parametrize(
    ("make", "stages", "micros", "message"),
    [
        (gpipe, 0, 4, "must be positive"),
        (dual_pipe, 3, 12, "even numbers"),
        (dual_pipe, 4, 9, "even numbers"),
        (dual_pipe, 4, 6, "at least 8"),
        (dual_pipe_v, 4, 3, "at least 8 micro-batches, of which there are 6"),
    ],
)
def test_what_cannot_be_filled_is_refused(make: Maker, stages: int, micros: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(stages, micros)


def test_costs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="weight=2 a part of backward=2"):
        Costs(weight=2)
    with pytest.raises(ValueError, match="pair=0 must take some time"):
        Costs(pair=0)
