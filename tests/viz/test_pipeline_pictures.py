"""Pipelines as charts: every step has its box, at its place, and its number where there is room."""

from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from minideepseek.parallel.overlap import SENDING, Layer, one_after_the_other, side_by_side
from minideepseek.parallel.pipeline import Costs, simulate
from minideepseek.parallel.schedules import dual_pipe, one_f_one_b, zero_bubble
from minideepseek.viz import gantt, hands
from minideepseek.viz.style import GOLD, NAVY, TEAL, VERMILION


def boxes(axes) -> list[tuple[float, float, float, str]]:
    found = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_height() < 1]
    return [(p.get_x(), p.get_width(), p.get_y(), to_hex(p.get_facecolor())) for p in found]


def test_every_step_is_a_box_as_long_as_it_takes() -> None:
    timeline = simulate(zero_bubble(3, 4))
    (axes,) = gantt({"ZB1P": timeline}, title="Nobody waits for weights").axes
    drawn = sorted((x, width, round(y + 0.42), colour) for x, width, y, colour in boxes(axes))
    colours = {"F": NAVY, "I": GOLD, "W": TEAL}
    expected = [(s.start, s.end - s.start, s.device, colours[s.step[0].kind]) for s in timeline.slots]
    assert drawn == sorted(expected)
    numbers = [text.get_text() for text in axes.texts]
    assert sorted(numbers) == sorted(str(s.step[0].micro) for s in timeline.slots)


def test_passes_side_by_side_share_the_height() -> None:
    timeline = simulate(dual_pipe(4, 8))
    (axes,) = gantt({"DualPipe": timeline}, title="From both ends").axes
    pairs = [s for s in timeline.slots if len(s.step) == 2]
    assert pairs
    for slot in pairs:
        found = {colour for x, _, y, colour in boxes(axes) if x == slot.start and round(y + 0.2) == slot.device}
        assert found == {NAVY, VERMILION}


def test_panels_share_a_clock_and_the_legend_names_what_is_there() -> None:
    long, short = simulate(one_f_one_b(4, 8)), simulate(dual_pipe(4, 8))
    figure = gantt({"a": long, "b": short}, title="Two")
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] >= long.length > short.length
    assert "one forward pass" in second.get_xlabel()
    assert len(figure.legends[0].get_texts()) == 4
    alone = gantt({"a": simulate(one_f_one_b(4, 8), Costs(forward=2))}, title="One")
    assert alone.axes[0].get_xlabel() == "time"
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["forward", "backward, all of it"]


def test_numbers_that_would_not_be_readable_are_left_out() -> None:
    (axes,) = gantt({"a": simulate(one_f_one_b(2, 300))}, title="Many").axes
    assert not axes.texts


def test_what_is_sent_has_a_row_of_its_own() -> None:
    moments = side_by_side(Layer(), 2)
    figure = hands({"in turn": one_after_the_other(Layer(), 2), "side by side": moments}, title="Hidden")
    drawn = boxes(figure.axes[1])
    assert len(drawn) == len(moments) == 20
    below = sorted((x, width) for x, width, y, _ in drawn if y > 0.5)
    assert below == sorted((m.start, m.end - m.start) for m in moments if m.piece.part in SENDING)
    assert {text.get_text() for text in figure.axes[1].texts} == {"attn", "exp", "disp", "comb"}
