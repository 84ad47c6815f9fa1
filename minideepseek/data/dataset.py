"""A prepared corpus: token files on disk, made once and found again, with what is in them."""

import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minideepseek.data.build import Recipe, SplitStats, build
from minideepseek.data.cache import cache_folder, cached
from minideepseek.data.cleaning import Cleaning
from minideepseek.data.corpus import open_corpus
from minideepseek.data.document import Corpus, fingerprint
from minideepseek.data.tokenizer import Tokenizer

ENDLESS_BUDGET = 2_000_000  # tokens of an endless corpus, unless one asks for another number: a minute of mini training
FORMAT = 1  # raise when the files change for the same arguments


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenData:
    """A prepared corpus.

    train, valid: (N,) uint16 or uint32 token ids, memory-mapped; documents end with `tokenizer.eos_id`.
    removed:      how many documents the cleaning dropped, by reason.
    folder:       where it is cached.
    """

    corpus: str
    train: np.ndarray
    valid: np.ndarray
    tokenizer: Tokenizer
    train_stats: SplitStats
    valid_stats: SplitStats
    removed: dict[str, int]
    folder: Path

    def bits_per_byte(self, loss: float) -> float:
        """A validation loss in nats per token as bits per byte of text: comparable across tokenizers."""
        return loss / math.log(2) / self.valid_stats.bytes_per_token


def prepare(
    corpus: str | Corpus,
    *,
    vocab_size: int = 2048,
    max_tokens: int | None = None,
    valid_fraction: float = 0.02,
    fim_rate: float = 0.0,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    cleaning: Cleaning | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TokenData:
    """The corpus as token files, made once and found again by everything that shaped them.

    corpus:         a specification for `open_corpus`, or a corpus.
    vocab_size:     of the tokenizer learnt from a sample of the training part; a given `tokenizer` takes its place.
    max_tokens:     training tokens at most, in whole documents; None reads to the end (2 million of an endless corpus).
    valid_fraction: share of the documents held out, chosen by their text: no document is in both parts.
    fim_rate:       share of the training documents in fill-in-the-middle order (DeepSeek-V3: 0.1).
    seed:           of generated corpora and of the fill-in-the-middle cuts.
    cleaning:       `Cleaning()`, which drops exact copies, unless told otherwise; a remix keeps what it repeats.
    cache_dir:      instead of MINIDEEPSEEK_CACHE or the user's cache folder.

    Raises UserError for a corpus that cannot be read or is too small, and where the cache cannot be written.
    """
    if isinstance(corpus, str):
        corpus = open_corpus(corpus, seed=seed)
    if max_tokens is None and corpus.endless:
        max_tokens = ENDLESS_BUDGET
    recipe = Recipe(
        vocab_size=tokenizer.vocab_size if tokenizer else vocab_size,
        max_tokens=max_tokens,
        valid_fraction=valid_fraction,
        fim_rate=fim_rate,
        seed=seed,
        cleaning=cleaning or Cleaning(exact=not corpus.repeats),
    )
    given = tokenizer.fingerprint if tokenizer else "learnt"
    key = fingerprint(FORMAT, corpus.fingerprint, given, sorted(asdict(recipe).items()))
    readable = re.sub(r"[^\w.=,-]+", "-", corpus.name)[-48:].strip("-.")
    folder = cache_folder(cache_dir) / "tokens" / f"{readable}-{key[:16]}"
    facts = cached(folder, lambda place: build(place, corpus, recipe, tokenizer, progress))
    return TokenData(
        corpus=corpus.name,
        train=np.memmap(folder / "train.bin", dtype=facts["dtype"], mode="r"),
        valid=np.memmap(folder / "valid.bin", dtype=facts["dtype"], mode="r"),
        tokenizer=Tokenizer.load(folder),
        train_stats=SplitStats(**facts["train"]),
        valid_stats=SplitStats(**facts["valid"]),
        removed=facts["removed"],
        folder=folder,
    )
