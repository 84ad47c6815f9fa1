"""Learning from a teacher: its right answers, or its opinion of one's own.

*Rejection sampling* keeps the responses of a teacher that a rule finds right, and fine-tunes on them. This is stage
three of R1, and all there is to R1's distilled models: no reinforcement follows (DeepSeek-R1, section 2.4), and they
beat models of their size that were trained by reinforcement alone (section 4.1).

*On-policy distillation* lets the student write, and the teacher say at every token what it would have thought of each
word of the vocabulary: the student minimises KL(student || teacher), whose whole sum over the vocabulary V4 computes
(report, section 5) where a single sampled token would only estimate it, with a variance that V4 rejects. One student
can so unite several teachers, each an expert for some problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minideepseek.align.batch import Batch, Example
from minideepseek.align.logprobs import by_rows, response_hidden, scaled_logits
from minideepseek.align.rewards import Reward, accuracy
from minideepseek.align.rollout import rollout
from minideepseek.align.run import Keeping, OnStep, run
from minideepseek.align.update import UpdateConfig, Updater
from minideepseek.data.tasks import Problem
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.generate import Sampling
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record

Teacher = Callable[[Problem], Transformer]


def rejection_sample(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    reward: Reward = accuracy,
    least: float = 1.0,
    attempts: int = 4,
    most: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    at_once: int = 256,
    seed: int = 0,
) -> list[Example]:
    """What a teacher wrote and was rewarded for, ready to fine-tune on.

    Args:
        model: the teacher.
        tokenizer: teacher's and student's.
        problems: asked.
        reward: of a response's text.
        least: rewards below this are rejected, and so are responses that did not end.
        attempts: responses to each problem.
        most: kept of each problem, the best first; equal texts count once.
        temperature: of the sampling.
        max_new_tokens: of a response at most.
        at_once: responses sampled together.
        seed: the same seed gives the same responses.

    Raises:
        UserError: nothing to do.
    """
    if not problems or min(attempts, most, at_once) < 1:
        raise UserError(
            f"{len(problems)} problems with attempts={attempts}, most={most}, at_once={at_once} yield no examples"
        )
    generator = torch.Generator(model.embed.weight.device).manual_seed(seed)
    model.eval()
    kept: list[Example] = []
    size = max(1, at_once // attempts)
    for start in range(0, len(problems), size):
        found = rollout(
            model,
            tokenizer,
            problems[start : start + size],
            group=attempts,
            sampling=Sampling(temperature=temperature),
            max_new_tokens=max_new_tokens,
            generator=generator,
        )
        examples, ended = found.examples(), found.samples.ended.tolist()
        rewards = [reward(problem, text) for problem, text in zip(found.problems, found.texts, strict=True)]
        for first in range(0, len(examples), attempts):
            own = sorted(range(first, first + attempts), key=lambda row: -rewards[row])
            good = {found.texts[row]: examples[row] for row in own if rewards[row] >= least and ended[row]}
            kept += list(good.values())[:most]
    return kept


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(UpdateConfig):
    """Settings of on-policy distillation."""

    steps: int = 60
    """Updates."""
    batch_size: int = 64
    """Responses in an update, each to another problem."""
    max_new_tokens: int = 32
    """Of a response at most."""
    temperature: float = 1.0
    """At which the student writes; both are compared without it."""
    lr: float = 3e-4
    """Peak learning rate."""
    checkpoint_every: int = 10
    """Steps between checkpoints, in a folder; 0 saves only when interrupted and at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "batch_size", "max_new_tokens")
        Sampling(temperature=self.temperature)


