"""``minideepseek report``: the numbers of a model, without building it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from minideepseek.accounting import claims, report
from minideepseek.checkpoint import read_config
from minideepseek.cli import did_you_mean, parse
from minideepseek.errors import UserError
from minideepseek.generations import generations
from minideepseek.model import ModelConfig


def find_config(name: str) -> ModelConfig:
    """The config of a generation by name, or of a checkpoint by its folder.

    Raises:
        UserError: neither exists.
    """
    if name in generations:
        return generations[name]
    if Path(name).is_dir():
        return read_config(name)
    raise UserError(f"no generation and no checkpoint folder {name!r}; " + did_you_mean(name, generations))


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")], /, *, seq_len: int | None = None
) -> None:
    """Count a model's parameters, cache and training FLOPs, as the papers do.

    Of a published model the numbers that the papers print follow, each beside ours.

    Args:
        model: a generation (v1-7b, moe-16b, v3, ...) or the folder of a checkpoint.
        seq_len: tokens in a training sequence; the model's own length by default.
    """
    from rich.console import Console
    from rich.table import Table

    if seq_len is not None and seq_len < 1:
        raise UserError(f"--seq-len {seq_len} must be positive")
    table = Table(title=model, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for label, value in report(find_config(model), seq_len).rows():
        table.add_row(label, value)
    Console().print(table)
    printed = claims(model)
    if printed:
        table = Table("the papers", "printed", "recomputed", "", "how", title_justify="left", box=None, pad_edge=False)
        for claim in printed:
            table.add_row(claim.what, f"{claim.printed:g}", f"{claim.found:.4g}", claim.unit, claim.how)
        Console().print(table)


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="report")
