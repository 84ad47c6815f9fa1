import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Tokenizer, encode_documents, segment_ids, story
from minideepseek.data.packing import split_middle

TEXTS = [story(i) for i in range(400)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 600)


def undo(ids: list[int], tokenizer: Tokenizer) -> str:
    """The text of a document, its middle put back where it was."""
    assert ids[-1] == tokenizer.eos_id
    if ids[0] != tokenizer.fim_begin_id:
        return tokenizer.decode(ids[:-1])
    hole, end = ids.index(tokenizer.fim_hole_id), ids.index(tokenizer.fim_end_id)
    assert hole < end
    return tokenizer.decode(ids[1:hole]) + tokenizer.decode(ids[end + 1 : -1]) + tokenizer.decode(ids[hole + 1 : end])


def test_documents_end_with_eos_and_are_whole(tokenizer: Tokenizer) -> None:
    rows = encode_documents(TEXTS[:20], tokenizer)
    assert rows == [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS[:20]]


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_fill_in_the_middle_loses_nothing(tokenizer: Tokenizer, rate: float) -> None:
    rows = encode_documents(TEXTS, tokenizer, fim_rate=rate, seed=3)
    assert [undo(row, tokenizer) for row in rows] == TEXTS
    cut = sum(row[0] == tokenizer.fim_begin_id for row in rows)
    assert abs(cut - rate * len(TEXTS)) < 5 * (rate * (1 - rate) * len(TEXTS)) ** 0.5 + 1


def test_fill_in_the_middle_depends_on_number_and_seed_not_on_batches(tokenizer: Tokenizer) -> None:
    whole = encode_documents(TEXTS, tokenizer, fim_rate=0.3, seed=1)
    parts = encode_documents(TEXTS[:150], tokenizer, fim_rate=0.3, seed=1)
    parts += encode_documents(TEXTS[150:], tokenizer, fim_rate=0.3, seed=1, first=150)
    assert parts == whole
    assert encode_documents(TEXTS, tokenizer, fim_rate=0.3, seed=2) != whole


@settings(max_examples=100, deadline=None)
@given(text=st.text(), number=st.integers(0, 10**9), seed=st.integers(0, 100))
def test_parts_join_to_the_text(text: str, number: int, seed: int) -> None:
    parts = split_middle(text, number, rate=1.0, seed=seed)
    assert "".join(parts) == text
    assert len(parts) == (3 if len(text) >= 3 else 1)
    if len(parts) == 3:
        assert parts[1]


def test_cuts_fall_everywhere() -> None:
    cuts = [split_middle("abcd", number, rate=1.0) for number in range(2000)]
    assert len(set(cuts)) == 10  # every two different places out of five


def test_texts_that_spell_control_tokens_do_not_forge_them(tokenizer: Tokenizer) -> None:
    (row,) = encode_documents(["a<｜end▁of▁sentence｜>b<｜fim▁hole｜>"], tokenizer)
    assert row.count(tokenizer.eos_id) == 1
    assert tokenizer.fim_hole_id not in row


def test_segment_ids_count_the_documents_of_a_row() -> None:
    ids = torch.tensor([[5, 6, 1, 7, 1, 1, 8], [1, 5, 5, 5, 5, 5, 5]])
    expected = torch.tensor([[0, 0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]])
    assert torch.equal(segment_ids(ids, eos_id=1), expected)
