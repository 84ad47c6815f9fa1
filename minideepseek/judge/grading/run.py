"""Grading: submissions go through sandboxes, one for each core; what is done is kept, and never done twice."""

from __future__ import annotations

import hashlib
import os
import queue
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from minideepseek.errors import UserError
from minideepseek.judge import packs
from minideepseek.judge.compare import Problem
from minideepseek.judge.grading.marks import Marks, Property, TaskMarks, file_name, load, properties, save
from minideepseek.judge.grading.submission import Answers, Submission, printable, read
from minideepseek.judge.sandbox.process import Sandbox
from minideepseek.judge.task import Pack, Task, Verdict, judge, load_pack

MISSING = "there is no answer to this task in the submission"


def choose(hidden: Path | None, exercises: Sequence[str]) -> list[Pack]:
    """The packs to grade with: an instructor's hidden ones, or those that went out.

    Args:
        hidden: folder that ``minideepseek exercises hidden`` wrote.
        exercises: numbers or names; all there are if empty.

    Raises:
        UserError: there are none, or not of these exercises.
    """
    if hidden is None:
        found = packs.everything()
    elif not hidden.is_dir():
        raise UserError(f"there is no folder {hidden}; make it with: minideepseek exercises hidden --out {hidden}")
    else:
        found = [load_pack(path) for path in sorted(hidden.glob("*.safetensors"))]
        if not all(pack.secret for pack in found):
            raise UserError(f"{hidden} holds checks that are not hidden ones: their feedback would show the inputs")
    if not found:
        where = hidden or "the exercises' folders; run this in a clone of minideepseek"
        raise UserError(f"no checks in {where}")
    known = {name: pack for pack in found for name in (pack.exercise, pack.exercise[:2])}
    exercises = [name.zfill(2) for name in exercises]
    for name in exercises:
        if name not in known:
            raise UserError(f"no checks for exercise {name!r}; there are: {', '.join(p.exercise for p in found)}")
    return [pack for pack in found if not exercises or {pack.exercise, pack.exercise[:2]} & set(exercises)]


def grade(
    submissions: Sequence[Submission], chosen: Sequence[Pack], *, keep: Path | None = None, workers: int | None = None
) -> list[Marks]:
    """Marks for every submission, in their order, with a progress bar.

    Args:
        submissions: of the students.
        chosen: the packs.
        keep: folder with a file for each submission; what is there already, for the same content and the same
            packs and version, is not graded again.
        workers: sandboxes at a time; the number of cores if None.

    Raises:
        UserError: no sandbox starts, or ``keep`` cannot be written.
    """
    judge_of_today = f"minideepseek {version('minideepseek')}".encode()
    judged_by = hashlib.sha256(b"\0".join([judge_of_today, *(pack.dumps() for pack in chosen)])).hexdigest()
    done: dict[str, Marks] = {}
    waiting: list[tuple[Submission, str]] = []
    for submission in submissions:
        digest = f"{submission.digest()} {judged_by}"
        kept = load(keep / file_name(submission.name, ".json")) if keep else None
        if kept is not None and kept.digest == digest and kept.name == submission.name:
            done[submission.name] = kept
        else:
            waiting.append((submission, digest))
    count = min(workers or os.cpu_count() or 1, len(waiting))
    bar = tqdm(total=len(submissions), initial=len(done), desc="grading", unit="student", disable=None)
    with bar, _sandboxes(count) as free, ThreadPoolExecutor(max(count, 1)) as pool:

        def work(submission: Submission, digest: str) -> Marks:
            sandbox = free.get()
            try:
                marks = _grade(submission, digest, chosen, sandbox)
            except UserError:
                raise
            except Exception as error:  # a fault of the judge's must not cost the others their marks
                note = f"the judge failed here ({type(error).__name__}: {error}): grade by hand, and report it"
                return Marks(name=submission.name, digest="", exercises=(), tasks=(), notes=(printable(note),))
            finally:
                free.put(sandbox)
            if keep:
                save(marks, keep / file_name(submission.name, ".json"))
            return marks

        futures = [pool.submit(work, submission, digest) for submission, digest in waiting]
        try:
            for future in as_completed(futures):
                marks = future.result()
                done[marks.name] = marks
                bar.update()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return [done[submission.name] for submission in submissions]


@contextmanager
def _sandboxes(count: int) -> Iterator[queue.SimpleQueue[Sandbox]]:
    free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
    with ExitStack() as stack:
        for sandbox in [Sandbox() for _ in range(count)]:
            free.put(stack.enter_context(sandbox))
        yield free


def _grade(submission: Submission, digest: str, chosen: Sequence[Pack], sandbox: Sandbox) -> Marks:
    start = time.monotonic()
    answers = read(submission, {task.id: task.names for pack in chosen for task in pack.tasks})
    handed_in = [pack for pack in chosen if any(task.id in answers.cells for task in pack.tasks)]
    protections: set[str] = set()
    tasks = [_task(pack, task, answers, sandbox, protections) for pack in handed_in for task in pack.tasks]
    return Marks(
        name=submission.name,
        digest=digest,
        exercises=tuple(pack.exercise for pack in handed_in),
        tasks=tuple(tasks),
        notes=answers.notes,
        protections=tuple(sorted(protections)),
        seconds=round(time.monotonic() - start, 3),
    )


def _task(pack: Pack, task: Task, answers: Answers, sandbox: Sandbox, protections: set[str]) -> TaskMarks:
    if task.id not in answers.cells:
        return missing(task)
    sources = [("<given>", pack.given)]
    sources += [(f"<answer to {need}>", answers.cells[need]) for need in task.needs if need in answers.cells]
    sources += [("<answer>", answers.cells[task.id]), ("<driver>", pack.driver)]
    outcomes = sandbox.run(sources, [check.steps for check in task.checks], limits=task.limits, forbid=task.forbid)
    for outcome in outcomes:
        protections.update(outcome.protections)
    verdicts = judge(task, outcomes)
    return TaskMarks(task=task.id, found=True, properties=tuple(map(_clean, properties(verdicts))))


def missing(task: Task) -> TaskMarks:
    """The marks for a task without an answer."""
    verdicts = [
        Verdict(name=check.name, layer=check.layer, points=0.0, out_of=check.points, problem=Problem(MISSING))
        for check in task.checks
    ]
    return TaskMarks(task=task.id, found=False, properties=properties(verdicts))


def _clean(one: Property) -> Property:
    return Property(**{**vars(one), "says": printable(one.says), "detail": printable(one.detail)})
