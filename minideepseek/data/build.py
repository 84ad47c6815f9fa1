"""From documents to token files: clean, learn a tokenizer, encode, hold some out; in one pass, never all in memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm.auto import tqdm

from minideepseek.data.cleaning import Cleaning, clean
from minideepseek.data.document import Corpus, Document, is_held_out, text_hash
from minideepseek.data.packing import encode_documents
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError

SAMPLE_PER_ENTRY = 1_000  # bytes of text that the tokenizer sees for each entry of its vocabulary
BATCH_CHARACTERS = 2**20  # text encoded at once: enough for all cores, little for the memory


@dataclass(frozen=True, kw_only=True)
class SplitStats:
    """How much a split holds. bytes: of the documents' UTF-8 text; tokens: with the end of each document."""

    documents: int
    tokens: int
    bytes: int

    @property
    def bytes_per_token(self) -> float:
        """How much text one token stands for; larger means a better compression."""
        return self.bytes / self.tokens


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What shapes the token files besides the corpus and a given tokenizer; the arguments of `prepare`."""

    vocab_size: int
    max_tokens: int | None
    valid_fraction: float
    fim_rate: float
    seed: int
    cleaning: Cleaning

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"valid_fraction={self.valid_fraction} must lie between 0 and 1, such as 0.02")
        if not 0 <= self.fim_rate <= 1:
            raise UserError(f"fim_rate={self.fim_rate} must lie between 0 and 1, such as 0.1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"max_tokens={self.max_tokens} must be at least 1")


def build(folder: Path, corpus: Corpus, recipe: Recipe, tokenizer: Tokenizer | None, progress: bool) -> dict[str, Any]:
    """Fill the empty folder with train.bin, valid.bin and the tokenizer; returns what to remember about them.

    Raises UserError if there are not two documents, one to learn from and one to be measured on.
    """
    if tokenizer is None:
        tokenizer = _learn_tokenizer(corpus, recipe, progress)
    tokenizer.save(folder)
    removed: Counter[str] = Counter()
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    documents = clean(corpus, recipe.cleaning, removed)
    with (
        (folder / "train.bin").open("wb") as train_file,
        (folder / "valid.bin").open("wb") as valid_file,
        _bar(corpus, recipe, progress) as bar,
    ):
        train, valid = _Split(train_file, dtype), _Split(valid_file, dtype)
        for batch in _batches(documents):
            kept = [document.text for document in batch if not is_held_out(document.text, recipe.valid_fraction)]
            held = [document.text for document in batch if is_held_out(document.text, recipe.valid_fraction)]
            rows = encode_documents(kept, tokenizer, fim_rate=recipe.fim_rate, seed=recipe.seed, first=train.documents)
            valid.write(held, encode_documents(held, tokenizer))
            before = train.tokens, train.bytes + valid.bytes
            full = train.write(kept, rows, limit=recipe.max_tokens)
            bar.update(train.tokens - before[0] if recipe.max_tokens else train.bytes + valid.bytes - before[1])
            if full:
                break
        bar.total = bar.n  # the size was a guess, or the last document did not fit the budget
        bar.refresh()
        if valid.documents == 0 and train.documents > 1:
            text = train.take_back()
            valid.write([text], encode_documents([text], tokenizer))
    if train.documents == 0 or valid.documents == 0:
        raise UserError(
            f"too little text in {corpus.name}: {train.documents + valid.documents} document(s) kept "
            f"(dropped: {dict(removed) or 'none'}), and one is needed for training and one for validation; "
            "give more text or a larger max_tokens"
        )
    return {
        "corpus": corpus.name,
        "recipe": asdict(recipe),
        "dtype": np.dtype(dtype).name,
        "train": asdict(train.stats()),
        "valid": asdict(valid.stats()),
        "removed": dict(removed),
    }


class _Split:
    """One token file while it is written, and what it holds so far."""

    def __init__(self, file: BinaryIO, dtype: type[np.unsignedinteger[Any]]) -> None:
        self.file = file
        self.dtype = dtype
        self.documents = self.tokens = self.bytes = 0
        self.last = ("", 0)

    def write(self, texts: list[str], rows: list[list[int]], *, limit: int | None = None) -> bool:
        """Append documents; True if the next one would pass the limit, and was left out with all after it."""
        flat: list[int] = []
        full = False
        for text, row in zip(texts, rows, strict=True):
            full = limit is not None and self.tokens + len(row) > limit
            if full:
                break
            flat += row
            self.documents += 1
            self.tokens += len(row)
            self.bytes += len(text.encode())
            self.last = (text, len(row))
        self.file.write(np.array(flat, dtype=self.dtype).tobytes())
        return full

    def take_back(self) -> str:
        """Remove the last document and return its text: a corpus this small holds nothing out by chance."""
        text, length = self.last
        self.documents -= 1
        self.tokens -= length
        self.bytes -= len(text.encode())
        self.file.truncate(self.tokens * np.dtype(self.dtype).itemsize)
        return text

    def stats(self) -> SplitStats:
        return SplitStats(documents=self.documents, tokens=self.tokens, bytes=self.bytes)


def _learn_tokenizer(corpus: Corpus, recipe: Recipe, progress: bool) -> Tokenizer:
    """From the training part only: what is held out must not shape the vocabulary either."""
    budget = recipe.vocab_size * SAMPLE_PER_ENTRY
    share = min(1.0, budget / corpus.size_hint) if corpus.size_hint else 1.0

    def sample() -> Iterator[str]:
        size = 0
        with tqdm(total=budget, desc="learning tokens", unit="B", unit_scale=True, disable=not progress) as bar:
            for document in corpus:
                text = document.text
                if is_held_out(text, recipe.valid_fraction) or text_hash(text, salt=2) >= share * 2**64:
                    continue
                yield text
                size += len(text.encode())
                bar.update(len(text.encode()))
                if size >= budget:
                    break
            bar.total = size
            bar.refresh()

    return Tokenizer.train(sample(), recipe.vocab_size)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bar(corpus: Corpus, recipe: Recipe, progress: bool) -> "tqdm[Any]":
    total, unit = (recipe.max_tokens, "tok") if recipe.max_tokens else (corpus.size_hint, "B")
    name = corpus.name if len(corpus.name) < 40 else f"...{corpus.name[-36:]}"
    return tqdm(total=total, desc=f"tokenising {name}", unit=unit, unit_scale=True, disable=not progress)
