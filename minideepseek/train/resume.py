"""Where a run begins: from nothing, from where it was killed, or from the part that it shares with a shorter run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from minideepseek.errors import UserError
from minideepseek.files import user_errors
from minideepseek.parallel.team import Team
from minideepseek.train import state
from minideepseek.train.config import TrainConfig
from minideepseek.train.metrics import Record, read_metrics
from minideepseek.train.precision import choose_dtype
from minideepseek.train.schedule import agree_until
from minideepseek.train.source import TrainingData, digest
from minideepseek.train.threads import choose_threads, usable_cores

METRICS = "metrics.jsonl"

# What a run must keep to be the same run. ``steps`` may grow while the learning rates so far stay the same.
HISTORY = (
    "batch_size", "seq_len", "accumulation", "optimizer", "lr", "warmup", "schedule", "weight_decay", "betas", "clip",
    "seed", "anticipate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Start:
    """The state a run begins in. step: updates already made; checkpoint: of them, or None; facts: its trainer.json;
    earlier: the metrics of those steps."""

    step: int = 0
    checkpoint: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    earlier: list[Record] = field(default_factory=list)


@contextlib.contextmanager
def sole_run(out: Path) -> Iterator[None]:
    """Make the directory and keep other runs out of it; what a killed run left half-written is removed.

    Raises:
        UserError: another process is training there, or the place cannot be written.
    """
    with user_errors("write", out):
        if out.exists() and not out.is_dir():
            raise UserError(f"cannot train into {out}: it is a file; choose a folder")
        if Path.cwd().is_relative_to(out.resolve()):  # the finished model takes the folder's place in one step
            raise UserError(f"cannot train into {out}: the working directory is in it; start from outside")
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)  # the system releases it when the process dies, however it dies
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"another run is training into {out}; wait for it, or choose another folder") from None
    try:
        state.sweep(out)
        yield
    finally:
        lock.release()


def check_free(out: Path) -> None:
    """Raise UserError if the folder holds a run or a model already."""
    if state.checkpoints(out) or (out / "config.json").exists():
        raise UserError(f"{out} already holds a run or a model; go on with it (--resume), or choose another folder")


def find_start(
    out: Path,
    resume: bool | str | Path,
    check: Callable[[Path, dict[str, Any]], None],
    warn: Callable[[str], None],
) -> Start:
    """Decide where the run in ``out`` begins.

    Args:
        out: the run's directory.
        resume: True goes on from the newest whole checkpoint of ``out``; a path from that checkpoint, of another run.
        check: given a checkpoint and its trainer.json, raises UserError unless the run may go on from there.
        warn: told, in one line each, about damaged checkpoints and what was done about them.

    Raises:
        UserError: the folder holds a run that was not to be resumed, no checkpoint is whole, or the settings are not
            those the checkpoint was made with.
    """
    if resume is True:
        path = state.newest(out, warn)
        if path is None:
            warn(f"no checkpoint under {out} yet: starting at the beginning")
            return Start()
    else:
        check_free(out)
        if resume is False:
            return Start()
        path = Path(resume)
        reason = state.damage(path)
        if reason is not None:
            raise UserError(f"cannot resume from {path}: {reason}; give a folder .../checkpoints/step-...")
    facts = state.read_facts(path)
    check(path, facts)
    log = path.parent.parent / METRICS
    records = read_metrics(log) if log.exists() else []
    return Start(
        step=facts["step"],
        checkpoint=path,
        facts=facts,
        earlier=[record for record in records if record["step"] <= facts["step"]],
    )


def check_team(cfg: TrainConfig, team: Team) -> None:
    """Raise UserError unless the processes of a team can share such a run."""
    if cfg.batch_size % (team.size * cfg.accumulation):
        raise UserError(
            f"batch_size={cfg.batch_size} cannot be divided among {team.size} processes with "
            f"accumulation={cfg.accumulation}; give a multiple of {team.size * cfg.accumulation}"
        )
    if team.size > 1 and cfg.anticipate:
        raise UserError(f"anticipate={cfg.anticipate} needs one process: only the first one's choices would be saved")


def check_data(start: Start, data: TrainingData) -> None:
    """Raise UserError unless the checkpoint was trained on these tokens."""
    if start.checkpoint is not None and start.facts["data"]["digest"] != digest(data.train):
        raise UserError(
            f"{start.checkpoint} was trained on other data ({start.facts['data']['corpus']}) than this "
            f"({data.corpus}); give the same corpus, seed and vocabulary"
        )


def settle(cfg: TrainConfig, start: Start, device: torch.device, warn: Callable[[str], None]) -> TrainConfig:
    """Replace what is left to choose (dtype, threads) by a choice: the earlier one, so that a resumed run is exact."""
    settled: dict[str, Any] = start.facts.get("settled", {})
    dtype = settled.get("dtype", cfg.dtype) if cfg.dtype == "auto" else cfg.dtype
    n = settled.get("threads", 0) if cfg.threads == 0 else cfg.threads
    if n > usable_cores() and cfg.threads == 0:
        n = 0
    chosen = replace(cfg, dtype=choose_dtype(dtype, device), threads=choose_threads(n), device=str(device))
    now = settled_facts(chosen)
    changed = [f"{name} {settled[name]} -> {now[name]}" for name in settled if settled[name] != now.get(name)]
    if changed:
        warn(f"resumed with {', '.join(changed)}: the last digits will differ from those of an unbroken run")
    return chosen


def settled_facts(cfg: TrainConfig) -> dict[str, Any]:
    """What decides the last digits of a run."""
    return {
        "dtype": cfg.dtype,
        "threads": cfg.threads,
        "compile": cfg.compile,
        "device": torch.device(cfg.device).type,
        "torch": torch.__version__,
        "processes": Team.current().size,
    }


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError, which names what has changed, unless a checkpoint was made with what is asked for now."""
    changed = [f"{name}={before.get(name)} became {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{path} was made with other settings ({', '.join(changed)}); use the same, or load its model and start a "
            "new run"
        )


def check_settings(path: Path, facts: dict[str, Any], cfg: TrainConfig) -> None:
    """Raise UserError unless a run of ``cfg`` would have made this checkpoint too."""
    if "method" in facts["settings"]:
        raise UserError(f"{path} is of a run of alignment; go on with it there, or choose another folder")
    before: dict[str, Any] = asdict(TrainConfig()) | facts["settings"]  # what an older checkpoint does not name
    now = {name: list(value) if isinstance(value := getattr(cfg, name), tuple) else value for name in HISTORY}
    check_same(path, before, now)
    step, planned = facts["step"], before["steps"]
    if step > cfg.steps:
        raise UserError(f"{path} is already beyond steps={cfg.steps}; ask for more steps")
    common = agree_until(cfg.schedule, steps=planned, other=cfg.steps, warmup=cfg.warmup)
    if step > common:
        usable = [p for p in state.checkpoints(path.parent.parent) if (state.step_of(p) or 0) <= common]
        where = (
            f"extend it from {usable[-1]} into another folder (--extend; in Python resume=PATH)"
            if usable
            else "start a new run"
        )
        raise UserError(
            f"cannot go on to {cfg.steps} steps from {path}: it was to end at {planned}, and after step {common} its "
            f"learning rate is no longer that of a run of {cfg.steps}; {where}"
        )
