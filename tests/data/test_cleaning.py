from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Cleaning, clean, cleaned, corpus_of, story
from minideepseek.data.dedup import jaccard, shingles
from minideepseek.data.document import Document
from minideepseek.data.dumps import PUBLISHED_REMOVAL, removal_rates, simulate_dumps
from minideepseek.data.quality import assess, objections

STORIES = [story(i) for i in range(200)]


def survivors(texts: list[str], cleaning: Cleaning) -> tuple[list[str], Counter[str]]:
    removed: Counter[str] = Counter()
    return [document.text for document in clean(corpus_of(texts), cleaning, removed)], removed


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=3)))
def test_exact_deduplication_keeps_the_first_of_each(texts: list[str]) -> None:
    kept, removed = survivors(texts, Cleaning())
    assert kept == list(dict.fromkeys(texts))
    assert removed.total() == len(texts) - len(kept)


def test_near_deduplication_finds_edited_copies_and_no_others() -> None:
    edited = [f"Posted on Monday.\n{text}" for text in STORIES[::4]]
    kept, removed = survivors(STORIES + edited, Cleaning(near=0.8))
    assert kept == STORIES
    assert removed == {"near duplicate": 50}


def test_exact_deduplication_alone_keeps_edited_copies() -> None:
    edited = [f"Posted on Monday.\n{text}" for text in STORIES]
    assert survivors(STORIES + edited, Cleaning())[0] == STORIES + edited


def test_near_duplicates_are_near_in_truth() -> None:
    one = STORIES[0]
    assert jaccard(one, f"Posted on Monday.\n{one}") > 0.9
    assert max(jaccard(one, other) for other in STORIES[1:]) < 0.6


def test_shingles_ignore_case_and_punctuation_and_split_chinese() -> None:
    assert shingles("One, two: THREE four five six!") == {b"one two three four five", b"two three four five six"}
    assert shingles("小狐狸跑了。") == {"小 狐 狸 跑 了".encode()}
    assert shingles("short") == {b"short"}


@pytest.mark.parametrize("near", [0, -0.5, 1.5])
def test_a_threshold_that_is_no_similarity_is_refused(near: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Cleaning(near=near)


def test_prose_of_both_languages_raises_no_objection() -> None:
    for text in STORIES:
        assert objections(text) == []


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("Too short.", "words"),
        ("buy cheap shoes online store discount sale price best offer " * 3, "function words"),
        ("| 12.5 | 33.1 | 9 |\n| 17.2 | 31.0 | 4 |\n" * 20 + "the of and to a in is that " * 3, "letters"),
        ("the cat is in the house and it was on a mat " * 40, "repetition"),
        ("Home\nAbout us\nContact\n" * 10 + "It is the end of the menu and a new start.", "repeated lines"),
        ("\n".join(f"It was one of the {i} lines that were cut in" for i in range(9)), "finished lines"),
        ("the of and to a in is that " * 3 + "SGVsbG8gd29ybGQhIFRoaXMgaXMgYmFzZTY0 " * 20, "word length"),
    ],
)
def test_each_kind_of_rubbish_is_dropped_for_its_reason(text: str, signal: str) -> None:
    assert any(objection.startswith(signal) for objection in objections(text)), objections(text)
    kept, removed = survivors([text, STORIES[0]], Cleaning(quality=True))
    assert kept == [STORIES[0]]
    assert removed.total() == 1
    assert next(iter(removed)).startswith("quality: ")


def test_objections_tell_value_and_limit() -> None:
    assert objections("Too short.") == ["words 2 < 20", "function words 0 < 0.06"]


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_every_text_can_be_assessed(text: str) -> None:
    names = [signal.name for signal in assess(text)]
    assert len(set(names)) == len(names) == 7


def test_a_cleaned_corpus_is_clean_in_every_pass() -> None:
    corpus = cleaned(corpus_of(["a", "b", "a"]), Cleaning())
    assert [document.text for document in corpus] == [document.text for document in corpus] == ["a", "b"]
    assert corpus.fingerprint != corpus_of(["a", "b", "a"]).fingerprint


def test_removal_grows_with_the_dumps_pooled() -> None:
    dumps = simulate_dumps(12, dump_size=100, n_pages=1000)
    exact, near = removal_rates(dumps), removal_rates(dumps, near=0.8)
    assert len(exact) == len(near) == 12
    assert exact[0] < exact[1] < exact[5] < exact[11]
    assert all(more > less for less, more in zip(exact, near, strict=True))


def test_removal_rate_is_the_share_of_repeated_pages() -> None:
    dumps = simulate_dumps(5, dump_size=100, n_pages=500, edited=0.0)
    texts = [document.text for dump in dumps[:3] for document in dump]
    assert removal_rates(dumps)[2] == pytest.approx(1 - len(set(texts)) / len(texts))


def test_pooling_all_dumps_removes_several_times_what_single_dumps_do() -> None:
    dumps = simulate_dumps(30)
    alone = sum(removal_rates([dump])[0] for dump in dumps) / len(dumps)
    assert removal_rates(dumps)[-1] > 2 * alone


def test_simulated_dumps_are_deterministic() -> None:
    assert simulate_dumps(2, dump_size=20) == simulate_dumps(2, dump_size=20)
    assert simulate_dumps(2, dump_size=20) != simulate_dumps(2, dump_size=20, seed=1)


def test_published_rates_grow_with_the_dumps() -> None:
    rates = [PUBLISHED_REMOVAL[n] for n in sorted(PUBLISHED_REMOVAL)]
    assert rates == sorted(rates)


def test_documents_keep_their_source_through_cleaning() -> None:
    document = Document(text=STORIES[0], source="here")
    assert list(clean([document], Cleaning(near=0.8, quality=True))) == [document]


def test_prose_wrapped_at_a_margin_is_not_taken_for_cut_off_lines() -> None:
    one = "This is one of the long sentences that\nsomebody has wrapped at the margin of\na page, as in the mail.\n"
    other = "And here is another that was made to\nfit between the borders of a narrow\nand very old screen.\n"
    assert objections(one + "\n" + other) == []
    assert objections(one + other) != []
