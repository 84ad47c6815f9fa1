"""What a learner sees: verdicts and progress, as a page in Jupyter and as text everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
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
            return [*self.notes]
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Progress:
    """Where a learner stands: a row (id, title, minutes, attempts, points, out of) for each task."""

    rows: Sequence[tuple[str, str, int, int, float, float]]

    @property
    def headline(self) -> str:
        """Tasks solved, and points."""
        done = sum(row[4] >= row[5] for row in self.rows)
        points, total = sum(row[4] for row in self.rows), sum(row[5] for row in self.rows)
        return f"{done} of {len(self.rows)} tasks solved, {points:g} of {total:g} points"

    def __repr__(self) -> str:
        wide = max((len(row[0]) for row in self.rows), default=0)
        lines = [
            f"  {_mark(attempts, points, out_of)} {task:<{wide}}  {points:>4g}/{out_of:<4g} {minutes:>3} min  {title}"
            for task, title, minutes, attempts, points, out_of in self.rows
        ]
        return "\n".join([self.headline, *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{_mark(attempts, points, out_of)}</td>"
            f"<td style='text-align:left'><code>{escape(task)}</code></td>"
            f"<td style='text-align:left'>{escape(title)}</td><td>{minutes} min</td><td>{points:g}/{out_of:g}</td></tr>"
            for task, title, minutes, attempts, points, out_of in self.rows
        )
        return f"<b>{escape(self.headline)}</b><table>{rows}</table>"


def _mark(attempts: int, points: float, out_of: float) -> str:
    return "✓" if points >= out_of else "…" if attempts else "·"
