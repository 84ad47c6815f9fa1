"""The exercises as a class hands them in: notebooks, through the sandbox, with public and with hidden checks."""

from pathlib import Path

import pytest

import minideepseek
from minideepseek.judge.author import build
from minideepseek.judge.author.notebook import learners, solved
from minideepseek.judge.author.source import find as sources
from minideepseek.judge.author.source import solution
from minideepseek.judge.grading.run import choose, grade
from minideepseek.judge.grading.submission import find

ALL = {source.name: source for source in sources()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """For each exercise the notebook with the solutions, and the one that was handed out."""
    folder = tmp_path_factory.mktemp("class")
    for name, source in ALL.items():
        tasks = {task.id: task for task in build.public(source).tasks}
        (folder / f"{name} solved.ipynb").write_text(solved(source, tasks))
        (folder / f"{name} untouched.ipynb").write_text(learners(source, tasks))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["public", "hidden"])
def test_solutions_get_full_marks_and_untouched_notebooks_none(folder, draw, tmp_path):
    if draw == "hidden":
        build.hidden(tmp_path / "hidden", "a secret of these tests")
    chosen = choose(tmp_path / "hidden" if draw == "hidden" else None, [])
    assert [pack.exercise for pack in chosen] == list(ALL)
    for marks in grade(find(folder), chosen):
        wrong = [
            (task.task, one.name, one.says, one.detail) for task in marks.tasks for one in task.properties if one.says
        ]
        if marks.name.endswith("solved"):
            assert wrong == []
            assert len(marks.exercises) == 1
        else:
            assert marks.points == 0
            assert not any("of your answer" in says for *_, says, _ in wrong)


def test_the_package_holds_no_solution():
    package = Path(minideepseek.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    for source in ALL.values():
        for task, cell in source.task_cells.items():
            assert solution(cell) not in text, task
