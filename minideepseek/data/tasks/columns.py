"""Written arithmetic: digit by digit from the right, each column's result noted before the answer is read off.

47+38 is thought as "15,08": 7+8 is 15; 4+3 and the 1 carried are 08. The answer takes the last digit of each column and
all of the leftmost one: 85. A transformer adds long numbers only if it may write this down; and because each column is
a number that can be right or wrong, the thought can be judged step by step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from minideepseek.data.stories.draw import Draw
from minideepseek.data.tasks.numerals import ALPHABETS, LATIN, other, read, write
from minideepseek.data.tasks.problem import FLAWLESS, Flaws, Problem, Step
from minideepseek.data.tasks.response import END_THINK, THINK, answer_of, respond

Languages = Literal["latin", "both"]
CHANCES = 2**20


@dataclass(frozen=True, kw_only=True)
class _Columns(ABC):
    """What addition and multiplication share: all but the columns themselves."""

    digits: int = 2
    """Of each long number."""
    languages: Languages = "latin"
    """The alphabets that prompts are written in: "latin", or "both" by chance."""

    sign = ""

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 12:
            raise ValueError(f"digits={self.digits}: numbers have 1 to 12 digits here")
        if self.languages not in ("latin", "both"):
            raise ValueError(f"languages={self.languages!r}: choose latin or both")

    @property
    def alphabet(self) -> str:
        """See ``Task``."""
        return f"{''.join(ALPHABETS) if self.languages == 'both' else LATIN}{self.sign}=,"

    def problem(self, draw: Draw) -> Problem:
        """See ``Task``."""
        numerals = draw.pick(ALPHABETS) if self.languages == "both" else LATIN
        a, b = self._operands(draw)
        return Problem(
            task=self,
            prompt=f"{write(a, numerals)}{self.sign}{write(b, numerals)}=",
            answer=write(self._result(a, b), numerals),
            numbers=(a, b),
            numerals=numerals,
        )

    def identity(self, problem: Problem) -> str:
        """See ``Task``."""
        return f"{self.sign}{problem.numbers}"

    def demonstrate(self, problem: Problem, draw: Draw, flaws: Flaws = FLAWLESS) -> str:
        """See ``Task``."""
        written: list[int] = []
        for place in range(self.digits):
            column = self._column(problem, place, written[-1] // 10 if written else 0)
            written.append(_slip(column, 100, draw, flaws.wrong))
        mixed = flaws.mixed if self.languages == "both" else 0.0
        answer = int(f"{written[-1]}{''.join(str(column % 10) for column in reversed(written[:-1]))}")
        answer = _slip(answer, 10 ** len(str(answer)), draw, flaws.wrong)
        thought = ",".join(write(column, _tongue(problem, draw, mixed), width=2) for column in written)
        result = write(answer, _tongue(problem, draw, mixed))
        return f"{thought}={result}" if _happens(draw, flaws.bare) else respond(thought, result)

    def solves(self, problem: Problem, answer: str) -> bool:
        """See ``Task``. Digits of either alphabet count."""
        return read(answer) == self._result(*problem.numbers)

    def steps(self, problem: Problem, response: str) -> list[Step]:
        """See ``Task``. Each column that was written is a step, right if it is what the column really gives."""
        start, found = len(THINK), []
        carry = 0
        if response.startswith(THINK) and END_THINK in response:
            columns = response[start : response.index(END_THINK)].split(",")
            for place, column in enumerate(columns[: self.digits]):
                truth = self._column(problem, place, carry)
                start, carry = start + len(column), truth // 10
                found.append(Step(start, read(column) == truth))
                start += 1  # the comma
        return [*found, Step(len(response), problem.solved_by(answer_of(response)))]

    @abstractmethod
    def _operands(self, draw: Draw) -> tuple[int, int]: ...

    @abstractmethod
    def _result(self, a: int, b: int) -> int: ...

    @abstractmethod
    def _column(self, problem: Problem, place: int, carry: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Addition(_Columns):
    """Sums of two numbers of ``digits`` digits."""

    sign = "+"

    def identity(self, problem: Problem) -> str:
        """See ``Task``. 38+47 is 47+38."""
        return f"{self.sign}{tuple(sorted(problem.numbers))}"

    def _operands(self, draw: Draw) -> tuple[int, int]:
        return _number(draw, self.digits), _number(draw, self.digits)

    def _result(self, a: int, b: int) -> int:
        return a + b

    def _column(self, problem: Problem, place: int, carry: int) -> int:
        a, b = problem.numbers
        return a // 10**place % 10 + b // 10**place % 10 + carry


@dataclass(frozen=True, kw_only=True)
class Multiplication(_Columns):
    """A number of ``digits`` digits times one of 2 to 9."""

    sign = "*"

    def _operands(self, draw: Draw) -> tuple[int, int]:
        return _number(draw, self.digits), 2 + draw.below(8)

    def _result(self, a: int, b: int) -> int:
        return a * b

    def _column(self, problem: Problem, place: int, carry: int) -> int:
        a, b = problem.numbers
        return a // 10**place % 10 * b + carry


def _number(draw: Draw, digits: int) -> int:
    least = 10 ** (digits - 1)
    return least + draw.below(9 * least)


def _happens(draw: Draw, chance: float) -> bool:
    return draw.below(CHANCES) < chance * CHANCES


def _slip(number: int, below: int, draw: Draw, chance: float) -> int:
    """The number, or by chance any other one from 0 to ``below`` - 1."""
    return (number + 1 + draw.below(below - 1)) % below if _happens(draw, chance) else number


def _tongue(problem: Problem, draw: Draw, mixed: float) -> str:
    return other(problem.numerals) if _happens(draw, mixed) else problem.numerals
