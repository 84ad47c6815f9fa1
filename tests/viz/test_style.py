"""The house colours are told apart by everyone, and a figure says in words what it shows."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from minideepseek.viz import canvas
from minideepseek.viz.style import COLOURS, SHADE

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as such an eye sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(sight @ linear, 0, 1) / [0.95047, 1.0, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_differ_for_every_eye(sight):
    seen = [lab(colour, SIGHT[sight]) for colour in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 18


def test_any_two_colours_differ_in_greyscale():
    lightness = sorted(lab(colour, SIGHT["normal"])[0] for colour in COLOURS)
    assert min(np.diff(lightness)) > 8


def test_shade_darkens_steadily():
    rgb = SHADE(np.linspace(0, 1, 32))[:, :3]
    assert np.all(np.diff(rgb @ [0.2126, 0.7152, 0.0722]) < 0)


def test_a_figure_is_a_png_of_its_own_and_says_its_finding():
    figure, _ = canvas("Water is wet")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "Water is wet" in repr(figure)


def test_the_same_figure_is_the_same_bytes():
    first, second = (canvas("Water is wet")[0]._repr_png_() for _ in range(2))
    assert first == second


def test_a_figure_leaves_nothing_open_in_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    canvas("Water is wet")
    assert pyplot.get_fignums() == before
