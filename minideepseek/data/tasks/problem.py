"""What a verifiable task is, and problems to practise on that are never those of the exam."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple, Protocol

from minideepseek.data.document import is_held_out
from minideepseek.data.stories.draw import Draw
from minideepseek.data.tasks.numerals import LATIN
from minideepseek.errors import UserError

HELD_OUT = 0.2  # of a task's different problems
FRUITLESS = 10_000  # draws in a row from the wrong side, of which there are none where both sides have problems
PATIENCE = 200  # draws without a new one for each problem found, until it is clear that there are no more


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A question that has a checkable answer.

    Attributes:
        task: whose problem it is, and who judges.
        prompt: what the model reads.
        answer: a right one; where there are several, the one that a demonstration gives.
        numbers: what the prompt says, as numbers.
        numerals: the alphabet of digits that the prompt is written in: its language.
    """

    task: Task
    prompt: str
    answer: str
    numbers: tuple[int, ...]
    numerals: str = LATIN

    def solved_by(self, answer: str | None) -> bool:
        """Whether an answer is right. Never raises, whatever the answer; None is wrong."""
        return answer is not None and self.task.solves(self, answer)


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """How demonstrations go wrong, each by chance: what a learner of them will know, and what it will have to unlearn.

    Attributes:
        wrong: of a number on the way, and of the answer, to be another one; what follows goes on from there.
        mixed: of a number to be written in the other alphabet, where the task knows both.
        bare: of a response to come without tags.
    """

    wrong: float = 0.0
    mixed: float = 0.0
    bare: float = 0.0

    def __post_init__(self) -> None:
        for name in ("wrong", "mixed", "bare"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a chance: from 0 to 1")


FLAWLESS = Flaws()


class Step(NamedTuple):
    """A step of a response: it ends before character ``end``, and is right or not."""

    end: int
    right: bool


class Task(Protocol):
    """A family of problems. Its methods are pure: what is random comes from ``draw``."""

    @property
    def alphabet(self) -> str:
        """Every character of its prompts and demonstrations, tags aside."""
        ...

    def problem(self, draw: Draw) -> Problem:
        """A problem, drawn by chance."""
        ...

    def identity(self, problem: Problem) -> str:
        """Equal for problems of which none should be practised if another is examined (3+4, 4+3, 三+四)."""
        ...

    def demonstrate(self, problem: Problem, draw: Draw, flaws: Flaws = FLAWLESS) -> str:
        """A response as a teacher would write it."""
        ...

    def solves(self, problem: Problem, answer: str) -> bool:
        """Whether an answer is right; never raises."""
        ...

    def steps(self, problem: Problem, response: str) -> list[Step]:
        """The steps of a response, in order, at least one; the last one is its answer. Never raises."""
        ...


def practice_problems(task: Task, n: int, *, seed: int = 0) -> list[Problem]:
    """``n`` problems to learn from, with repetitions; none of them is ever held out.

    Raises:
        UserError: a negative number, or the task has no problems but those held out.
    """
    _check_number(n)
    return list(islice(_side(task, seed, held_out=False), n))


def held_out_problems(task: Task, n: int, *, seed: int = 0, or_fewer: bool = False) -> list[Problem]:
    """``n`` different problems of the fifth that is never practised; with ``or_fewer``, all of them if they are less.

    Raises:
        UserError: a negative number, or the task has not that many.
    """
    _check_number(n)
    found: dict[str, Problem] = {}
    in_vain = 0
    for problem in _side(task, seed, held_out=True):
        if len(found) == n:
            break
        identity = task.identity(problem)
        in_vain = in_vain + 1 if identity in found else 0
        if in_vain > PATIENCE * len(found):
            if or_fewer:
                break
            raise UserError(f"{task} holds out only {len(found)} different problems, not {n}; ask for fewer")
        found.setdefault(identity, problem)
    return list(found.values())


def _check_number(n: int) -> None:
    if n < 0:
        raise UserError(f"{n} problems cannot be drawn; ask for a positive number")


def _side(task: Task, seed: int, *, held_out: bool) -> Iterator[Problem]:
    # Which side a problem is on depends on what it says alone, so it is the same for every seed.
    last = 0
    for i in count():
        problem = task.problem(Draw("problem", seed, i))
        if is_held_out(task.identity(problem), HELD_OUT) == held_out:
            last = i
            yield problem
        elif i - last > FRUITLESS:
            raise UserError(f"{task} has so few different problems that none is {'held out' if held_out else 'left'}")
