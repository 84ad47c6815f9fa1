"""Models that can do a task a little, made once: where practising, preferring and distilling begin."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from minideepseek import checkpoint
from minideepseek.align.sft import SFTConfig, demonstrations, sft
from minideepseek.data.tasks.characters import tokenizer_for
from minideepseek.data.tasks.problem import FLAWLESS, Flaws, Task
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig, Transformer
from minideepseek.train.pretrained import made_once

RECIPE = 1  # raise when the same settings lead to another model than before
TUNING = SFTConfig(steps=1000, batch_size=64, lr=6e-3)
EXAMPLES = 20_000


def solver(tokenizer: Tokenizer, *, d_model: int = 64, n_layers: int = 2) -> ModelConfig:
    """A model of V1's design for tasks of a few characters: 0.1 million parameters, a response in a millisecond."""
    heads = 4
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        attention=GQA(n_heads=heads, n_kv_heads=heads, head_dim=d_model // heads),
        ffn=SwiGLU(hidden=d_model * 11 // 4),
        vocab_size=tokenizer.vocab_size,
        max_seq_len=64,
        init_std=None,
    )


def warmed_up(
    task: Task,
    *,
    flaws: Flaws = FLAWLESS,
    cfg: SFTConfig = TUNING,
    shape: ModelConfig | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Transformer, Tokenizer]:
    """A model fine-tuned on demonstrations of a task, from the user's cache, or tuned now in half a minute.

    Flaws are what makes it worth practising: a model that has seen wrong sums writes wrong sums, but it knows better.

    Args:
        task: to be learnt.
        flaws: of the demonstrations.
        cfg: of the tuning; ``seed`` takes the place of its own.
        shape: of the model, with a vocabulary as large as the task's tokenizer; None takes a ``solver``.
        seed: of the weights and of the demonstrations.
        progress: show a progress bar while something is made.

    Returns:
        The model, in eval mode on the CPU, and the tokenizer.

    Raises:
        UserError: the cache cannot be written (set MINIDEEPSEEK_CACHE).
    """
    tokenizer = tokenizer_for(task)
    shape = shape or solver(tokenizer)
    # A few of the examples stand for all: should tasks be put otherwise one day, their models are other models.
    shown = demonstrations(task, tokenizer, 50, flaws=flaws, seed=seed)
    facts = (RECIPE, task, flaws, cfg, shape, seed, EXAMPLES, tokenizer.fingerprint, shown)
    key = hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()

    def make(folder: Path) -> None:
        model = Transformer(shape, seed=seed)
        examples = demonstrations(task, tokenizer, EXAMPLES, flaws=flaws, seed=seed)
        sft(model, examples, replace(cfg, seed=seed), progress=progress)
        checkpoint.save(model, folder, tokenizer=tokenizer)

    return made_once(f"{type(task).__name__.lower()}-{key}", make), tokenizer
