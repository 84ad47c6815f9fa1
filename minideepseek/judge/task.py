"""A task, its checks, and a file of them: everything a judge needs, and no line of a solution."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from minideepseek.errors import UserError
from minideepseek.files import user_errors
from minideepseek.judge.compare import Problem
from minideepseek.judge.rules import KINDS, Rule
from minideepseek.judge.sandbox import wire
from minideepseek.judge.sandbox.isolation import Limits
from minideepseek.judge.sandbox.process import Outcome
from minideepseek.judge.sandbox.steps import Failure, Step

Layer = Literal["contract", "value", "invariant", "outcome"]
Kind = Literal["implement", "debug", "predict", "compare"]

NOT_ANSWERED = "not answered yet"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property of a task.

    Attributes:
        name: the property in words: "past outputs do not depend on the future".
        layer: contract (shape, dtype, inputs untouched, gradients arrive), value (an independent oracle's numbers),
            invariant (a law that right answers obey), outcome (a few seconds of training reach a mark).
        points: what it is worth.
        steps: what is done with the answer.
        rules: what must then hold, in this order; the first that fails is told.
    """

    name: str
    layer: Layer
    points: float
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One exercise task.

    Attributes:
        id: topic and name, ``block.rms_norm``; also the id of its cell.
        title: for people.
        kind: implement; debug a planted bug; predict, then measure; compare paper and code.
        difficulty: 1 to 3.
        minutes: for somebody who has done the lesson.
        names: what the answer's cell must define, in the order in which ``check`` takes them.
        needs: tasks whose cells this one builds on.
        forbid: names of ready-made functions of torch that must not be called.
        hints: three, from a question to almost the code.
        checks: its properties.
        limits: time and memory for all checks together.
    """

    id: str
    title: str
    kind: Kind
    difficulty: int
    minutes: int
    names: tuple[str, ...]
    needs: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def points(self) -> float:
        """What all its checks are worth together."""
        return sum(check.points for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one check: ``problem`` is None where the property holds."""

    name: str
    layer: Layer
    points: float
    out_of: float
    problem: Problem | None
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether the property holds."""
        return self.problem is None


def judge(task: Task, outcomes: Sequence[Outcome]) -> list[Verdict]:
    """Verdicts on all checks of a task, from what became of each."""
    verdicts = []
    for check, outcome in zip(task.checks, outcomes, strict=True):
        problem = _problem(check, outcome, task)
        verdicts.append(
            Verdict(
                name=check.name,
                layer=check.layer,
                points=check.points if problem is None else 0.0,
                out_of=check.points,
                problem=problem,
                printed=outcome.printed,
            )
        )
    return verdicts


def _problem(check: Check, outcome: Outcome, task: Task) -> Problem | None:
    if outcome.problem is not None:
        return Problem(outcome.problem)
    try:
        for result in outcome.results:
            if result.failure is not None:
                return _explain(result.failure, task)
        if len(outcome.results) != len(check.steps):
            return Problem("the answer did not finish")
        return next(filter(None, (rule.verdict(outcome.results) for rule in check.rules)), None)
    except Exception as error:
        # Results come from the learner's process: any shape of nonsense is an answer that is wrong, not an error.
        return Problem("the result is not of the kind expected", type(error).__name__)


def _explain(failure: Failure, task: Task) -> Problem:
    """An exception in a sentence. Its text and even its class are the learner's to choose: they may hold the input."""
    if failure.kind == "NotImplementedError":
        return Problem(NOT_ANSWERED)
    if failure.kind == "NotAllowed":
        return Problem("it calls what it is to write itself", failure.message)
    known = isinstance(getattr(builtins, failure.kind, None), type)
    where = f" in line {failure.line} of your answer" if isinstance(failure.line, int) else ""
    where += next((f" to {need}" for need in task.needs if failure.file == f"<answer to {need}>"), "")
    text = f", at: {failure.text}" if failure.text else ""
    message = failure.message if known else f"{failure.kind}: {failure.message}"
    return Problem(f"{failure.kind if known else 'an exception'}{where}", f"{message}{text}")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The checks of one exercise in one file.

    Attributes:
        exercise: the name of its folder, ``02_v1_block``.
        tasks: in their order.
        given: source of the cells that every answer may rely on: imports, mostly.
        driver: source that runs after the answer and uses it: a training loop, for example.
        secret: instructors hold it; whoever is graded by it must not learn its inputs.
    """

    exercise: str
    tasks: tuple[Task, ...]
    given: str = ""
    driver: str = ""
    secret: bool = False

    def task(self, name: str) -> Task:
        """The task of this id.

        Raises:
            UserError: there is none.
        """
        for task in self.tasks:
            if task.id == name:
                return task
        raise UserError(
            f"no task {name!r} in exercise {self.exercise}; there are: {', '.join(t.id for t in self.tasks)}"
        )

    def dumps(self) -> bytes:
        """As bytes, the same for the same content."""
        return wire.dumps(self, _KINDS)


_KINDS: tuple[type, ...] = (*KINDS, Check, Task, Pack, Limits)


def load_pack(path: Path) -> Pack:
    """Read a pack.

    Raises:
        UserError: it is not there or damaged.
    """
    with user_errors("read", path):
        blob = path.read_bytes()
    try:
        pack = wire.loads(blob, _KINDS)
    except ValueError:
        pack = None
    if not isinstance(pack, Pack):
        raise UserError(f"{path} is damaged; restore it from the exercise's folder, or build it again")
    return pack
