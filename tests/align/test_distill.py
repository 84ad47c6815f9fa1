"""Distilling: only right answers are kept, the divergence is exact, and a student becomes its teachers."""

from dataclasses import replace

import pytest
import torch

from minideepseek import UserError
from minideepseek.align import logprobs
from minideepseek.align.batch import encode_prompt, pad
from minideepseek.align.distill import (
    OnPolicyConfig,
    distil_loss,
    on_policy_distill,
    rejection_sample,
    reverse_kl,
)
from minideepseek.align.evaluate import examine
from minideepseek.align.rewards import length_penalty, weighted
from minideepseek.align.sft import SFTConfig, demonstrations, sft
from minideepseek.data.tasks import Addition, Flaws, Multiplication, Problem, practice_problems, tokenizer_for
from minideepseek.model import Transformer

from .conftest import MINIS, TINY, exact, some_examples

SUMS, PRODUCTS = Addition(digits=1), Multiplication(digits=1)
TOKENIZER = tokenizer_for(SUMS, PRODUCTS)
SMALL = replace(TINY, d_model=32, vocab_size=TOKENIZER.vocab_size, init_std=None)


def taught(task, steps: int, wrong: float = 0.0, seed: int = 0) -> Transformer:
    model = Transformer(SMALL, seed=seed)
    examples = demonstrations(task, TOKENIZER, 300, flaws=Flaws(wrong=wrong), seed=seed)
    sft(model, examples, SFTConfig(steps=steps, lr=1e-2, seed=seed), progress=False)
    return model


@pytest.fixture(scope="module")
def adder() -> Transformer:
    return taught(SUMS, 220)


def right(model: Transformer, task) -> float:
    exam = practice_problems(task, 50, seed=3)
    return examine(model, TOKENIZER, exam, attempts=2, max_new_tokens=12).pass_at[1]


# --- rejection sampling -----------------------------------------------------------------------------------------------


def test_only_right_and_finished_answers_are_kept_each_text_once() -> None:
    model = taught(SUMS, 150, wrong=0.3)
    problems = practice_problems(SUMS, 40, seed=1)
    kept = rejection_sample(model, TOKENIZER, problems, attempts=6, most=6, max_new_tokens=12)
    by_prompt = {tuple(encode_prompt(TOKENIZER, problem.prompt)): problem for problem in problems}
    texts = []
    for prompt, response in kept:
        problem, text = by_prompt[tuple(prompt)], TOKENIZER.decode(response)
        assert problem.solved_by(text.split("<answer>")[1].removesuffix("</answer>"))
        assert response[-1] == TOKENIZER.eos_id
        texts.append((tuple(prompt), text))
    repeated = len(problems) - len(by_prompt)
    assert len(set(texts)) >= len(texts) - 6 * repeated
    assert 10 < len(kept) < 200
    few = rejection_sample(model, TOKENIZER, problems, attempts=6, most=1, max_new_tokens=12)
    assert len(few) <= 40
    assert len(few) < len(kept)


def test_what_is_wanted_is_up_to_the_reward() -> None:
    model = taught(SUMS, 100, wrong=0.5)
    problems = list({problem.prompt: problem for problem in practice_problems(SUMS, 20)}.values())

    def anything(problem: Problem, text: str) -> float:
        return 0.0

    assert rejection_sample(model, TOKENIZER, problems, reward=anything, max_new_tokens=12) == []
    brief = weighted((1.0, anything), (1.0, length_penalty(60, soft=60)))
    kept = rejection_sample(model, TOKENIZER, problems, reward=brief, least=-1.0, attempts=8, max_new_tokens=12, seed=1)
    every = rejection_sample(
        model, TOKENIZER, problems, reward=brief, least=-1.0, attempts=8, most=8, max_new_tokens=12, seed=1
    )
    lengths: dict[tuple, list[int]] = {}
    for prompt, response in every:
        lengths.setdefault(tuple(prompt), []).append(len(TOKENIZER.decode(response)))
    assert all(len(TOKENIZER.decode(response)) == min(lengths[tuple(prompt)]) for prompt, response in kept)


def test_what_did_not_end_is_not_kept_whatever_it_earned() -> None:
    problems = practice_problems(SUMS, 20)
    kept = rejection_sample(
        Transformer(SMALL, seed=0),
        TOKENIZER,
        problems,
        reward=lambda problem, text: 1.0,
        attempts=8,
        most=8,
        max_new_tokens=4,
    )
    assert 0 < len(kept) < 100
    assert all(response[-1] == TOKENIZER.eos_id for _, response in kept)


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"most": 0}, {"at_once": 0}, {"problems": []}])
def test_samples_of_nothing_are_refused(settings: dict) -> None:
    arguments = {"problems": practice_problems(SUMS, 1)} | settings
    with pytest.raises(UserError, match="yield no examples"):
        rejection_sample(Transformer(SMALL, seed=0), TOKENIZER, **arguments)


# --- the divergence ---------------------------------------------------------------------------------------------------


