"""The same exercise under nbgrader: handed out, graded, exported, and told. Runs where nbgrader is installed."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minideepseek.judge.author import build
from minideepseek.judge.grading.run import choose, grade
from minideepseek.judge.grading.submission import find

pytest.importorskip("nbgrader", reason="pip install nbgrader to try the recipe of exercises/INSTRUCTORS.md")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NAME = "03_training_v1"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of nbgrader's, as the instructor's page sets it up, with a class of three."""
    course = tmp_path_factory.mktemp("nbgrader")
    shutil.copy(ROOT / "exercises" / "nbgrader_config.py", course)
    shutil.copytree(ROOT / "exercises" / NAME, course / "source" / NAME)
    run(course, "generate_assignment", NAME, "--create")
    for student in ("alice", "bob", "carl"):
        shutil.copytree(course / "release" / NAME, course / "submitted" / student / NAME)
    build.solutions(course / "submitted" / "alice" / NAME, "03")
    build.solutions(course / "submitted" / "carl" / NAME, "03")
    theirs = course / "submitted" / "carl" / NAME / f"{NAME}.ipynb"
    theirs.write_text(theirs.read_text().replace("0.316 if", "0.5 if").replace('\\"ce\\"', '\\"ca\\"'))
    run(course, "autograde", NAME, "--create")
    run(course, "export", "--to", "grades.csv")
    run(course, "generate_feedback", NAME)
    return course


def run(course, *args):
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *args],
        cwd=course,
        env={**os.environ, "HOME": str(course / "home"), "PATH": here},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def test_what_nbgrader_hands_out_is_the_exercise_as_built(course):
    assert sources(course / "release" / NAME / f"{NAME}.ipynb") == sources(ROOT / "exercises" / NAME / f"{NAME}.ipynb")


def test_its_marks_are_those_of_the_judge(course):
    rows = {row["student_id"]: row for row in csv.DictReader((course / "grades.csv").open())}
    ours = {marks.name: marks.points for marks in grade(find(course / "submitted"), choose(None, ["03"]))}
    assert {name: float(row["score"]) for name, row in rows.items()} == ours == {"alice": 25, "bob": 0, "carl": 22}
    assert {float(row["max_score"]) for row in rows.values()} == {25}


def test_its_feedback_says_what_is_wrong(course):
    page = (course / "feedback" / "carl" / NAME / f"{NAME}.html").read_text()
    assert "climbs, stays and drops when it should" in page
    assert "one of your two letters is right" in page
    assert "not answered yet" in (course / "feedback" / "bob" / NAME / f"{NAME}.html").read_text()


def test_its_validation_passes_what_is_right_and_fails_what_is_not(course):
    for student, says in (("alice", "passes all the tests"), ("carl", "FAILED")):
        assert says in run(course, "validate", f"submitted/{student}/{NAME}/{NAME}.ipynb")
