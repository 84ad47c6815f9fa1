"""The V1 pipeline's first two stages over any stream of documents: deduplicate, then filter.

DeepSeek LLM (arXiv 2401.02954), section 2.1: deduplicate -> filter -> remix; the third stage is `remix.py`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from minideepseek.data.dedup import drop_exact_duplicates, drop_near_duplicates
from minideepseek.data.document import Corpus, Document, fingerprint
from minideepseek.data.quality import drop_low_quality


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What to throw away before training.

    exact:   all copies of a document but the first.
    near:    documents whose word sequences overlap an earlier one's by this Jaccard similarity or more (0.8 is usual);
             None keeps them. Costs about a third of a millisecond and two kilobytes of memory a document.
    quality: what the linguistic signals of `quality.py` object to. Off by default: it is meant for web text, and would
             rightly drop a list of numbers that somebody wants to learn from.
    """

    exact: bool = True
    near: float | None = None
    quality: bool = False

    def __post_init__(self) -> None:
        if self.near is not None and not 0 < self.near <= 1:
            raise ValueError(f"near={self.near} is not a similarity: it lies between 0 and 1, usually 0.8")


def clean(documents: Iterable[Document], cleaning: Cleaning, removed: Counter[str] | None = None) -> Iterator[Document]:
    """The documents that pass, one by one; `removed` counts the others by the reason."""
    removed = Counter() if removed is None else removed
    kept = iter(documents)
    if cleaning.exact:
        kept = drop_exact_duplicates(kept, removed)
    if cleaning.near is not None:
        kept = drop_near_duplicates(kept, removed, threshold=cleaning.near)
    if cleaning.quality:
        kept = drop_low_quality(kept, removed)
    return kept


def cleaned(corpus: Corpus, cleaning: Cleaning) -> Corpus:
    """The corpus without what the cleaning drops, cleaned anew in each pass; the form that `remix` takes."""
    return replace(
        corpus,
        name=f"cleaned {corpus.name}",
        fingerprint=fingerprint("cleaned", corpus.fingerprint, sorted(asdict(cleaning).items())),
        read=lambda: clean(corpus, cleaning),
    )
