"""From the script of a lesson to the notebook people read: run in a fresh kernel, made reproducible, stamped."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minideepseek.errors import UserError
from minideepseek.files import atomic_file
from minideepseek.lessons.check import state
from minideepseek.lessons.source import Lesson, find, home
from minideepseek.lessons.surface import uses
from minideepseek.lessons.tidy import tidy

CELL_SECONDS = 300  # a cell that runs longer is stuck: a whole lesson is to take two minutes, five at the very most


def build(*numbers: str) -> list[Path]:
    """Run lessons and write their notebooks: those named, or without a name those whose outputs are not current.

    A lesson runs in a fresh kernel in ``notebooks/``, from top to bottom. Its notebook is replaced only when every
    cell succeeded. Prints a line for each, with the seconds it took on the clock and in the processor; returns the
    notebooks. Raises ``UserError``, after printing the kernel's traceback, for the first cell that fails.
    """
    return [_build(lesson) for lesson in find(*numbers) if numbers or state(lesson) != "ready"]


def _build(lesson: Lesson) -> Path:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell) for cell in lesson.cells])
    start, cpu = time.monotonic(), _children()
    _run(notebook, lesson)
    seconds, cpu = time.monotonic() - start, _children() - cpu
    print(f"{lesson.notebook.name}: {len(notebook.cells)} cells in {seconds:.0f} s ({cpu:.0f} s of processor time)")
    if lesson.minutes and cpu > 60 * lesson.minutes:
        print(f"{lesson.notebook.name}: took longer than the {lesson.minutes} minutes its title cell promises")
    notebook.metadata["minideepseek"] = {"source": lesson.digest, "uses": uses(lesson.code)}
    tidy(notebook, root=home().parent)
    with atomic_file(lesson.notebook) as beside:
        beside.write_text(nbformat.writes(notebook), encoding="utf-8")
    return lesson.notebook


def _run(notebook: Any, lesson: Lesson) -> None:
    try:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError:
        raise UserError(
            'building lessons needs nbclient; install it with: pip install "minideepseek[course]"'
        ) from None

    at = 0
    with tqdm(total=len(notebook.cells), desc=lesson.source.stem, unit="cell", leave=False, disable=None) as bar:

        def begin(cell: Any, cell_index: int) -> None:
            nonlocal at
            at = cell_index
            bar.n = cell_index
            bar.set_postfix_str(cell.source.partition("\n")[0][:40])

        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=CELL_SECONDS,
            coalesce_streams=True,
            store_widget_state=False,
            resources={"metadata": {"path": str(lesson.notebook.parent)}},
            extra_arguments=["--log-level=50"],  # ipykernel's log of itself; it warns of TCP at every start
            on_cell_start=begin,
        )
        with tempfile.TemporaryDirectory() as profile:
            # A profile of its own: what a user's IPython does at every start must not enter a lesson.
            env = {**os.environ, "IPYTHONDIR": profile, "PYTHONHASHSEED": "0"}
            try:
                client.execute(env=env)
            except CellExecutionError as error:
                bar.close()
                print(error.traceback, file=sys.stderr)
                reason = f"{error.ename}: {error.evalue.partition(chr(10))[0]}"
            except CellTimeoutError:
                reason = f"it ran for more than {CELL_SECONDS} s; do less in one cell, or load what was trained before"
            except DeadKernelError:
                reason = "the kernel died, most likely for want of memory"
            except AssertionError:  # at Ctrl-C nbclient ends the kernel, and then asserts that it has one
                raise KeyboardInterrupt from None
            else:
                return
    raise UserError(f"{lesson.source.name}, cell {at + 1} (line {lesson.lines[at]}): {reason}")


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system
