"""The training loop, one for all generations: it knows ``model.loss(ids)`` and nothing of what is inside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from minideepseek import checkpoint
from minideepseek.data.loader import Loader
from minideepseek.errors import UserError
from minideepseek.model import ModelConfig, Transformer
from minideepseek.parallel.team import Team
from minideepseek.train import resume as beginning
from minideepseek.train import state
from minideepseek.train.anticipate import Foresight
from minideepseek.train.board import Board
from minideepseek.train.compiling import Passes, passes
from minideepseek.train.config import TrainConfig
from minideepseek.train.divergence import Watch
from minideepseek.train.evaluate import evaluate
from minideepseek.train.interrupt import Interrupted, stop_requests
from minideepseek.train.metrics import MetricsLog, Record
from minideepseek.train.optimizer import new_optimizer, set_lr
from minideepseek.train.precision import Replica, choose_device
from minideepseek.train.schedule import factor, shared_steps
from minideepseek.train.source import TrainingData, deal_experts, digest
from minideepseek.train.stages import freeze
from minideepseek.train.threads import keep_memory, threads


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run leaves behind.

    model: the trained weights, fp32, in eval mode.
    metrics: one record a step, as in metrics.jsonl.
    out: the directory, a complete model for ``minideepseek.load``; None if the run kept no files.
    """

    model: Transformer
    metrics: list[Record]
    out: Path | None

    def curve(self, name: str = "loss") -> tuple[list[int], list[float]]:
        """Steps and values of one quantity where it was recorded: ``loss``, ``lr``, ``valid_loss``, ..."""
        found = [(record["step"], record[name]) for record in self.metrics if name in record]
        return [step for step, _ in found], [value for _, value in found]


