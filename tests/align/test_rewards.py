"""Rewards: each says what its name says, adds up, and survives garbage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek import UserError
from minideepseek.align.rewards import accuracy, kept_format, kept_language, length_penalty, weighted
from minideepseek.data.tasks import CHINESE, LATIN, Addition, Problem

TASK = Addition(languages="both")
SUM = Problem(task=TASK, prompt="47+38=", answer="85", numbers=(47, 38), numerals=LATIN)
CHINESE_SUM = Problem(task=TASK, prompt="四七+三八=", answer="八五", numbers=(47, 38), numerals=CHINESE)


@pytest.mark.parametrize(
    ("response", "right", "kept"),
    [
        ("<think>15,08</think><answer>85</answer>", 1.0, 1.0),
        ("<think>no idea</think><answer>85</answer>", 1.0, 1.0),
        ("<think>15,08</think><answer>86</answer>", 0.0, 1.0),
        ("<answer>85</answer>", 1.0, 0.0),
        ("85", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("<think></think><answer>84</answer><answer>85</answer>", 0.0, 0.0),
    ],
)
def test_accuracy_and_format_are_judged_apart(response: str, right: float, kept: float) -> None:
    assert accuracy(SUM, response) == right
    assert kept_format(SUM, response) == kept


def test_language_is_the_share_of_digits_in_the_alphabet_of_the_prompt() -> None:
    response = "<think>15,〇八</think><answer>85</answer>"
    assert kept_language(SUM, response) == 4 / 6
    assert kept_language(CHINESE_SUM, response) == 2 / 6
    assert kept_language(SUM, "<think></think>") == 1.0


def test_accuracy_does_not_ask_for_a_language_so_that_reward_must() -> None:
    assert accuracy(SUM, "<answer>八五</answer>") == accuracy(CHINESE_SUM, "<answer>85</answer>") == 1.0


def test_the_length_penalty_falls_from_nothing_to_one() -> None:
    penalty = length_penalty(20, soft=10)
    assert [penalty(SUM, "x" * n) for n in (0, 10, 15, 20, 50)] == [0.0, 0.0, -0.5, -1.0, -1.0]


@pytest.mark.parametrize(("limit", "soft"), [(10, 0), (10, 11), (0, 1)])
def test_a_penalty_without_room_is_refused(limit: int, soft: int) -> None:
    with pytest.raises(UserError, match="soft="):
        length_penalty(limit, soft=soft)


@given(text=st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_rewards_add_up_and_never_raise(text: str) -> None:
    parts = [(1.0, accuracy), (0.5, kept_format), (0.25, kept_language), (2.0, length_penalty(20, soft=5))]
    expected = sum(weight * reward(SUM, text) for weight, reward in parts)
    assert weighted(*parts)(SUM, text) == pytest.approx(expected)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="no rewards"):
        weighted()
