"""What a learner sees: verdicts and progress, as a page in Jupyter and as text everywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from minideepseek.judge.task import NOT_ANSWERED, Task, Verdict

GOOD, BAD, QUIET = "#1a7f37", "#b3261e", "#6e7781"


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """Verdicts on one task.

    Attributes:
        task: what was asked.
        verdicts: one for each check.
        notes: what else is worth knowing.
    """

    task: Task
    verdicts: Sequence[Verdict]
    notes: Sequence[str] = ()

    @property
    def points(self) -> float:
        """Reached."""
        return sum(verdict.points for verdict in self.verdicts)

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def started(self) -> bool:
        """Whether there is an answer at all."""
        return any(verdict.problem is None or verdict.problem.says != NOT_ANSWERED for verdict in self.verdicts)

    @property
    def headline(self) -> str:
        """In one line."""
        if not self.started:
            return f"{self.task.id}: {NOT_ANSWERED}: write into the cell above, run it, then run this one again"
        return f"{self.task.id}: {self.points:g} of {self.task.points:g} points"

    @property
    def closing(self) -> list[str]:
        """What to do next."""
        if self.passed:
            return [*self.notes, f'solved; solution("{self.task.id}") shows how we did it']
        return [*self.notes, f'stuck? hint("{self.task.id}")']

    def __repr__(self) -> str:
        lines = [self.headline]
        if self.started:
            width = max(len(verdict.name) for verdict in self.verdicts)
            for verdict, said in self._rows():
                mark = "✓" if verdict.passed else "✗"
                lines.append(f"  {mark} {verdict.name:<{width}}  {verdict.points:g}/{verdict.out_of:g}")
                lines += [f"      {said}"] if said else []
        printed = self._printed()
        if printed:
            lines += ["  your code printed:", *(f"    {line}" for line in printed.splitlines())]
        return "\n".join([*lines, *(f"  {line}" for line in self.closing)])

    def _repr_html_(self) -> str:
        color = GOOD if self.passed else BAD if self.started else QUIET
        rows = []
        for verdict, said in self._rows() if self.started else ():
            mark, shade = ("✓", GOOD) if verdict.passed else ("✗", BAD)
            rows.append(
                f"<tr><td style='color:{shade};vertical-align:top'>{mark}</td>"
                f"<td style='text-align:left'>{escape(verdict.name)}"
                f"<div style='color:{QUIET}'>{escape(said)}</div></td>"
                f"<td style='vertical-align:top'>{verdict.points:g}/{verdict.out_of:g}</td></tr>"
            )
        table = f"<table style='margin:.4em 0'>{''.join(rows)}</table>" if rows else ""
        printed = self._printed()
        if printed:
            table += f"<details><summary>your code printed</summary><pre>{escape(printed)}</pre></details>"
        closing = "".join(f"<div style='color:{QUIET}'>{escape(line)}</div>" for line in self.closing)
        return (
            f"<div style='border-left:4px solid {color};padding:.2em .8em'><b>{escape(self.headline)}</b>"
            f"{table}{closing}</div>"
        )

    def _rows(self) -> list[tuple[Verdict, str]]:
        """Verdicts with what is wrong; a sentence that is true of several properties is said once."""
        said = [str(verdict.problem or "") for verdict in self.verdicts]
        return [(verdict, said[i] if said[i] not in said[:i] else "") for i, verdict in enumerate(self.verdicts)]

    def _printed(self) -> str:
        return next((verdict.printed for verdict in self.verdicts if verdict.printed), "")


@dataclass(frozen=True, kw_only=True, repr=False)
class Text:
    """Words for the learner: a hint, a solution."""

    title: str
    body: str
    code: bool = False

    def __repr__(self) -> str:
        return f"{self.title}\n\n{self.body}" if self.code else f"{self.title}: {self.body}"

    def _repr_html_(self) -> str:
        body = f"<pre>{escape(self.body)}</pre>" if self.code else f"<div>{escape(self.body)}</div>"
        return f"<div style='border-left:4px solid {QUIET};padding:.2em .8em'><b>{escape(self.title)}</b>{body}</div>"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a learner has made of one task."""

    task: str
    title: str
    minutes: int
    attempts: int
    points: float
    out_of: float

    @property
    def mark(self) -> str:
        """✓ solved, … tried, · not yet."""
        return "✓" if self.points >= self.out_of else "…" if self.attempts else "·"


@dataclass(frozen=True, kw_only=True, repr=False)
class Progress:
    """Where a learner stands.

    Attributes:
        exercises: name -> its tasks.
        shown: names of those that are listed task by task.
    """

    exercises: Mapping[str, Sequence[Row]]
    shown: Sequence[str]

    @property
    def closing(self) -> str:
        """Of all exercises, where only some are shown."""
        if len(self.shown) == len(self.exercises):
            return ""
        everything = [row for rows in self.exercises.values() for row in rows]
        return f"all {len(self.exercises)} exercises: {_done(everything)}; status() lists them"

    def __repr__(self) -> str:
        lines = []
        for name in self.shown:
            rows = self.exercises[name]
            wide = max(len(row.task) for row in rows)
            lines.append(f"{name}: {_done(rows)}")
            lines += [
                f"  {row.mark} {row.task:<{wide}}  {row.points:>4g}/{row.out_of:<4g} {row.minutes:>3} min  {row.title}"
                for row in rows
            ]
        return "\n".join([*lines, *filter(None, [self.closing])])

    def _repr_html_(self) -> str:
        parts = []
        for name in self.shown:
            rows = "".join(
                f"<tr><td>{row.mark}</td><td style='text-align:left'><code>{escape(row.task)}</code></td>"
                f"<td style='text-align:left'>{escape(row.title)}</td><td>{row.minutes} min</td>"
                f"<td>{row.points:g}/{row.out_of:g}</td></tr>"
                for row in self.exercises[name]
            )
            parts.append(f"<b>{escape(name)}: {_done(self.exercises[name])}</b><table>{rows}</table>")
        return "".join(parts) + f"<div style='color:{QUIET}'>{self.closing}</div>"


def _done(rows: Sequence[Row]) -> str:
    """Tasks solved, and points."""
    solved = sum(row.points >= row.out_of for row in rows)
    points, out_of = sum(row.points for row in rows), sum(row.out_of for row in rows)
    return f"{solved} of {len(rows)} tasks solved, {points:g} of {out_of:g} points"
