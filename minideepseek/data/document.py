"""What every corpus is made of: documents, and a way to go through them again and again."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text, whole in itself: a story, a file, a row of a table.

    text:   what the model reads.
    source: where it came from, for people ("stories/17", "python/heapq.py", "notes.jsonl:3").
    """

    text: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A named collection of documents that can be read from its beginning as often as one likes.

    name:        what a person calls it; the specification it was opened by.
    fingerprint: changes whenever the documents would; caches are keyed by it.
    read:        opens a fresh pass over the documents, in an order that never changes. Documents are made or read one
                 by one, so a corpus may be larger than memory.
    endless:     reading to the end is not an option (generated, or streamed from far away): set a budget.
    size_hint:   about how many bytes a full pass yields, where that is known.
    repeats:     documents come more than once on purpose: do not deduplicate.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Document]]
    endless: bool = False
    size_hint: int | None = None
    repeats: bool = False

    def __iter__(self) -> Iterator[Document]:
        return self.read()


def corpus_of(texts: Iterable[str], *, name: str = "texts") -> Corpus:
    """A corpus of texts that are already in memory; a string each."""
    documents = tuple(Document(text=text, source=f"{name}/{i}") for i, text in enumerate(texts))
    return Corpus(
        name=name,
        fingerprint=fingerprint(*(document.text for document in documents)),
        read=lambda: iter(documents),
        size_hint=sum(len(document.text.encode()) for document in documents),
    )


def fingerprint(*parts: object) -> str:
    """A short stable digest of the parts, in order; different parts give different digests."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def text_hash(text: str, *, salt: int = 0) -> int:
    """64 bits that stand for the text: equal for equal texts on every machine, unrelated for different salts."""
    key = salt.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to the validation part: decided by its text alone.

    So a document, and every exact copy of it, is on the same side in every run, for every order and every budget.
    """
    return text_hash(text, salt=1) < fraction * 2**64
