"""The loop of GRPO: sample groups, judge them, learn from the differences."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minideepseek.align.grpo.advantages import group_advantages, is_flat, judged_steps, process_advantages
from minideepseek.align.grpo.objective import grpo_objective
from minideepseek.align.grpo.settings import GRPOConfig
from minideepseek.align.logprobs import response_logprobs
from minideepseek.align.rewards import Reward, accuracy, kept_format, kept_language
from minideepseek.align.rollout import Rollout, Samples, join, rollout
from minideepseek.align.run import Cycle, Keeping, Moving, OnStep, run
from minideepseek.align.update import Updater
from minideepseek.data.tasks import Problem
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record


class Judged(NamedTuple):
    """Responses to learn from.

    rollout: B rows, in groups.
    rewards: (Q, G) float64.
    flat: how many groups taught nothing, of ``sampled`` groups in all; replaced or not.
    """

    rollout: Rollout
    rewards: Tensor
    flat: int
    sampled: int


class Lesson(NamedTuple):
    """What an update needs to know about responses: advantages and reference's log-probabilities are (B, T - 1)."""

    samples: Samples
    advantages: Tensor
    reference: Tensor | None


def grpo(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    reward: Reward = accuracy,
    cfg: GRPOConfig | None = None,
    *,
    reference: Transformer | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> list[Record]:
    """Let ``model`` practise ``problems`` and learn, in place, from what was rewarded more than its other attempts.

    Args:
        model: of any generation; it must solve some problems sometimes, or there is nothing to prefer.
        tokenizer: the model's.
        problems: gone through in order, again and again.
        reward: of a response's text. With process supervision the task judges its steps; ``reward`` is only reported.
        cfg: the settings.
        reference: to stay near to; None takes the model as it is now. It is left alone.
        out: a folder for checkpoints, metrics.jsonl and, at the end, the model. A run in a folder can be killed, and
            goes on to the same numbers. None keeps no files.
        resume: go on from the newest whole checkpoint under ``out`` (from the beginning, if there is none yet).
        on_step: called after each step with its record.
        progress: show a progress bar.

    Returns:
        A record a step. Of the responses, means: ``reward``, ``accuracy``, ``formatted`` and ``language`` (rewarded or
        not), ``entropy`` (nats a token, when they were drawn), ``ended`` (share), ``length`` and, where
        there were any, ``length_right`` and ``length_wrong`` (tokens); ``flat`` (share of groups whose rewards were all
        equal) and ``sampled`` (responses drawn). Of the updates, means: ``loss``, ``grad_norm``, ``clipped`` and
        ``masked`` (shares of tokens), ``kl`` (nats a token; with a beta); and the last ``lr``. The same seed gives the
        same numbers on the same machine.

    Raises:
        UserError: no problems, or the loss diverged; nothing to resume with these settings, or the disk is full.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or GRPOConfig()
    if not problems:
        raise UserError("there are no problems to practise")
    updater = Updater(model, cfg, updates=cfg.steps * cfg.epochs * cfg.minibatches)
    # A copy: it may catch up with the policy later. Without a divergence to weigh it is not asked.
    given, reference = reference, copy.deepcopy(reference or model).requires_grad_(False).eval() if cfg.beta else None
    generator = torch.Generator(model.embed.weight.device).manual_seed(cfg.seed)
    shuffler = torch.Generator().manual_seed(cfg.seed)
    supply = Cycle(problems)

    def step(i: int) -> Record:
        judged = practise(model, tokenizer, supply, reward, cfg, generator)
        samples = judged.rollout.samples
        beside = None if reference is None else _beside(reference, samples, cfg)
        lesson = Lesson(samples, _advantages(judged, tokenizer, cfg), beside)
        updates = [
            _update(updater, model, lesson, rows, cfg)
            for _ in range(cfg.epochs)
            for rows in _minibatches(cfg, shuffler)
        ]
        if reference is not None and cfg.reference_every and (i + 1) % cfg.reference_every == 0:
            reference.load_state_dict(model.state_dict())
        means = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
        return _report(judged) | means | {"lr": updates[-1]["lr"]}

    moving: dict[str, Moving] = {"generator": generator, "shuffler": shuffler, "supply": supply}
    keeping = Keeping(
        out=out,
        resume=resume,
        model=model,
        tokenizer=tokenizer,
        learns_from={"problems": problems, "reward": reward, "reference": given},
        moving=moving if reference is None else moving | {"reference": reference},
    )
    return run(updater, step, name="practising", on_step=on_step, progress=progress, keeping=keeping)


def practise(
    model: Transformer,
    tokenizer: Tokenizer,
    supply: Iterator[Problem],
    reward: Reward,
    cfg: GRPOConfig,
    generator: torch.Generator | None = None,
) -> Judged:
    """Sample a rollout and judge it; groups that teach nothing are replaced as often as ``cfg.resample`` says.

    The batch is always full: when no further rollout is allowed, groups that teach nothing fill it up.
    """
    kept: list[tuple[Rollout, Tensor]] = []
    missing, flat, sampled = cfg.questions, 0, 0
    for last in (*(False for _ in range(cfg.resample)), True):
        found = rollout(
            model,
            tokenizer,
            [next(supply) for _ in range(missing)],
            group=cfg.group,
            sampling=cfg.sampling,
            max_new_tokens=cfg.max_new_tokens,
            generator=generator,
            keep_routing=cfg.keep_routing,
            keep_mask=cfg.keep_mask and cfg.truncates,
        )
        rewards = _rewards(found, reward)
        dull = is_flat(rewards)
        missing, flat, sampled = int(dull.sum()), flat + int(dull.sum()), sampled + len(dull)
        if last or not missing:
            kept.append((found, rewards))
            break
        useful = (~dull).nonzero()[:, 0]
        kept.append((found.select(useful), rewards[useful]))
    rollouts, judgements = zip(*kept, strict=True)
    return Judged(join(rollouts), torch.cat(judgements), flat, sampled)


def _rewards(found: Rollout, reward: Reward) -> Tensor:
    values = [reward(problem, text) for problem, text in zip(found.problems, found.texts, strict=True)]
    return torch.tensor(values, dtype=torch.float64).view(-1, found.group)


def _advantages(judged: Judged, tokenizer: Tokenizer, cfg: GRPOConfig) -> Tensor:
    """(B, T - 1) of all tokens."""
    found, mask = judged.rollout, judged.rollout.samples.batch.mask
    if cfg.supervision == "outcome":
        rows = group_advantages(judged.rewards, scale=cfg.scale).flatten()
        return rows.to(mask.device)[:, None].expand(mask.shape)
    starts = mask.int().argmax(1).tolist()
    rows_of_steps = [
        judged_steps(tokenizer, problem, text, response, start)
        for problem, text, response, start in zip(
            found.problems, found.texts, found.samples.responses(), starts, strict=True
        )
    ]
    groups = [rows_of_steps[i : i + cfg.group] for i in range(0, len(rows_of_steps), cfg.group)]
    advantages = [process_advantages(group, mask.shape[1], scale=cfg.scale) for group in groups]
    return torch.cat(advantages).to(mask.device)


def _minibatches(cfg: GRPOConfig, generator: torch.Generator) -> list[Tensor]:
    """Rows of each update: whole groups, in random order."""
    order = torch.randperm(cfg.questions, generator=generator)
    rows = order[:, None] * cfg.group + torch.arange(cfg.group)
    return [piece.flatten() for piece in rows.chunk(cfg.minibatches)]


def _update(updater: Updater, model: Transformer, lesson: Lesson, rows: Tensor, cfg: GRPOConfig) -> Record:
    rows = rows.to(lesson.advantages.device)
    samples = lesson.samples.select(rows)
    logp = response_logprobs(
        model, samples.batch, temperature=cfg.temperature, allowed=samples.allowed, routes=samples.routes
    )
    loss, metrics = grpo_objective(
        logp,
        samples.logp,
        lesson.advantages[rows],
        samples.batch.mask,
        cfg,
        reference=None if lesson.reference is None else lesson.reference[rows],
    )
    return updater.update([loss]) | {name: value.item() for name, value in metrics.items()}


@torch.no_grad()
def _beside(reference: Transformer, samples: Samples, cfg: GRPOConfig) -> Tensor:
    """(B, T - 1) log-probabilities under the reference, which goes its own ways through its experts."""
    return response_logprobs(reference, samples.batch, temperature=cfg.temperature, allowed=samples.allowed)


def _report(judged: Judged) -> Record:
    found, samples = judged.rollout, judged.rollout.samples
    lengths = samples.lengths.cpu().double()

    def mean(reward: Reward) -> float:
        return _rewards(found, reward).mean().item()

    record = {
        "reward": judged.rewards.mean().item(),
        "accuracy": mean(accuracy),
        "formatted": mean(kept_format),
        "language": mean(kept_language),
        "flat": judged.flat / judged.sampled,
        "sampled": judged.sampled * found.group,
        "entropy": (samples.entropy.sum() / samples.batch.mask.sum()).item(),
        "ended": samples.ended.double().mean().item(),
        "length": lengths.mean().item(),
    }
    right = _rewards(found, accuracy).flatten() > 0
    for name, rows in (("length_right", right), ("length_wrong", ~right)):
        if rows.any():
            record[name] = lengths[rows].mean().item()
    return record
