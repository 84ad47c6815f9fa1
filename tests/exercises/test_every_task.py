"""Every task of every exercise, proved: what is right passes, what is wrong fails and is called by its name."""

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from minideepseek.judge.author import build
from minideepseek.judge.author.source import find, stub
from minideepseek.judge.sandbox import steps
from minideepseek.judge.sandbox.forbid import forbidden
from minideepseek.judge.sandbox.process import Outcome
from minideepseek.judge.task import judge

ROOT = Path(__file__).parents[2]
SOURCES = {source.number: source for source in find()}
TASKS = [(number, task) for number, source in SOURCES.items() for task in source.task_cells]
SALTS = {"public": "public", "hidden": "a secret of these tests"}

every_task = pytest.mark.parametrize(("number", "task"), TASKS)
both_draws = pytest.mark.parametrize("draw", SALTS)


@lru_cache
def drawn(number, draw):
    return SOURCES[number].built.pack(SALTS[draw], secret=draw == "hidden")


def verdicts(number, task, draw, answer, *, training=True):
    """Of names as somebody defines them; without the checks that take seconds if not ``training``."""
    wanted, built = drawn(number, draw).task(task), SOURCES[number].built
    if not training:
        wanted = replace(wanted, checks=tuple(check for check in wanted.checks if check.layer != "outcome"))

    names = built.names(wanted.needs, built.answer(task, answer))
    with forbidden(wanted.forbid):
        runs = [steps.run(names, check.steps) for check in wanted.checks]
    return judge(wanted, [Outcome(results=results, printed=printed) for results, printed in runs])


def said(found):
    return [str(verdict.problem) for verdict in found if verdict.problem]


@both_draws
@every_task
def test_the_solution_is_given_full_marks(number, task, draw):
    assert said(verdicts(number, task, draw, SOURCES[number].built.solutions[task])) == []


@both_draws
@every_task
def test_every_known_mistake_fails_and_is_called_by_its_name(number, task, draw):
    mistakes = SOURCES[number].built.statements[task].mistakes
    assert mistakes
    for name, answer in mistakes.items():
        quick = said(verdicts(number, task, draw, answer, training=False))
        named = any(problem.startswith(name) for problem in quick)
        assert named or any(problem.startswith(name) for problem in said(verdicts(number, task, draw, answer))), quick


@both_draws
@every_task
def test_other_right_answers_pass(number, task, draw):
    for answer in SOURCES[number].built.statements[task].alternatives:
        assert said(verdicts(number, task, draw, answer)) == []


@every_task
def test_a_right_number_passes_however_it_is_written_and_rounded(number, task):
    answer = SOURCES[number].built.solutions[task]
    numbers = {name: value for name, value in answer.items() if isinstance(value, int | float)}
    other = {name: float(v) if isinstance(v, int) else v * (1 + 1e-4) for name, v in numbers.items()}
    if drawn(number, "public").task(task).kind in ("predict", "compare"):
        assert said(verdicts(number, task, "public", answer | other)) == []


@every_task
def test_the_untouched_stub_fails_with_a_friendly_word(number, task):
    source = SOURCES[number]
    space = source.built.names(drawn(number, "public").task(task).needs, {})
    try:
        exec(stub(source.task_cells[task]), space)
    except NotImplementedError:
        return  # said by the cell itself, before there is anything to check
    names = {name: space[name] for name in source.built.solutions[task]}
    found = verdicts(number, task, "public", names)
    assert sum(verdict.points for verdict in found) == 0
    assert not any("of your answer" in problem for problem in said(found)), "an exception is not a friendly word"


@every_task
def test_a_task_says_what_a_learner_wants_to_know(number, task):
    wanted = drawn(number, "public").task(task)
    assert wanted.kind in ("implement", "debug", "predict", "compare")
    assert wanted.difficulty in (1, 2, 3)
    assert len(wanted.hints) == 3
    assert wanted.names
    assert set(wanted.needs) <= set(SOURCES[number].task_cells)
    layers = {check.layer for check in wanted.checks}
    if wanted.kind in ("implement", "debug"):
        assert SOURCES[number].built.statements[task].alternatives
        assert {"implement": {"contract", "value"}, "debug": {"invariant"}}[wanted.kind] <= layers


@pytest.mark.parametrize("number", SOURCES)
def test_hidden_checks_are_the_same_properties_of_other_inputs(number):
    public, hidden = drawn(number, "public"), drawn(number, "hidden")
    for one, other in zip(public.tasks, hidden.tasks, strict=True):
        assert [(c.name, c.layer, c.points) for c in one.checks] == [(c.name, c.layer, c.points) for c in other.checks]
    if any(task.kind in ("implement", "debug") for task in public.tasks):
        assert public.dumps() != hidden.dumps()


@pytest.mark.parametrize("number", SOURCES)
def test_what_goes_out_holds_no_solution_and_no_way_to_the_hidden_checks(number):
    source = SOURCES[number]
    folder = ROOT / "exercises" / source.name
    notebook = (folder / f"{source.name}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in notebook
    cells = json.loads(notebook)["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    for cell in source.task_cells.values():
        assert stub(cell) in text
    assert "@checks" not in text
    checks = (folder / "checks.safetensors").read_bytes()
    for task, cell in source.task_cells.items():
        for part in re.findall(r"### BEGIN SOLUTION\n(.*?)### (?:STUB|END)", cell.source, re.DOTALL):
            assert json.dumps(part.strip())[1:-1].encode() not in checks, task
    assert all(not cell.get("outputs") for cell in cells)
    assert sorted(path.name for path in folder.iterdir()) == [f"{source.name}.ipynb", "checks.safetensors"]


def test_what_goes_out_is_what_the_scripts_give():
    assert build.check() == []


def test_an_exercise_has_about_five_tasks_of_several_kinds():
    for source in SOURCES.values():
        tasks = drawn(source.number, "public").tasks
        assert 4 <= len(tasks) <= 7, source.name
        assert {"implement", "debug"} < {task.kind for task in tasks}, source.name


def test_the_layers_are_all_in_use():
    layers = {check.layer for number in SOURCES for task in drawn(number, "public").tasks for check in task.checks}
    assert layers == {"contract", "value", "invariant", "outcome"}
