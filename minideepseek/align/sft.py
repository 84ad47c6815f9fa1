"""Supervised fine-tuning: the next-token loss of pre-training, on responses alone.

Prompts are read and not learnt: a model should answer questions, not ask them. V1 tunes for 2 to 4 epochs at 5e-6 to
1e-5 (report, section 4), V3 for two, from 5e-6 down along a cosine, packed with sample masking (section 5.1); models of
our size are quick learners and take rates a hundred times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from minideepseek import ops
from minideepseek.align.batch import Batch, Example, encode_example, pack, pad
from minideepseek.align.logprobs import response_hidden
from minideepseek.align.run import Keeping, OnStep, Shuffled, run
from minideepseek.align.update import Schedule, UpdateConfig, Updater
from minideepseek.data.stories.draw import Draw
from minideepseek.data.tasks.problem import FLAWLESS, Flaws, Task, practice_problems
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record


@dataclass(frozen=True, kw_only=True)
class SFTConfig(UpdateConfig):
    """Settings of supervised fine-tuning. The defaults teach an untrained mini a task of two-digit numbers."""

    steps: int = 400
    """Updates."""
    batch_size: int = 32
    """Examples in an update."""
    row: int = 0
    """Tokens of the rows that examples are packed into, several one after the other; 0 gives each a row of its own."""
    lr: float = 2e-3
    """Peak learning rate."""
    warmup: int = 20
    """Updates in which the learning rate climbs to its peak."""
    schedule: Schedule = "cosine"
    """What the learning rate does after the climb."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "batch_size")
        self.require(0, "row")


def demonstrations(
    task: Task, tokenizer: Tokenizer, n: int, *, flaws: Flaws = FLAWLESS, seed: int = 0
) -> list[Example]:
    """``n`` problems to practise on, each with a response as a teacher with these flaws would write it."""
    return [
        encode_example(tokenizer, problem.prompt, task.demonstrate(problem, Draw("demonstration", seed, i), flaws))
        for i, problem in enumerate(practice_problems(task, n, seed=seed))
    ]


def sft_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean cross-entropy of the response tokens of a batch, in nats: every token counts alike, whatever its row."""
    return ops.linear_cross_entropy(response_hidden(model, batch), model.head.weight, batch.targets[batch.mask])


def sft(
    model: Transformer,
    examples: Sequence[Example],
    cfg: SFTConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    tokenizer: Tokenizer | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> list[Record]:
    """Fine-tune ``model`` in place on examples.

    Args:
        model: of any generation.
        examples: each comes once before any comes again.
        cfg: the settings.
        out: a folder for checkpoints, metrics.jsonl and, at the end, the model. A run in a folder can be killed, and
            goes on to the same numbers. None keeps no files.
        resume: go on from the newest whole checkpoint under ``out`` (from the beginning, if there is none yet).
        tokenizer: saved beside the model in ``out``.
        on_step: called after each step with its record.
        progress: show a progress bar.

    Returns:
        A record a step: ``loss`` in nats a response token, ``lr``, ``grad_norm``.

    Raises:
        UserError: no examples, one that is empty or longer than a row, or the loss
            diverged; nothing to resume with these settings, or the disk is full.
        Interrupted: (a KeyboardInterrupt) in a folder, after Ctrl-C or SIGTERM, when a checkpoint is saved.
    """
    cfg = cfg or SFTConfig()
    if not examples:
        raise UserError("there are no examples to learn from")
    updater = Updater(model, cfg)
    order = Shuffled(len(examples), cfg.batch_size, cfg.seed)
    device = model.embed.weight.device

    def step(i: int) -> Record:
        chosen = [examples[k] for k in next(order)]
        batch = pack(chosen, cfg.row) if cfg.row else pad(chosen)
        return updater.update([sft_loss(model, batch.to(device))])

    keeping = Keeping(
        out=out,
        resume=resume,
        model=model,
        tokenizer=tokenizer,
        learns_from={"examples": examples},
        moving={"order": order},
    )
    return run(updater, step, name="fine-tuning", on_step=on_step, progress=progress, keeping=keeping)
