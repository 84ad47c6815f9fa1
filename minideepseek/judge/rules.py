"""What must hold of results: each rule looks at data and answers None, or a ``Problem`` that helps.

Rules are data themselves. A check that went out to learners carries inputs, expected numbers and rules, but no line
of the solution that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minideepseek.judge.compare import NAN, Problem, difference, form, has_nan, kind, what
from minideepseek.judge.sandbox.steps import Result


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of what a step returned.

    Attributes:
        step: which step.
        path: keys or indices into tuples, lists and dicts; ``("grads", name)`` is a gradient.
        cut: ``(dim, start, stop)`` slices of the tensor found there; None is open.
    """

    step: int = 0
    path: tuple[int | str, ...] = ()
    cut: tuple[tuple[int, int | None, int | None], ...] = ()

    def of(self, results: Sequence[Result]) -> Any:
        """The piece itself."""
        result = results[self.step]
        if self.path[:1] == ("grads",):
            found: Any = result.grads.get(str(self.path[1]))
        else:
            found = result.value
            for key in self.path:
                found = found[key]
        for dim, start, stop in self.cut:
            length = found.shape[dim]
            begin, end, _ = slice(start, stop).indices(length)
            found = found.narrow(dim, begin, max(end - begin, 0))
        return found


@dataclass(frozen=True, kw_only=True)
class Equals:
    """The value is the expected one: kind, shape, dtype, numbers.

    Attributes:
        part: what is compared.
        expected: what is right: a tensor, a number, a string, or a container of them.
        rtol: relative tolerance; None chooses by dtype (float64 1e-10, float32 1e-5, bfloat16 and float16 2e-2).
        atol: absolute tolerance, in units of the expected value's largest magnitude; None like ``rtol``.
        mutants: known mistakes: what one says about it, and the value it leads to.
    """

    part: Part = Part()
    expected: Any = None
    rtol: float | None = None
    atol: float | None = None
    mutants: tuple[tuple[str, Any], ...] = ()

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or what is wrong: a known mistake by its name if it is one."""
        value = self.part.of(results)
        problem = difference(value, self.expected, self.rtol, self.atol)
        if problem is None:
            return None
        for says, wrong in self.mutants:
            if difference(value, wrong, self.rtol, self.atol) is None:
                return Problem(says)
        return problem


@dataclass(frozen=True, kw_only=True)
class Same:
    """Two pieces of the learner's own results agree: causality, caching, permutation, independence of the batch."""

    left: Part
    right: Part
    says: str
    rtol: float | None = None
    atol: float | None = None

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or ``says`` and by how much."""
        left, right = self.left.of(results), self.right.of(results)
        if has_nan(left) or has_nan(right):  # two results of NaN only would be the same
            return Problem(NAN)
        problem = difference(left, right, self.rtol, self.atol)
        return None if problem is None else Problem(self.says, ": ".join(filter(None, [problem.says, problem.detail])))


@dataclass(frozen=True, kw_only=True)
class Differs:
    """Two pieces must not be equal: an input that ought to matter does."""

    left: Part
    right: Part
    says: str

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or ``says``."""
        equal = difference(self.left.of(results), self.right.of(results), None, None) is None
        return Problem(self.says) if equal else None


@dataclass(frozen=True, kw_only=True)
class Between:
    """A number lies within bounds: a mark that training reaches, a prediction near the truth.

    Attributes:
        part: a number, or a tensor that ``reduce`` turns into one.
        low: inclusive; None is open.
        high: inclusive; None is open.
        reduce: ``mean``, ``max``, ``min``, ``sum`` or ``item``.
        says: the sentence for a miss.
    """

    part: Part = Part()
    low: float | None = None
    high: float | None = None
    reduce: str = "item"
    says: str = ""

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or what was found and what is wanted."""
        value = self.part.of(results)
        if isinstance(value, Tensor):
            if value.numel() == 0 or (self.reduce == "item" and value.numel() != 1):
                return Problem("one number is expected, not a tensor", f"of shape {tuple(value.shape)}")
            value = value.double().item() if self.reduce == "item" else getattr(value.double(), self.reduce)().item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Problem(f"a number is expected, not {kind(value)}")
        if value != value:
            return Problem(NAN)
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return Problem(self.says or "the number is outside what is right", f"it is {value:.4g}")
        return None


@dataclass(frozen=True, kw_only=True)
class Form:
    """A tensor has this shape and this dtype (``float32``), whatever its numbers."""

    part: Part = Part()
    shape: tuple[int, ...]
    dtype: str

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or which of the two is wrong."""
        return form(self.part.of(results), self.shape, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """The call leaves its inputs as they were."""

    step: int = 0

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or which input changed."""
        changed = results[self.step].changed
        return Problem("it changes an input in place; make a new tensor instead", changed[0]) if changed else None


@dataclass(frozen=True, kw_only=True)
class Reaches:
    """Gradients arrive at every input and parameter.

    Attributes:
        step: a step with ``grad=True``.
        names: which ones must have a gradient that is not zero; all if empty.
    """

    step: int = 0
    names: tuple[str, ...] = ()

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or where the gradient is missing."""
        grads: Mapping[str, Tensor | None] = results[self.step].grads
        for name in self.names or grads:
            grad = grads.get(name)
            if grad is None or not bool((grad != 0).any()):
                return Problem(f"no gradient reaches {name}: is it used, and is nothing detached on the way?")
        return None


@dataclass(frozen=True, kw_only=True)
class Mostly:
    """At least a share of the answers is right: what training reaches, measured where the learner's code is not.

    Attributes:
        part: the learner's predictions, whole numbers.
        expected: what is right, of the same shape; learners' code never sees it.
        share: the mark, from 0 to 1.
        says: the sentence for a miss.
    """

    part: Part = Part()
    expected: Tensor
    share: float
    says: str

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or how many are right and how many should be."""
        value = self.part.of(results)
        if not isinstance(value, Tensor) or value.shape != self.expected.shape:
            return Problem("predictions of another shape are expected", f"{what(value)}")
        right = (value == self.expected).double().mean().item()
        return None if right >= self.share else Problem(self.says, f"{right:.0%} right, {self.share:.0%} wanted")


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Of several things called by a letter, the right ones were picked: at least so many, and no others beside all.

    Attributes:
        part: the letters picked: a string such as ``"be"``, or a list of letters.
        right: those that are right; learners' code never sees them.
        at_least: so many of them have to be among the picked ones.
        says: the sentence for a miss.
    """

    part: Part = Part()
    right: str
    at_least: int
    says: str

    def verdict(self, results: Sequence[Result]) -> Problem | None:
        """None, or ``says``. Whoever picks more letters than are right has picked none."""
        value = self.part.of(results)
        if not isinstance(value, str | list | tuple):
            return Problem(f"letters are expected, such as {'ab'!r}, not {kind(value)}")
        picked = {letter for letter in "".join(map(str, value)).lower() if letter.isalpha()}
        hits = len(picked & set(self.right)) if len(picked) <= len(self.right) else 0
        return None if hits >= self.at_least else Problem(self.says)


Rule = Equals | Same | Differs | Between | Form | Untouched | Reaches | Mostly | Picks
KINDS: tuple[type, ...] = (Part, Equals, Same, Differs, Between, Form, Untouched, Reaches, Mostly, Picks)
