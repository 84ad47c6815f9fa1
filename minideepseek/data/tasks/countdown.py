"""Countdown: reach a number from others, each used once, by + - and ×. Many answers are right, and none is at hand.

Where written arithmetic can be learnt by heart step by step, this has to be searched for, and to check an answer means
to compute it: the task that small replications of R1-Zero chose.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from minideepseek.data.stories.draw import Draw
from minideepseek.data.tasks.columns import CHANCES
from minideepseek.data.tasks.problem import FLAWLESS, Flaws, Problem, Step
from minideepseek.data.tasks.response import END_THINK, THINK, answer_of, respond

LONGEST = 64  # characters of an answer worth looking at
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
_TOKEN = re.compile(r"\d+|[-+*()]", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Countdown:
    """Problems like "3,7,2:20", solved by "(3+7)*2".

    Attributes:
        numbers: given in a problem.
        largest: of the numbers given, from 1.
        limit: the target is at most this.
    """

    numbers: int = 3
    largest: int = 9
    limit: int = 99

    def __post_init__(self) -> None:
        if not (2 <= self.numbers <= 6 and 1 <= self.largest <= 99 and self.limit >= self.largest):
            raise ValueError(
                f"numbers={self.numbers}, largest={self.largest}, limit={self.limit}: give 2 to 6 numbers up to 99, "
                "and a limit not below them"
            )

    @property
    def alphabet(self) -> str:
        """See ``Task``."""
        return "0123456789+-*()=,:"

    def problem(self, draw: Draw) -> Problem:
        """See ``Task``. Every problem has a solution: the target is that of an expression drawn first."""
        while True:
            given = tuple(1 + draw.below(self.largest) for _ in range(self.numbers))
            order = tuple(draw.shuffled(given))
            value, text = order[0], str(order[0])
            for number in order[1:]:
                sign = draw.pick(tuple(OPERATIONS))
                value, text = OPERATIONS[sign](value, number), _joined(text, sign, number)
                if not 0 <= value <= self.limit:
                    break
            else:
                prompt = f"{','.join(map(str, given))}:{value}="
                return Problem(task=self, prompt=prompt, answer=text, numbers=(*given, value))

    def identity(self, problem: Problem) -> str:
        """See ``Task``. The order of the numbers given does not matter."""
        return f"countdown {sorted(problem.numbers[:-1])} {problem.numbers[-1]}"

    def demonstrate(self, problem: Problem, draw: Draw, flaws: Flaws = FLAWLESS) -> str:
        """See ``Task``. The thought computes the answer from the inside out; a flaw takes another sign."""
        tokens = _TOKEN.findall(problem.answer.replace("(", "").replace(")", ""))
        value, text, lines = int(tokens[0]), tokens[0], []
        for sign, number in zip(tokens[1::2], map(int, tokens[2::2]), strict=True):
            if draw.below(CHANCES) < flaws.wrong * CHANCES:
                sign = draw.pick([another for another in OPERATIONS if another != sign])
            result = OPERATIONS[sign](value, number)
            lines.append(f"{value}{sign}{number}={result}")
            value, text = result, _joined(text, sign, number)
        if draw.below(CHANCES) < flaws.bare * CHANCES:
            return f"{','.join(lines)}={text}"
        return respond(",".join(lines), text)

    def solves(self, problem: Problem, answer: str) -> bool:
        """See ``Task``. Each number given must be used exactly once."""
        found = evaluate(answer)
        if found is None:
            return False
        value, used = found
        return value == problem.numbers[-1] and Counter(used) == Counter(problem.numbers[:-1])

    def steps(self, problem: Problem, response: str) -> list[Step]:
        """See ``Task``. Each equation that was written is a step, right if it is true."""
        found, start = [], len(THINK)
        if response.startswith(THINK) and END_THINK in response:
            for line in response[start : response.index(END_THINK)].split(","):
                left, _, right = line.partition("=")
                value = evaluate(left)
                start += len(line)
                found.append(Step(start, value is not None and right == str(value[0])))
                start += 1
        return [*found, Step(len(response), problem.solved_by(answer_of(response)))]


def evaluate(text: str) -> tuple[int, list[int]] | None:
    """The value of an expression of whole numbers, + - * and brackets, and the numbers used; None if it is none.

    A parser of its own, because ``eval`` would do whatever a model writes.
    """
    if len(text) > LONGEST:
        return None
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        return None
    values: list[int] = []
    signs: list[str] = []
    rank = {"+": 1, "-": 1, "*": 2}

    def reduce_while(least: int) -> None:
        while signs and signs[-1] != "(" and rank[signs[-1]] >= least:
            b, a = values.pop(), values.pop()
            values.append(OPERATIONS[signs.pop()](a, b))

    wants_number = True
    for before, token in zip(["(", *tokens], tokens, strict=False):
        if wants_number and (token == "(" or token.isdigit() or (token == "-" and before == "(")):
            if token == "-":  # a number below zero, as the value of an earlier line may be
                values.append(0)
                signs.append("-")
            elif token == "(":
                signs.append("(")
            else:
                values.append(int(token))
                wants_number = False
        elif not wants_number and token in rank:
            reduce_while(rank[token])
            signs.append(token)
            wants_number = True
        elif not wants_number and token == ")":
            reduce_while(0)
            if not signs:
                return None
            signs.pop()
        else:
            return None
    if wants_number or "(" in signs:
        return None
    reduce_while(0)
    return values[0], [int(token) for token in tokens if token.isdigit()]


def _joined(text: str, sign: str, number: int) -> str:
    """``text`` in brackets where the new sign would otherwise reach into it."""
    return f"({text}){sign}{number}" if sign == "*" and ("+" in text or "-" in text) else f"{text}{sign}{number}"
