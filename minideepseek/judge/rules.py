"""What must hold of results: each rule looks at data and answers None, or one sentence that helps.

Rules are data themselves. A check that went out to learners carries inputs, expected numbers and rules, but no line
of the solution that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minideepseek.judge.steps import Result


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

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or what is wrong: a known mistake by its name if it is one."""
        value = self.part.of(results)
        problem = _difference(value, self.expected, self.rtol, self.atol)
        if problem is None:
            return None
        for says, wrong in self.mutants:
            if _difference(value, wrong, self.rtol, self.atol) is None:
                return says
        return problem


@dataclass(frozen=True, kw_only=True)
class Same:
    """Two pieces of the learner's own results agree: causality, caching, permutation, independence of the batch."""

    left: Part
    right: Part
    says: str
    rtol: float | None = None
    atol: float | None = None

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or ``says`` and by how much."""
        problem = _difference(self.left.of(results), self.right.of(results), self.rtol, self.atol)
        return None if problem is None else f"{self.says} ({problem})"


@dataclass(frozen=True, kw_only=True)
class Differs:
    """Two pieces must not be equal: an input that ought to matter does."""

    left: Part
    right: Part
    says: str

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or ``says``."""
        return self.says if _difference(self.left.of(results), self.right.of(results), None, None) is None else None


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

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or what was found and what is wanted."""
        value = self.part.of(results)
        if isinstance(value, Tensor):
            if value.numel() == 0 or (self.reduce == "item" and value.numel() != 1):
                return f"one number is expected, not a tensor of shape {tuple(value.shape)}"
            value = value.double().item() if self.reduce == "item" else getattr(value.double(), self.reduce)().item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"a number is expected, not {type(value).__name__}"
        if value != value:
            return "the result is NaN: look for 0·inf, log(0) or a division by zero"
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            return self.says or f"{value:.4g} is outside what is right"
        return None


@dataclass(frozen=True, kw_only=True)
class Untouched:
    """The call leaves its inputs as they were."""

    step: int = 0

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or which input changed."""
        changed = results[self.step].changed
        return f"it changes its input {changed[0]} in place; make a new tensor instead" if changed else None


@dataclass(frozen=True, kw_only=True)
class Reaches:
    """Gradients arrive at every input and parameter.

    Attributes:
        step: a step with ``grad=True``.
        names: which ones must have a gradient that is not zero; all if empty.
    """

    step: int = 0
    names: tuple[str, ...] = ()

    def verdict(self, results: Sequence[Result]) -> str | None:
        """None, or where the gradient is missing."""
        grads: Mapping[str, Tensor | None] = results[self.step].grads
        for name in self.names or grads:
            grad = grads.get(name)
            if grad is None or not bool((grad != 0).any()):
                return f"no gradient reaches {name}: is it used, and is nothing detached on the way?"
        return None


Rule = Equals | Same | Differs | Between | Untouched | Reaches
KINDS: tuple[type, ...] = (Part, Equals, Same, Differs, Between, Untouched, Reaches)


#: how far from the expected value is still right, by dtype: rounding, not another formula
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def _difference(value: Any, expected: Any, rtol: float | None, atol: float | None) -> str | None:
    """None if the two agree, else one sentence about the first difference."""
    if isinstance(expected, Tensor):
        return _tensor_difference(value, expected, rtol, atol)
    if isinstance(expected, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(expected):
            return f"a dict with the keys {sorted(expected)} is expected"
        pairs = [(f"[{key!r}]", value[key], item) for key, item in expected.items()]
    elif isinstance(expected, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(expected):
            return f"a {type(expected).__name__} of {len(expected)} is expected, not {_what(value)}"
        pairs = [(f"[{i}]", value[i], item) for i, item in enumerate(expected)]
    elif isinstance(expected, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return _tensor_difference(torch.tensor(float(value)).double(), torch.tensor(expected).double(), rtol, atol)
    else:
        return (
            None if type(value) is type(expected) and value == expected else f"not the expected value: {_what(value)}"
        )
    for where, one, other in pairs:
        problem = _difference(one, other, rtol, atol)
        if problem is not None:
            return f"at {where}: {problem}"
    return None


def _tensor_difference(value: Any, expected: Tensor, rtol: float | None, atol: float | None) -> str | None:
    if not isinstance(value, Tensor):
        return f"a tensor is expected, not {_what(value)}"
    if value.shape != expected.shape:
        return f"the shape is {tuple(value.shape)}, expected {tuple(expected.shape)}"
    if value.dtype != expected.dtype:
        return f"the dtype is {_short(value.dtype)}, expected {_short(expected.dtype)}"
    if not expected.is_floating_point():
        wrong = int((value != expected).sum())
        return f"{wrong} of {expected.numel()} entries are not the expected ones" if wrong else None
    if bool(torch.isnan(value).any()) and not bool(torch.isnan(expected).any()):
        return "the result holds NaN: look for 0·inf, log(0) or a division by zero"
    default = TOLERANCE[expected.dtype]
    rtol, atol = default if rtol is None else rtol, default if atol is None else atol
    scale = expected.double().abs().nan_to_num(posinf=0.0, neginf=0.0).max().item() if expected.numel() else 0.0
    if torch.allclose(value.double(), expected.double(), rtol=rtol, atol=atol * max(scale, 1e-30), equal_nan=True):
        return None
    worst = (value.double() - expected.double()).abs().nan_to_num(posinf=float("inf")).max().item()
    return f"the largest difference is {worst:.3g}, where values reach {scale:.3g}"


def _what(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "nothing (None)" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
