"""What a submission got, as a file of its own: written whole, read again when grading resumes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minideepseek.files import atomic_file
from minideepseek.judge.task import Verdict


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of a task. ``says`` may be shown to anybody, ``detail`` may hold inputs; empty where it holds."""

    name: str
    layer: str
    points: float
    out_of: float
    says: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskMarks:
    """One task; ``found`` is false where the submission has no such cell."""

    task: str
    found: bool
    properties: tuple[Property, ...]

    @property
    def points(self) -> float:
        """Reached."""
        return sum(one.points for one in self.properties)

    @property
    def out_of(self) -> float:
        """To be had."""
        return sum(one.out_of for one in self.properties)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """One submission.

    Attributes:
        name: of the student.
        digest: of what was handed in, and of the packs that judged it.
        exercises: those it has an answer for.
        tasks: their tasks, in order.
        notes: what the student should know about how it was read.
        protections: what the kernel enforced while it ran.
        seconds: it took.
    """

    name: str
    digest: str
    exercises: tuple[str, ...]
    tasks: tuple[TaskMarks, ...]
    notes: tuple[str, ...] = ()
    protections: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """Reached."""
        return sum(task.points for task in self.tasks)


def properties(verdicts: Sequence[Verdict]) -> tuple[Property, ...]:
    """Verdicts in the form that is kept."""
    return tuple(
        Property(
            name=verdict.name,
            layer=verdict.layer,
            points=verdict.points,
            out_of=verdict.out_of,
            says=verdict.problem.says if verdict.problem else "",
            detail=verdict.problem.detail if verdict.problem else "",
        )
        for verdict in verdicts
    )


def file_name(name: str, suffix: str) -> str:
    """A file's name for a student of any name: the name itself where it can be one."""
    if re.fullmatch(r"\w[\w .()-]{0,80}", name):
        return name + suffix
    return re.sub(r"[^\w.-]", "_", name)[:60] + "-" + hashlib.sha256(name.encode()).hexdigest()[:8] + suffix


def save(marks: Marks, path: Path) -> None:
    """Write a submission's marks, whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(asdict(marks), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Marks | None:
    """Marks that were saved; None where there are none that can be read."""
    try:
        return _marks(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _marks(found: dict[str, Any]) -> Marks:
    tasks = tuple(
        TaskMarks(**{**task, "properties": tuple(Property(**one) for one in task["properties"])})
        for task in found["tasks"]
    )
    lists = {key: tuple(found[key]) for key in ("exercises", "notes", "protections")}
    return Marks(**{**found, **lists, "tasks": tasks})
