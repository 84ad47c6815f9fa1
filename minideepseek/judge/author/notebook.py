"""The learner's notebook and the solved one, written from a script: the same cells, other answers."""

from __future__ import annotations

import json
from typing import Any

from minideepseek.judge.author.source import Source, solution, stub
from minideepseek.judge.task import Task

IMPORT = "from minideepseek.judge import check, hint, solution, status"
STARS = {1: "★☆☆", 2: "★★☆", 3: "★★★"}


def learners(source: Source, tasks: dict[str, Task]) -> str:
    """The notebook that goes out: stubs, and a cell that checks each."""
    return _notebook(source, tasks, solved=False)


def solved(source: Source, tasks: dict[str, Task]) -> str:
    """The same notebook with the solutions in it, marked as nbgrader marks them."""
    return _notebook(source, tasks, solved=True)


def _notebook(source: Source, tasks: dict[str, Task], *, solved: bool) -> str:
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(source.cells):
        task = tasks.get(str(cell.metadata.get("task")))
        if task is not None:
            _state_facts(cells, task)
            text = solution(cell, markers=True) if solved else stub(cell)
            cells += [_answer(task, text), _check(task)]
        elif cell.markdown:
            cells.append(_cell(f"text-{number}", "markdown", cell.source))
        elif not {"judge", "driver"} & set(cell.tags):
            cells.append(_cell(f"code-{number}", "code", cell.source))
        if number == 0:
            cells.append(_cell("judge", "code", IMPORT))
    cells.append(_cell("status", "code", f"status({json.dumps(source.number)})"))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "minideepseek": {"exercise": source.name},
    }
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def grade_id(task: str) -> str:
    """A task's id in the letters that nbgrader allows."""
    return task.replace(".", "-")


def _state_facts(cells: list[dict[str, Any]], task: Task) -> None:
    """Below the heading of the statement: what the task asks of you."""
    heading, _, rest = "".join(cells[-1]["source"]).partition("\n")
    facts = [f"`{task.id}`", task.kind, STARS[task.difficulty], f"{task.minutes} minutes", f"{task.points:g} points"]
    if task.needs:
        facts.append("builds on " + ", ".join(f"`{name}`" for name in task.needs))
    cells[-1]["source"] = _lines(f"{heading}\n\n{' · '.join(facts)}\n{rest}")


def _answer(task: Task, text: str) -> dict[str, Any]:
    marks = {"grade": False, "locked": False, "solution": True}
    return _cell(grade_id(task.id), "code", text, minideepseek={"task": task.id}, nbgrader=_nbgrader(task, **marks))


def _check(task: Task) -> dict[str, Any]:
    marks = {"grade": True, "locked": True, "solution": False, "points": task.points, "cell_type": "code"}
    name = f"{grade_id(task.id)}-check"
    text = f"check({json.dumps(task.id)}, {', '.join(task.names)})"
    return _cell(name, "code", text, nbgrader={**_nbgrader(task, **marks), "grade_id": name})


def _nbgrader(task: Task, **marks: Any) -> dict[str, Any]:
    return {"grade_id": grade_id(task.id), "schema_version": 3, "task": False, **marks}


def _cell(name: str, kind: str, text: str, **metadata: Any) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": name, "metadata": metadata, "source": _lines(text)}
    return {**cell, "execution_count": None, "outputs": []} if kind == "code" else cell


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
