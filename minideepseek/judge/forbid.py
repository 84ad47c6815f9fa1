"""Ready-made functions that a task asks the learner to write are out of reach while the answer runs.

This file runs inside the sandbox too: it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn


class NotAllowed(RuntimeError):
    """The answer calls what it should have written."""


@contextlib.contextmanager
def forbidden(names: Sequence[str]) -> Iterator[None]:
    """Replace attributes such as ``torch.nn.functional.rms_norm`` by a refusal, and put them back."""
    saved: list[tuple[Any, str, Any]] = []
    try:
        for name in names:
            module, _, attribute = name.rpartition(".")
            owner = importlib.import_module(module)
            if hasattr(owner, attribute):
                saved.append((owner, attribute, getattr(owner, attribute)))
                setattr(owner, attribute, _refusal(name))
        yield
    finally:
        for owner, attribute, value in reversed(saved):
            setattr(owner, attribute, value)


def _refusal(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotAllowed(f"{name} is what this task asks you to write")

    return refuse
