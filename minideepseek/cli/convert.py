"""``minideepseek convert``: read any checkpoint of the family, write it as wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from minideepseek.checkpoint import load, save
from minideepseek.cli import parse
from minideepseek.data import Tokenizer
from minideepseek.errors import UserError


def run(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    /,
    *,
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep",
    max_shard_gb: float = 5.0,
) -> None:
    """Rewrite a checkpoint in the ecosystem's format, checked tensor by tensor on the way.

    Args:
        source: folder or hub id to read.
        target: folder to write; all of it appears, or nothing.
        dtype: number format of the weights.
        max_shard_gb: weights beyond this many gigabytes are split over several files.
    """
    if max_shard_gb <= 0:
        raise UserError(f"--max-shard-gb {max_shard_gb} must be positive")
    if Path(source).resolve() == Path(target).resolve():
        raise UserError(f"source and target are the same folder, {source}; choose another target")
    model = load(source, dtype=None if dtype == "keep" else getattr(torch, dtype))
    tokenizer = Tokenizer.load(Path(source)) if (Path(source) / "tokenizer.json").exists() else None
    save(model, target, tokenizer=tokenizer, max_shard_bytes=int(max_shard_gb * 1e9))
    print(f"wrote {sum(p.numel() for p in model.parameters()):,} parameters to {target}")


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="convert")