def reverse_kl(
    hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """KL(student || teacher) over the whole vocabulary, (N,) in nats: sum over v of p(v)·(log p(v) - log q(v)).

    Args:
        hidden: (N, D) what the student's head reads; gradients flow here and into ``weight`` alone.
        weight: (V, D) of the student's head.
        teacher_hidden: (N, D') what the teacher's head reads. This is all that has to be kept of a large teacher: its
            logits are made from it a few rows at a time (V4 report, section 5).
        teacher_weight: (V, D').
        temperature: divides the logits of both.
    """

    def divergence(hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
        own = scaled_logits(hidden, weight, temperature).log_softmax(-1)
        other = scaled_logits(teacher_hidden, teacher_weight.detach(), temperature).log_softmax(-1)
        return (own.exp() * (own - other)).sum(-1)

    return by_rows(divergence, hidden, teacher_hidden.detach(), vocab_size=len(weight))


def distil_loss(student: Transformer, teacher: Transformer, batch: Batch) -> Tensor:
    """The sum of ``reverse_kl`` over the response tokens of a batch, in nats."""
    with torch.no_grad():
        beside = response_hidden(teacher, batch)
    own = response_hidden(student, batch)
    return reverse_kl(own, student.head.weight, beside, teacher.head.weight).sum()


def on_policy_distill(
    student: Transformer,
    teacher: Transformer | Teacher,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    cfg: OnPolicyConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> list[Record]:
    """Let ``student`` write, and learn in place what a teacher would have thought of every token.

    Args:
        student: of any generation.
        teacher: of any other, with the same tokenizer; or a function that names the expert for a problem.
        tokenizer: of all.
        problems: gone through in order, again and again. No answer is judged: the teacher's opinion is all.
        cfg: the settings.
        out: a folder for checkpoints, metrics.jsonl and, at the end, the model. A run in a folder can be killed, and
            goes on to the same numbers. None keeps no files.
        resume: go on from the newest whole checkpoint under ``out`` (from the beginning, if there is none yet).
        on_step: called after each step with its record.
        progress: show a progress bar.

    Returns:
        A record a step: ``loss``, the divergence in nats a token; ``accuracy`` of the student's responses; ``length``,
        ``entropy``, ``lr``, ``grad_norm``.

    Raises:
        UserError: no problems, a teacher with another vocabulary, or the loss diverged; nothing to resume with these
            settings, or the disk is full.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or OnPolicyConfig()
    if not problems:
        raise UserError("there are no problems to write about")
    expert: Teacher = (lambda problem: teacher) if isinstance(teacher, Transformer) else teacher
    updater = Updater(student, cfg)
    generator = torch.Generator(student.embed.weight.device).manual_seed(cfg.seed)

    def step(i: int) -> Record:
        chosen = [problems[(i * cfg.batch_size + k) % len(problems)] for k in range(cfg.batch_size)]
        found = rollout(
            student,
            tokenizer,
            chosen,
            group=1,
            sampling=Sampling(temperature=cfg.temperature),
            max_new_tokens=cfg.max_new_tokens,
            generator=generator,
        )
        batch, tokens = found.samples.batch, found.samples.batch.mask.sum()
        # Rows of one teacher together: each is asked once a step (V4 orders its samples by teacher for that).
        rows: dict[int, list[int]] = {}
        teachers: dict[int, Transformer] = {}
        for row, problem in enumerate(chosen):
            one = _checked(expert(problem), student)
            teachers[id(one)] = one
            rows.setdefault(id(one), []).append(row)
        losses = (
            distil_loss(student, teachers[key], batch.select(torch.tensor(own, device=batch.ids.device))) / tokens
            for key, own in rows.items()
        )
        right = [accuracy(problem, text) for problem, text in zip(chosen, found.texts, strict=True)]
        return updater.update(losses) | {
            "accuracy": sum(right) / len(right),
            "length": found.samples.lengths.double().mean().item(),
            "entropy": (found.samples.entropy.sum() / tokens).item(),
        }

    keeping = Keeping(
        out=out,
        resume=resume,
        model=student,
        tokenizer=tokenizer,
        learns_from={"problems": problems, "teacher": teacher},
        moving={"generator": generator},
    )
    return run(updater, step, name="distilling", on_step=on_step, progress=progress, keeping=keeping)


def _checked(teacher: Transformer, student: Transformer) -> Transformer:
    if teacher.cfg.vocab_size != student.cfg.vocab_size:
        raise UserError(
            f"the teacher's vocabulary has {teacher.cfg.vocab_size} rows, the student's {student.cfg.vocab_size}: they "
            "must have the same tokens to be compared word for word"
        )
    return teacher.eval()
