"""Trained minis, made once: what a lesson needs that is not about training."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from minideepseek import checkpoint
from minideepseek.data.cache import cache_folder
from minideepseek.data.dataset import prepare
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.files import user_errors
from minideepseek.generations import generations
from minideepseek.model import Transformer
from minideepseek.train.loop import train
from minideepseek.train.precision import choose_dtype
from minideepseek.train.recipes import recipe
from minideepseek.train.source import digest

RECIPE = 1  # raise when the same settings lead to another model than before


def trained(
    name: str = "v1-mini", *, data: str = "stories", steps: int | None = None, seed: int = 0, progress: bool = True
) -> tuple[Transformer, Tokenizer]:
    """A trained mini and its tokenizer: from the user's cache, or trained now, in under a minute for v1-mini.

    Args:
        name: of a generation.
        data: a corpus, as ``minideepseek train --data`` takes it.
        steps: of training; None takes the recipe's.
        seed: of the weights and of the data.
        progress: show progress bars while something is made.

    Returns:
        The model, in eval mode on the CPU, and the tokenizer.

    Raises:
        UserError: no such generation or corpus, or the cache cannot be written (set MINIDEEPSEEK_CACHE).
    """
    if name not in generations:
        raise UserError(f"no generation {name!r}; there are {', '.join(generations)}")
    model_cfg = generations[name]
    cfg = replace(recipe(name), seed=seed, eval_every=0, device="cpu")
    cfg = replace(cfg, steps=steps or cfg.steps, dtype=choose_dtype(cfg.dtype, torch.device("cpu")))
    tokens = prepare(data, vocab_size=model_cfg.vocab_size, seed=seed, progress=progress)
    key = hashlib.blake2b(repr((RECIPE, model_cfg, cfg, digest(tokens.train))).encode(), digest_size=8).hexdigest()

    def make(folder: Path) -> None:
        train(model_cfg, tokens, cfg, out=folder, resume=True, progress=progress)
        shutil.rmtree(folder / "checkpoints")

    return made_once(f"{name}-{key}", make), tokens.tokenizer


def made_once(name: str, make: Callable[[Path], object]) -> Transformer:
    """The model of this name in the user's cache; if there is none yet, ``make`` saves it in the folder it is given.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_folder() / "models" / name
    with user_errors("write", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):  # two lessons that need one model: the second one waits
        model = _load(folder)
        if model is None:
            make(folder)
            model = checkpoint.load(folder)
    return model


def _load(folder: Path) -> Transformer | None:
    """The finished model, or None: nothing there yet, a run that was killed, or damage (which is removed)."""
    if not (folder / "config.json").exists():
        return None
    try:
        return checkpoint.load(folder)
    except UserError:
        shutil.rmtree(folder)
        return None
