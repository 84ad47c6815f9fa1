"""Preferences: make what was preferred likelier than what was not, without a reward model (DPO, arXiv 2305.18290).

V1 tunes its chat models this way on answers of their own (report, section 4): one epoch, 5e-6, batches of 512. Its
benchmarks hardly move, its conversations get better.

What the loss sees is a difference, and it can grow while both likelihoods fall: where chosen and rejected answers share
most of their tokens, as right and wrong sums do, the right one is unlearnt too ("likelihood displacement", Razin et
al., arXiv 2410.08847). A share of the plain loss of fine-tuning on the chosen answer holds it up (Pang et al., arXiv
2404.19733). ``DPOConfig.nll`` is that share, and the metrics tell the two likelihoods apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.align.batch import Example, pad
from minideepseek.align.logprobs import response_logprobs
from minideepseek.align.rewards import Reward
from minideepseek.align.rollout import Rollout
from minideepseek.align.run import Keeping, OnStep, Shuffled, run
from minideepseek.align.update import Schedule, UpdateConfig, Updater
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record


class Pair(NamedTuple):
    """Token ids of a prompt and of two responses to it, of which the first is preferred."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True, kw_only=True)
class DPOConfig(UpdateConfig):
    """Settings of direct preference optimisation."""

    steps: int = 50
    """Updates."""
    batch_size: int = 16
    """Pairs in an update."""
    beta: float = 0.1
    """How dear it is to leave the reference; V1 does not say its own."""
    nll: float = 0.0
    """Weight of the chosen response's own loss, in nats a token."""
    lr: float = 1e-4
    """Peak learning rate."""
    warmup: int = 5
    """Updates in which the learning rate climbs to its peak."""
    schedule: Schedule = "cosine"
    """What the learning rate does after the climb; V1's too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "batch_size")
        self.require(0, "nll")
        if not 0 < self.beta < float("inf"):
            raise UserError(f"beta={self.beta} must be positive; 0 would not know the reference")


def dpo_loss(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(beta·((chosen - ref_chosen) - (rejected - ref_rejected))), of each pair.

    All are (B,) log-probabilities of whole responses: sums over their tokens, not means.
    """
    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


def preference_pairs(found: Rollout, reward: Reward, *, most: int = 1) -> list[Pair]:
    """Pairs of responses to one problem, the first rewarded more: best with worst, next best with next worst, ...

    Args:
        found: several responses to each problem.
        reward: of a response's text.
        most: pairs of a problem.
    """
    pairs = []
    examples = found.examples()
    rewards = [reward(problem, text) for problem, text in zip(found.problems, found.texts, strict=True)]
    for start in range(0, len(examples), found.group):
        order = sorted(range(start, start + found.group), key=lambda row: -rewards[row])
        for good, bad in list(zip(order, reversed(order), strict=True))[:most]:
            if rewards[good] > rewards[bad]:
                pairs.append(Pair(examples[good].prompt, examples[good].response, examples[bad].response))
    return pairs


def pair_logprobs(model: Transformer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B,) of the chosen and of the rejected responses, summed over their tokens."""
    rows = [Example(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    sums = response_logprobs(model, pad(rows).to(model.embed.weight.device)).sum(1)
    return sums[::2], sums[1::2]


def dpo(
    model: Transformer,
    pairs: Sequence[Pair],
    cfg: DPOConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    tokenizer: Tokenizer | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> list[Record]:
    """Tune ``model`` in place on preferences; the reference is the model as it is now.

    Args:
        model: of any generation.
        pairs: each comes once before any comes again. What the reference thinks of them is computed once, beforehand.
        cfg: the settings.
        out: a folder for checkpoints, metrics.jsonl and, at the end, the model. A run in a folder can be killed, and
            goes on to the same numbers. None keeps no files.
        resume: go on from the newest whole checkpoint under ``out`` (from the beginning, if there is none yet).
        tokenizer: saved beside the model in ``out``.
        on_step: called after each step with its record.
        progress: show a progress bar.

    Returns:
        A record a step: ``loss``, ``lr``, ``grad_norm``; ``margin``, the mean of beta times the difference that the
        loss sees; ``accuracy``, the share of pairs where it is positive; ``chosen`` and ``rejected``, the mean change
        of their log-probabilities since the beginning, in nats a response.

    Raises:
        UserError: no pairs, or the loss diverged; nothing to resume with these settings, or the disk is full.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or DPOConfig()
    if not pairs:
        raise UserError("there are no pairs to learn from; did every response earn the same?")
    updater = Updater(model, cfg)
    with torch.no_grad():
        pieces = [pair_logprobs(model, pairs[i : i + cfg.batch_size]) for i in range(0, len(pairs), cfg.batch_size)]
    reference = torch.stack([torch.cat(column) for column in zip(*pieces, strict=True)])
    order = Shuffled(len(pairs), cfg.batch_size, cfg.seed)

    def step(i: int) -> Record:
        rows = next(order)
        own = [pairs[row] for row in rows]
        chosen, rejected = pair_logprobs(model, own)
        ref_chosen, ref_rejected = reference[:, rows]
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=cfg.beta).mean()
        if cfg.nll:
            lengths = chosen.new_tensor([len(pair.chosen) for pair in own])
            loss = loss - cfg.nll * (chosen / lengths).mean()
        risen, sunk = (chosen - ref_chosen).detach(), (rejected - ref_rejected).detach()
        return updater.update([loss]) | {
            "margin": cfg.beta * (risen - sunk).mean().item(),
            "accuracy": (risen > sunk).double().mean().item(),
            "chosen": risen.mean().item(),
            "rejected": sunk.mean().item(),
        }

    keeping = Keeping(
        out=out,
        resume=resume,
        model=model,
        tokenizer=tokenizer,
        learns_from={"pairs": pairs},
        moving={"order": order, "reference": reference},
    )
    return run(updater, step, name="preferring", on_step=on_step, progress=progress, keeping=keeping)
