"""Deduplication: a document is learnt once, however often it was crawled.

Exact copies are found by a hash of the text. Near copies (another date, another footer) by MinHash: the share of equal
minima of k hash functions estimates the Jaccard similarity of two sets of word sequences, and locality-sensitive
hashing finds the candidates without comparing all pairs. Broder, "On the resemblance and containment of documents"
(1997); DeepSeek LLM (arXiv 2401.02954), section 2.1.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator

from minideepseek.data.document import Document, text_hash

EXACT, NEAR = "exact duplicate", "near duplicate"
SHINGLE = 5  # words in a sequence; a Chinese character counts as a word
N_HASHES = 128  # the estimate of a similarity s has standard deviation sqrt(s (1 - s) / 128), 0.035 at 0.8

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\W_]+")


def drop_exact_duplicates(documents: Iterable[Document], removed: Counter[str]) -> Iterator[Document]:
    """The first of equal texts; `removed` counts the others. Remembers 64 bits a document."""
    seen: set[int] = set()
    for document in documents:
        key = text_hash(document.text)
        if key in seen:
            removed[EXACT] += 1
        else:
            seen.add(key)
            yield document


def drop_near_duplicates(
    documents: Iterable[Document], removed: Counter[str], *, threshold: float = 0.8
) -> Iterator[Document]:
    """The first of texts whose estimated similarity is `threshold` or more; `removed` counts the others."""
    from datasketch import MinHash, MinHashLSH  # loads scipy: half a second that only this stage should cost

    index = MinHashLSH(threshold=threshold, num_perm=N_HASHES)
    kept: list[MinHash] = []
    blank = MinHash(num_perm=N_HASHES, hashfunc=zlib.crc32)
    for document in documents:
        sketch = blank.copy()
        sketch.update_batch(shingles(document.text))
        if any(kept[i].jaccard(sketch) >= threshold for i in index.query(sketch)):
            removed[NEAR] += 1
        else:
            index.insert(len(kept), sketch, check_duplication=False)
            kept.append(sketch)
            yield document


def shingles(text: str) -> set[bytes]:
    """The sequences of 5 consecutive words, case and punctuation aside; of a shorter text the one it has."""
    words = _WORDS.findall(text.lower())
    return {" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1))}


def jaccard(one: str, other: str) -> float:
    """The similarity that MinHash estimates, computed: shared sequences over all sequences of two texts."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)
