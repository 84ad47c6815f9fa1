"""A lesson as its reader meets it: in JupyterLab, in a browser, with a slider under the hand."""

import json
import os
import re
import shutil
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from minideepseek import lessons
from minideepseek.lessons.lab import lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"

SMALL_LESSON = """
    # %% [markdown]
    # # 02 · A slider
    # %%
    import matplotlib.pyplot as plt
    from minideepseek.viz.widgets import knob
    # %%
    def bar(height: int = 2):
        figure, axes = plt.subplots(figsize=(4, 2))
        axes.bar([0], [height])
        axes.set_ylim(0, 9)
        return figure

    knob(bar, height=(0, 9))
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, (*BROWSERS, MAC))), None)
    if found is None:
        # Where the whole suite has to pass, a test that quietly did not run would be taken for one that did.
        (pytest.fail if os.environ.get("MINIDEEPSEEK_REQUIRE_BROWSER") else pytest.skip)(
            f"no browser on this machine (looked for {', '.join(BROWSERS)})"
        )
    return found


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built lesson in a folder of its own: lesson 02 of the course, or a small one as long as there is none."""
    root = tmp_path_factory.mktemp("course")
    (root / "notebooks" / "src").mkdir(parents=True)
    for built in ROOT.glob("notebooks/02_*.ipynb"):
        shutil.copytree(ROOT / "benchmarks", root / "benchmarks")
        return Path(shutil.copy(built, root / "notebooks"))
    (root / "pyproject.toml").touch()
    (root / "notebooks" / "src" / "02_slider.py").write_text(textwrap.dedent(SMALL_LESSON).lstrip())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return lessons.build("02")[0]


@pytest.fixture(scope="module")
def address(notebook: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The lesson's address in a running JupyterLab that leaves the settings of whoever runs the test alone."""
    own = tmp_path_factory.mktemp("jupyter")
    tracker = own / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps({"windowingMode": "none"}))  # every cell is in the page, also those out of sight
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(own))
        with lab(root=notebook.parents[1]) as (_, base, token):
            yield f"{base}/lab/tree/notebooks/{notebook.name}?reset&token={token}"


def kernel_is_connected(address: str) -> bool:
    """Does the server know a kernel that the page listens to? The page itself says "idle" before it has any."""
    base, query = address.split("/lab/tree/")[0], address.rpartition("?")[2]
    with urllib.request.urlopen(f"{base}/api/kernels?{query}", timeout=30) as answer:
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in json.load(answer))


def test_a_lesson_runs_in_jupyterlab_and_its_slider_redraws_one_picture(
    browser: str, address: str, tmp_path: Path
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    expect = sync_api.expect
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path), executable_path=browser, args=QUIET.split(), viewport={"width": 1280, "height": 1000}
        )
        page = context.new_page()
        page.goto(address)
        kernel = page.locator(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status=idle]").first
        expect(kernel).to_be_visible(timeout=90_000)
        deadline = time.monotonic() + 120
        while not kernel_is_connected(address):  # "Run" before that would clear the outputs and run nothing
            assert time.monotonic() < deadline, "JupyterLab did not connect the lesson to a kernel within two minutes"
            page.wait_for_timeout(200)
        expect(kernel).to_be_visible(timeout=90_000)

        # Before anything has run: the committed picture, and no control that could not work.
        expect(page.locator(".jp-OutputArea img").first).to_be_visible(timeout=30_000)
        assert page.locator(".noUi-handle").count() == 0
        assert page.locator(".jp-Dialog").count() == 0
        assert page.get_by_text("Jupyter news").count() == 0

        page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
        begun = page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[(\*|\d+)\]")).first
        expect(begun).to_be_visible(timeout=60_000)
        expect(page.locator(".noUi-handle").first).to_be_visible(timeout=400_000)
        expect(page.locator(".jp-InputPrompt", has_text="*")).to_have_count(0, timeout=400_000)
        errors = page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]')
        assert errors.all_inner_texts() == []

        knob = page.locator(".jp-OutputArea-output", has=page.locator(".noUi-handle")).first
        picture = knob.locator("img")
        expect(picture).to_have_count(1, timeout=30_000)
        first, before = picture.get_attribute("src"), picture.screenshot()
        knob.locator(".noUi-handle").first.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(picture).not_to_have_attribute("src", first or "", timeout=30_000)
        expect(kernel).to_be_visible(timeout=30_000)
        expect(picture).to_have_count(1)
        assert picture.screenshot() != before
        page.screenshot(path=str(tmp_path / "lab.png"))
        context.close()
