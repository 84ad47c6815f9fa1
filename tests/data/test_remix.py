from collections import Counter
from itertools import accumulate

import pytest

from minideepseek.data import Corpus, corpus_of, open_corpus, remix
from minideepseek.errors import UserError


def source(letter: str, n: int, size: int = 100) -> Corpus:
    return corpus_of([f"{letter}{i:05} " + letter * (size - 7) for i in range(n)], name=letter)


def test_shares_of_bytes_are_the_weights() -> None:
    mixture = remix(
        [(source("a", 1000), 5), (source("b", 1000, size=300), 3), (source("c", 10), 2)], total_bytes=60_000
    )
    read = Counter()
    for document in mixture:
        read[document.text[0]] += len(document.text)
    total = read.total()
    assert abs(total - 60_000) < 300
    for letter, share in {"a": 0.5, "b": 0.3, "c": 0.2}.items():
        assert abs(read[letter] - share * total) <= 300


def test_shares_hold_from_the_beginning_to_any_point() -> None:
    mixture = remix([(source("a", 100), 3), (source("b", 100), 1)], total_bytes=20_000)
    for n, so_far in enumerate(accumulate(document.text[0] == "a" for document in mixture), start=1):
        assert abs(so_far - 0.75 * n) <= 1


def test_a_small_source_repeats_evenly() -> None:
    mixture = remix([(source("a", 40), 1), (source("b", 1000), 1)], total_bytes=20_000)
    times = Counter(document.text for document in mixture if document.text[0] == "a")
    assert len(times) == 40
    assert times.total() == 100
    assert set(times.values()) <= {2, 3}


def test_of_a_large_source_a_part_from_all_over_is_read_once() -> None:
    mixture = remix([(source("a", 1000), 1), (source("b", 100), 1)], total_bytes=20_000)
    numbers = [int(document.text[1:6]) for document in mixture if document.text[0] == "a"]
    assert len(numbers) == 100
    assert len(set(numbers)) >= 98
    assert sum(number >= 500 for number in numbers) > 30


def test_a_remix_is_deterministic_and_follows_its_seed() -> None:
    def texts(seed: int) -> list[str]:
        parts = [(source("a", 200), 1.0), (source("b", 200), 1.0)]
        return [document.text for document in remix(parts, total_bytes=5_000, seed=seed)]

    assert texts(0) == texts(0) != texts(1)


def test_endless_sources_mix_with_finite_ones() -> None:
    mixture = remix([(open_corpus("stories:language=en"), 0.25), (source("b", 5), 0.75)], total_bytes=10_000)
    share = sum(len(document.text) for document in mixture if document.text[0] == "b") / 10_000
    assert abs(share - 0.75) < 0.1


def test_tiny_share_of_few_documents_still_comes() -> None:
    mixture = remix([(source("a", 1000), 999), (source("b", 2, size=1000), 1)], total_bytes=99_000)
    assert sum(document.text[0] == "b" for document in mixture) <= 1
    mixture = remix([(source("a", 1000), 9), (source("b", 1, size=50_000), 1)], total_bytes=90_000)
    assert sum(document.text[0] == "b" for document in mixture) == 1


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0, 1.0], [float("nan")], [float("inf")]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(UserError, match="positive weight"):
        remix([(source("a", 1), weight) for weight in weights], total_bytes=100)


def test_an_empty_source_is_refused_when_read() -> None:
    with pytest.raises(UserError, match="empty has no documents"):
        list(remix([(corpus_of([], name="empty"), 1)], total_bytes=100))
