"""The loop that every method runs in; with a folder it can be killed at any moment, and goes on to the same numbers.

Its checkpoints are those of pre-training (``train.state``): a complete model each, with what the optimiser remembers,
and beside them whatever else changes from step to step: generators, orders, references.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minideepseek import checkpoint
from minideepseek.align.run.facts import described, fingerprint
from minideepseek.align.update import Updater
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train import resume as beginning
from minideepseek.train import state
from minideepseek.train.config import TrainConfig
from minideepseek.train.interrupt import Interrupted, stop_requests
from minideepseek.train.metrics import MetricsLog, Record
from minideepseek.train.source import Tokenizing
from minideepseek.train.threads import threads

OnStep = Callable[[Record], None]

FREE = ("checkpoint_every", "keep")  # settings that decide no number, so that a resumed run may have others


class Stateful(Protocol):
    """What can say where it is, in tensors, and go on from there."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


Moving = Stateful | torch.Generator | Tensor


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Where a run is kept, and what of it.

    Attributes:
        out: the run's folder; None keeps nothing.
        resume: go on from the newest whole checkpoint there.
        model: what is trained.
        tokenizer: saved beside it, if there is one.
        learns_from: by name, what a resumed run must be given again.
        moving: by name, what else is another after a step than before, or cannot be had again in the middle of a run.
    """

    out: str | Path | None
    resume: bool
    model: Transformer
    tokenizer: Tokenizing | None
    learns_from: Mapping[str, object]
    moving: Mapping[str, Moving] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.resume and self.out is None:
            raise UserError("resuming needs a folder; give out=DIR")


def run(
    updater: Updater,
    step: Callable[[int], dict[str, Any]],
    *,
    name: str,
    on_step: OnStep | None,
    progress: bool,
    keeping: Keeping | None = None,
) -> list[Record]:
    """Call ``step`` with 0, 1, ... and collect what it reports.

    Args:
        updater: of the weights; its settings say how many steps there are.
        step: returns the record of one step.
        name: of what is done, shown beside the progress bar.
        on_step: called with each record, for curves that grow while one watches.
        progress: show the bar.
        keeping: where the run is kept. Steps that were made before it was killed are not made again.

    Returns:
        The records, each with its number as ``step``, counted from 1.

    Raises:
        UserError: the folder holds a run that was not to be resumed, or not with these settings; the disk is full.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    steps = updater.cfg.steps
    with ExitStack() as stack:
        kept = None if keeping is None or keeping.out is None else _Kept(Path(keeping.out), keeping, updater, name)
        start = beginning.Start() if kept is None else stack.enter_context(kept.opened())
        log = stack.enter_context(MetricsLog(None if kept is None else kept.out / beginning.METRICS, start.earlier))
        bar = stack.enter_context(tqdm(total=steps, initial=start.step, desc=name, unit="step", disable=not progress))
        # Without a folder there is nothing to save, so Ctrl-C may do what it always does.
        request = None if kept is None else stack.enter_context(stop_requests())
        for i in range(start.step, steps):
            record = {"step": i + 1, **step(i)}
            log.write(record)
            if on_step is not None:
                on_step(record)
            shown = "reward" if "reward" in record else "loss"
            bar.set_postfix({shown: f"{record[shown]:.3f}"}, refresh=False)
            bar.update()
            if kept is None or request is None:
                continue
            if request.signum or kept.is_due(i + 1):
                log.flush()
                kept.save(i + 1)
            if request.signum and i + 1 < steps:
                raise Interrupted.after(i + 1, steps, kept.saved, request.signum)
        if kept is not None:
            checkpoint.save(kept.model, kept.out, tokenizer=kept.keeping.tokenizer)
        return log.records


