"""A lesson's notebook is its script, run once from top to bottom, and the check says when that is no longer true."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import minideepseek
from minideepseek import lessons
from minideepseek.errors import UserError
from minideepseek.lessons.check import check_script
from minideepseek.lessons.lab import lab
from minideepseek.lessons.source import home
from minideepseek.lessons.surface import changed, uses

TITLE = "# 07 · A lesson of the tests\nIt takes 1 minute."
LEDGER = "## The ledger: what this shows, and what it does not"
CODE = ["from minideepseek.viz.widgets import knob\nfrom minideepseek.errors import UserError", "print(6 * 7)"]
CLAIM = 'assert knob(lambda n=1: f"<b>{n}</b>", n=(0, 2)) is None'


def script(*code: str, title: str = TITLE, ledger: str = LEDGER, cells: int = 40) -> str:
    """A lesson that keeps every rule, unless an argument breaks one."""
    texts = [("markdown", title), *(("code", text) for text in code), ("markdown", ledger)]
    texts += [("markdown", f"Thought {n}.") for n in range(cells - len(texts))]
    blocks = []
    for kind, text in texts:
        lines = text.splitlines() if kind == "code" else [f"# {line}".rstrip() for line in text.splitlines()]
        blocks.append("\n".join(["# %% [markdown]" if kind == "markdown" else "# %%", *lines]))
    return "\n\n".join(blocks) + "\n"


Write = Callable[..., lessons.Lesson]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Stand in a course of one's own and write a script there."""
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)

    def write(*code: str, name: str = "07_a_lesson.py", **parts: object) -> lessons.Lesson:
        (home() / "src" / name).write_text(script(*code, **parts), encoding="utf-8")
        return lessons.find(name[:2])[0]

    return write


def outputs(lesson: lessons.Lesson) -> list[dict]:
    cells = json.loads(lesson.notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


# ------------------------------------------------------------------------------------------------------------ building


def test_a_built_lesson_has_nothing_to_complain_of(write: Write) -> None:
    lesson = write(*CODE, CLAIM)
    assert (lesson.number, lesson.title, lesson.minutes) == ("07", "A lesson of the tests", 1)
    assert lessons.state(lesson) == "not built"
    assert lessons.build() == [lesson.notebook]
    assert lessons.check() == []
    assert lessons.state(lesson) == "ready"
    assert [output["text"] for output in outputs(lesson) if output["output_type"] == "stream"] == [["42\n"]]


def test_what_is_current_is_not_built_again_unless_named(write: Write) -> None:
    write("print(1)")
    assert len(lessons.build()) == 1
    assert lessons.build() == []
    assert len(lessons.build("7")) == 1


@pytest.mark.slow
def test_built_twice_a_notebook_is_the_same_to_the_byte(write: Write) -> None:
    lesson = write(
        "import os, sys, time\nfrom tqdm.auto import tqdm\nimport tqdm as plain",
        "for _ in tqdm(range(2)): time.sleep(0.01)",
        "for _ in plain.tqdm(range(2)): time.sleep(0.01)",
        "print(object(), os.getcwd(), os.path.expanduser('~/x'), {'a', 'b', 'c'})",
        CODE[0],
        CLAIM,
    )
    lessons.build()
    first = lesson.notebook.read_bytes()
    lessons.build("07")
    assert lesson.notebook.read_bytes() == first
    assert os.getcwd().encode() not in first
    assert b"it/s" not in first
    assert b"widget-view" not in first
    assert b"<b>1</b>" in first  # what the knob shows without a kernel stays


def test_a_failing_cell_is_named_by_its_line_and_leaves_the_notebook_alone(write: Write) -> None:
    lesson = write("print(1)")
    lessons.build()
    before = lesson.notebook.read_bytes()
    failing = write("print(1)", "raise ValueError('no such luck')")
    with pytest.raises(UserError, match=r"07_a_lesson.py, cell 3 \(line 8\): ValueError: no such luck"):
        lessons.build()
    assert failing.text.splitlines()[7] == "# %%"
    assert lesson.notebook.read_bytes() == before
    assert sorted(path.name for path in home().iterdir()) == ["07_a_lesson.ipynb", "src"]


def test_a_lesson_runs_in_the_folder_of_the_notebooks_without_the_users_ipython_profile(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("print('a greeting of my own')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    lesson = write("import os\nassert os.path.isdir('src')\nprint('here')")
    lessons.build()
    assert "greeting" not in lesson.notebook.read_text()


# ------------------------------------------------------------------------------------------------------------ checking


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ({"title": "# A lesson without a number\n1 minute"}, "starts with `# 07 · Title`"),
        ({"title": "# 07 · Timeless"}, "does not say how long"),
        ({"title": "# 07 · Endless\n90 minutes"}, "90 minutes, more than 5"),
        ({"title": TITLE + " very" * 6000}, "words, more than 6000"),
        ({"ledger": "## The end"}, "no heading with the word `ledger`"),
        ({"cells": 20}, "20 cells, where a lesson has 40 to 80"),
        ({"cells": 90}, "90 cells"),
        ({"code": ["x = 1"]}, "no `assert`"),
        ({"code": ["assert True"]}, "no `knob"),
        ({"code": ["\n".join(f"x{n} = {n}" for n in range(16))]}, ":5: a code cell of 16 lines"),
        ({"code": ["%matplotlib inline"]}, ":5: no plain Python"),
    ],
)
def test_each_rule_of_the_house_has_its_complaint(write: Write, broken: dict, complaint: str) -> None:
    sound = write(*CODE, CLAIM)
    assert list(check_script(sound)) == []
    assert any(complaint in line for line in check_script(write(*broken.pop("code", [*CODE, CLAIM]), **broken)))


def test_text_before_the_first_cell_is_pointed_out(write: Write) -> None:
    lesson = write(*CODE, CLAIM)
    lesson.source.write_text("import os\n\n" + lesson.text)
    assert lessons.check("7")[0].startswith("07_a_lesson.py:1: text before the first")


def _edit(lesson: lessons.Lesson, change: Callable[[dict], object]) -> None:
    notebook = json.loads(lesson.notebook.read_text(encoding="utf-8"))
    change(notebook)
    lesson.notebook.write_text(json.dumps(notebook), encoding="utf-8")


def _stream(name: str, text: str) -> list[dict]:
    return [{"output_type": "stream", "name": name, "text": [text]}]


def _data(**data: str) -> list[dict]:
    return [{"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/"): v for k, v in data.items()}}]


