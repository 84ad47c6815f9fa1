"""Two values held side by side: None if they agree, else a ``Problem`` that says how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Attributes:
        says: in a sentence that holds nothing of the inputs: it may be read by whoever must not know them.
        detail: numbers and shapes.
    """

    says: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.says} ({self.detail})" if self.detail else self.says


#: how far from the expected value is still right, by dtype: rounding, not another formula
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


NAN = "the result holds NaN: look for 0·inf, log(0) or a division by zero"


def difference(value: Any, expected: Any, rtol: float | None, atol: float | None) -> Problem | None:
    """None if the two agree, else the first difference."""
    if isinstance(expected, Tensor):
        return _tensor_difference(value, expected, rtol, atol)
    if isinstance(expected, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(expected):
            return Problem(f"a dict with the keys {sorted(expected)} is expected")
        pairs = [(f"[{key!r}]", value[key], item) for key, item in expected.items()]
    elif isinstance(expected, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(expected):
            wanted = f"a {type(expected).__name__} of another length is expected"
            return Problem(wanted, f"{len(expected)}, not {what(value)}")
        pairs = [(f"[{i}]", value[i], item) for i, item in enumerate(expected)]
    elif isinstance(expected, int | float) and not isinstance(expected, bool):
        return _number_difference(value, expected, rtol, atol)
    else:
        same = type(value) is type(expected) and value == expected
        return None if same else Problem("this is not the expected value", what(value))
    for where, one, other in pairs:
        problem = difference(one, other, rtol, atol)
        if problem is not None:
            deeper = problem.detail.startswith("at [")
            return Problem(problem.says, f"at {where}{problem.detail[3:] if deeper else ': ' + problem.detail}")
    return None


def has_nan(value: Any) -> bool:
    """Whether there is a NaN anywhere in it."""
    if isinstance(value, Tensor):
        return value.is_floating_point() and bool(torch.isnan(value).any())
    if isinstance(value, Mapping):
        return any(map(has_nan, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_nan, value))
    return isinstance(value, float) and value != value


def form(value: Any, shape: tuple[int, ...], dtype: str) -> Problem | None:
    """None if the value is a tensor of this shape and dtype."""
    if not isinstance(value, Tensor):
        return Problem(f"a tensor is expected, not {kind(value)}")
    if value.shape != shape:
        return Problem("the shape is wrong", f"{tuple(value.shape)}, expected {shape}")
    if short(value.dtype) != dtype:
        return Problem(f"the dtype is {short(value.dtype)}, expected {dtype}")
    return None


def _tensor_difference(value: Any, expected: Tensor, rtol: float | None, atol: float | None) -> Problem | None:
    problem = form(value, tuple(expected.shape), short(expected.dtype))
    if problem is not None:
        return problem
    if not expected.is_floating_point():
        wrong = int((value != expected).sum())
        return Problem("some entries are wrong", f"{wrong} of {expected.numel()}") if wrong else None
    if bool(torch.isnan(value).any()) and not bool(torch.isnan(expected).any()):
        return Problem(NAN)
    default = TOLERANCE[expected.dtype]
    rtol, atol = default if rtol is None else rtol, default if atol is None else atol
    scale = expected.double().abs().nan_to_num(posinf=0.0, neginf=0.0).max().item() if expected.numel() else 0.0
    if torch.allclose(value.double(), expected.double(), rtol=rtol, atol=atol * max(scale, 1e-30), equal_nan=True):
        return None
    worst = (value.double() - expected.double()).abs().nan_to_num(posinf=float("inf")).max().item()
    return Problem("the numbers differ", f"by up to {worst:.3g}, where values reach {scale:.3g}")


def _number_difference(value: Any, expected: float, rtol: float | None, atol: float | None) -> Problem | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Problem(f"a number is expected, not {kind(value)}")
    if isinstance(expected, int):
        return None if value == expected else Problem("this is not the expected number", f"{value:.6g}")
    return _tensor_difference(torch.tensor(value).double(), torch.tensor(expected).double(), rtol, atol)


def what(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return kind(value) if value is None else f"{kind(value)} {str(value)[:40]!r}"


def kind(value: Any) -> str:
    """Its type, for people."""
    return "nothing (None)" if value is None else type(value).__name__


def short(dtype: torch.dtype) -> str:
    """``float32``."""
    return str(dtype).removeprefix("torch.")
