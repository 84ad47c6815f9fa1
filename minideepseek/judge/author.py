"""How an exercise's source states its checks: steps, an oracle, known mistakes; the numbers come out of running them.

In a source (``exercises/src/NN_name.py``) a cell marked ``judge`` imports from here::

    @checks("02.rms_norm", hints=("...", "...", "..."))
    def _(draw):
        x, w = draw.normal(2, 7, 16), draw.normal(16)
        call = Step(target="rms_norm", args=(x, w), grad=True)
        yield contract("leaves its input alone", 1, [call], [Untouched(), Reaches()])
        yield value("equals the formula", 3, [call], oracle={"rms_norm": oracle}, mistakes=MISTAKES)

The same function, drawn from another salt, makes the hidden checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from minideepseek.judge.rules import Equals, Part, Rule
from minideepseek.judge.steps import Result, Step, run
from minideepseek.judge.task import Check

PUBLIC_SALT = "public"
Names = Mapping[str, Any]
Item = TypeVar("Item")


class Draw:
    """Random inputs, fixed by a salt and a task: learners get one draw, instructors another."""

    def __init__(self, salt: str, task: str) -> None:
        digest = hashlib.blake2b(f"{salt}\0{task}".encode(), digest_size=7).digest()
        self.hidden = salt != PUBLIC_SALT
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers of standard deviation ``scale``."""
        return (torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from ``low`` up to, not including, ``high``: int64."""
        return torch.randint(low, high, shape, generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """One whole number from ``low`` up to, not including, ``high``: sizes and positions."""
        return int(self.integers(low, high, 1))

    def choice(self, items: Sequence[Item]) -> Item:
        """One of them."""
        return items[self.integer(0, len(items))]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a source says about the judging of a task."""

    hints: tuple[str, ...]
    make: Callable[[Draw], Iterable[Check]]
    mistakes: Mapping[str, Names]
    alternatives: tuple[Names, ...]


#: task id -> its statement; a source fills it while it is executed (see ``collected``)
_statements: dict[str, Statement] = {}


def checks(
    task: str,
    *,
    hints: Sequence[str] = (),
    mistakes: Mapping[str, Names] | None = None,
    alternatives: Sequence[Names] = (),
) -> Callable[[Callable[[Draw], Iterable[Check]]], Callable[[Draw], Iterable[Check]]]:
    """Declare the checks of a task: decorates a generator of ``Check`` that draws its inputs from a ``Draw``.

    Args:
        task: its id.
        hints: three steps of help.
        mistakes: what to say about a mistake -> names as somebody who makes it would define them. Each must fail
            some check, and be told what is said here.
        alternatives: other right solutions, which must pass everything.
    """

    def declare(make: Callable[[Draw], Iterable[Check]]) -> Callable[[Draw], Iterable[Check]]:
        _statements[task] = Statement(
            hints=tuple(hints), make=make, mistakes=dict(mistakes or {}), alternatives=tuple(alternatives)
        )
        return make

    return declare


def collected() -> dict[str, Statement]:
    """The statements declared since the last call, which empties the list."""
    found = dict(_statements)
    _statements.clear()
    return found


def contract(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Check:
    """A check of form: shapes, dtypes, inputs left alone, gradients that arrive."""
    return Check(name=name, layer="contract", points=points, steps=tuple(steps), rules=tuple(rules))


def invariant(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Check:
    """A check of a law between the learner's own results."""
    return Check(name=name, layer="invariant", points=points, steps=tuple(steps), rules=tuple(rules))


def outcome(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Check:
    """A check of what a few seconds of work reach."""
    return Check(name=name, layer="outcome", points=points, steps=tuple(steps), rules=tuple(rules))


def value(
    name: str,
    points: float,
    steps: Sequence[Step],
    *,
    oracle: Names,
    mistakes: Mapping[str, Names] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Check:
    """A check of numbers: every step's value and gradients must be the oracle's.

    Args:
        name: the property.
        points: its worth.
        steps: calls; what they return, and the gradients they ask for, is compared.
        oracle: names as an independent right solution defines them, for the same steps. It may compute in float64;
            its results are compared in the dtype of the learner's inputs (convert them in the oracle).
        mistakes: what to say -> names as the mistaken learner defines them; compared before anything else is said.
        rtol: relative tolerance; by dtype if None.
        atol: absolute tolerance relative to the largest value; by dtype if None.
    """
    right = _results(oracle, steps, f"the oracle of {name!r}")
    wrong = {says: run(names, steps)[0] for says, names in (mistakes or {}).items()}
    rules = []
    for index, result in enumerate(right):
        for path, expected in _values(result):
            part = Part(step=index, path=path)
            mutants = tuple((says, _found(part, results)) for says, results in wrong.items())
            rule = Equals(part=part, expected=expected, rtol=rtol, atol=atol)
            # a mistake that makes no difference to this value must not be named for it
            telling = tuple((says, found) for says, found in mutants if found is not None and _differs(rule, found))
            rules.append(replace(rule, mutants=telling))
    return Check(name=name, layer="value", points=points, steps=tuple(steps), rules=tuple(rules))


def _results(names: Names, steps: Sequence[Step], who: str) -> list[Result]:
    results, _ = run(names, steps)
    for result in results:
        if result.error is not None:
            raise ValueError(f"{who} fails: {result.error}")
    return results


def _values(result: Result) -> list[tuple[tuple[int | str, ...], Any]]:
    grads = [(("grads", name), grad) for name, grad in result.grads.items() if grad is not None]
    return [((), result.value), *grads] if result.value is not None else list(grads)


def _found(part: Part, results: Sequence[Result]) -> Any:
    try:
        return part.of(results)
    except (IndexError, KeyError, TypeError):  # the mistake raises before it gets here
        return None


def _differs(rule: Equals, found: Any) -> bool:
    alone = replace(rule, part=Part())
    return alone.verdict([Result(value=found)]) is not None
