"""What a learner has done, in a file of their own: never in the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_data_path

from minideepseek.files import atomic_file, user_errors


def file() -> Path:
    """MINIDEEPSEEK_PROGRESS, else ``progress.json`` where the platform keeps a user's data."""
    chosen = os.environ.get("MINIDEEPSEEK_PROGRESS")
    return Path(chosen).expanduser() if chosen else user_data_path("minideepseek") / "progress.json"


def read() -> dict[str, dict[str, Any]]:
    """Task id -> ``attempts``, ``points`` (the best so far), ``hints`` (shown). Empty where there is no whole file."""
    try:
        found = json.loads(file().read_text(encoding="utf-8"))
        return {
            str(task): {
                "attempts": int(entry.get("attempts", 0)),
                "points": float(entry.get("points", 0.0)),
                "hints": int(entry.get("hints", 0)),
            }
            for task, entry in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def of(task: str) -> dict[str, Any]:
    """What is known of one task."""
    return read().get(task, {"attempts": 0, "points": 0.0, "hints": 0})


@contextmanager
def change(task: str) -> Iterator[dict[str, Any]]:
    """Yield what is known of a task, and keep what the block makes of it; two notebooks at once lose nothing.

    Raises:
        UserError: the place cannot be written.
    """
    path = file()
    with user_errors("keep your progress (MINIDEEPSEEK_PROGRESS says where) in", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            everything = read()
            entry = everything.setdefault(task, of(task))
            yield entry
            with atomic_file(path) as beside:
                beside.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
