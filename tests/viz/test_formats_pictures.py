"""Numbers on a line: a tick for each that the axis can show."""

import numpy as np

from minideepseek.ops.quantise import E4M3, E5M2, held
from minideepseek.viz import number_lines


def ticks(collection) -> list[float]:
    return sorted(segment[0][0] for segment in collection.get_segments())


def test_every_number_above_zero_has_a_tick_on_a_logarithmic_line() -> None:
    (axes,) = number_lines({"E4M3": held(E4M3), "E5M2": held(E5M2)}, title="Digits or range").axes
    for collection, form in zip(axes.collections, (E4M3, E5M2), strict=True):
        np.testing.assert_array_equal(ticks(collection), held(form)[1:].numpy())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["E4M3", "E5M2"]


def test_a_plain_line_shows_zero_and_both_signs_within_its_span() -> None:
    numbers = [-6, -1, 0, 0.5, 1, 6]
    (axes,) = number_lines({"FP4": numbers}, title="Sixteen codes", span=(-2, 2), log=False).axes
    assert ticks(axes.collections[0]) == [-1, 0, 0.5, 1]
    assert axes.get_xlim() == (-2, 2)
