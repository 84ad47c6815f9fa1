import numpy as np
import pytest

from minideepseek import viz
from minideepseek.viz.streams import SWAPS, TURNS


def end_points(path: np.ndarray) -> list[np.ndarray]:
    """Where a path ends on both sides."""
    figure = viz.birkhoff({"p": path}, title="t")
    (dots,) = ([line.get_xydata()[-1] for axes in figure.axes for line in axes.lines if line.get_label() == "p"],)
    return dots


@pytest.mark.parametrize(("corners", "side"), [(TURNS, 0), (SWAPS, 1)])
def test_a_permutation_is_a_corner_of_its_side_and_the_middle_of_the_other(corners, side: int) -> None:
    found = [end_points(np.eye(3)[list(corner)]) for corner in corners]
    assert [np.linalg.norm(points[side]) for points in found] == pytest.approx([1, 1, 1])
    assert [np.linalg.norm(points[1 - side]) for points in found] == pytest.approx([0, 0, 0], abs=1e-12)
    assert len({tuple(points[side].round(6)) for points in found}) == 3


def test_a_mixture_lies_between_its_corners_and_a_path_ends_at_its_last_matrix() -> None:
    swap = np.eye(3)[[1, 0, 2]]
    half = (np.eye(3) + swap) / 2
    halves, ends = end_points(np.stack([np.eye(3), half])), (end_points(np.eye(3)), end_points(swap))
    for middle, one, other in zip(halves, *ends, strict=True):
        np.testing.assert_allclose(middle, (one + other) / 2, atol=1e-12)


@pytest.mark.parametrize("streams", [2, 4])
def test_the_diagram_reads_and_writes_every_stream(streams: int) -> None:
    figure = viz.stream_diagram(title="t", streams=streams)
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert {"F", "B\nmix", "a: read", "c: write"} <= set(texts)
    arrows = [text for text in figure.axes[1].texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 3 * streams, "a lane, a reading and a writing each"
