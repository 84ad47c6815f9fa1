"""How long it takes to grade a class: `minideepseek grade` on the solved notebooks of many students.

    python benchmarks/judge.py [--students 100] [--exercise 02] [--nbgrader 5]

Every answer is right, so that every check runs to its end, the training of outcome checks included: wrong answers are
quicker. Then the same once more, killed when half of the class is graded, and started again. The clock is given
beside the processor time, for on a busy machine it says little.

Where nbgrader is installed it autogrades a few of the same notebooks, on the same checks (which it runs inside the
student's process).
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import measure

from minideepseek.judge.author import build
from minideepseek.judge.author.source import find, home


def hand_in(folder: Path, number: str, students: int) -> str:
    """Write a solved notebook for each student; the exercise's name."""
    (source,) = find(number)
    (solved,) = build.solutions(folder.parent / "solved", number)
    notebook = json.loads(solved.read_text(encoding="utf-8"))
    for student in range(students):
        notebook["cells"][0]["source"] = [f"# of student {student}"]
        place = folder / f"student{student:03}" / source.name
        place.mkdir(parents=True)
        (place / f"{source.name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return source.name


def timed(command: list[str], **options: object) -> dict[str, float]:
    """Run a command: seconds on the clock, and of the processor in it and in all that it started."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - start, "cpu seconds": used}


def killed_half_way(command: list[str], kept: Path, students: int) -> int:
    """Start grading, and kill it when half is done; how many were."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(kept.glob("*.json"))) < students // 2:
        if process.poll() is not None:
            raise RuntimeError("grading ended before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(kept.glob("*.json")))


def marks(out: Path) -> set[str]:
    """The different totals in a gradebook."""
    with (out / "gradebook.csv").open(encoding="utf-8") as file:
        return {f"{row['points']} of {row['out_of']}" for row in csv.DictReader(file)}


def by_nbgrader(course: Path, submitted: Path, name: str, students: int) -> dict[str, float]:
    """What nbgrader takes to autograde the first few, its own start included."""
    shutil.copytree(home() / name, course / "source" / name)
    shutil.copy(home() / "nbgrader_config.py", course)
    for student in sorted(submitted.iterdir())[:students]:
        shutil.copytree(student, course / "submitted" / student.name)
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    options = {"cwd": course, "env": {**os.environ, "PATH": here}}
    timed([sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create"], **options)
    return timed([sys.executable, "-m", "nbgrader", "autograde", name, "--create"], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--exercise", default="02")
    parser.add_argument("--nbgrader", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, whole, halves = (Path(scratch) / name for name in ("submissions", "whole", "halves"))
        name = hand_in(folder, args.exercise, args.students)
        grade = [sys.executable, "-m", "minideepseek", "grade", str(folder), "--exercise", args.exercise, "--out"]
        result: dict[str, object] = {"exercise": name, "students": args.students}
        result["whole"] = one = timed([*grade, str(whole)])
        result["done when killed"] = done = killed_half_way(
            [*grade, str(halves)], halves / "submissions", args.students
        )
        result["the rest"] = rest = timed([*grade, str(halves)])
        result["nothing new"] = again = timed([*grade, str(halves)])
        if marks(whole) != marks(halves) or len(marks(whole)) != 1:
            raise RuntimeError(f"marks differ: {marks(whole)}, {marks(halves)}")
        rows = [
            (f"{args.students} at once", one, args.students),
            (f"the {args.students - done} that a killed run had left", rest, args.students - done),
            ("again, with nothing new", again, 0),
        ]
        if importlib.util.find_spec("nbgrader") and args.nbgrader:
            result["nbgrader"] = other = by_nbgrader(Path(scratch) / "nbgrader", folder, name, args.nbgrader)
            rows.append((f"nbgrader {version('nbgrader')} autograde, {args.nbgrader}", other, args.nbgrader))
        (total,) = marks(whole)
    header = ("submissions", "seconds", "of the processor", "seconds each", "of the processor each")
    table = measure.table(
        header,
        (
            (what, *(f"{took[key]:.1f}" for key in took), *(f"{took[key] / n:.2f}" if n else "" for key in took))
            for what, took, n in rows
        ),
    )
    text = f"Exercise {name}, all its tasks, solved; everybody got {total} points. Starting has its share in each row."
    measure.write_result(f"judge_{args.exercise}", result, f"{text}\n\n{table}")


if __name__ == "__main__":
    main()
