"""torch.compile where it works, the plain function where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def or_plain(
    compile: Callable[[], Callable[P, R]],
    plain: Callable[P, R],
    *,
    warn: Callable[[str], None],
    undo: Callable[[], None] = lambda: None,
) -> Callable[P, R]:
    """What ``compile`` returns, unless that or its first call fails: then, and ever after, ``plain``.

    A laptop without a C++ compiler, or a model that the compiler cannot take, is told so and served all the same.

    Args:
        compile: returns a function made with ``torch.compile``; asked for when it is first needed.
        plain: does the same without compiling.
        warn: told, in one line, if compiling is not possible here.
        undo: takes back what a failed call may have left; called between the two.
    """
    proven: Callable[P, R] | None = None

    def careful(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal proven
        if proven is not None:
            return proven(*args, **kwargs)
        try:
            chosen = compile()
            found = chosen(*args, **kwargs)
        except Exception as error:  # no compiler, no support, a bug in it: the plain function tells the true errors
            reason = (str(error).strip().splitlines() or [""])[0]
            warn(f"torch.compile is not possible here ({type(error).__name__}: {reason[:200]}); going on without it")
            chosen = plain
            undo()
            found = chosen(*args, **kwargs)
        proven = chosen
        return found

    return careful
