"""How we compare: every contender in a process of its own, asked in turn for one sample a round.

Contenders that take turns (A B C, A B C, ...) meet the same weather on a shared machine, so the ratio within a round
says more than any absolute number. On a CPU the clock is the process's own CPU time: being pre-empted costs nothing.
What is reported is the median of the per-round ratios, with the least and the greatest.

A benchmark is a script with two faces. Started by a person it is the parent: it lists ``Contender``s, calls
``interleave`` and writes what came back. Started with ``--contender NAME`` it is one of them and calls ``serve``::

    def main() -> None:
        args = parser.parse_args()
        if args.contender:
            return measure.serve(contenders[args.contender]())  # builds the model, returns `sample() -> dict`
        samples = measure.interleave(__file__, [measure.Contender("ours"), measure.Contender("transformers")])
        measure.write_result("decode", {"samples": samples, ...}, measure.table(...))
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

#: What one contender measured in one round: quantity -> number, for example {"decode seconds": 0.12}.
Sample = dict[str, float]


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, memory, GPU, versions, date; nothing that names a host."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
    }
    with contextlib.suppress(ValueError, OSError):
        found["memory GiB"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    for package in ("minideepseek", "torch", "triton", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | {"date": datetime.date.today().isoformat()}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@dataclasses.dataclass(frozen=True)
class Contender:
    """One process to be compared.

    Attributes:
        name: given to the script as ``--contender NAME``.
        args: further arguments for the script.
        env: environment variables of its own, an allocator setting for example.
    """

    name: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def interleave(
    script: str | Path, contenders: Sequence[Contender], *, rounds: int = 5, threads: int = 1
) -> dict[str, list[Sample]]:
    """Start every contender, then ask each in turn for a sample, ``rounds`` times after one that is thrown away.

    Returns:
        Contender's name -> its samples, one a round.

    Raises:
        RuntimeError: a contender died; its own message has gone to stderr.
    """
    common = {
        **os.environ,
        **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for contender in contenders:
            running[contender.name] = subprocess.Popen(
                [sys.executable, str(script), "--contender", contender.name, *contender.args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**common, **contender.env},
                text=True,
            )
        samples: dict[str, list[Sample]] = {name: [] for name in running}
        for number in range(rounds + 1):
            for name, process in running.items():
                sample = _ask(name, process)
                if number:  # the first round pays for lazy initialisation
                    samples[name].append(sample)
            print(f"\rround {number}/{rounds}", end="" if number < rounds else "\n", file=sys.stderr, flush=True)
        return samples
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def _ask(name: str, process: subprocess.Popen[str]) -> Sample:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("go\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"contender {name!r} died with status {process.wait()}")
    return json.loads(line)


def serve(sample: Callable[[], Sample]) -> None:
    """A contender's side: answer every line on stdin with one sample, until the parent hangs up."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for _ in sys.stdin:
        answers.write(json.dumps(sample()) + "\n")


def cpu_seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of this process (all its threads) for one call of ``work``, averaged over ``repeats``."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, least and greatest of a few numbers."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        ordered = sorted(numbers)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.least:{spec}}-{self.greatest:{spec}})"


def spread(samples: Mapping[str, list[Sample]], name: str, quantity: str, scale: float = 1.0) -> Spread:
    """What ``name`` measured of ``quantity`` over the rounds, times ``scale``."""
    return Spread.of(scale * sample[quantity] for sample in samples[name])


def ratio(samples: Mapping[str, list[Sample]], name: str, base: str, quantity: str) -> Spread:
    """How many times ``base``'s number ``name``'s number is, round by round (both from the same round)."""
    return Spread.of(a[quantity] / b[quantity] for a, b in zip(samples[name], samples[base], strict=True))


def copy_bandwidth(nbytes: int = 256 * 2**20, repeats: int = 8) -> float:
    """Bytes a second (read plus written) that one large copy reaches on the CPU: the memory's speed limit here."""
    import torch

    source = torch.ones(nbytes // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * nbytes / min(cpu_seconds(lambda: target.copy_(source)) for _ in range(repeats))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = [list(header), ["---", *["---:"] * (len(header) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_result(name: str, result: Mapping[str, Any], text: str) -> None:
    """Write results/NAME.json (everything, with the machine) and results/NAME.md (for people), and print the latter."""
    found = machine()
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": found, "command": " ".join(["python", *map(_relative, sys.argv)]), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
    where = ", ".join(f"{key} {value}" for key, value in found.items())
    (RESULTS / f"{name}.md").write_text(f"{text}\n\nMeasured on: {where}.\n", encoding="utf-8")
    print(text)


def _relative(argument: str) -> str:
    path, root = Path(argument), Path(__file__).resolve().parent.parent
    if not path.exists():
        return argument
    return str(path.resolve().relative_to(root)) if path.resolve().is_relative_to(root) else path.name


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} does not belong in a result")