SPOILT: dict[str, tuple[Callable[[dict], object], str]] = {
    "not run": (lambda nb: nb["cells"][1].update(execution_count=None), "not all run once, from top to bottom"),
    "out of order": (lambda nb: nb["cells"][1].update(execution_count=9), "not all run once, from top to bottom"),
    "other outputs": (lambda nb: nb["metadata"]["minideepseek"].update(source="0"), "made by an older script"),
    "other cells": (lambda nb: nb["cells"][1].update(source="print(2)"), "not those of the script"),
    "clock": (lambda nb: nb["cells"][1]["metadata"].update(execution={"iopub": "12:00"}), "saved by hand"),
    "widget state": (lambda nb: nb["metadata"].update(widgets={}), "saved by hand"),
    "warning": (lambda nb: nb["cells"][1].update(outputs=_stream("stderr", "Beware")), "writes to stderr"),
    "path": (lambda nb: nb["cells"][1].update(outputs=_stream("stdout", "/home/ada/x")), "path of the machine"),
    "dead widget": (
        lambda nb: nb["cells"][1].update(outputs=_data(text_plain="VBox(c=1)")),
        "nothing without a kernel",
    ),
    "size": (lambda nb: nb["cells"][1].update(outputs=_data(text_plain="x" * 2_000_000)), "bytes, more than 1,500,000"),
    "error": (
        lambda nb: nb["cells"][1].update(
            outputs=[{"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []}]
        ),
        "cell 2 ends in KeyError",
    ),
}


def test_a_notebook_that_was_not_built_from_its_script_is_found_out(write: Write) -> None:
    lesson = write(*CODE, CLAIM)
    lessons.build()
    sound = lesson.notebook.read_text(encoding="utf-8")
    for name, (spoil, complaint) in SPOILT.items():
        _edit(lesson, spoil)
        assert any(complaint in line for line in lessons.check("07")), name
        lesson.notebook.write_text(sound, encoding="utf-8")
    assert lessons.check() == []


def test_a_changed_script_makes_its_notebook_stale(write: Write) -> None:
    write("print(1)")
    lessons.build()
    assert lessons.state(write("print(2)")) == "stale"


def test_a_definition_copied_between_lessons_belongs_in_the_package(write: Write) -> None:
    for name in ("07_a_lesson.py", "08_another.py"):
        write(*CODE, CLAIM, "def shared(x):\n    return x + 1", name=name)
    assert any("each defines `shared`" in line for line in lessons.check())


def test_a_notebook_without_a_script_is_an_orphan(write: Write) -> None:
    write(*CODE, CLAIM)
    (home() / "06_left_over.ipynb").write_text("{}")
    assert any(line.startswith("06_left_over.ipynb: has no script") for line in lessons.check())


# ----------------------------------------------------------------------------------- what a lesson uses of the package


def test_the_names_a_lesson_uses_are_found_however_they_were_imported() -> None:
    code = [
        "import minideepseek as mds\nfrom minideepseek.errors import UserError as Wrong\nimport minideepseek.files",
        "mds.generations['v1-mini']; minideepseek.files.sync; raise Wrong('x')",
    ]
    found = uses(code)
    assert {"minideepseek:generations[v1-mini]", "minideepseek:files.sync", "minideepseek.errors:UserError"} <= set(
        found
    )
    assert found["minideepseek:files.sync"] == ["path"]
    assert str(found["minideepseek:generations[v1-mini]"]).startswith("ModelConfig(")


def test_a_name_the_package_lost_is_named() -> None:
    with pytest.raises((AttributeError, ImportError), match="no_such_thing"):
        uses(["from minideepseek.errors import no_such_thing"])


def test_only_what_changes_a_call_makes_outputs_stale() -> None:
    before = {"m:f": ["x", "scale=1.0"], "m:g": "Config(size=3)"}
    assert changed(before, {"m:f": ["x", "scale=1.0", "seed=0"], "m:g": "Config(size=3)"}) == []
    assert changed(before, {"m:f": ["x", "factor=1.0"], "m:g": "Config(size=3)"}) == ["m:f"]
    assert changed(before, {"m:f": ["x", "scale=2.0"], "m:g": "Config(size=3)"}) == ["m:f"]
    assert changed(before, {"m:f": ["x", "scale=1.0", "seed"], "m:g": "Config(size=4)"}) == ["m:f", "m:g"]


# ------------------------------------------------------------------------------------------------- finding and opening


def test_whoever_has_only_the_wheel_is_told_where_lessons_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minideepseek, "__file__", str(tmp_path / "site-packages" / "minideepseek" / "__init__.py"))
    with pytest.raises(UserError, match="clone the minideepseek repository"):
        lessons.find()


def test_an_unknown_number_is_answered_with_the_known_ones(write: Write) -> None:
    write("print(1)")
    with pytest.raises(UserError, match=r"no lesson 99 in .*there are: 07"):
        lessons.find("99")


def test_opening_prints_an_address_that_leads_to_the_lesson(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    @contextmanager
    def fake(**_: object) -> Iterator[tuple[SimpleNamespace, str, str]]:
        yield SimpleNamespace(wait=interrupted), "http://127.0.0.1:1", "secret"

    monkeypatch.setattr("minideepseek.lessons.lab.lab", fake)
    monkeypatch.setattr("minideepseek.lessons.lab._display", lambda: False)
    lesson = write("print(1)")
    with pytest.raises(UserError, match="lessons build 7"):
        lessons.open_lab("7")
    lesson.notebook.touch()
    lessons.open_lab("7")
    assert "http://127.0.0.1:1/lab/tree/notebooks/07_a_lesson.ipynb?token=secret" in capsys.readouterr().out


@pytest.mark.slow
def test_the_lab_serves_the_course_to_the_token_and_to_nobody_else(write: Write, tmp_path: Path) -> None:
    write("print(1)")
    with lab(root=tmp_path) as (_, base, token), lab(root=tmp_path) as (_, other, _):
        assert base != other  # a port in use is passed over
        with urllib.request.urlopen(f"{base}/api/contents/notebooks?token={token}") as answer:
            assert "src" in [item["name"] for item in json.load(answer)["content"]]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{base}/api/contents/notebooks")


def test_a_lab_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"did not start; its last words: .*no_such_folder"),
        lab(root=tmp_path / "no_such_folder"),
    ):
        pass