def train(
    model: Transformer | ModelConfig,
    data: TrainingData,
    cfg: TrainConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool | str | Path = False,
    on_step: Callable[[Record], None] | None = None,
    progress: bool = True,
) -> Result:
    """Train a model on a prepared corpus.

    Processes of a team (``torchrun``, ``parallel.team``) that all call this share every batch, and process 0 writes the
    files. The result is that of one process which cuts the batch into as many pieces as they (``cfg.accumulation``).

    Args:
        model: a config, whose weights are drawn from ``cfg.seed``; or a model, which is trained in place, in fp32.
        data: what ``minideepseek.data.prepare`` returns.
        cfg: the settings; ``TrainConfig()`` suits v1-mini.
        out: a folder for metrics.jsonl, checkpoints and, at the end, the model itself. None keeps no files.
        resume: True goes on from the newest whole checkpoint under ``out`` (from the beginning, if there is none yet).
            A path goes on from that checkpoint of a shorter run, in a new ``out``: how a run is extended.
        on_step: called after each step with its record, for curves that grow while one watches.
        progress: show a progress bar.

    Returns:
        The trained model and the metrics: ``step``, ``loss`` and its parts in nats per token, what layers
        report (``losses.metrics``; from ``after_step``, the mean over layers), ``lr``, ``grad_norm``
        (before clipping), ``tokens`` and ``seconds`` since the start; at looks at held-out text ``valid_loss`` and
        ``valid_bits_per_byte``. Same seed, same machine, same threads: the same numbers, bit for bit, also across
        kills and resumes (``seconds`` excepted).

    Raises:
        UserError: settings, data and model do not fit together; nothing to resume, or not with these settings; the
            disk is full; the loss diverged. The message names the last good checkpoint.
        Interrupted: (a KeyboardInterrupt) after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or TrainConfig()
    folder = None if out is None else Path(out)
    model_cfg = model if isinstance(model, ModelConfig) else model.cfg
    team = Team.current()
    leads = team.rank == 0
    _check(model_cfg, data, cfg, folder, resume)
    beginning.check_team(cfg, team)

    def warn(line: str) -> None:
        if leads:
            tqdm.write(line, file=sys.stderr)

    with ExitStack() as stack:
        start = beginning.Start()
        if folder is not None:
            if leads:
                stack.enter_context(beginning.sole_run(folder))
            team.wait()
            start = beginning.find_start(folder, resume, partial(beginning.check_settings, cfg=cfg), warn)
            beginning.check_data(start, data)
        device = choose_device(cfg.device, model)
        cfg = beginning.settle(cfg, start, device, warn)
        keep_memory()
        stack.enter_context(threads(cfg.threads))
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        torch.manual_seed(cfg.seed)
        if isinstance(model, ModelConfig):
            model = Transformer(model, seed=cfg.seed)
            deal_experts(model, data.train)
        model.to(device).float().train()
        team.share([*(p.data for p in model.parameters()), *model.buffers()])
        freeze(model)
        run = _Run(model, data, cfg, folder, start)
        written = folder if leads else None
        log = stack.enter_context(MetricsLog(None if written is None else written / beginning.METRICS, start.earlier))
        board = Board(written / "tensorboard", start.step) if written is not None and cfg.tensorboard else None
        bar = stack.enter_context(
            tqdm(total=cfg.steps, initial=start.step, desc="training", unit="step", disable=not (progress and leads))
        )
        step = passes(run.replica.module, compile=cfg.compile, warn=warn)
        # Without a folder there is nothing to save, so Ctrl-C may do what it always does.
        request = stack.enter_context(stop_requests()) if folder is not None else None
        while run.done < cfg.steps:
            with run.replica.arithmetic():
                record = run.step(step)
            log.write(record)
            if board is not None:
                board.write(record)
            if on_step is not None:
                on_step(record)
            speed = cfg.tokens_per_step / run.last_seconds
            bar.set_postfix(loss=f"{record['loss']:.3f}", **{"tok/s": f"{speed:,.0f}"}, refresh=False)
            bar.update()
            stopped = team.largest(request.signum) if request is not None else 0
            if written is not None and (stopped or run.checkpoint_is_due()):
                log.flush()
                run.save()
            if stopped and run.done < cfg.steps:
                raise Interrupted.after(run.done, cfg.steps, run.saved, stopped)
        model.eval()
        if written is not None:
            checkpoint.save(model, written, tokenizer=data.tokenizer)
        team.wait()
        return Result(model=model, metrics=log.records, out=folder)


class _Run:
    """What changes from step to step, and what a checkpoint therefore holds."""

    def __init__(
        self, model: Transformer, data: TrainingData, cfg: TrainConfig, out: Path | None, start: beginning.Start
    ) -> None:
        self.model, self.data, self.cfg, self.out = model, data, cfg, out
        self.team = team = Team.current()
        own = {"batch_size": cfg.batch_size // team.size, "rank": team.rank, "world_size": team.size}
        self.loader = Loader(data.train, seq_len=cfg.seq_len, seed=cfg.seed, **own)
        self.optimizer = new_optimizer(model, cfg)
        self.watch = Watch()
        self.done = start.step
        self.seconds = self.last_seconds = 0.0
        self.saved = start.checkpoint
        self.device = model.embed.weight.device
        kept: dict[str, torch.Tensor] = {}
        if start.checkpoint is not None:
            kept = state.load_state(start.checkpoint, model, self.optimizer)
            self.loader.load_state_dict(start.facts["loader"])
            self.watch.load_state_dict(start.facts["watch"])
            self.seconds = start.facts["seconds"]
        self.replica = Replica(model, cfg.dtype)  # after the weights are in place: it copies them
        self.foresight = None
        if cfg.anticipate:
            module, pieces = self.replica.module, cfg.accumulation
            self.foresight = Foresight(module, self.loader, ahead=cfg.anticipate, pieces=pieces)
            self.foresight.load_state_dict(kept)
        # Some layers change between steps by a rule of their own: a router's bias follows its experts' loads.
        layers: list[Any] = [layer for layer in self.replica.module.modules() if hasattr(layer, "after_step")]
        self.corrected = [layer for layer in layers if any(p.requires_grad for p in layer.parameters())]
        # They follow the whole batch, so that what they count is added up over the team.
        buffers = [buffer for layer in self.corrected for buffer in layer.buffers(recurse=False)]
        self.counts = [buffer for buffer in buffers if not buffer.is_floating_point()]

    def step(self, passes: Passes) -> Record:
        """One update of the weights, and the record of it."""
        began = time.perf_counter()
        cfg, replica = self.cfg, self.replica
        lr = cfg.lr * factor(cfg.schedule, self.done, steps=cfg.steps, warmup=cfg.warmup)
        set_lr(self.optimizer, lr)
        replica.module.before_step(self.done / cfg.steps)
        sums: dict[str, torch.Tensor] = {}
        pieces = next(self.loader).to(self.device).chunk(cfg.accumulation)
        routes = [None] * len(pieces) if self.foresight is None else self.foresight.next()
        for ids, chosen in zip(pieces, routes, strict=True):
            parts = passes(ids, 1 / cfg.accumulation, chosen)
            replica.gather(first=not sums)
            sums = {name: sums[name] + value if sums else value for name, value in parts.items()}
        self.team.average([p.grad for p in replica.masters if p.grad is not None])
        self.team.total(self.counts)
        grad_norm = torch.nn.utils.clip_grad_norm_(replica.masters, cfg.clip or float("inf"))
        self.optimizer.step()
        replica.update()
        reports = [layer.after_step(self.done / cfg.steps) for layer in self.corrected]
        means = {name: value / cfg.accumulation for name, value in sums.items()}
        for name in {name: None for report in reports for name in report}:
            means[name] = torch.stack([report[name] for report in reports if name in report]).mean()
        # The one place where a GPU is waited for.
        seen = torch.stack([*(value.float() for value in means.values()), grad_norm])
        self.team.average([seen])
        *values, norm = seen.tolist()
        losses = dict(zip(means, values, strict=True))
        reason = self.watch.verdict(losses["total"], norm)
        if reason is not None:
            raise UserError(
                f"training stopped at step {self.done + 1}: {reason}; {self._last_good()}; "
                f"a smaller lr than {cfg.lr:g} or a longer warmup than {cfg.warmup} usually helps"
            )
        self.done += 1
        record = {
            "step": self.done,
            "loss": losses.pop("total"),
            **losses,
            "lr": lr,
            "grad_norm": norm,
            "tokens": self.done * cfg.tokens_per_step,
        }
        self.last_seconds = time.perf_counter() - began
        if cfg.eval_every and (self.done % cfg.eval_every == 0 or self.done == cfg.steps):
            found = evaluate(
                replica.module, self.data, seq_len=cfg.seq_len, batch_size=cfg.batch_size, batches=cfg.eval_batches
            )
            record |= {"valid_loss": found.loss, "valid_bits_per_byte": found.bits_per_byte}
        self.seconds += time.perf_counter() - began
        return record | {"seconds": self.seconds}

    def checkpoint_is_due(self) -> bool:
        """At regular steps, where the run can be extended from, and at the end."""
        every = self.cfg.checkpoint_every
        return (every > 0 and self.done % every == 0) or self.done in (self._shared(), self.cfg.steps)

    def save(self) -> None:
        """Write a checkpoint of this moment and remove what is older than necessary."""
        assert self.out is not None
        path = state.path_of(self.out, self.done)
        try:
            kept = {} if self.foresight is None else self.foresight.state_dict()
            state.save_state(path, self.model, self.data.tokenizer, self.optimizer, self._facts(), kept)
        except UserError as error:
            raise UserError(f"training stopped at step {self.done}: {error}; {self._last_good()}") from error
        self.saved = path
        state.prune(self.out, keep=self.cfg.keep, always=self._shared())

    def _shared(self) -> int:
        return shared_steps(self.cfg.schedule, steps=self.cfg.steps)

    def _last_good(self) -> str:
        return f"the last good checkpoint is {self.saved}" if self.saved else "no checkpoint had been saved"

    def _facts(self) -> dict[str, Any]:
        return {
            "format": 1,
            "step": self.done,
            "settings": asdict(self.cfg),
            "settled": beginning.settled_facts(self.cfg),
            "data": {"corpus": self.data.corpus, "digest": digest(self.data.train)},
            "loader": self.loader.state_dict(),
            "watch": self.watch.state_dict(),
            "seconds": self.seconds,
        }


def _check(
    model: ModelConfig, data: TrainingData, cfg: TrainConfig, out: Path | None, resume: bool | str | Path
) -> None:
    """Refuse at once what would fail after an hour."""
    if out is None and (resume is not False or cfg.tensorboard):
        raise UserError("resuming and TensorBoard need a folder; give out=DIR")
    if data.tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"the tokenizer has {data.tokenizer.vocab_size} tokens, the model only {model.vocab_size}; "
            "prepare the data with a smaller vocabulary, or give the model a larger one"
        )
    if out is not None:
        checkpoint.write_config(model)
