"""Pictures of training show the runs they are given, and a live curve is drawn where there is a notebook to draw in."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minideepseek.viz import live, live_curve, loop_diagram, next_tokens, runs, update_sizes

RECORDS = [{"step": step, "loss": 8.0 / step, "lr": 1e-3} for step in range(1, 7)]
RECORDS[-1] = RECORDS[-1] | {"valid_loss": 1.5}


def test_runs_draw_the_loss_of_every_step_above_and_the_learning_rate_below():
    above, below = runs({"ours": RECORDS}, title="t").axes
    assert above.lines[0].get_ydata().tolist() == [8.0 / step for step in range(1, 7)]
    assert below.lines[0].get_ydata().tolist() == pytest.approx([1.0] * 6)  # in thousandths


def test_held_out_losses_are_dots_where_they_were_measured():
    above, _ = runs({"ours": RECORDS, "never looked": RECORDS[:-1]}, title="t").axes
    dots = [line for line in above.lines if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in dots] == [[[6.0, 1.5]]]


def test_the_loop_has_its_six_stations():
    words = {text.get_text() for text in loop_diagram(title="t").axes[0].texts}
    assert {"batch", "model", "loss", "gradient", "clip", "AdamW"} <= words


def test_update_sizes_draw_shares_that_add_up_to_all():
    axes = update_sizes({"all": np.geomspace(1e-8, 1e-1, 500)}, title="t").axes[0]
    corners = axes.patches[1].get_path().vertices if hasattr(axes.patches[1], "get_path") else None
    assert corners is not None
    heights = np.unique(np.round(corners[:, 1], 6))
    assert heights.max() < 100
    assert {"lost in bf16", "lost in fp32"} <= {text.get_text() for text in axes.texts}


def test_what_is_lost_in_bf16_is_where_the_shading_says():
    axes = update_sizes({"one": np.array([1.0])}, title="t").axes[0]
    edge = 10 ** next(text.get_position()[0] for text in axes.texts if "bf16" in text.get_text()) * 10**0.06
    weights = 1 + torch.arange(128) / 128
    kept = weights.bfloat16() + (weights * edge * 1.99).bfloat16() != weights.bfloat16()
    lost = weights.bfloat16() + (weights * edge * 0.99).bfloat16() == weights.bfloat16()
    assert lost.all()
    assert kept.any()


class Notebook:
    """Remembers what was displayed and how often it was replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kernel: bool) -> None:
        self.shown: list[object] = []
        shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
        monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
        monkeypatch.setattr("IPython.display.display", self.display)

    def display(self, picture: object, display_id: bool) -> "Notebook":
        assert display_id
        self.shown.append(picture)
        return self

    def update(self, picture: object) -> None:
        self.shown.append(picture)


def test_a_live_curve_ends_with_a_picture_of_all_steps(monkeypatch):
    notebook = Notebook(monkeypatch, kernel=True)
    with live_curve("ours") as watch:
        for record in RECORDS:
            watch(record)
    first, last = notebook.shown[0], notebook.shown[-1]
    assert len(first.axes[0].lines[0].get_xdata()) == 1
    assert len(last.axes[0].lines[0].get_xdata()) == 6
    assert last.heading == "Step 6: loss 1.33, on held-out text 1.50"
    assert len(notebook.shown) == 2  # six steps in no time are not six drawings


def test_a_live_curve_is_drawn_again_when_time_has_passed(monkeypatch):
    notebook = Notebook(monkeypatch, kernel=True)
    monkeypatch.setattr(live, "SECONDS", 0.0)
    with live_curve() as watch:
        for record in RECORDS:
            watch(record)
    assert len(notebook.shown) == 7


def test_a_live_curve_of_an_interrupted_run_is_still_drawn(monkeypatch):
    notebook = Notebook(monkeypatch, kernel=True)
    with contextlib.suppress(KeyboardInterrupt), live_curve() as watch:
        watch(RECORDS[0])
        watch(RECORDS[1])
        raise KeyboardInterrupt
    assert len(notebook.shown[-1].axes[0].lines[0].get_xdata()) == 2


def test_in_a_terminal_nothing_is_drawn(monkeypatch):
    notebook = Notebook(monkeypatch, kernel=False)
    with live_curve() as watch:
        watch(RECORDS[0])
    assert notebook.shown == []


def test_next_tokens_show_what_would_be_drawn():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    page = next_tokens(["a", "b", "c", "d"], logits, top_p=0.75, rows=4)
    assert "62.5%" in page  # 0.5 of the 0.8 that may be drawn
    assert "37.5%" in page
    assert "2 of 4 tokens" in page
    assert page.count("line-through") == 2 * 2  # c and d: name and number


def test_temperature_zero_leaves_the_likeliest():
    page = next_tokens(["a", "b"], [1.0, 1.1], temperature=0.0, rows=2)
    assert "100.0%" in page
    assert "1 of 2 tokens" in page
    assert "0.00 bits" in page
