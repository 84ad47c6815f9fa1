"""Submissions read: whatever a student hands in, the answers' cells are found or a note says why not.

Nothing here executes anything, and no content of a file can raise: files come from strangers.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minideepseek.errors import UserError
from minideepseek.judge.cells import split

_KINDS = (".ipynb", ".py")
MAX_BYTES, MAX_FILES = 32 * 2**20, 50
_SKIPPED = re.compile(r"^\.|^__pycache__$")  # .ipynb_checkpoints holds yesterday's answer


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one student handed in.

    Attributes:
        name: of the file (without its ending) or folder.
        files: notebooks and scripts in it.
        notes: what was left out, and why.
    """

    name: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Of all that is read of it."""
        whole = hashlib.sha256()
        for path in self.files:
            content = _bytes(path)
            whole.update(f"{path.name}\0{len(content)}\0".encode("utf-8", "replace") + content)
        return whole.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The cells of a submission that answer tasks.

    Attributes:
        cells: task -> source.
        notes: what is worth telling the student.
    """

    cells: Mapping[str, str]
    notes: tuple[str, ...] = ()


def find(path: Path) -> list[Submission]:
    """The submissions at a path: a file is one; in a folder each file and each folder is one.

    A folder that itself holds one student's work has to be given as a part of its parent.

    Raises:
        UserError: there is nothing there that could be graded.
    """
    if path.is_file():
        return [_submission(path)]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}")
    entries = [entry for entry in sorted(path.iterdir()) if not _SKIPPED.match(entry.name)]
    entries = [entry for entry in entries if not entry.is_symlink()]
    entries = [entry for entry in entries if entry.is_dir() or entry.suffix in _KINDS]
    if not entries:
        raise UserError(f"{path} holds no submission: notebooks (.ipynb), scripts (.py), or a folder for each student")
    found: dict[str, Submission] = {}
    for entry in entries:
        one = _submission(entry)
        if one.name in found:  # a.ipynb beside a.py: the endings tell them apart
            one = replace(one, name=f"{printable(entry.name)} ({len(found)})")
        found[one.name] = one
    return list(found.values())


def read(submission: Submission, tasks: Mapping[str, Sequence[str]]) -> Answers:
    """Find the answers' cells.

    A cell answers a task if its metadata says so (ours, nbgrader's, or the marker of a script), else if it defines
    all the names that the task asks for. The last such cell counts, as it would in a notebook that is run.

    Args:
        submission: of one student.
        tasks: id -> names that its answer defines.
    """
    ids = {task.replace(".", "-"): task for task in tasks} | {task: task for task in tasks}
    marked: dict[str, list[tuple[str, str]]] = {}
    plain: list[str] = []
    notes = list(submission.notes)
    for path in submission.files:
        try:
            for label, source in _cells(path):
                if label in ids:
                    marked.setdefault(ids[label], []).append((f"{path.parent.name}/{path.name}", source))
                else:
                    plain.append(source)
        except ValueError as error:
            notes.append(f"{path.name}: {error}")
    cells = {task: without_magics(found[-1][1]) for task, found in marked.items()}
    counted: dict[str, list[str]] = {}
    for task, found in marked.items():
        if len({source for _, source in found}) > 1:
            counted.setdefault(found[-1][0], []).append(task)
    for file, several in counted.items():
        notes.append(f"there is more than one answer to {', '.join(several)}; the last in {file} counts")
    for task, names in tasks.items():
        if task not in cells:
            fitting = [source for source in plain if names and all(_defines(source, name) for name in names)]
            if fitting:
                cells[task] = without_magics(fitting[-1])
    return Answers(cells={task: cells[task] for task in tasks if task in cells}, notes=tuple(map(printable, notes)))


def printable(text: str, limit: int = 2000) -> str:
    """Text of a stranger's that can be printed and written anywhere: no control characters, no half letters."""
    text = text[:limit].encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def without_magics(source: str) -> str:
    """A cell in plain Python: lines that only a notebook understands are left empty."""
    return re.sub(r"^(?:%%?[a-zA-Z]|!).*$", "", source, flags=re.MULTILINE)


def _submission(path: Path) -> Submission:
    notes: list[str] = []
    inside = sorted(_inside(path, notes)) if path.is_dir() else [path]
    if len(inside) > MAX_FILES:
        notes.append(f"only the first {MAX_FILES} of {len(inside)} files are read")
    name = printable(path.name if path.is_dir() else path.stem)
    return Submission(name=name, files=tuple(inside[:MAX_FILES]), notes=tuple(notes))


def _inside(folder: Path, notes: list[str]) -> Iterator[Path]:
    course = folder / "exercises"  # of a clone: answers are in there, and ours are in its src
    clone = (course / "src").is_dir() and not course.is_symlink()
    for entry in sorted((course if clone else folder).iterdir()):
        if _SKIPPED.match(entry.name) or (clone and entry.name == "src"):
            continue
        if entry.is_symlink():
            notes.append(f"{entry.name} is a link, which is not followed")
        elif entry.is_dir():
            yield from _inside(entry, notes)
        elif entry.suffix in _KINDS:
            yield entry


def _bytes(path: Path) -> bytes:
    """The content of an ordinary file of ordinary size; else nothing."""
    try:
        about = path.lstat()
        return path.read_bytes() if stat.S_ISREG(about.st_mode) and about.st_size <= MAX_BYTES else b""
    except OSError:
        return b""


def _cells(path: Path) -> Iterator[tuple[str, str]]:
    """(task or grade_id or nothing, source) of each code cell. Raises ``ValueError`` with what is wrong."""
    content = _bytes(path)
    if not content.strip():
        raise ValueError(f"it is empty, cannot be read, or is larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text; save it again as UTF-8") from None
    if path.suffix == ".py":
        found = list(split(text))
        if any("judge" in cell.tags for cell in found):
            raise ValueError("it is the script of an exercise, with our solutions in it, and no answer")
        for part in found:
            if not part.markdown:
                yield _label(part.metadata), part.source
        return
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it is not a notebook; save it again in Jupyter") from None
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            yield _label(cell.get("metadata")), _source(cell.get("source"))


def _label(metadata: Any) -> str:
    if not isinstance(metadata, Mapping):
        return ""
    candidates = [metadata.get("task")]
    for owner, key in (("minideepseek", "task"), ("nbgrader", "grade_id")):
        entry = metadata.get(owner)
        candidates.append(entry.get(key) if isinstance(entry, Mapping) else None)
    return next((label for label in candidates if isinstance(label, str)), "")


def _source(source: Any) -> str:
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _defines(source: str, name: str) -> bool:
    """Whether a cell seems to define a name. Python's own parser is not asked: strangers' text can crash it."""
    word = re.escape(name)
    return bool(re.search(rf"^(?:def|class)[ \t]+{word}\b|^{word}[ \t]*(?::[^=\n]*)?=(?!=)", source, re.MULTILINE))
