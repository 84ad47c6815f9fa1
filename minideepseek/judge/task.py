"""A task, its checks, and a file of them: everything a judge needs, and no line of a solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from minideepseek.errors import UserError
from minideepseek.files import user_errors
from minideepseek.judge import wire
from minideepseek.judge.isolation import Limits
from minideepseek.judge.rules import KINDS, Rule
from minideepseek.judge.sandbox import Outcome
from minideepseek.judge.steps import Step

Layer = Literal["contract", "value", "invariant", "outcome"]
Kind = Literal["implement", "debug", "predict", "compare"]


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
        hidden: only instructors hold it; learners see its name when it fails, never its input.
    """

    name: str
    layer: Layer
    points: float
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...]
    hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Task:
    """One exercise task.

    Attributes:
        id: lesson and name, ``02.rms_norm``; also the id of its cell.
        title: for people.
        kind: implement; debug a planted bug; predict, then measure; compare paper and code.
        difficulty: 1 to 3.
        minutes: for somebody who has done the lesson.
        needs: tasks whose cells this one builds on.
        forbid: ready-made functions that must not be called.
        hints: three, from a question to almost the code.
        checks: its properties.
        limits: time and memory for each check.
    """

    id: str
    title: str
    kind: Kind
    difficulty: int
    minutes: int
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
    """What became of one check."""

    name: str
    layer: Layer
    points: float
    out_of: float
    message: str | None
    hidden: bool

    @property
    def passed(self) -> bool:
        """Whether the property holds."""
        return self.message is None


def judge(task: Task, run: Callable[[Check], Outcome]) -> list[Verdict]:
    """Verdicts of all checks of a task, each given by ``run`` a fresh start."""
    verdicts = []
    for check in task.checks:
        message = _message(check, run(check))
        points = check.points if message is None else 0.0
        verdicts.append(
            Verdict(
                name=check.name,
                layer=check.layer,
                points=points,
                out_of=check.points,
                message=message,
                hidden=check.hidden,
            )
        )
    return verdicts


def _message(check: Check, outcome: Outcome) -> str | None:
    if outcome.problem is not None:
        return outcome.problem
    for result in outcome.results:
        if result.error is not None:
            return result.error
    if len(outcome.results) != len(check.steps):
        return "the answer did not finish"
    for rule in check.rules:
        try:
            message = rule.verdict(outcome.results)
        except (IndexError, KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            # Results come from the learner's process: any shape of nonsense is an answer that is wrong, not an error.
            message = f"the result is not of the kind expected ({type(error).__name__})"
        if message is not None:
            return message
    return None


@dataclass(frozen=True, kw_only=True)
class Pack:
    """The checks of one exercise in one file: public ones go out with it, hidden ones stay with the instructor."""

    exercise: str
    tasks: tuple[Task, ...]

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


def by_id(packs: Sequence[Pack]) -> dict[str, Task]:
    """All tasks of several packs."""
    return {task.id: task for pack in packs for task in pack.tasks}
