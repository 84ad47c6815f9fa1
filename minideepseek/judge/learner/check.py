"""``check``, ``hint``, ``status``, ``solution``: what an exercise notebook imports."""

from __future__ import annotations

import builtins
import linecache
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

from minideepseek.errors import UserError
from minideepseek.judge import packs
from minideepseek.judge.learner import progress
from minideepseek.judge.learner.report import Progress, Report, Row, Text
from minideepseek.judge.learner.scope import borrowed
from minideepseek.judge.sandbox import steps
from minideepseek.judge.sandbox.forbid import forbidden
from minideepseek.judge.sandbox.process import Outcome
from minideepseek.judge.task import Pack, Task, judge


def check(task: str, *answers: Any) -> Any:
    """Judge an answer, at once.

    In a notebook the result shows itself. Under nbgrader's autograder it is a number, which nbgrader takes as the
    points of the cell, and its validation is failed by an exception.

    Args:
        task: its id, ``block.rms_norm``.
        answers: what the task asks for: a function, a class, a number; several in the order of the task.

    Raises:
        UserError: there is no such task, or the answers are not as many as it asks for.
    """
    pack, wanted = packs.find(task)
    if len(answers) != len(wanted.names):
        raise UserError(f'{task} is checked with: check("{task}", {", ".join(wanted.names)})')
    verdicts = judge(wanted, _run(pack, wanted, answers))
    report = Report(task=wanted, verdicts=verdicts, notes=list(_notes(pack, wanted, answers)))
    if "NBGRADER_EXECUTION" in os.environ:
        return _for_nbgrader(report)
    if report.started:
        with progress.change(task) as entry:
            entry["attempts"] += 1
            entry["points"] = max(entry["points"], report.points)
    if not _shows_results():
        print(report)
    return report


def hint(task: str) -> Text:
    """The next of a task's hints; after the last one it starts again."""
    _, wanted = packs.find(task)
    if not wanted.hints:
        return Text(title=task, body="there is no hint for this task")
    with progress.change(task) as entry:
        number = entry["hints"] % len(wanted.hints)
        entry["hints"] = number + 1
    return Text(title=f"{task}, hint {number + 1} of {len(wanted.hints)}", body=wanted.hints[number])


def status(*exercises: str) -> Progress | None:
    """What you have made of the tasks in reach; nothing under nbgrader, which keeps books of its own.

    Args:
        exercises: numbers of those to list task by task; all of them by default.

    Raises:
        UserError: there is no such exercise.
    """
    if "NBGRADER_EXECUTION" in os.environ:
        return None
    done = progress.read()
    nothing = {"attempts": 0, "points": 0.0}
    found = {
        pack.exercise: [
            Row(
                task=task.id,
                title=task.title,
                minutes=task.minutes,
                attempts=entry["attempts"],
                points=min(entry["points"], task.points),
                out_of=task.points,
            )
            for task in pack.tasks
            for entry in [done.get(task.id, nothing)]
        ]
        for pack in packs.everything()
    }
    for number in exercises:
        if number not in {name[:2] for name in found}:
            raise UserError(f"no exercise {number!r} in reach; there are: {', '.join(name[:2] for name in found)}")
    return Progress(exercises=found, shown=[name for name in found if not exercises or name[:2] in exercises])


def solution(task: str) -> Text:
    """The solution of a task you have tried."""
    from minideepseek.judge.author.source import find, solution

    pack, _ = packs.find(task)
    if not progress.of(task)["attempts"]:
        return Text(title=task, body="try it first: the solution is shown after one check of an answer of your own")
    try:
        (source,) = [source for source in find() if source.name == pack.exercise]
    except (UserError, ValueError):
        where = "it is in exercises/src of the minideepseek repository, which is not on this machine"
        return Text(title=task, body=where)
    return Text(title=f"{task}, a solution", body=solution(source.task_cells[task]), code=True)


def _run(pack: Pack, task: Task, answers: tuple[Any, ...]) -> list[Outcome]:
    names: dict[str, Any] = {"__name__": "answer"}
    exec(pack.given, names)
    names.update(zip(task.names, answers, strict=True))
    exec(pack.driver, names)
    with forbidden(task.forbid, names, *_namespaces(answers)):
        runs = [steps.run(names, check.steps) for check in task.checks]
    return [Outcome(results=results, printed=printed) for results, printed in runs]


def _namespaces(answers: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The notebook's own namespace, wherever the answers come from it."""
    found = []
    for answer in answers:
        module = sys.modules.get(getattr(answer, "__module__", None) or "")
        if isinstance(answer, types.FunctionType):
            found.append(answer.__globals__)
        elif isinstance(answer, type) and module is not None:
            found.append(vars(module))
    return list({id(space): space for space in found}.values())


def _notes(pack: Pack, task: Task, answers: tuple[Any, ...]) -> Iterator[str]:
    """Names that the answer takes from other cells of the notebook, which a grader does not run."""
    known = set(dir(builtins))
    space: dict[str, Any] = {}
    exec(pack.given, space)
    known |= set(space) | {name for need in task.needs for name in pack.task(need).names}
    for answer in answers:
        code = getattr(answer, "__code__", None)
        if code is not None:
            missing = borrowed("".join(linecache.getlines(code.co_filename))) - known
            missing &= set(answer.__globals__)  # what is defined nowhere, its NameError tells
            if missing:
                names = ", ".join(sorted(missing))
                yield f"{names}: defined in another cell; graders run this cell alone, so define it here too"


def _for_nbgrader(report: Report) -> float:
    if os.environ["NBGRADER_EXECUTION"] == "validate" and not report.passed:
        raise AssertionError(str(report))
    print(report)  # so that its feedback says why
    return report.points


def _shows_results() -> bool:
    """Whether the value of the last line is shown: in a notebook, and at a prompt."""
    return hasattr(builtins, "__IPYTHON__") or hasattr(sys, "ps1")
