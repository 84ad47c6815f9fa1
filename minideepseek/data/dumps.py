"""Web crawls in miniature: the same pages come back in every dump, so the wider one looks, the more one can remove.

DeepSeek LLM (arXiv 2401.02954), table 1: deduplicating across 91 dumps of Common Crawl instead of within each removes
four times as much. The popularity of pages follows a power law, which is all it takes to bend the curve like that.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from minideepseek.data.cleaning import Cleaning, clean
from minideepseek.data.document import Document
from minideepseek.data.stories import story

# Number of dumps deduplicated together -> share of the documents removed, as published.
PUBLISHED_REMOVAL = {1: 0.222, 2: 0.467, 6: 0.557, 12: 0.699, 16: 0.757, 22: 0.763, 41: 0.816, 91: 0.898}


def simulate_dumps(
    n_dumps: int = 91,
    *,
    dump_size: int = 200,
    n_pages: int = 2000,
    popularity: float = 0.9,
    edited: float = 0.2,
    seed: int = 0,
) -> list[list[Document]]:
    """Crawls of a small web whose pages are stories; page k is fetched with a chance proportional to k**-popularity.

    edited: share of the fetches that carry another line on top (a date, a counter), as pages do: near-duplicates, which
            exact deduplication takes for new.
    """
    random = np.random.default_rng(seed)
    chance = np.arange(1, n_pages + 1) ** -popularity
    pages = [story(i, seed=seed) for i in range(n_pages)]
    dumps = []
    for number in range(n_dumps):
        fetched = random.choice(n_pages, size=dump_size, p=chance / chance.sum())
        changed = random.random(dump_size) < edited
        visitors = random.integers(1, 100_000, size=dump_size)
        dumps.append(
            [
                Document(
                    text=f"Visitor {visitors[i]}\n{pages[page]}" if changed[i] else pages[page],
                    source=f"dump-{number}/page-{page}",
                )
                for i, page in enumerate(fetched)
            ]
        )
    return dumps


def removal_rates(dumps: Sequence[Sequence[Document]], *, near: float | None = None) -> list[float]:
    """Which share of the documents goes when the first 1, 2, 3, ... dumps are deduplicated together.

    near: also remove near-duplicates of this similarity or more.
    """
    removed: Counter[str] = Counter()
    rates: list[float] = []

    def pooled() -> Iterator[Document]:
        read = 0
        for dump in dumps:
            yield from dump
            read += len(dump)
            rates.append(removed.total() / read)  # asked for more, so all of this dump is decided

    for _ in clean(pooled(), Cleaning(near=near), removed):
        pass
    return rates
