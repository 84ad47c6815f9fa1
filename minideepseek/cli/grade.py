"""``minideepseek grade``: marks for a submission, or for a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from minideepseek.cli import parse
from minideepseek.errors import UserError
from minideepseek.judge.grading import results
from minideepseek.judge.grading.marks import Marks
from minideepseek.judge.grading.run import choose, grade
from minideepseek.judge.grading.submission import find
from minideepseek.judge.task import Pack


def run(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    hidden: Path | None = None,
    out: Path | None = None,
    exercise: tuple[str, ...] = (),
    workers: int | None = None,
) -> None:
    """Grade notebooks and scripts in a sandbox: what is in them can touch nothing else.

    Args:
        path: a notebook or script, or a folder that holds one, or a folder, for each student.
        hidden: folder of hidden checks (minideepseek exercises hidden); the public ones are used without it.
        out: folder for gradebook.csv, results.json, junit.xml and feedback/; the same command resumes there.
        exercise: numbers of the exercises to grade; those that are found in the submissions by default.
        workers: answers that run at the same time; the number of cores by default.
    """
    if out and path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"--out {out} lies in {path}, where it would be taken for a submission; choose a place outside")
    submissions, chosen = find(path), choose(hidden, exercise)
    graded = grade(submissions, chosen, keep=out / "submissions" if out else None, workers=workers)
    written = results.write(out, graded, chosen) if out else []
    if len(graded) == 1:
        _properties(graded[0], chosen)
    else:
        _table(graded, chosen)
    print(results.protections(graded))
    if out:
        print(f"{out}: {', '.join(path.name for path in written[:3])}, feedback/ with {len(written) - 3} pages")


def _properties(marks: Marks, chosen: Sequence[Pack]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    if not marks.tasks:
        console.print(f"[bold]{escape(marks.name)}[/bold]: no answer found in it")
    for task in marks.tasks:
        console.print(f"[bold]{task.task}[/bold]  {task.points:g} of {task.out_of:g}")
        told: set[str] = set()
        for one in task.properties:
            mark = "[red]✗[/red]" if one.says else "[green]✓[/green]"
            console.print(f"  {mark} {escape(one.name)}  [dim]{one.points:g}/{one.out_of:g}[/dim]")
            why = f"{one.says} ({one.detail})" if one.detail else one.says
            if why and why not in told:
                console.print(f"      {escape(why)}", style="dim")
            told.add(why)
    for note in marks.notes:
        console.print(f"note: {escape(note)}")
    total = sum(task.out_of for task in marks.tasks)
    console.print(f"[bold]{marks.points:g} of {total:g} points[/bold]")


def _table(graded: Sequence[Marks], chosen: Sequence[Pack]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    names = [pack.exercise for pack in chosen if any(pack.exercise in marks.exercises for marks in graded)]
    tasks = {task.id: name for name in names for pack in chosen if pack.exercise == name for task in pack.tasks}
    table = Table(box=None)
    table.add_column("student")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("points", justify="right")
    for marks in graded:
        points = [sum(task.points for task in marks.tasks if tasks.get(task.task) == name) for name in names]
        table.add_row(escape(marks.name), *(f"{one:g}" for one in points), f"{marks.points:g}")
    Console().print(table)


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="grade")
