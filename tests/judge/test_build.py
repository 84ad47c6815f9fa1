"""What goes out is built from one script, and whatever is not what the script gives today is found."""

import json
import shutil

import pytest

from minideepseek.errors import UserError
from minideepseek.judge.author import build
from minideepseek.judge.task import load_pack


@pytest.fixture
def shelf(exercise, tmp_path, monkeypatch):
    """The folder ``exercises/`` of a small course, built."""
    shutil.copytree(exercise.path.parents[1], tmp_path / "exercises")
    monkeypatch.chdir(tmp_path)
    build.build()
    return tmp_path / "exercises"


def cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def test_a_fresh_build_is_current_and_building_again_changes_nothing(shelf):
    assert build.check() == []
    before = {path: path.read_bytes() for path in shelf.rglob("*.*") if path.is_file()}
    build.build()
    assert {path: path.read_bytes() for path in before} == before


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


STALE = {
    "script": lambda shelf: edit(shelf / "src" / "09_small.py", "Twice the input.", "Two times the input."),
    "points": lambda shelf: edit(shelf / "src" / "09_small.py", 'value("is near", 1', 'value("is near", 2'),
    "hidden part of the script": lambda shelf: edit(shelf / "src" / "09_small.py", "oracle=3.14159", "oracle=3.14"),
    "notebook": lambda shelf: edit(shelf / "09_small" / "09_small.ipynb", "Twice the input.", "Two times the input."),
    "manifest": lambda shelf: edit(shelf / "manifest.json", '"minutes": 2', '"minutes": 3'),
    "lost notebook": lambda shelf: (shelf / "09_small" / "09_small.ipynb").unlink(),
    "damaged checks": lambda shelf: (shelf / "09_small" / "checks.safetensors").write_bytes(b"junk"),
    "lost script": lambda shelf: (shelf / "src" / "09_small.py").rename(shelf / "src" / "08_other.py"),
}


@pytest.mark.parametrize("what", STALE)
def test_whatever_is_stale_is_found(shelf, what):
    STALE[what](shelf)
    complaints = build.check()
    assert complaints
    assert all("minideepseek exercises build" in line or "has no script" in line for line in complaints)


def test_one_source_gives_the_learners_notebook_the_solved_one_and_the_manifest(shelf, tmp_path):
    (solved,) = build.solutions(tmp_path / "mine")
    theirs, ours = cells(shelf / "09_small" / "09_small.ipynb"), cells(solved)
    differ = [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]]
    assert len(differ) == 2  # one for each task
    assert "NotImplementedError" in differ[0][0]
    assert "### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION" in differ[0][1]
    assert "guess = None  # your number" in differ[1][0]
    (entry,) = json.loads((shelf / "manifest.json").read_text())["exercises"]
    assert (entry["minutes"], entry["points"]) == (2, 5)
    assert entry["tasks"][1]["needs"] == ["small.double"]


def test_cells_carry_what_nbgrader_wants(shelf):
    notebook = json.loads((shelf / "09_small" / "09_small.ipynb").read_text())
    marks = [cell["metadata"]["nbgrader"] for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    assert [(mark["grade_id"], mark["solution"], mark["grade"], mark.get("points")) for mark in marks] == [
        ("small-double", True, False, None),
        ("small-double-check", False, True, 4),
        ("small-guess", True, False, None),
        ("small-guess-check", False, True, 1),
    ]


def test_hidden_checks_are_kept_apart_and_say_so(shelf, tmp_path):
    (path,) = build.hidden(tmp_path / "hidden", "a secret of the tests")
    assert load_pack(path).secret
    assert not load_pack(shelf / "09_small" / build.PACK).secret
    assert build.check() == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return 2 * x\n    ### END", "return 3 * x\n    ### END", "the oracle and the solution differ"),
        ("return 2 * x\n    ### END", "return 1 / 0\n    ### END", "fails: ZeroDivisionError"),
        ('task="small.guess"', 'task="small.double"', "used twice"),
        ('task="small.guess"', 'task="guess"', "topic.name"),
        ("minutes=1 seconds", "minuts=1 seconds", "needs minutes="),
        ('"small.guess", oracle', '"small.ges", oracle', "no `@checks"),
    ],
)
def test_a_script_that_is_wrong_stops_the_build_with_its_line(shelf, old, new, says):
    edit(shelf / "src" / "09_small.py", old, new)
    with pytest.raises(UserError, match=says) as error:
        build.build()
    assert "09_small.py" in str(error.value)
