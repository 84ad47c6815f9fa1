"""``minideepseek exercises``: list, open, build and check the graded exercises."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from minideepseek.cli import parse
from minideepseek.errors import UserError
from minideepseek.judge.author import build


def run(
    action: Annotated[Literal["list", "open", "build", "check", "solutions", "hidden"], tyro.conf.Positional] = "list",
    numbers: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NN ...]")] = (),
    /,
    *,
    out: Path | None = None,
    salt: str | None = None,
) -> None:
    """The graded exercises: solve them, and make what goes out to a class.

    Args:
        action: list them with your progress; open one in JupyterLab; build notebooks and public checks from their
            scripts; check that these are current; write solved notebooks; write hidden checks.
        numbers: of the exercises meant, such as 02; all of them (or, to open, the first) by default.
        out: folder for solutions and hidden checks: outside of what your class can read.
        salt: the secret that hidden checks are drawn from; MINIDEEPSEEK_SALT is read if it is not given.
    """
    if action == "build":
        for path in build.build(*numbers):
            print(path)
    elif action == "check":
        complaints = build.check(*numbers)
        for complaint in complaints:
            print(complaint)
        if complaints:
            sys.exit(1)
        print("all exercises are current")
    elif action == "solutions":
        for path in build.solutions(_folder(out), *numbers):
            print(path)
    elif action == "hidden":
        for path in build.hidden(_folder(out), salt or os.environ.get("MINIDEEPSEEK_SALT", ""), *numbers):
            print(path)


def _folder(out: Path | None) -> Path:
    if out is None:
        raise UserError("--out is missing: a folder of yours, outside of what your class can read")
    return out


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="exercises")
