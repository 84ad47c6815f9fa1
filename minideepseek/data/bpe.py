"""Byte-pair encoding by hand: the algorithm behind `tokenizer.py`, small enough to read in one sitting.

Start from bytes. Count how often each two neighbours occur; join the most frequent pair into a new token; repeat. To
encode, replay the joins in the order in which they were learnt. `tokenizers` does exactly this, faster: the merges are
equal, ties included. Sennrich et al., "Neural machine translation of rare words with subword units" (ACL 2016); on
bytes since GPT-2.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[bytes, bytes]


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's spelling of bytes by printable characters: itself where printable, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHARACTER = _byte_alphabet()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
ALPHABET = [bytes([byte]) for byte in sorted(BYTE_TO_CHARACTER, key=BYTE_TO_CHARACTER.__getitem__)]


def train_bpe(pieces: Iterable[str], n_merges: int) -> list[Pair]:
    """Learn up to `n_merges` merges, most frequent pair first, from pre-tokenised text.

    Between equally frequent pairs the one of older tokens wins, so the result never depends on chance. Ends early
    when no pair is left.
    """
    frequency = Counter(pieces)
    words = [tuple(bytes([byte]) for byte in piece.encode()) for piece in frequency]
    times = list(frequency.values())
    rank = {token: i for i, token in enumerate(ALPHABET)}
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # which words hold a pair: only those change by a merge
    for i, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[i]
            where[pair].add(i)

    merges: list[Pair] = []
    while counts and len(merges) < n_merges:
        best = max(counts, key=lambda pair: (counts[pair], -rank[pair[0]], -rank[pair[1]]))
        merges.append(best)
        rank.setdefault(best[0] + best[1], len(rank))
        for i in where.pop(best):
            for pair in pairwise(words[i]):
                counts[pair] -= times[i]
            words[i] = join(words[i], best)
            for pair in pairwise(words[i]):
                counts[pair] += times[i]
                where[pair].add(i)
        counts = +counts  # forgets the pairs that are gone
    return merges


def join(word: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    """The word with every occurrence of the pair, from the left, made one token."""
    out: list[bytes] = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def encode_bpe(piece: str, merges: list[Pair]) -> tuple[bytes, ...]:
    """The tokens of one piece: of the merges that apply, always the one learnt first."""
    order = {pair: i for i, pair in enumerate(merges)}
    word = tuple(bytes([byte]) for byte in piece.encode())
    while len(word) > 1:
        first = min(pairwise(word), key=lambda pair: order.get(pair, len(order)))
        if first not in order:
            break
        word = join(word, first)
    return word
