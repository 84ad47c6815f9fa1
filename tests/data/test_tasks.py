"""Verifiable tasks: right is judged right, wrong wrong, garbage never raises, and no practised problem is examined."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek import UserError
from minideepseek.data.stories.draw import Draw
from minideepseek.data.tasks import (
    CHINESE,
    LATIN,
    Addition,
    Countdown,
    Flaws,
    Multiplication,
    Problem,
    Task,
    answer_of,
    character_tokenizer,
    held_out_problems,
    open_task,
    parse,
    practice_problems,
    respond,
    tokenizer_for,
)
from minideepseek.data.tasks.countdown import evaluate
from minideepseek.data.tasks.numerals import read, write
from minideepseek.data.tokenizer import Tokenizer

TASKS: list[Task] = [
    Addition(),
    Addition(digits=4, languages="both"),
    Multiplication(),
    Multiplication(digits=3, languages="both"),
    Countdown(),
    Countdown(numbers=5, largest=20, limit=500),
]
tasks = pytest.mark.parametrize("task", TASKS, ids=str)
pieces = ["<think>", "</think>", "<answer>", "</answer>", "1", "85", ",", "=", "+", "(", ")", "*", "-", "四", " ", "x"]
garbage = st.lists(st.sampled_from(pieces), max_size=14).map("".join) | st.text(max_size=30)


def sum_of(a: int, b: int, **settings: str) -> Problem:
    task = Addition(**settings)
    prompt = f"{a}+{b}="
    return Problem(task=task, prompt=prompt, answer=str(a + b), numbers=(a, b))


# --- demonstrations ---------------------------------------------------------------------------------------------------


@tasks
def test_a_flawless_demonstration_is_right_in_every_step(task: Task) -> None:
    for i, problem in enumerate(practice_problems(task, 100)):
        response = task.demonstrate(problem, Draw(i))
        parsed = parse(response)
        assert parsed is not None
        assert problem.solved_by(parsed.answer)
        assert problem.solved_by(problem.answer)
        steps = task.steps(problem, response)
        assert all(step.right for step in steps)
        assert len(steps) > 2
        ends = [step.end for step in steps]
        assert ends == sorted(set(ends))
        assert ends[-1] == len(response)


def test_the_scratchpad_is_the_written_sum() -> None:
    assert Addition().demonstrate(sum_of(47, 38), Draw(0)) == "<think>15,08</think><answer>85</answer>"
    assert Addition().demonstrate(sum_of(95, 38), Draw(0)) == "<think>13,13</think><answer>133</answer>"
    product = replace(sum_of(47, 6), task=Multiplication(), numbers=(47, 6))
    assert Multiplication().demonstrate(product, Draw(0)) == "<think>42,28</think><answer>282</answer>"


@tasks
def test_flaws_come_as_often_as_they_are_asked_for(task: Task) -> None:
    problems = practice_problems(task, 400)

    def right(flaws: Flaws) -> float:
        shown = [task.demonstrate(problem, Draw("d", i), flaws) for i, problem in enumerate(problems)]
        return sum(problem.solved_by(answer_of(text)) for problem, text in zip(problems, shown, strict=True)) / 400

    assert right(Flaws()) == 1.0
    assert right(Flaws(wrong=1.0)) < 0.1
    assert right(Flaws(bare=1.0)) == 0.0
    assert 0.4 < right(Flaws(bare=0.5)) < 0.6


def test_a_sum_with_slips_is_right_as_often_as_none_of_its_numbers_slips() -> None:
    problems = practice_problems(Addition(), 2000)
    shown = [Addition().demonstrate(problem, Draw("d", i), Flaws(wrong=0.3)) for i, problem in enumerate(problems)]
    right = [problem.solved_by(answer_of(text)) for problem, text in zip(problems, shown, strict=True)]
    assert abs(sum(right) / 2000 - 0.7**3) < 0.04  # two columns and the answer; 0.04 is four deviations


def test_what_follows_a_slip_goes_on_from_it() -> None:
    problem, texts = sum_of(47, 38), set()
    for i in range(200):
        texts.add(answer_of(Addition().demonstrate(problem, Draw(i), Flaws(wrong=0.3))))
        response = Addition().demonstrate(problem, Draw(i), Flaws(wrong=0.3))
        parsed = parse(response)
        assert parsed is not None
        first, second = parsed.thought.split(",")
        if first == "15" and second == "08" and parsed.answer != "85":
            break  # the answer itself slipped
    else:
        pytest.fail("in 200 demonstrations no answer slipped")
    assert len(texts) > 10


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_chance_is_a_chance(wrong: float) -> None:
    with pytest.raises(ValueError, match="wrong="):
        Flaws(wrong=wrong)


# --- judging ----------------------------------------------------------------------------------------------------------


@tasks
@given(text=garbage)
@settings(max_examples=60, deadline=None)
def test_garbage_is_judged_and_never_raises(task: Task, text: str) -> None:
    problem = task.problem(Draw(0))
    problem.solved_by(text)
    parse(text)
    answer_of(text)
    for response in (text, f"<think>{text}</think><answer>{text}</answer>"):
        steps = task.steps(problem, response)
        assert steps[-1].end == len(response)
        assert all(0 <= step.end <= len(response) for step in steps)


@pytest.mark.parametrize(
    "answer", ["", " 85", "085 ", "85.0", "+85", "8 5", "86", "eighty-five", "-85", "8" * 500, None]
)
def test_almost_right_is_wrong(answer: str | None) -> None:
    assert not sum_of(47, 38).solved_by(answer)


def test_a_number_is_the_same_in_either_alphabet() -> None:
    assert sum_of(47, 38).solved_by("85")
    assert sum_of(47, 38).solved_by("八五")
    assert sum_of(47, 38).solved_by("8五")


@given(number=st.integers(0, 10**15), width=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(number: int, width: int) -> None:
    for numerals in (LATIN, CHINESE):
        text = write(number, numerals, width=width)
        assert len(text) == max(width, len(str(number)))
        assert set(text) <= set(numerals)
        assert read(text, longest=20) == number


def test_steps_are_judged_one_by_one() -> None:
    problem = sum_of(47, 38)
    right = [[step.right for step in Addition().steps(problem, text)] for text in (
        respond("15,08", "85"), respond("15,08", "58"), respond("14,08", "84"), respond("15,07", "75"), "15,08", "",
    )]  # fmt: skip
    assert right == [
        [True, True, True], [True, True, False], [False, True, False], [True, False, False], [False], [False],
    ]  # fmt: skip


@given(tree=st.recursive(
    st.integers(0, 30).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_expressions_mean_what_they_mean_in_python(tree: str) -> None:
    bare = tree.replace("(", "").replace(")", "")
    for text in (tree, bare):
        found = evaluate(text)
        if len(text) > 64:
            assert found is None
        else:
            assert found is not None
            assert found[0] == eval(text)
            assert len(found[1]) == 1 + sum(map(bare.count, "+-*"))


@pytest.mark.parametrize("text", ["", "+", "3+", "3 + 4", "(3", "3)", "()", "3(4)", "3**2", "2^3", "３+4", "3--2", "a"])
def test_what_is_no_expression_has_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_countdown_wants_each_number_once_and_any_way_to_the_target() -> None:
    problem = Problem(task=Countdown(), prompt="3,7,2:20=", answer="(3+7)*2", numbers=(3, 7, 2, 20))
    assert all(problem.solved_by(answer) for answer in ("(3+7)*2", "2*(7+3)", "((7+3))*2"))
    assert not any(problem.solved_by(answer) for answer in ("20", "7*2+3+3", "3+7*2", "(3+7)*2*1", "10*2"))


# --- format -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "kept", "answer"),
    [
        ("<think>15,08</think><answer>85</answer>", True, "85"),
        ("\n<think>\n</think>\n<answer>85</answer>\n", True, "85"),
        ("<think></think><answer></answer>", True, ""),
        ("<answer>85</answer>", False, "85"),
        ("so <think>x</think><answer>85</answer>", False, "85"),
        ("<think>x</think><answer>85</answer>!", False, "85"),
        ("<think>x</think>, then <answer>85</answer>", False, "85"),
        ("<think>x<think>y</think><answer>85</answer>", False, "85"),
        ("<think>x</think><answer>85</answer><answer>86</answer>", False, None),
        ("<think>x</think><answer>8<answer>5</answer>", False, None),
        ("<think>x</think><answer>85", False, None),
        ("<think>x</think>85</answer>", False, None),
        ("85", False, None),
    ],
)
def test_the_format_is_kept_to_the_letter_and_an_answer_is_the_only_one(
    response: str, kept: bool, answer: str | None
) -> None:
    assert (parse(response) is not None) is kept
    assert answer_of(response) == answer


# --- practice and exam ------------------------------------------------------------------------------------------------


@tasks
def test_nothing_practised_is_examined(task: Task) -> None:
    practised = {task.identity(problem) for seed in range(3) for problem in practice_problems(task, 400, seed=seed)}
    exam = held_out_problems(task, 40, seed=1)
    examined = {task.identity(problem) for problem in exam}
    assert len(exam) == len(examined) == 40
    assert not practised & examined


def test_the_same_problem_in_other_words_is_the_same_problem() -> None:
    identity = Addition(languages="both").identity
    same = [sum_of(47, 38), sum_of(38, 47), replace(sum_of(47, 38), prompt="四七+三八=", numerals=CHINESE)]
    assert len(set(map(identity, same))) == 1
    assert identity(sum_of(47, 39)) != identity(same[0])
    given = [replace(sum_of(0, 0), numbers=numbers) for numbers in itertools.permutations((3, 7, 2))]
    assert len({Countdown().identity(replace(one, numbers=(*one.numbers, 20))) for one in given}) == 1


@tasks
def test_seeds_decide_the_problems(task: Task) -> None:
    assert practice_problems(task, 20, seed=3) == practice_problems(task, 40, seed=3)[:20]
    assert practice_problems(task, 20, seed=3) != practice_problems(task, 20, seed=4)


def test_thoughts_mix_alphabets_only_where_there_are_two() -> None:
    for languages, expected in (("latin", 0.0), ("both", 0.5)):
        task = Addition(languages=languages)  # type: ignore[arg-type]
        foreign = total = 0
        for i, problem in enumerate(practice_problems(task, 100)):
            text = task.demonstrate(problem, Draw(i), Flaws(mixed=0.5))
            other = CHINESE if problem.numerals == LATIN else LATIN
            foreign += sum(character in other for character in text)
            total += sum(character in LATIN + CHINESE for character in text)
        assert abs(foreign / total - expected) < 0.1


@pytest.mark.parametrize("wish", [100, 10**9])
def test_more_problems_than_there_are_cannot_be_examined_however_many_are_wished_for(wish: int) -> None:
    with pytest.raises(UserError, match="holds out only"):
        held_out_problems(Addition(digits=1), wish)
    everything = held_out_problems(Addition(digits=1), wish, or_fewer=True)
    assert 3 < len(everything) == len({Addition().identity(problem) for problem in everything}) < 20


@pytest.mark.parametrize("draw", [practice_problems, held_out_problems])
def test_fewer_than_no_problems_are_refused(draw: Callable[..., list[Problem]]) -> None:
    assert draw(Addition(), 0) == []
    with pytest.raises(UserError, match="-5 problems cannot be drawn"):
        draw(Addition(), -5)


def test_a_task_with_hardly_any_problems_is_refused_instead_of_searched_for_ever() -> None:
    single = Countdown(numbers=2, largest=1, limit=1)  # 1-1=0 and 1*1=1: both are on the side of practice
    assert len(practice_problems(single, 5)) == 5
    with pytest.raises(UserError, match="so few different problems that none is held out"):
        held_out_problems(single, 1)


# --- characters -------------------------------------------------------------------------------------------------------


@tasks
def test_a_task_is_spelt_in_its_own_few_tokens(task: Task) -> None:
    tokenizer = tokenizer_for(task)
    assert tokenizer.vocab_size < 45
    for i, problem in enumerate(practice_problems(task, 30)):
        for text in (problem.prompt, task.demonstrate(problem, Draw(i), Flaws(wrong=0.5, mixed=0.2, bare=0.2))):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert "□" not in text
            assert all(len(tokenizer.decode([i])) == 1 or tokenizer.decode([i])[0] == "<" for i in ids)


def test_character_tokens_survive_a_save_and_leave_control_tokens_to_ids(tmp_path: Path) -> None:
    tokenizer = tokenizer_for(Addition(languages="both"), Countdown())
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = "四7+3八=<think>1五</think><answer>(2*3)</answer>"
    assert loaded.encode(text, bos=True) == tokenizer.encode(text, bos=True)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (0, 1, 2)
    assert tokenizer.decode([0, *tokenizer.encode("1+1"), 1]) == "1+1"
    assert tokenizer.eos_id not in tokenizer.encode("<｜end▁of▁sentence｜>")
    assert tokenizer.tokens(tokenizer.encode("1x")) == ["1", "□"]


def test_transformers_reads_character_tokens_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizer_for(Addition())
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "47+38=<think>15,08</think><answer>85</answer>"
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("alphabet", ["", "01□"])
def test_an_alphabet_that_cannot_be_is_refused(alphabet: str) -> None:
    with pytest.raises(UserError, match="alphabet="):
        character_tokenizer(alphabet)


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        ("addition", Addition()),
        ("addition:digits=3,languages=both", Addition(digits=3, languages="both")),
        ("multiplication:digits=1", Multiplication(digits=1)),
        ("countdown:numbers=4", Countdown(numbers=4)),
    ],
)
def test_a_task_is_opened_by_what_a_user_writes(spec: str, task: Task) -> None:
    assert open_task(spec) == task


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sorting", "there are addition, multiplication, countdown"),
        ("addition:digit=3", "addition has digits, languages"),
        ("addition:digits=x", "cannot read 'digits=x'"),
        ("addition:digits", "cannot read 'digits'"),
        ("addition:digits=99", "digits=99"),
        ("countdown:numbers=1", "numbers=1"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_task(spec)
