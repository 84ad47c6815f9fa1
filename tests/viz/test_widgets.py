"""A knob is a live control where there is a front end, and a picture everywhere else."""

import base64

import ipywidgets
import pytest
from matplotlib import pyplot

from minideepseek.lessons.tidy import WIDGET
from minideepseek.viz import knob


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What cells would show: the mime bundles that were displayed."""
    bundles: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def line(slope: float = 2.0) -> pyplot.Figure:
    figure, axes = pyplot.subplots()
    axes.plot([0, slope])
    return figure


def test_one_output_carries_the_widget_and_its_first_picture(shown):
    knob(line, slope=(0.0, 4.0, 0.5))
    (bundle,) = shown
    assert set(bundle) == {WIDGET, "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "line(slope=2.0)"


def test_no_figure_stays_open_to_be_shown_a_second_time(shown):
    slider = ipywidgets.FloatSlider(value=1.0)
    knob(line, slope=slider)
    slider.value = 3.0
    assert pyplot.get_fignums() == []


def test_turning_a_knob_draws_with_the_values_of_all_of_them(shown):
    drawn = []
    first, second = ipywidgets.IntSlider(value=1), ipywidgets.Dropdown(options=["a", "b"])
    knob(lambda number, letter: drawn.append((number, letter)) or "<p></p>", number=first, letter=second)
    first.value = 5
    second.value = "b"
    assert drawn == [(1, "a"), (5, "a"), (5, "b")]


def test_html_is_a_picture_too(shown):
    knob(lambda n=1: f"<b>{n}</b>", n=(0, 3))
    assert shown[0]["text/html"] == "<b>1</b>"


def test_an_error_at_first_fails_the_cell_and_a_later_one_is_shown(shown):
    slider = ipywidgets.IntSlider(value=0)
    with pytest.raises(ZeroDivisionError):
        knob(lambda n: f"{1 // n}", n=slider)
    slider.value = 1
    knob(lambda n: f"{1 // n}", n=slider)
    slider.value = 0
    states = ipywidgets.Widget.get_manager_state()["state"].values()
    assert any("ZeroDivisionError" in str(state["state"].get("value")) for state in states)


def test_what_is_no_setting_or_no_picture_is_refused(shown):
    with pytest.raises(TypeError, match="slope=None is no range"):
        knob(line, slope=None)
    with pytest.raises(TypeError, match="not int"):
        knob(lambda n=1: n, n=(0, 2))
