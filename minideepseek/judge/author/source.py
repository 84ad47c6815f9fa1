"""An exercise read from its script, and executed: statement, stubs, solutions, and what the judge needs."""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minideepseek.errors import UserError
from minideepseek.judge.author.checks import Draw, collected, finish
from minideepseek.judge.cells import Cell, split
from minideepseek.judge.sandbox.isolation import Limits
from minideepseek.judge.task import Pack, Task

#: what the marker of a task's cell may and must say
_FACTS = {"title": str, "kind": str, "difficulty": int, "minutes": int}
_MORE = {"needs": list, "forbid": list, "seconds": int}
_REGION = re.compile(r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n(?P<body>.*?)^[ \t]*### END SOLUTION$", re.M | re.S)
_STUB = re.compile(r"^[ \t]*### STUB\n", re.M)


def home() -> Path:
    """The folder ``exercises/`` of the clone we stand in, else of the one the package runs from.

    Raises:
        UserError: neither is a clone.
    """
    for root in (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[3]):
        if (root / "exercises" / "src").is_dir():
            return root / "exercises"
    raise UserError("the exercises are not part of the installed package: clone the minideepseek repository")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One exercise's script, ``exercises/src/NN_name.py``."""

    path: Path

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d_\w+\.py", self.path.name):
            raise UserError(f"{self.path}: an exercise's file is named like its lesson, for example 02_v1_block.py")

    @property
    def name(self) -> str:
        """``02_v1_block``: also the name of its lesson, and of the folder that is built."""
        return self.path.stem

    @property
    def number(self) -> str:
        """``02``."""
        return self.name[:2]

    @cached_property
    def cells(self) -> list[Cell]:
        """Its cells in order."""
        return list(split(self.path.read_text(encoding="utf-8")))

    @property
    def title(self) -> str:
        """Of the first cell, without the number."""
        return self.cells[0].source.partition("\n")[0].rpartition("·")[2].strip()

    @cached_property
    def task_cells(self) -> dict[str, Cell]:
        """Task id -> its cell."""
        found: dict[str, Cell] = {}
        for cell in self.cells:
            if "task" in cell.metadata:
                task = cell.metadata["task"]
                if task in found or not re.fullmatch(r"[a-z]\w*\.[a-z]\w*", str(task)):
                    self.fail(cell, f"the id {task!r} is used twice, or is not of the form topic.name")
                found[task] = cell
        return found

    def tagged(self, tag: str) -> list[Cell]:
        """The cells with this tag."""
        return [cell for cell in self.cells if tag in cell.tags]

    def fail(self, cell: Cell, what: str) -> None:
        """Raise a ``UserError`` that points to a cell."""
        raise UserError(f"{self.path.name}:{cell.line}: {what}")

    @cached_property
    def built(self) -> Built:
        """The script, executed once."""
        return Built(source=self)


def stub(cell: Cell) -> str:
    """A task's cell as learners get it: in place of the solution its stub, or a line that says what to do."""

    def without(found: re.Match[str]) -> str:
        _, marker, rest = _split_region(found["body"])
        if marker:
            return "\n".join(re.sub(r"^(\s*)# ?", r"\1", line) for line in rest.splitlines())
        return f'{found["indent"]}raise NotImplementedError("{cell.metadata["task"]}: your answer goes here")'

    return _REGION.sub(without, cell.source)


def solution(cell: Cell, *, markers: bool = False) -> str:
    """A task's cell with its solution, between the markers of nbgrader or without them."""

    def within(found: re.Match[str]) -> str:
        body = _split_region(found["body"])[0].rstrip("\n")
        begin, end = (f"{found['indent']}### {word} SOLUTION" for word in ("BEGIN", "END"))
        return "\n".join([begin, body, end]) if markers else body

    return _REGION.sub(within, cell.source)


def _split_region(body: str) -> tuple[str, bool, str]:
    found = _STUB.search(body)
    return (body[: found.start()], True, body[found.end() :]) if found else (body, False, "")


class Built:
    """What executing a script gives: the names that solutions define, and the statements of the judge's cells.

    Raises:
        UserError: a cell fails, or what the script says about a task is incomplete.
    """

    def __init__(self, *, source: Source) -> None:
        self.source = source
        self._space: dict[str, Any] = {"__name__": f"exercise_{source.name}"}
        self.given = "\n\n".join(cell.source for cell in source.tagged("given"))
        self.driver = "\n\n".join(cell.source for cell in source.tagged("driver"))
        self.solutions: dict[str, dict[str, Any]] = {}
        collected()  # what an earlier script, failing half-way, may have left
        for cell in source.cells:
            if task := cell.metadata.get("task"):
                code = solution(cell)
                self._run(code, cell)
                self.solutions[task] = {name: self._space[name] for name in defined(code)}
            elif {"given", "driver", "judge"} & set(cell.tags):
                self._run(cell.source, cell)
        self.statements = collected()
        for task, cell in source.task_cells.items():
            if task not in self.statements:
                source.fail(cell, f"no `@checks({task!r}, ...)` in a cell tagged judge")
        for task in set(self.statements) - set(source.task_cells):
            raise UserError(f"{source.path.name}: `@checks({task!r})`, and no cell with this task")

    def pack(self, salt: str, *, secret: bool = False) -> Pack:
        """The checks drawn from a salt.

        Raises:
            UserError: an oracle fails or disagrees with its solution.
        """
        tasks = tuple(self.task(task, salt) for task in self.source.task_cells)
        return Pack(exercise=self.source.name, tasks=tasks, given=self.given, driver=self.driver, secret=secret)

    def task(self, task: str, salt: str) -> Task:
        """One task, with checks drawn from a salt."""
        cell, statement = self.source.task_cells[task], self.statements[task]
        facts = self._facts(cell)
        needs, seconds = tuple(facts.pop("needs", ())), facts.pop("seconds", Limits.cpu_s)
        solved = self.names(needs, self.solutions[task])
        try:
            checks = finish(
                statement,
                Draw(salt, task),
                solved,
                lambda answer: self.names(needs, self.answer(task, answer)),
            )
        except ValueError as error:
            raise UserError(f"{self.source.path.name}:{cell.line}: task {task}: {error}") from error
        used = {step.target.split(".")[0] for check in checks for step in check.steps} | _words(self.driver)
        return Task(
            id=task,
            names=tuple(name for name in self.solutions[task] if name in used),
            needs=needs,
            forbid=tuple(facts.pop("forbid", ())),
            hints=statement.hints,
            checks=tuple(checks),
            limits=Limits(cpu_s=seconds, wall_s=3.0 * seconds),
            **facts,
        )

    def names(self, needs: tuple[str, ...], answer: Mapping[str, Any]) -> dict[str, Any]:
        """All names that a run of the checks finds: given ones, those of other tasks, the answer's, the driver's."""
        space: dict[str, Any] = {"__name__": "answer"}
        exec(self.given, space)
        for task in needs:
            space.update(self.solutions[task])
        space.update(answer)
        exec(self.driver, space)
        return space

    def answer(self, task: str, answer: Any) -> Mapping[str, Any]:
        """An answer as names: a dict is one already, anything else is what the task's one name stands for."""
        if isinstance(answer, Mapping):
            return answer
        names = list(self.solutions[task])
        if len(names) != 1:
            raise ValueError(f"its cell defines {', '.join(names)}: give answers as a dict of names")
        return {names[0]: answer}

    def _facts(self, cell: Cell) -> dict[str, Any]:
        facts = {key: value for key, value in cell.metadata.items() if key not in ("task", "tags")}
        for key, kind in _FACTS.items():
            if not isinstance(facts.get(key), kind):
                self.source.fail(cell, f"the task's marker needs {key}=, {'a number' if kind is int else 'a string'}")
        for key, value in facts.items():
            if not isinstance(value, (_FACTS | _MORE).get(key, ())):
                self.source.fail(cell, f"the task's marker says {key}={value!r}, which means nothing here")
        return facts

    def _run(self, code: str, cell: Cell) -> None:
        # lines before the cell keep the numbers of a traceback those of the script
        text = "\n" * cell.line + code
        file = f"{self.source.path}"
        linecache.checkcache(file)
        try:
            exec(compile(text, file, "exec", dont_inherit=True), self._space)
        except Exception as error:
            raise UserError(f"{self.source.path.name}:{cell.line}: {type(error).__name__}: {error}") from error


def defined(code: str) -> list[str]:
    """Names that a cell defines at its top level: functions, classes, variables; in order."""
    found: list[str] = []
    for node in ast.parse(textwrap.dedent(code)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
    return list(dict.fromkeys(found))


def _words(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


def find(*numbers: str) -> list[Source]:
    """The exercises in order: all of them, or those with the given numbers.

    Raises:
        UserError: there is no exercise with such a number.
    """
    shelf = [Source(path=path) for path in sorted((home() / "src").glob("*.py"))]
    known = {source.number for source in shelf}
    for number in numbers:
        if number.zfill(2) not in known:
            raise UserError(f"there is no exercise {number}; there are: {', '.join(sorted(known))}")
    wanted = {number.zfill(2) for number in numbers}
    return [source for source in shelf if not wanted or source.number in wanted]
