import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Recall, RecallRows


def draw(task: Recall, seed: int = 0, **settings: int) -> RecallRows:
    return task.rows(generator=torch.Generator().manual_seed(seed), **settings)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 20), st.integers(0, 2**31))
def test_each_answer_stands_behind_its_key_in_the_haystack(questions: int, unasked: int, noise: int, seed: int) -> None:
    task, pairs = Recall(n_keys=11, n_values=7, n_fillers=3), questions + unasked
    length = 2 * (pairs + questions + noise)
    ids, asked, planted = rows = draw(task, seed, n_rows=3, length=length, pairs=pairs, questions=questions)
    assert ids.shape == (3, length)
    assert torch.equal(ids.gather(1, planted), ids[:, asked])
    assert torch.equal(ids.gather(1, planted + 1), rows.answers)
    assert (planted + 1 < asked[0]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 2**31))
def test_a_row_is_its_pairs_once_its_questions_and_noise(pairs: int, noise: int, seed: int) -> None:
    task = Recall(n_keys=8, n_values=4, n_fillers=2)
    ids, asked, _ = draw(task, seed, n_rows=4, length=2 * (2 * pairs + noise), pairs=pairs, questions=pairs)
    hay = ids[:, : asked[0]]
    for row, questions in zip(hay, ids[:, asked], strict=True):
        keys = row[row < task.n_keys]
        assert sorted(keys.tolist()) == sorted(set(questions.tolist()))
        assert ((row >= task.n_keys) & (row < task.n_keys + task.n_values)).sum() == pairs
    assert ids.max() < task.vocab_size


def test_pairs_are_planted_everywhere_alike() -> None:
    rows = draw(Recall(), n_rows=4000, length=40, pairs=4, questions=4)
    share = torch.bincount(rows.planted.flatten(), minlength=32)[::2] / rows.planted.numel()
    assert (share - 1 / 16).abs().max() < 0.01


def test_the_same_seed_draws_the_same_rows() -> None:
    settings = {"n_rows": 2, "length": 24, "pairs": 3, "questions": 2}
    assert torch.equal(draw(Recall(), 5, **settings).ids, draw(Recall(), 5, **settings).ids)
    assert not torch.equal(draw(Recall(), 5, **settings).ids, draw(Recall(), 6, **settings).ids)


@pytest.mark.parametrize(
    "wrong",
    [{"length": 25}, {"length": 8}, {"questions": 4}, {"questions": 0}, {"pairs": 33, "length": 200}],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="do not fit into length"):
        draw(Recall(), **{"n_rows": 2, "length": 24, "pairs": 3, "questions": 2, **wrong})
    with pytest.raises(ValueError, match="n_fillers=0"):
        Recall(n_fillers=0)
