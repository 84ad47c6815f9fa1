"""Pictures of mixtures draw what a layer holds and how busy its experts are."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from minideepseek.viz import Slices, expert_slices, load_map
from minideepseek.viz.style import GOLD, NAVY


@pytest.mark.parametrize("cut", [Slices(8, 2), Slices(31, 7, 1), Slices(5, 5), Slices(62, 6, 2)])
def test_a_strip_shows_every_expert_once_and_colours_those_in_use(cut):
    axes = expert_slices({"layer": cut}, title="t").axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_width()]
    colours = [to_hex(box.get_facecolor()) for box in boxes]
    assert len(boxes) == cut.routed + cut.shared
    assert (colours.count(GOLD), colours.count(NAVY)) == (cut.shared, cut.used)
    assert np.isclose(sum(box.get_width() for box in boxes), 1)


def test_a_strip_is_labelled_with_the_number_of_choices():
    axes = expert_slices({"coarse": Slices(16, 2), "fine": Slices(64, 8)}, title="t").axes[0]
    assert {"120", "4,426,165,368"} <= {text.get_text() for text in axes.texts}


def test_a_fair_load_is_paper_white_and_panels_share_one_scale():
    loads = {"even": np.ones((2, 4)), "uneven": np.array([[0.0, 4.0, 2.0, 0.5]])}
    panels = load_map(loads, title="t", xlabel="expert").axes[:2]
    even, uneven = (axes.images[0].get_array() for axes in panels)
    assert (even == 0).all()
    assert uneven.tolist() == [[-2, 2, 1, -1]]
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
