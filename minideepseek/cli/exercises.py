"""``minideepseek exercises``: list, open, build and check the graded exercises."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from minideepseek import lessons
from minideepseek.cli import parse
from minideepseek.errors import UserError
from minideepseek.files import atomic_file
from minideepseek.judge import packs
from minideepseek.judge.author import build
from minideepseek.judge.author.source import find, home
from minideepseek.judge.learner import progress


def run(
    action: Annotated[Literal["list", "open", "build", "check", "solutions", "hidden"], tyro.conf.Positional] = "list",
    numbers: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NN ...]")] = (),
    /,
    *,
    out: Path | None = None,
    salt: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8888,
) -> None:
    """The graded exercises: solve them, and make what goes out to a class.

    Args:
        action: list them with your progress; open one in JupyterLab; build notebooks and public checks from their
            scripts; check that these are current; write solved notebooks; write hidden checks.
        numbers: of the exercises meant, such as 02; all of them (or, to open, the first) by default.
        out: folder for solutions and hidden checks: outside of what your class can read.
        salt: the secret that hidden checks are drawn from; MINIDEEPSEEK_SALT is read if it is not given.
        host: address that JupyterLab listens on; 0.0.0.0 makes it reachable from outside a container.
        port: the first port to try.
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
    elif action == "open":
        _open(numbers[0] if numbers else find()[0].number, host, port)
    else:
        _list(numbers)


def _open(number: str, host: str, port: int) -> None:
    """A copy to work in: what is handed out stays as it was, and a second call finds your answers."""
    source = find(number)[0]
    mine = home() / "work" / f"{source.name}.ipynb"
    if not mine.exists():
        handed_out = home() / source.name / mine.name
        if not handed_out.exists():
            raise UserError(f"{handed_out} is not there; make it with: minideepseek exercises build {number}")
        with atomic_file(mine) as beside:
            beside.write_bytes(handed_out.read_bytes())
    print(f"your answers are kept in {mine}")
    lessons.show(mine, f"exercises {source.number}, {source.title}", root=home().parent, host=host, port=port)


def _list(numbers: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    done = progress.read()
    table = Table(box=None)
    for heading in ("", "task", "title", "kind", "minutes", "points"):
        table.add_column(heading)
    for pack in packs.everything():
        if numbers and pack.exercise[:2] not in {number.zfill(2) for number in numbers}:
            continue
        table.add_row("", f"[bold]{pack.exercise}[/bold]")
        for task in pack.tasks:
            points = min(done.get(task.id, {}).get("points", 0.0), task.points)
            mark = "[green]✓[/green]" if points == task.points else "·"
            table.add_row(mark, task.id, task.title, task.kind, f"{task.minutes}", f"{points:g}/{task.points:g}")
    console = Console(highlight=False)
    console.print(table)
    with contextlib.suppress(UserError):  # whoever has the package alone opens the notebooks they were given
        home()
        console.print("\nminideepseek exercises open NN starts JupyterLab on one.")


def _folder(out: Path | None) -> Path:
    if out is None:
        raise UserError("--out is missing: a folder of yours, outside of what your class can read")
    return out


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="exercises")
