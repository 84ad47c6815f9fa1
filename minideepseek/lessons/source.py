"""Where the lessons live, and one lesson read from its percent script."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import minideepseek
from minideepseek.errors import UserError


def home() -> Path:
    """The folder ``notebooks/`` of the clone we stand in, else of the one the package runs from.

    Raises ``UserError`` where there is neither: an installed wheel brings the package, not the course.
    """
    here = Path.cwd()
    for root in (here, *here.parents, Path(minideepseek.__file__).parents[1]):
        if (root / "notebooks" / "src").is_dir() and (root / "pyproject.toml").is_file():
            return root / "notebooks"
    raise UserError(
        "the lessons are not part of the installed package: clone the minideepseek repository and run `make lab` in it"
    )


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One lesson: the script people write, and beside it the notebook that is built from it."""

    source: Path  # .../notebooks/src/02_a_v1_block.py

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d_\w+\.py", self.source.name):
            raise UserError(f"{self.source}: a lesson's file is named NN_name.py, for example 02_a_v1_block.py")

    @property
    def number(self) -> str:
        return self.source.name[:2]

    @property
    def notebook(self) -> Path:
        return self.source.parents[1] / f"{self.source.stem}.ipynb"

    @cached_property
    def text(self) -> str:
        return self.source.read_text(encoding="utf-8")

    @cached_property
    def cells(self) -> list[Any]:
        """The cells as notebook nodes, without outputs; the same script gives the same cells, ids included."""
        jupytext = _jupytext()
        notebook = jupytext.reads(self.text, fmt="py:percent")
        seen: dict[str, int] = {}
        for cell in notebook.cells:
            # jupytext draws random ids. One made from the content lets a diff show only the cells that changed.
            digest = hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:8]
            seen[digest] = seen.get(digest, 0) + 1
            cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        return list(notebook.cells)

    @cached_property
    def lines(self) -> list[int]:
        """The line of the script on which each cell starts; shorter than ``cells`` if text precedes the first one."""
        return [number for number, line in enumerate(self.text.splitlines(), 1) if line.startswith("# %%")]

    @property
    def digest(self) -> str:
        """A hash of what the notebook is built from; outputs and the layout of the script do not enter."""
        content = "\0".join(f"{cell.id} {sorted(cell.metadata.get('tags', []))}" for cell in self.cells)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def code(self) -> list[str]:
        return [cell.source for cell in self.cells if cell.cell_type == "code"]

    @property
    def title(self) -> str:
        """The title without its number; empty if the first cell is not ``# NN · Title``."""
        heading = self.cells[0].source.partition("\n")[0] if self.cells else ""
        found = re.fullmatch(rf"# {self.number} · (.+)", heading)
        return found[1].strip() if found else ""

    @property
    def minutes(self) -> int | None:
        """How long the lesson says it takes: the title cell has "N minutes" in it."""
        found = re.search(r"\b(\d+) minutes?\b", self.cells[0].source) if self.cells else None
        return int(found[1]) if found else None


def find(*numbers: str) -> list[Lesson]:
    """The lessons in order: all of them, or those with the given numbers (``"2"`` and ``"02"`` are the same).

    Raises ``UserError`` for a number that no lesson has.
    """
    shelf = [Lesson(source=path) for path in sorted((home() / "src").glob("*.py"))]
    wanted = [number.zfill(2) for number in numbers]
    known = {lesson.number for lesson in shelf}
    for number in wanted:
        if number not in known:
            raise UserError(f"there is no lesson {number} in {home() / 'src'}; there are: {', '.join(sorted(known))}")
    return [lesson for lesson in shelf if not wanted or lesson.number in wanted]


def _jupytext() -> Any:
    try:
        import jupytext
    except ImportError:
        raise UserError('reading lessons needs jupytext; install it with: pip install "minideepseek[course]"') from None
    return jupytext
