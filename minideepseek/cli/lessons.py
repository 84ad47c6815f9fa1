"""``minideepseek lessons``: list, open, build and check the course."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from minideepseek import lessons
from minideepseek.cli import parse


def run(
    action: Annotated[Literal["list", "open", "build", "check"], tyro.conf.Positional] = "list",
    numbers: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NN ...]")] = (),
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8888,
) -> None:
    """The lessons: what there is, and the way in.

    Args:
        action: list them; open one in JupyterLab; build notebooks from their scripts; check that all are current.
        numbers: of the lessons meant, such as 02; all of them (or, to open, the first) by default.
        host: address that JupyterLab listens on; 0.0.0.0 makes it reachable from outside a container.
        port: the first port to try.
    """
    if action == "open":
        lessons.open_lab(numbers[0] if numbers else "00", host=host, port=port)
    elif action == "build":
        lessons.build(*numbers)
    elif action == "check":
        complaints = lessons.check(*numbers)
        for complaint in complaints:
            print(complaint)
        if complaints:
            sys.exit(1)
        print("all lessons are current and keep the rules")
    else:
        _table(numbers)


def _table(numbers: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("lesson", "title", "notebook"):
        table.add_column(heading)
    for lesson in lessons.find(*numbers):
        table.add_row(lesson.number, lesson.title, lessons.state(lesson))
    console = Console()
    console.print(table)
    console.print("\nminideepseek lessons open NN starts JupyterLab on one.", highlight=False)


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="lessons")
