"""``minideepseek data``: prepare a corpus once, and see what a model would eat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from minideepseek.cli import parse
from minideepseek.data import open_corpus, prepare


def run(
    corpus: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")],
    /,
    *,
    vocab_size: int = 2048,
    max_tokens: int | None = None,
    fim_rate: float = 0.0,
    seed: int = 0,
    show: int = 1,
) -> None:
    """Clean a corpus, learn a tokenizer on it, store its tokens; training then finds them ready.

    Args:
        corpus: stories, python, file:PATH (txt, jsonl, parquet, or a folder of them) or hub:NAME (online).
        vocab_size: tokens of the tokenizer.
        max_tokens: stop after this many training tokens.
        fim_rate: share of documents stored in fill-in-the-middle order; V3 uses 0.1.
        seed: of generated stories and of every random choice.
        show: print this many documents.
    """
    from rich.console import Console
    from rich.table import Table

    data = prepare(corpus, vocab_size=vocab_size, max_tokens=max_tokens, fim_rate=fim_rate, seed=seed)
    table = Table(title=corpus, title_justify="left")
    for heading in ("split", "documents", "tokens", "bytes of text", "bytes/token"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, stats in (("train", data.train_stats), ("valid", data.valid_stats)):
        numbers = (f"{stats.documents:,}", f"{stats.tokens:,}", f"{stats.bytes:,}", f"{stats.bytes_per_token:.2f}")
        table.add_row(name, *numbers)
    console = Console()
    console.print(table)
    if data.removed:
        console.print("removed: " + ", ".join(f"{count:,} {reason}" for reason, count in data.removed.items()))
    console.print(f"tokenizer: {data.tokenizer.vocab_size:,} tokens; stored in {data.folder}", highlight=False)
    for _, document in zip(range(show), open_corpus(corpus, seed=seed), strict=False):
        console.rule(document.source)
        console.print(document.text[:1500], markup=False, highlight=False)


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="data")
