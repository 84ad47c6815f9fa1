"""A class is graded: right marks, kept as they come, told without a hidden input, and never twice."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from minideepseek.cli import grade as cli
from minideepseek.errors import UserError
from minideepseek.judge.author import build
from minideepseek.judge.grading import results
from minideepseek.judge.grading.marks import load
from minideepseek.judge.grading.run import choose, grade
from minideepseek.judge.grading.submission import find

pytestmark = pytest.mark.usefixtures("one_sandbox")

SQUARE = "def double(x):\n    return x * x"


@pytest.fixture
def homework(tmp_path, notebook):
    """Submissions of a small class."""
    folder = tmp_path / "class"
    folder.mkdir()
    (folder / "alice.ipynb").write_text(notebook())
    (folder / "bob.ipynb").write_text(notebook({"small.double": SQUARE}))
    (folder / "carl.py").write_text('# %% task="small.guess"\nguess = 2.718\n')
    (folder / "dora").mkdir()
    return folder


def marks_of(graded):
    return {marks.name: {task.task: task.points for task in marks.tasks} for marks in graded}


def test_marks_are_those_of_the_notebook(homework, public):
    graded = grade(find(homework), [public], workers=1)
    assert marks_of(graded) == {
        "alice": {"small.double": 4, "small.guess": 1},
        "bob": {"small.double": 1, "small.guess": 1},
        "carl": {"small.double": 0, "small.guess": 0},
        "dora": {},
    }


def test_hidden_checks_judge_the_same_properties(homework, secret):
    assert marks_of(grade(find(homework), [secret], workers=1))["bob"] == {"small.double": 1, "small.guess": 1}


def test_the_gradebook_is_for_spreadsheets_and_the_rest_for_programs(homework, public, tmp_path):
    (homework / "=1+1.py").write_text("guess = 3.14")
    graded = grade(find(homework), [public], workers=1)
    results.write(tmp_path / "out", graded, [public])
    rows = list(csv.reader((tmp_path / "out" / "gradebook.csv").open()))
    assert rows[0] == ["student", "small.double", "small.guess", "points", "out_of"]
    assert rows[1] == ["'=1+1", "0", "1", "1", "5"]  # not a formula
    assert [row[0] for row in rows[2:]] == ["alice", "bob", "carl", "dora"]
    assert rows[-1][1:] == ["0", "0", "0", "5"]  # nothing handed in
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [student["points"] for student in found["students"]] == [1, 5, 2, 0, 0]
    suites = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    bob = next(suite for suite in suites if suite.get("name") == "bob")
    assert bob.get("failures") == "2"
    assert bob.find(".//failure").get("message") == "this is the square"
    page = (tmp_path / "out" / "feedback" / "bob.html").read_text()
    assert "is twice its input" in page
    assert "this is the square" in page
    assert re.search("is twice its input <span[^>]*>0/2<", page)
    assert re.search("keeps the shape <span[^>]*>1/1<", page)
    assert not (tmp_path / "out" / "feedback" / "=1+1.html").exists()  # a name that is one everywhere
    assert len(list((tmp_path / "out" / "feedback").iterdir())) == 5


LEAKS = {
    "message": "def double(x):\n    raise ValueError(str(x.tolist()))",
    "class": "def double(x):\n    raise type('E' + str(x.tolist()), (Exception,), {})('no')",
    "print": "def double(x):\n    print(x.tolist())\n    return x",
    "value": "def double(x):\n    return 1e6 * x",
    "shape": "def double(x):\n    return x.flatten()",
    "string": "def double(x):\n    return str(x.tolist())",
    "dict": "def double(x):\n    return {str(x.tolist()): 1}",
}


def test_feedback_on_hidden_checks_tells_no_input(secret, tmp_path, notebook):
    for name, answer in LEAKS.items():
        (tmp_path / f"{name}.ipynb").write_text(notebook({"small.double": answer}))
    x = secret.task("small.double").checks[0].steps[0].args[0]
    for marks in grade(find(tmp_path), [secret], workers=1):
        page = results.page(marks, marks.tasks, secret=True)
        assert "is twice its input" in page
        assert str(tuple(x.shape)) not in page, marks.name
        assert not any(str(number)[:6] in page for number in x.flatten().tolist()), marks.name
        assert marks.points < 5


def test_feedback_shows_no_tag_of_the_students(public, tmp_path, notebook):
    (tmp_path / "<i>m.ipynb").write_text(
        notebook({"small.double": "def double(x):\n    raise ValueError('<b>hi</b>')"})
    )
    (marks,) = grade(find(tmp_path / "<i>m.ipynb"), [public], workers=1)
    page = results.page(marks, marks.tasks, secret=False)
    assert "&lt;b&gt;hi&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_an_error_names_the_line_and_the_answer_it_stands_in(public, tmp_path, notebook):
    broken = "def double(x):\n    return 2 * x\n\n1 / 0"
    (tmp_path / "m.ipynb").write_text(notebook({"small.double": broken}))
    (marks,) = grade(find(tmp_path / "m.ipynb"), [public], workers=1)
    said = {task.task: task.properties[0].says for task in marks.tasks}
    assert said["small.double"] == "ZeroDivisionError in line 4 of your answer"
    assert said["small.guess"] == "ZeroDivisionError in line 4 of your answer to small.double"


def test_what_is_graded_is_not_graded_again(homework, public, secret, tmp_path):
    keep = tmp_path / "keep"
    first = grade(find(homework), [public], keep=keep, workers=1)
    times = {path.name: path.stat().st_mtime_ns for path in keep.iterdir()}
    (homework / "bob.ipynb").write_text((homework / "alice.ipynb").read_text())
    (keep / "carl.json").write_text('{"half": ')
    again = grade(find(homework), [public], keep=keep, workers=1)
    changed = {name for name, when in times.items() if (keep / name).stat().st_mtime_ns != when}
    assert changed == {"bob.json", "carl.json"}
    assert [marks.points for marks in again] == [5, 5, 0, 0]
    assert again[0] == first[0] == load(keep / "alice.json")
    grade(find(homework), [secret], keep=keep, workers=1)  # other checks: everything again
    assert all((keep / name).stat().st_mtime_ns != when for name, when in times.items())


def test_results_among_the_submissions_are_refused(homework):
    with pytest.raises(UserError, match="would be taken for a submission"):
        cli.run(homework, out=homework / "results")


def test_a_new_version_of_the_judge_grades_again(homework, public, tmp_path, monkeypatch):
    grade(find(homework), [public], keep=tmp_path, workers=1)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr("minideepseek.judge.grading.run.version", lambda name: "99")
    grade(find(homework), [public], keep=tmp_path, workers=1)
    assert all(path.stat().st_mtime_ns != when for path, when in times.items() if path.suffix == ".json")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(exercise, tmp_path, notebook):
    folder = tmp_path / "class"
    folder.mkdir()
    slow = "import time\ntime.sleep(0.3)\ndef double(x):\n    return 2 * x"
    for number in range(12):
        (folder / f"student{number:02}.ipynb").write_text(notebook({"small.double": slow}))
    command = [sys.executable, "-m", "minideepseek", "grade", str(folder), "--out", str(tmp_path / "out")]
    env = {**os.environ, "MINIDEEPSEEK_EXERCISES": str(exercise.path.parents[1])}
    killed = subprocess.Popen([*command, "--workers", "1"], env=env, stdout=subprocess.DEVNULL)
    kept = tmp_path / "out" / "submissions"
    deadline = time.monotonic() + 120
    while len(list(kept.glob("student*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = {path: path.stat().st_mtime_ns for path in kept.glob("student*.json")}
    assert 3 <= len(done) < 12
    assert all(load(path) for path in done)  # whole, each of them
    assert not (tmp_path / "out" / "gradebook.csv").exists()
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "INCOMPLETE" not in finished.stdout or sys.platform != "linux"
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    rows = list(csv.reader((tmp_path / "out" / "gradebook.csv").open()))
    assert [row[-2] for row in rows[1:]] == ["5"] * 12


def test_a_fault_of_the_judge_costs_one_student_not_the_class(homework, public, monkeypatch):
    from minideepseek.judge.grading import run

    grade_one = run._grade
    monkeypatch.setattr(run, "_grade", lambda s, *rest: 1 // 0 if s.name == "bob" else grade_one(s, *rest))
    graded = {marks.name: marks for marks in grade(find(homework), [public], workers=1)}
    assert "grade by hand" in graded["bob"].notes[0]
    assert graded["alice"].points == 5


def test_packs_are_chosen_by_folder_and_number(exercise, secret, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDEEPSEEK_EXERCISES", str(exercise.path.parents[1]))
    for name in ("09", "9", "09_small"):
        assert [pack.exercise for pack in choose(None, [name])] == ["09_small"]
    with pytest.raises(UserError, match="no checks for exercise '08'"):
        choose(None, ["08"])
    with pytest.raises(UserError, match="exercises hidden"):
        choose(tmp_path / "nowhere", [])
    with pytest.raises(UserError, match="no checks in"):
        choose(tmp_path, [])
    (tmp_path / "09_small.safetensors").write_bytes(secret.dumps())
    assert choose(tmp_path, [])[0].secret
    (tmp_path / "09_small.safetensors").write_bytes(replace(secret, secret=False).dumps())
    with pytest.raises(UserError, match="not hidden"):
        choose(tmp_path, [])
    (tmp_path / "09_small.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="damaged"):
        choose(tmp_path, [])


def test_a_salt_must_be_a_secret(tmp_path, course):
    for salt in ("", "public", "short"):
        with pytest.raises(UserError, match="--salt"):
            build.hidden(tmp_path, salt)
    (path,) = build.hidden(tmp_path, "long enough")
    assert choose(tmp_path, [])[0].exercise == "09_small"
    assert path.name == "09_small.safetensors"
