"""The ``minideepseek`` command: one file for each sub-command, read only when it is called.

A sub-command is a module with a function ``run`` whose signature *is* the command line (tyro builds the parser from
its types, defaults and docstring). Whatever the user can put right ends in one line and exit status 2.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from minideepseek.errors import UserError

COMMANDS = {
    "train": "train a generation, from nothing or from its last checkpoint",
    "align": "tune a model on a task, let it practise, distil it, examine it",
    "generate": "continue a prompt with a trained model",
    "report": "parameters, cache and FLOPs of a generation or a checkpoint",
    "convert": "rewrite a checkpoint: another precision, one file or several",
    "data": "prepare a corpus and look at it",
    "lessons": "list, open, build and check the lessons",
    "exercises": "list, open, build and check the graded exercises",
    "grade": "grade submissions: a file, or a folder of a class",
    "doctor": "what this machine offers, and what is missing",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: run the sub-command named by the first argument; exits with 0, 2 (user), 130 (interrupted)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        _overview()
        sys.exit(0)
    if args[0] == "--version":
        import minideepseek

        print(minideepseek.__version__)
        sys.exit(0)
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"no command {args[0]!r}; " + did_you_mean(args[0], COMMANDS))
        importlib.import_module(f"minideepseek.cli.{args[0]}").main(args[1:])
    except UserError as error:
        fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        fail("there is not enough memory for this; take a smaller model (a mini), smaller batches or shorter texts")
    except BrokenPipeError:  # `minideepseek generate ... | head`: the reader has left, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_out_of_memory(error: Exception) -> bool:
    # On a GPU torch raises an OutOfMemoryError, on a CPU a RuntimeError that can be told by its words alone.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with status 2."""
    print("minideepseek: error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion for a mistyped name, and all that exist."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}there are: {', '.join(known)}"


def parse(run: Callable[..., Any], args: Sequence[str], *, command: str, **settings: Any) -> Any:
    """Call ``run`` with the arguments of a command line, whose errors end in one line and status 2."""
    import tyro

    # tyro explains a mistake in a box of many lines on stderr, and its hook for errors is not public yet: so its
    # words are kept, its box is not. Help goes to stdout and is left alone.
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            call = tyro.cli(_deferred(run), args=list(args), prog=f"minideepseek {command}", **settings)
    except SystemExit as stop:
        if stop.code:
            fail(_flatten(box.getvalue(), command))
        raise
    sys.stderr.write(box.getvalue())
    return call()


def _deferred(run: Callable[..., Any]) -> Callable[..., Any]:
    """Same signature as ``run``, but only remembers the call: parsing must be over before the work starts."""

    @functools.wraps(run)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return lambda: run(*args, **kwargs)

    return remember


def _flatten(box: str, command: str) -> str:
    """tyro's box as one line: its first section, and the option it would suggest."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    sections: list[list[str]] = [[]]
    for row in (row.strip("│╭╮╰╯ ") for row in plain.splitlines()):
        if row and set(row) <= {"─", "-"}:
            sections.append([])
        elif row:
            sections[-1].append(row)
    # The title stands in the frame where the terminal can draw one, else it is a section of its own.
    sections = [sections[0][1:], *sections[1:]] if plain.lstrip().startswith("╭") else sections[1:]
    what = " ".join(sections[0]).rstrip(".")
    hint = next((section[1].split()[0] for section in sections if section and section[0].startswith("Perhaps")), "")
    return f"{what}{f'; did you mean {hint}?' if hint else ''} (see: minideepseek {command} --help)"


def _overview() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print("[bold]minideepseek[/bold]: DeepSeek, every generation, rebuilt small.\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, purpose in COMMANDS.items():
        table.add_row(f"[bold]{name}[/bold]", purpose)
    console.print(table)
    console.print("\nminideepseek COMMAND --help explains each. A first minute:")
    console.print("  minideepseek train v1-mini --out runs/first", highlight=False)
    console.print('  minideepseek generate runs/first --prompt "Once upon a time"', highlight=False)