class _Kept:
    """A run in its folder."""

    def __init__(self, out: Path, keeping: Keeping, updater: Updater, name: str) -> None:
        self.out, self.keeping, self.model, self.updater, self.cfg = out, keeping, keeping.model, updater, updater.cfg
        checkpoint.write_config(self.model.cfg)  # refuse at once what could not be saved
        settings = {name: value for name, value in asdict(self.cfg).items() if name not in FREE}
        learns_from = {name: described(thing) for name, thing in keeping.learns_from.items()}
        self.identity = {"method": name, **settings, **learns_from}
        self.began = fingerprint(self.model)
        self.settled: dict[str, Any] = {}
        self.saved: Path | None = None

    @contextmanager
    def opened(self) -> Iterator[beginning.Start]:
        """Keep others out, and put everything where it was when the run was killed."""
        device = self.model.embed.weight.device
        with ExitStack() as stack:
            stack.enter_context(beginning.sole_run(self.out))
            start = beginning.find_start(self.out, self.keeping.resume, self._check, _warn)
            # The threads of this process, or those that the run began with: sums of more threads are other sums.
            wish = 0 if start.checkpoint else torch.get_num_threads()
            settled = beginning.settle(TrainConfig(dtype="fp32", threads=wish), start, device, _warn)
            self.settled = beginning.settled_facts(settled)
            del self.settled["dtype"]  # here it is the model's own
            stack.enter_context(threads(settled.threads))
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            if start.checkpoint is not None:
                self._load(start.checkpoint, start.facts)
            yield start

    def is_due(self, step: int) -> bool:
        """At regular steps, and at the end."""
        every = self.cfg.checkpoint_every
        return (every > 0 and step % every == 0) or step == self.cfg.steps

    def save(self, step: int) -> None:
        """Write a checkpoint of this moment and remove what is older than necessary."""
        path = state.path_of(self.out, step)
        facts = {
            "format": 1,
            "step": step,
            "updates": self.updater.done,
            "began": self.began,
            "settings": self.identity,
            "settled": self.settled,
        }
        moving = {
            f"{name}/{key}": tensor.detach().clone()
            for name, thing in self.keeping.moving.items()
            for key, tensor in _state(thing).items()
        }
        try:
            state.save_state(path, self.model, self.keeping.tokenizer, self.updater.optimizer, facts, moving)
        except UserError as error:
            last = f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint had been saved"
            raise UserError(f"training stopped at step {step}: {error}; {last}") from error
        self.saved = path
        state.prune(self.out, keep=self.cfg.keep, always=self.cfg.steps)

    def _load(self, path: Path, facts: dict[str, Any]) -> None:
        kept = state.load_state(path, self.model, self.updater.optimizer)
        for name, thing in self.keeping.moving.items():
            start = f"{name}/"
            own = {key.removeprefix(start): tensor.clone() for key, tensor in kept.items() if key.startswith(start)}
            _restore(thing, own)
        self.updater.done, self.began, self.saved = facts["updates"], facts["began"], path

    def _check(self, path: Path, facts: dict[str, Any]) -> None:
        if "method" not in facts["settings"]:
            raise UserError(f"{path} is of a run of pre-training; go on with it there, or choose another folder")
        beginning.check_same(path, facts["settings"], self.identity)
        # In a notebook the model that was interrupted is still there: it is as far as its checkpoint.
        if self.began != facts["began"] and self.began != fingerprint(checkpoint.load(path)):
            raise UserError(
                f"{path} is of a run that began with another model than the one given; give the same, or choose "
                "another folder"
            )


def _state(thing: Moving) -> dict[str, Tensor]:
    if isinstance(thing, Tensor):
        return {"value": thing}
    return {"state": thing.get_state()} if isinstance(thing, torch.Generator) else thing.state_dict()


def _restore(thing: Moving, own: dict[str, Tensor]) -> None:
    if isinstance(thing, Tensor):
        thing.copy_(own["value"])
    elif isinstance(thing, torch.Generator):
        thing.set_state(own["state"])
    else:
        thing.load_state_dict(own)


def _warn(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
