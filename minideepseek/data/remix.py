"""Remixing: how much of each source a model gets to read, whatever the sources' own sizes.

The third stage of DeepSeek LLM's pipeline (arXiv 2401.02954, section 2.1): under-represented domains are given more
weight. A source that is given more than it has is read again, one that is given less is read in part.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, count, filterfalse

from minideepseek.data.document import Corpus, Document, fingerprint, text_hash
from minideepseek.errors import UserError


def remix(parts: Sequence[tuple[Corpus, float]], *, total_bytes: int, seed: int = 0) -> Corpus:
    """A corpus of about `total_bytes` in which each part has its weight's share of the bytes.

    The parts are interleaved, so the shares hold, to within a document, from the beginning to any point. A part that is
    too small comes round again until its share is full, with a random selection of it in the last round; of a part that
    is too large only such a selection is read, spread over all of it. Same arguments, same corpus.

    Raises UserError for weights that are not positive, and for a part without documents.
    """
    weights = [weight for _, weight in parts]
    if not parts or min(weights) <= 0 or not all(map(math.isfinite, weights)):
        raise UserError(f"weights {weights}: give one or more corpora, each with a positive weight")
    shares = [weight / sum(weights) for weight in weights]

    def read() -> Iterator[Document]:
        streams = [
            _again_and_again(corpus, share * total_bytes, salt=seed * len(parts) + i)
            for i, ((corpus, _), share) in enumerate(zip(parts, shares, strict=True))
        ]
        written = [0] * len(parts)
        while sum(written) < total_bytes:
            behind = max(range(len(parts)), key=lambda i: shares[i] * sum(written) - written[i])
            document = next(streams[behind])
            written[behind] += len(document.text.encode())
            yield document

    mixture = ", ".join(f"{corpus.name} {share:.0%}" for (corpus, _), share in zip(parts, shares, strict=True))
    return Corpus(
        name=f"remix of {mixture}",
        fingerprint=fingerprint("remix", [corpus.fingerprint for corpus, _ in parts], shares, total_bytes, seed),
        read=read,
        size_hint=total_bytes,
        repeats=True,
    )


def _again_and_again(corpus: Corpus, wanted: float, *, salt: int) -> Iterator[Document]:
    """Documents without end: whole passes while `wanted` bytes ask for them, then a pass in which a random selection
    of the size that is still wanted comes first. So all come equally often, give or take one.
    """
    passes = wanted / corpus.size_hint if corpus.size_hint else 1.0
    whole, share = divmod(passes, 1)

    def selected(document: Document) -> bool:
        return text_hash(document.text, salt=salt) < share * 2**64

    for turn in count():
        documents = iter(corpus) if turn != whole else chain(filter(selected, corpus), filterfalse(selected, corpus))
        first = next(documents, None)
        if first is None:
            raise UserError(f"{corpus.name} has no documents, so it cannot have a share of a mixture")
        yield first
        yield from documents
