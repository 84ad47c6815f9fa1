"""Rewards by rule: plain functions of a problem and the text of a response, to be added up as one likes.

R1-Zero uses two, accuracy and format, and no neural reward model: what is learnt from data can be deceived, and in
training at this scale it is (DeepSeek-R1, section 2.2.2). R1 adds the share of the thought that keeps to the language
of the question (section 2.3.2), V3.2 a penalty for length.
"""

from __future__ import annotations

from collections.abc import Callable

from minideepseek.data.tasks import Problem, answer_of, parse
from minideepseek.data.tasks.numerals import ALPHABETS
from minideepseek.errors import UserError

Reward = Callable[[Problem, str], float]


def accuracy(problem: Problem, response: str) -> float:
    """1 for a right answer between answer tags, 0 for anything else."""
    return float(problem.solved_by(answer_of(response)))


def kept_format(problem: Problem, response: str) -> float:
    """1 for a thought and then an answer, each between its tags and nothing outside, 0 for anything else."""
    return float(parse(response) is not None)


def kept_language(problem: Problem, response: str) -> float:
    """The share of the digits written that are of the prompt's alphabet; without digits nothing is mixed: 1."""
    counts = {numerals: sum(map(response.count, numerals)) for numerals in ALPHABETS}
    total = sum(counts.values())
    return counts[problem.numerals] / total if total else 1.0


def length_penalty(limit: int, *, soft: int) -> Reward:
    """0 for short responses, falling in a straight line over the last ``soft`` characters before ``limit`` to -1.

    DAPO's "soft overlong punishment" (arXiv 2503.14476, eq. 13): cutting responses off and calling them wrong would
    punish sound thoughts; this says how much is too much.
    """
    if not 0 < soft <= limit:
        raise UserError(f"soft={soft} must be positive and no more than limit={limit}")

    def penalty(problem: Problem, response: str) -> float:
        return -min(1.0, max(0.0, (len(response) - (limit - soft)) / soft))

    return penalty


def weighted(*terms: tuple[float, Reward]) -> Reward:
    """The sum of rewards, each times its weight: ``weighted((1.0, accuracy), (0.2, kept_format))``."""
    if not terms:
        raise UserError("a sum of no rewards rewards nothing; give at least one (weight, reward)")

    def total(problem: Problem, response: str) -> float:
        return sum(weight * reward(problem, response) for weight, reward in terms)

    return total
