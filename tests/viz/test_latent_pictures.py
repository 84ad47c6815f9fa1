import numpy as np
import pytest

from minideepseek import viz


@pytest.mark.parametrize("heads", [2, 4])
def test_the_diagram_keeps_two_things_and_makes_keys_and_values_for_each_head(heads: int) -> None:
    figure = viz.latent_diagram(title="t", heads=heads)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("k") == texts.count("v") == texts.count("kᴿ") == heads
    assert texts.count("latent c") == texts.count("rotary key kᴿ") == 1


@pytest.mark.parametrize(("factor", "scale"), [(-5, (-5, 5)), (5, (0, 5))])
def test_matrices_share_one_scale_that_knows_signs(factor: int, scale: tuple[int, int]) -> None:
    figure = viz.matrices({"small": np.eye(3), "large": factor * np.eye(3)}, title="t", xlabel="x", ylabel="y")
    images = [image for axes in figure.axes[:2] for image in axes.images]
    assert [image.get_clim() for image in images] == [scale, scale]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["small", "large"]
