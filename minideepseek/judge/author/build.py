"""From a script to the files that go out, and the comparison that says when those are stale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from minideepseek.errors import UserError
from minideepseek.files import atomic_file
from minideepseek.judge.author.checks import PUBLIC_SALT
from minideepseek.judge.author.notebook import learners, solved
from minideepseek.judge.author.source import Source, find, home
from minideepseek.judge.task import Pack, Task, load_pack

MANIFEST, PACK = "manifest.json", "checks.safetensors"


def build(*numbers: str) -> list[Path]:
    """Write what goes out for the exercises named, or for all: notebook, public pack, and the manifest of all.

    Raises:
        UserError: a script is wrong, with its line.
    """
    written = []
    for source in find(*numbers):
        pack, folder = public(source), home() / source.name
        written += [folder / f"{source.name}.ipynb", folder / PACK]
        _write(written[-2], learners(source, _tasks(pack)).encode())
        _write(written[-1], pack.dumps())
    _write(home() / MANIFEST, _manifest().encode())
    return [*written, home() / MANIFEST]


def solutions(folder: Path, *numbers: str) -> list[Path]:
    """Write the solved notebooks into a folder."""
    written = []
    for source in find(*numbers):
        written.append(folder / f"{source.name}.ipynb")
        _write(written[-1], solved(source, _tasks(public(source))).encode())
    return written


def hidden(folder: Path, salt: str, *numbers: str) -> list[Path]:
    """Write packs drawn from a secret: other inputs of other shapes, the same properties for the same points.

    Raises:
        UserError: the salt is too short, or the public one; a property is not the same in both draws.
    """
    if len(salt) < 8 or salt == PUBLIC_SALT:
        raise UserError("--salt must be a secret of 8 characters or more: whoever knows it can make the hidden checks")
    written = []
    for source in find(*numbers):
        pack = source.built.pack(salt, secret=True)
        if _properties(pack) != _properties(public(source)):
            raise UserError(f"{source.path.name}: the properties or points of the hidden checks differ from the public")
        written.append(folder / f"{source.name}.safetensors")
        _write(written[-1], pack.dumps())
    return written


def check(*numbers: str) -> list[str]:
    """A line for each file that is not what its script gives today; empty if all are current."""
    complaints: list[str] = []
    for source in find(*numbers):
        pack, folder = public(source), home() / source.name
        complaints += _stale(folder / f"{source.name}.ipynb", learners(source, _tasks(pack)), source)
        complaints += _stale_pack(folder / PACK, pack, source)
    if not numbers:
        complaints += _stale(home() / MANIFEST, _manifest(), None)
        names = {source.name for source in find()}
        complaints += [
            f"{path.parent.name}: has no script in exercises/src: delete it, or write the script"
            for path in sorted(home().glob(f"*/{PACK}"))
            if path.parent.name not in names
        ]
    return complaints


def public(source: Source) -> Pack:
    """The pack that goes out with an exercise."""
    return source.built.pack(PUBLIC_SALT)


def _tasks(pack: Pack) -> dict[str, Task]:
    return {task.id: task for task in pack.tasks}


def _properties(pack: Pack) -> list[tuple[str, str, str, float]]:
    return [(task.id, check.name, check.layer, check.points) for task in pack.tasks for check in task.checks]


def _manifest() -> str:
    exercises = []
    for source in find():
        pack = public(source)
        tasks = [
            {
                "id": task.id,
                "title": task.title,
                "kind": task.kind,
                "difficulty": task.difficulty,
                "minutes": task.minutes,
                "points": task.points,
                "needs": list(task.needs),
            }
            for task in pack.tasks
        ]
        exercises.append(
            {
                "name": source.name,
                "title": source.title,
                "lesson": f"notebooks/{source.name}.ipynb",
                "notebook": f"exercises/{source.name}/{source.name}.ipynb",
                "minutes": sum(task.minutes for task in pack.tasks),
                "points": sum(task.points for task in pack.tasks),
                "tasks": tasks,
            }
        )
    return json.dumps({"exercises": exercises}, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as beside:
        beside.write_bytes(content)


def _stale(path: Path, content: str, source: Source | None) -> Iterator[str]:
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        yield f"{path.name}: not what the script gives: {_again(source)}"


def _stale_pack(path: Path, pack: Pack, source: Source) -> Iterator[str]:
    try:
        same = path.exists() and _alike(load_pack(path), pack)
    except UserError:
        same = False
    if not same:
        yield f"{source.name}/{path.name}: not what the script gives: {_again(source)}"


def _again(source: Source | None) -> str:
    return "run `minideepseek exercises build" + (f" {source.number}`" if source else "`")


def _alike(a: Any, b: Any) -> bool:
    """Equal, up to what another processor's arithmetic may change in the last digits."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        rtol = 1e-2 if a.element_size() < 4 else 1e-4
        return torch.allclose(a.double(), b.double(), rtol=rtol, atol=1e-5, equal_nan=True)
    if is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(_alike(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-5 * abs(b) or (a != a and b != b)
    return bool(a == b)
