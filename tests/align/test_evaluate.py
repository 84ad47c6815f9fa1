"""pass@k and maj@k against enumeration, and an exam whose result is known."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek import UserError
from minideepseek.align.evaluate import examine, majority_at_k, pass_at_k, standard_error
from minideepseek.data.tasks import Addition, practice_problems
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.model import Transformer

from .conftest import TINY


@given(n=st.integers(1, 8), data=st.data())
@settings(max_examples=40, deadline=None)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased_where_the_obvious_formula_is_not() -> None:
    rng, chance, n, k = random.Random(0), 0.2, 8, 4
    counts = [sum(rng.random() < chance for _ in range(n)) for _ in range(20_000)]
    truth = 1 - (1 - chance) ** k
    assert abs(sum(pass_at_k(n, count, k) for count in counts) / 20_000 - truth) < 0.01
    assert sum(1 - (1 - count / n) ** k for count in counts) / 20_000 < truth - 0.03


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        (["85", "85", "84"], 3, 1.0),
        (["84", "84", "85"], 3, 0.0),
        (["85", "84"], 2, 0.5),
        (["85", "84", "83", "83"], 2, 0.25),  # half of the first pair, nothing of the second
        ([None, None, "85"], 3, 1.0),
        ([None, None], 2, 0.0),
        (["85", "84", "83"], 2, 0.5),  # the third has no partner
        (["85", "84", "85", "83"], 1, 0.5),
    ],
)
def test_the_majority_is_counted_in_runs_and_equals_share(answers: list[str | None], k: int, expected: float) -> None:
    assert majority_at_k(answers, [answer == "85" for answer in answers], k) == expected


def test_one_vote_is_plain_accuracy() -> None:
    answers, right = ["1", "2", None, "1"], [True, False, False, True]
    assert majority_at_k(answers, right, 1) == sum(right) / 4 == pass_at_k(4, 2, 1)


@pytest.mark.parametrize("k", [0, 4])
def test_more_attempts_than_there_are_make_no_sense(k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(3, 1, k)
    with pytest.raises(ValueError, match=f"maj@{k}"):
        majority_at_k(["1"] * 3, [True] * 3, k)


@pytest.mark.parametrize(("values", "error"), [([0.5], 0.0), ([0.0, 1.0], 0.5), ([0.0, 0.0, 1.0, 1.0], 3**-0.5 / 2)])
def test_the_standard_error_is_the_samples_deviation_over_the_root_of_their_number(values: list, error: float) -> None:
    assert standard_error(values) == pytest.approx(error)


def test_an_exam_counts_what_the_model_writes(tokenizer: Tokenizer) -> None:
    problems = practice_problems(Addition(), 5)
    model = Transformer(replace(TINY, vocab_size=tokenizer.vocab_size), seed=0)
    found = examine(model, tokenizer, problems, attempts=6, max_new_tokens=8, at_once=12)
    assert list(found.pass_at) == list(found.majority_at) == [1, 2, 4, 6]
    assert found.pass_at == dict.fromkeys([1, 2, 4, 6], 0.0)  # it has learnt nothing
    assert (found.error, found.formatted, found.problems) == (0.0, 0.0, 5)
    assert 4 < found.length <= 8
    assert 0.2 < found.unfinished < 1
    again = examine(model, tokenizer, problems, attempts=6, max_new_tokens=8, at_once=12)
    assert found == again


def test_an_exam_of_nothing_is_refused(tokenizer: Tokenizer) -> None:
    model = Transformer(replace(TINY, vocab_size=tokenizer.vocab_size), seed=0)
    with pytest.raises(UserError, match="exam of 0 problems"):
        examine(model, tokenizer, [])
