"""Ready-made functions that a task asks the learner to write are out of reach while the answer runs.

This file runs inside the sandbox too: it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch

#: packages that hold the answers of the course
ANSWERS = ("minideepseek", "transformers", "exercises")

#: where torch offers one and the same thing
_PLACES: tuple[Any, ...] = (
    torch,
    torch.nn,
    torch.nn.functional,
    torch.Tensor,
    torch.special,
    torch.linalg,
    torch.ops.aten,
    torch._C._VariableFunctions,
    torch._C._nn,
)


class NotAllowed(RuntimeError):
    """The answer calls what it should have written."""


@contextlib.contextmanager
def forbidden(names: Sequence[str], *learners: dict[str, Any]) -> Iterator[None]:
    """Put a refusal in every place where torch offers one of these names, and take it away again.

    Args:
        names: such as ``rms_norm`` or ``RMSNorm``.
        learners: namespaces of a notebook: what was imported into them before is replaced as well, and so is
            whatever comes from a package that holds the answers.
    """
    saved: list[tuple[Any, str, Any]] = []
    originals: dict[int, str] = {}
    try:
        for name in names:
            for place in _PLACES:
                if hasattr(place, name):
                    original = getattr(place, name)
                    with contextlib.suppress(AttributeError, TypeError):  # built into the interpreter: cannot be set
                        setattr(place, name, _refusal(name))
                        saved.append((place, name, original))
                        originals[id(original)] = name
        with contextlib.ExitStack() as stack:
            for namespace in learners:
                stack.enter_context(_replaced(namespace, originals))
            yield
    finally:
        for place, name, original in reversed(saved):
            setattr(place, name, original)


@contextlib.contextmanager
def _replaced(namespace: dict[str, Any], originals: Mapping[int, str]) -> Iterator[None]:
    saved: dict[str, Any] = {}
    for key, value in list(namespace.items()):
        if id(value) in originals:
            saved[key] = value
            namespace[key] = _refusal(originals[id(value)])
        elif (package := _package(value)) in ANSWERS:
            saved[key] = value
            namespace[key] = _Absent(package)
    try:
        yield
    finally:
        namespace.update(saved)


def _package(value: Any) -> str:
    module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return module.split(".")[0] if isinstance(module, str) else ""


def _refusal(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotAllowed(f"{name} is what this task asks you to write")

    return refuse


class _Absent:
    """Stands for something of a package that a grader does not have."""

    def __init__(self, package: str) -> None:
        self._absent = package

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotAllowed(f"{self._absent} is not available where answers are graded: write it yourself")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self()
