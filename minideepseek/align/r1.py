"""DeepSeek-R1 as one function: four stages from a base model (report, section 2.3; Nature 645, "Methods").

    base ── 1: cold start ──> Dev1 ── 2: reasoning ──> Dev2 ── its best answers ──┐
    base ──────────────────────────────────────────────────────── 3: fine-tuning <┘ ──> Dev3 ── 4: everything ──> R1

R1-Zero is the second stage alone, from the base: it reasons, but mixes languages and is hard to read. A few thousand
readable demonstrations beforehand (1) and the reward for language (2) mend that. The third stage starts from the base
again, with what the second has found and with everything that is not reasoning; the fourth adds what people prefer,
at its very end: a model that is long rewarded by a reward model learns to please that model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minideepseek.align.batch import Example
from minideepseek.align.distill import rejection_sample
from minideepseek.align.grpo import GRPOConfig, grpo
from minideepseek.align.rewards import Reward, accuracy, kept_format, kept_language, weighted
from minideepseek.align.sft import SFTConfig, sft
from minideepseek.data.tasks import Problem
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record

REASONING = weighted((1.0, accuracy), (1.0, kept_format), (1.0, kept_language))

COLD_START, TUNING = SFTConfig(steps=100), SFTConfig(steps=400)
PRACTICE, FINISH = GRPOConfig(steps=100), GRPOConfig(steps=40, temperature=0.7)


@dataclass(frozen=True, kw_only=True)
class R1Config:
    """Settings of the stages, at the size of a mini."""

    cold_start: SFTConfig = COLD_START
    """Stage 1. R1: thousands of examples."""
    reasoning: GRPOConfig = PRACTICE
    """Stage 2. R1: lr 3e-6, beta 0.001, 16 responses to a question, a clip of 10."""
    attempts: int = 4
    """Responses to each problem in stage 3, of which the best is kept. R1 ends up with 600,000."""
    fine_tuning: SFTConfig = TUNING
    """Stage 3. R1: two to three epochs over 800,000 examples, from 5e-5 down to 5e-6 along a cosine."""
    everything: GRPOConfig = FINISH
    """Stage 4. R1: 1,700 steps at temperature 0.7."""
    preferring: int = 10
    """Steps at the end of stage 4 in which preferences are rewarded too. R1: 400."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.preferring <= self.everything.steps:
            raise UserError(
                f"attempts={self.attempts} must be at least 1, and preferring={self.preferring} at most the "
                f"{self.everything.steps} steps of stage 4"
            )


@dataclass(frozen=True, kw_only=True)
class R1Run:
    """What the stages leave behind.

    Attributes:
        models: of each stage by name: ``base``, ``dev1``, ``dev2``, ``dev3``, ``r1``.
        records: a record a step of each stage, under the name of its model.
        kept: how many answers of the second stage were good enough to be taught in the third.
    """

    models: dict[str, Transformer]
    records: dict[str, list[Record]]
    kept: int


def r1(
    base: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    cold_start: Sequence[Example],
    *,
    general: Sequence[Example] = (),
    preference: Reward | None = None,
    cfg: R1Config | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> R1Run:
    """Make a reasoning model of a base model.

    Args:
        base: knows the language of the problems, and solves some of them sometimes. It is left alone.
        tokenizer: the model's.
        problems: to practise on, judged by rules.
        cold_start: a few readable demonstrations.
        general: examples of everything else that the model is to do, taught with the third stage.
        preference: what people like, by a rule or a reward model; None leaves it out.
        cfg: the settings.
        out: a folder in which every stage has one of its own, as each method alone would have; the last stage two,
            ``everything`` and ``preferring``. None keeps no files.
        resume: go on in the stage that was interrupted; those before it are read, those after it begin.
        progress: show progress bars.

    Raises:
        UserError: no problems or demonstrations, the second stage found no answer worth keeping, or a stage cannot be
            resumed with these settings.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or R1Config()

    def kept_in(name: str) -> dict[str, Any]:
        return {"out": None if out is None else Path(out) / name, "resume": resume, "progress": progress}

    dev1 = copy.deepcopy(base)
    first = sft(dev1, cold_start, cfg.cold_start, tokenizer=tokenizer, **kept_in("dev1"))

    dev2 = copy.deepcopy(dev1)
    second = grpo(dev2, tokenizer, problems, REASONING, cfg.reasoning, **kept_in("dev2"))

    kept = rejection_sample(
        dev2,
        tokenizer,
        problems,
        reward=REASONING,
        least=3.0,  # right, in format, and all in the language of the question
        attempts=cfg.attempts,
        max_new_tokens=cfg.reasoning.max_new_tokens,
        seed=cfg.fine_tuning.seed,
    )
    if not kept:
        raise UserError("stage 2 found no answer that is right and readable; give it more steps, or a better base")
    dev3 = copy.deepcopy(base)
    third = sft(dev3, [*kept, *general], cfg.fine_tuning, tokenizer=tokenizer, **kept_in("dev3"))

    final = copy.deepcopy(dev3)
    fourth: list[Record] = []
    pleased = REASONING if preference is None else weighted((1.0, REASONING), (1.0, preference))
    halves = {
        "everything": (REASONING, cfg.everything.steps - cfg.preferring),
        "preferring": (pleased, cfg.preferring),
    }
    for name, (reward, steps) in halves.items():
        if steps:
            stage = replace(cfg.everything, steps=steps, seed=cfg.everything.seed + len(fourth))
            found = grpo(final, tokenizer, problems, reward, stage, reference=dev3, **kept_in(name))
            done = len(fourth)
            fourth += [record | {"step": done + record["step"]} for record in found]

    return R1Run(
        models={"base": base, "dev1": dev1, "dev2": dev2, "dev3": dev3, "r1": final},
        records={"dev1": first, "dev2": second, "dev3": third, "r1": fourth},
        kept=len(kept),
    )
