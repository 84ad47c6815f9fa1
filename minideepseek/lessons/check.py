"""Does a lesson keep the rules of the house, and is its notebook the one its script gives today?"""

import ast
import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from minideepseek.lessons.source import Lesson, find, home
from minideepseek.lessons.surface import changed, uses
from minideepseek.lessons.tidy import tidy

# A lesson is one sitting: long enough to build an idea, short enough to hold it in mind.
MIN_CELLS, MAX_CELLS = 40, 80
MAX_WORDS = 6000
MAX_MINUTES = 5
MAX_CODE_LINES = 15
MAX_BYTES = 1_500_000

_MACHINE_PATH = re.compile(r"(?<![\w.~])(/home/|/Users/|/root/|[A-Z]:\\\\?Users)")


def check(*numbers: str) -> list[str]:
    """Everything wrong with the lessons named, or with all of them; empty if nothing is.

    Each complaint is one line that starts with the file, and the line in it where there is one.
    """
    lessons = find(*numbers)
    complaints = [complaint for lesson in lessons for complaint in (*check_script(lesson), *check_outputs(lesson))]
    if not numbers:
        complaints += [*_copied_definitions(lessons), *_orphans(lessons)]
    return complaints


def state(lesson: Lesson) -> Literal["ready", "stale", "not built"]:
    """Whether a lesson's notebook is there and belongs to today's script and package."""
    if not lesson.notebook.exists():
        return "not built"
    return "stale" if any(_stale(lesson, _read(lesson))) else "ready"


def check_script(lesson: Lesson) -> Iterator[str]:
    """What in the script breaks the form of a lesson: title, length, size of cells, claims, knob, ledger."""
    name = lesson.source.name
    if len(lesson.lines) != len(lesson.cells):
        yield f"{name}:1: text before the first `# %%`: every cell starts with that marker"
        return
    if not lesson.title:
        yield f"{name}:1: the first cell is markdown and starts with `# {lesson.number} · Title`"
    if lesson.minutes is None:
        yield f"{name}:1: the title cell does not say how long the lesson takes (`2 minutes`)"
    elif lesson.minutes > MAX_MINUTES:
        yield f"{name}:1: {lesson.minutes} minutes, more than {MAX_MINUTES}: train less, or load what was trained"
    if not MIN_CELLS <= len(lesson.cells) <= MAX_CELLS:
        yield f"{name}: {len(lesson.cells)} cells, where a lesson has {MIN_CELLS} to {MAX_CELLS}"
    prose = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
    if (words := sum(len(text.split()) for text in prose)) > MAX_WORDS:
        yield f"{name}: {words} words, more than {MAX_WORDS}: this is two lessons"
    if not any(re.search(r"^#+ .*\bledger\b", text, re.MULTILINE | re.IGNORECASE) for text in prose):
        yield f"{name}: no heading with the word `ledger`: what does this lesson show, and what does it not?"
    if not any(isinstance(node, ast.Assert) for code in lesson.code for node in ast.walk(_parse(code))):
        yield f"{name}: no `assert`: every claim is a cell that asserts it"
    if not any(re.search(r"\bknob\(", code) for code in lesson.code):
        yield f"{name}: no `knob(...)`: at least one thing to turn (minideepseek.viz.widgets)"
    for cell, line in zip(lesson.cells, lesson.lines, strict=True):
        if cell.cell_type != "code":
            continue
        if cell.source and not _parse(cell.source).body:
            yield f"{name}:{line}: no plain Python in this code cell (a lesson needs no magics)"
        length = sum(bool(text.strip()) for text in cell.source.splitlines())
        if length > MAX_CODE_LINES:
            limit = f"a code cell of {length} lines, more than {MAX_CODE_LINES}"
            yield f"{name}:{line}: {limit}: split it, or move it into the package"


def check_outputs(lesson: Lesson) -> Iterator[str]:
    """What is wrong with the built notebook: missing, stale, not run in order, failed, too large, saved by hand."""
    name, again = lesson.notebook.name, f"run `minideepseek lessons build {lesson.number}`"
    if not lesson.notebook.exists():
        yield f"{name}: not built: {again}"
        return
    notebook = _read(lesson)
    yield from (f"{name}: {reason}: {again}" for reason in _stale(lesson, notebook))
    cells = [(i, cell) for i, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for _, cell in cells]
    if counts != list(range(1, len(counts) + 1)):
        yield f"{name}: the cells were not all run once, from top to bottom: {again}"
    for i, cell in cells:
        yield from (f"{name}: cell {i} {what}" for what in _cell(cell))
    text = lesson.notebook.read_text(encoding="utf-8")
    if len(text.encode()) > MAX_BYTES:
        yield f"{name}: {len(text.encode()):,} bytes, more than {MAX_BYTES:,}: fewer or smaller figures"
    tidied = copy.deepcopy(notebook)
    tidy(tidied, root=home().parent)
    if tidied != notebook:
        yield f"{name}: saved by hand (it holds times, widgets or paths of a session): {again}"


def _read(lesson: Lesson) -> Any:
    import nbformat

    return nbformat.read(lesson.notebook, as_version=4)


def _stale(lesson: Lesson, notebook: Any) -> Iterator[str]:
    stamp = notebook.metadata.get("minideepseek", {})
    if [(cell.id, cell.source) for cell in notebook.cells] != [(cell.id, cell.source) for cell in lesson.cells]:
        yield "its cells are not those of the script"
    elif stamp.get("source") != lesson.digest:
        yield "its outputs were made by an older script"
    try:
        names = changed(stamp.get("uses", {}), uses(lesson.code))
    except (ImportError, AttributeError, KeyError, SyntaxError) as error:
        yield f"it uses what is not there ({error})"
    else:
        if names:
            yield f"changed in the package since it was built: {', '.join(name.rstrip(':') for name in names)}"


def _cell(cell: Any) -> Iterator[str]:
    expected = "raises-exception" in cell.metadata.get("tags", [])
    for output in cell.outputs:
        if output.output_type == "error" and not expected:
            yield f"ends in {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"writes to stderr (a warning?): {output.text.strip().partition(chr(10))[0][:100]}"
        data = output.get("data", {})
        if set(data) == {"text/plain"} and re.match(
            r"(VBox|HBox|Box|Output|interactive|\w*Slider)\(", data["text/plain"]
        ):
            yield "shows a widget that is nothing without a kernel: use minideepseek.viz.widgets.knob"
        if found := _MACHINE_PATH.search(json.dumps(output.get("text", "")) + json.dumps(data.get("text/plain", ""))):
            yield f"shows a path of the machine it was built on ({found[0]}…)"


def _copied_definitions(lessons: list[Lesson]) -> Iterator[str]:
    where: dict[str, set[str]] = defaultdict(set)
    for lesson in lessons:
        for code in lesson.code:
            for node in _parse(code).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    where[f"{node.name} {ast.dump(node)}"].add(lesson.source.name)
    for definition, names in where.items():
        if len(names) > 1:
            yield f"{', '.join(sorted(names))}: each defines `{definition.split()[0]}`: it belongs in the package"


def _orphans(lessons: list[Lesson]) -> Iterator[str]:
    built: set[Path] = {lesson.notebook for lesson in lessons}
    for path in sorted(home().glob("*.ipynb")):
        if path not in built:
            yield f"{path.name}: has no script in notebooks/src: delete it, or write the script"


def _parse(code: str) -> ast.Module:
    """The syntax tree of a cell; an empty one where the cell is not Python, which is a complaint of its own."""
    try:
        return ast.parse(code)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])