def test_the_divergence_is_exact_in_pieces_and_only_the_student_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "BUDGET", 40)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    hidden, weight, beside, head = random(7, 4), random(11, 4), random(7, 6), random(11, 6)
    p, q = (hidden @ weight.T).softmax(-1), (beside @ head.T).softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    found = reverse_kl(hidden, weight, beside, head)
    torch.testing.assert_close(found, expected)
    theirs = torch.autograd.grad(expected.sum(), (hidden, weight))
    found.sum().backward()
    torch.testing.assert_close(hidden.grad, theirs[0])
    torch.testing.assert_close(weight.grad, theirs[1])
    assert beside.grad is None
    assert head.grad is None


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    model = exact()
    loss = distil_loss(model, model, pad(some_examples()))
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    loss.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-12 for p in model.parameters())


def test_the_mean_of_the_token_estimate_is_the_divergence_and_its_spread_is_what_v4_avoids() -> None:
    hidden = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    head = weight + 0.2 * torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    p, q = (hidden @ weight.T).softmax(-1)[0], (hidden @ head.T).softmax(-1)[0]
    estimates = (p / q).log()
    whole = reverse_kl(hidden, weight, hidden, head)[0]
    torch.testing.assert_close((p * estimates).sum(), whole)
    assert (p * (estimates - whole).square()).sum().sqrt() > whole  # of one token; the nearer, the worse in proportion


# --- students ---------------------------------------------------------------------------------------------------------


def test_a_student_learns_from_a_teachers_opinion_of_what_it_writes_itself(adder: Transformer) -> None:
    student = taught(SUMS, 200, wrong=0.3, seed=13)
    before = right(student, SUMS)
    cfg = OnPolicyConfig(steps=60, batch_size=32, max_new_tokens=12, lr=5e-3)
    records = on_policy_distill(student, adder, TOKENIZER, practice_problems(SUMS, 200), cfg, progress=False)
    assert right(adder, SUMS) > 0.85
    assert right(student, SUMS) > before + 0.15  # 0.18 to 0.52 over four seeds, this one the last
    assert records[-1]["loss"] < records[0]["loss"] / 3
    assert records[-1]["entropy"] < records[0]["entropy"]


def test_one_student_unites_experts_each_asked_for_its_own_problems(adder: Transformer) -> None:
    experts = {SUMS: adder, PRODUCTS: taught(PRODUCTS, 220)}
    asked: list[tuple] = []

    def expert(problem: Problem) -> Transformer:
        asked.append((problem.task, experts[problem.task]))
        return experts[problem.task]

    student = Transformer(SMALL, seed=2)
    both = [
        *demonstrations(SUMS, TOKENIZER, 200, flaws=Flaws(wrong=0.3)),
        *demonstrations(PRODUCTS, TOKENIZER, 200, flaws=Flaws(wrong=0.3)),
    ]
    sft(student, both, SFTConfig(steps=300, lr=1e-2), progress=False)
    problems = [one for pair in zip(*(practice_problems(t, 100) for t in experts), strict=True) for one in pair]
    before = {task: right(student, task) for task in experts}
    cfg = OnPolicyConfig(steps=80, batch_size=32, max_new_tokens=12, lr=5e-3)
    on_policy_distill(student, expert, TOKENIZER, problems, cfg, progress=False)
    assert len(asked) == 80 * 32
    assert all(right(student, task) > before[task] + 0.15 for task in experts)  # 0.32 at least over four seeds


def test_the_same_seed_distils_to_the_same_bits(adder: Transformer) -> None:
    def losses(seed: int) -> list[float]:
        cfg = OnPolicyConfig(steps=3, batch_size=4, max_new_tokens=6, seed=seed)
        student = Transformer(SMALL, seed=1)
        records = on_policy_distill(student, adder, TOKENIZER, practice_problems(SUMS, 9), cfg, progress=False)
        return [record["loss"] for record in records]

    assert losses(0) == losses(0) != losses(1)


def test_a_teacher_may_be_of_another_generation(adder: Transformer) -> None:
    teacher = Transformer(replace(MINIS["v3-mini"], vocab_size=TOKENIZER.vocab_size), seed=0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    cfg = OnPolicyConfig(steps=2, batch_size=4, max_new_tokens=4)
    on_policy_distill(Transformer(SMALL, seed=1), teacher, TOKENIZER, practice_problems(SUMS, 9), cfg, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_teacher_of_other_words_is_refused() -> None:
    other = Transformer(replace(SMALL, vocab_size=99), seed=0)
    with pytest.raises(UserError, match="99 rows"):
        on_policy_distill(
            Transformer(SMALL, seed=0), other, TOKENIZER, practice_problems(SUMS, 2), OnPolicyConfig(), progress=False
        )


def test_no_problems_are_refused(adder: Transformer) -> None:
    with pytest.raises(UserError, match="no problems"):
        on_policy_distill(Transformer(SMALL, seed=0), adder, TOKENIZER, [], progress=False)
