"""GRPO's formulas: advantages, ratio, clipping, divergences and averages, against closed forms and enumeration."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek import UserError
from minideepseek.align.grpo import (
    GRPOConfig,
    group_advantages,
    grpo_objective,
    k3,
    process_advantages,
    unbiased_kl,
)
from minideepseek.align.grpo.advantages import judged_steps, step_columns
from minideepseek.data.tasks import Addition, Problem, Step
from minideepseek.data.tokenizer import Tokenizer

groups = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def random(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ROWS, COLUMNS = 4, 6
MASK = torch.arange(COLUMNS) < torch.tensor([3, 6, 1, 4])[:, None]
ADVANTAGES = torch.tensor([1.5, -0.5, 0.8, -1.8], dtype=torch.float64)[:, None].expand(ROWS, COLUMNS)


# --- advantages -------------------------------------------------------------------------------------------------------


@given(rewards=groups)
@settings(max_examples=60, deadline=None)
def test_advantages_have_mean_zero_and_deviation_one_unless_all_are_equal(rewards: Tensor) -> None:
    found = group_advantages(rewards)
    for own, row in zip(rewards, found, strict=True):
        if len(set(own.tolist())) == 1:
            assert row.tolist() == [0.0] * 4
        else:
            assert row.mean().abs() < 1e-12
            assert abs(row.square().mean() - 1) < 1e-12
            assert row.abs().max() <= math.sqrt(3) + 1e-12
            assert torch.equal(row.argsort(stable=True), own.argsort(stable=True))


@given(rewards=groups)
@settings(max_examples=30, deadline=None)
def test_without_scaling_advantages_are_rewards_less_their_mean(rewards: Tensor) -> None:
    found = group_advantages(rewards, scale=False)
    torch.testing.assert_close(found, rewards - rewards.mean(1, keepdim=True), rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8 + 0.1, -0.7])
@pytest.mark.parametrize("scale", [True, False])
def test_a_group_without_differences_teaches_exactly_nothing(value: float, scale: bool) -> None:
    rewards = torch.full((1, 7), value, dtype=torch.float64)
    assert group_advantages(rewards, scale=scale).tolist() == [[0.0] * 7]


def test_differences_of_rounding_are_none() -> None:
    assert group_advantages(torch.tensor([[0.0, 1e-12], [1e6, 1e6 + 1e-6]], dtype=torch.float64)).count_nonzero() == 0


def test_scaling_makes_questions_count_alike_however_hard_they_are() -> None:
    rewards = torch.tensor([[1.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4], dtype=torch.float64)
    scaled, plain = group_advantages(rewards), group_advantages(rewards, scale=False)
    assert scaled.square().sum(1).tolist() == pytest.approx([8.0, 8.0])
    assert plain.square().sum(1).tolist() == pytest.approx([7 / 8, 2.0])


def test_steps_are_normalised_together_and_count_for_all_that_led_to_them() -> None:
    steps = [[(1, 1.0), (3, 0.0)], [(2, 1.0), (4, 1.0)]]
    mean, deviation = 0.75, math.sqrt(3) / 4
    good, bad = (1 - mean) / deviation, (0 - mean) / deviation
    expected = [[good + bad, good + bad, bad, bad, 0, 0], [2 * good] * 3 + [good] * 2 + [0]]
    torch.testing.assert_close(process_advantages(steps, 6), torch.tensor(expected, dtype=torch.float64))


def test_one_step_at_the_end_is_outcome_supervision() -> None:
    rewards = [0.0, 1.0, 1.0, 0.5]
    ends = [3, 1, 4, 2]
    found = process_advantages([[(end, reward)] for end, reward in zip(ends, rewards, strict=True)], 6)
    outcome = group_advantages(torch.tensor([rewards], dtype=torch.float64))[0]
    inside = torch.arange(6) <= torch.tensor(ends)[:, None]
    torch.testing.assert_close(found, outcome[:, None] * inside)


def test_a_step_ends_with_the_token_that_completes_it(tokenizer: Tokenizer) -> None:
    response = tokenizer.encode("<think>15,08</think><answer>85</answer>")
    assert tokenizer.tokens(response)[:3] == ["<think>", "1", "5"]
    steps = [Step(9, True), Step(12, True), Step(39, True)]
    assert step_columns(tokenizer, response, steps) == [2, 5, 10]
    problem = Problem(task=Addition(), prompt="47+38=", answer="85", numbers=(47, 38))
    judged = judged_steps(
        tokenizer, problem, "<think>14,08</think><answer>85</answer>", [*response, tokenizer.eos_id], 6
    )
    assert judged == [(8, 0.0), (11, 1.0), (17, 1.0)]


def test_an_empty_response_is_one_wrong_step(tokenizer: Tokenizer) -> None:
    problem = Problem(task=Addition(), prompt="47+38=", answer="85", numbers=(47, 38))
    assert judged_steps(tokenizer, problem, "", [tokenizer.eos_id], 6) == [(6, 0.0)]


# --- the objective ----------------------------------------------------------------------------------------------------


def gradient(cfg: GRPOConfig, logp: Tensor, old: Tensor, reference: Tensor | None = None) -> Tensor:
    logp = logp.clone().requires_grad_()
    grpo_objective(logp, old, ADVANTAGES, MASK, cfg, reference=reference).loss.backward()
    assert logp.grad is not None
    return logp.grad


SHARES: dict[str, Callable[[GRPOConfig], Tensor]] = {
    "response": lambda cfg: MASK.double() / MASK.sum(1, keepdim=True) / ROWS,
    "token": lambda cfg: MASK.double() / MASK.sum(),
    "constant": lambda cfg: MASK.double() / (ROWS * cfg.max_new_tokens),
}


@pytest.mark.parametrize("average", SHARES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_at_the_first_update_the_gradient_is_the_papers_coefficient(average: str, beta: float) -> None:
    cfg = GRPOConfig(average=average, beta=beta)  # type: ignore[arg-type]
    logp, reference = random(ROWS, COLUMNS) - 1, random(ROWS, COLUMNS, seed=1) - 1
    coefficient = ADVANTAGES + beta * ((reference - logp).exp() - 1)
    expected = -coefficient * SHARES[average](cfg)
    torch.testing.assert_close(gradient(cfg, logp, logp, reference), expected, rtol=1e-12, atol=1e-12)


def test_how_long_a_mistake_is_makes_it_cheap_only_where_responses_count_once() -> None:
    logp = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    per_token = {
        average: gradient(GRPOConfig(average=average, beta=0.0), logp, logp).abs().amax(1)  # type: ignore[arg-type]
        for average in SHARES
    }
    assert per_token["response"][1] / per_token["response"][3] == pytest.approx((0.5 / 6) / (1.8 / 4))
    for average in ("token", "constant"):
        assert per_token[average][1] / per_token[average][3] == pytest.approx(0.5 / 1.8)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.1, 10.0)])
def test_tokens_beyond_the_bounds_are_pushed_no_further_and_may_come_back(low: float, high: float) -> None:
    cfg = GRPOConfig(clip_low=low, clip_high=high, beta=0.0, average="token")
    ratios = torch.tensor([0.5, 0.85, 1.0, 1.25, 1.5, 12.0], dtype=torch.float64).expand(ROWS, COLUMNS)
    old = torch.full_like(ratios, -2.0)
    found = gradient(cfg, old + ratios.log(), old)
    stopped = torch.where(ADVANTAGES > 0, ratios > 1 + high, ratios < 1 - low)
    expected = torch.where(stopped | ~MASK, 0.0, -ratios * ADVANTAGES) / MASK.sum()
    torch.testing.assert_close(found, expected)
    metrics = grpo_objective(old + ratios.log(), old, ADVANTAGES, MASK, cfg).metrics
    assert metrics["clipped"].item() == pytest.approx((stopped & MASK).sum().item() / MASK.sum().item())


def test_without_advantages_nothing_but_the_divergence_is_left() -> None:
    logp, old, reference = (random(ROWS, COLUMNS, seed=seed) - 1 for seed in range(3))
    nothing = torch.zeros_like(logp)
    found = grpo_objective(logp, old, nothing, MASK, GRPOConfig(beta=0.5, average="token"), reference=reference)
    expected = 0.5 * k3(logp, reference)[MASK].mean()
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.metrics["kl"], 2 * expected)
    assert grpo_objective(logp, old, nothing, MASK, GRPOConfig(beta=0.0)).loss == 0


def test_what_stands_outside_the_mask_does_not_matter() -> None:
    logp, old, reference = (random(ROWS, COLUMNS, seed=seed) - 1 for seed in range(3))
    for divergence in ("k3", "unbiased"):
        cfg = GRPOConfig(divergence=divergence, off_policy=0.01)  # type: ignore[arg-type]
        plain = grpo_objective(logp, old, ADVANTAGES, MASK, cfg, reference=reference).loss
        other = [tensor.where(MASK, 5.0) for tensor in (logp, old, reference)]
        found = grpo_objective(other[0], other[1], ADVANTAGES.where(MASK, 9.0), MASK, cfg, reference=other[2]).loss
        torch.testing.assert_close(found, plain, rtol=0, atol=0)


# --- divergences ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_the_unbiased_estimate_has_value_and_gradient_of_the_divergence_by_enumeration(seed: int) -> None:
    logits = random(5, seed=seed, scale=1.0).requires_grad_()
    old, reference = (random(5, seed=seed + 100 * n, scale=1.0).log_softmax(0) for n in (1, 2))
    logp = logits.log_softmax(0)
    truth = (logp.exp() * (logp - reference)).sum()
    (expected,) = torch.autograd.grad(truth, logits, retain_graph=True)
    mean = (old.exp() * unbiased_kl(logp, old, reference)).sum()
    (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
    torch.testing.assert_close(mean, truth, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    on_policy = logp.detach()
    k3_mean = (on_policy.exp() * k3(logp, reference)).sum()
    torch.testing.assert_close(k3_mean, truth, rtol=1e-10, atol=1e-12)
    (k3_gradient,) = torch.autograd.grad(k3_mean, logits)
    # What k3's gradient belongs to is the divergence the other way round.
    backwards = reference.exp() - on_policy.exp()
    torch.testing.assert_close(k3_gradient, -backwards, rtol=1e-9, atol=1e-12)
    assert (k3_gradient - expected).abs().max() > 1e-3


def test_estimates_are_never_negative_and_zero_where_nothing_has_moved() -> None:
    logp, old, reference = (random(50, seed=seed) for seed in range(3))
    assert (k3(logp, reference) > 0).all()
    assert (unbiased_kl(logp, old, reference) > 0).all()
    assert not k3(logp, logp).any()
    assert not unbiased_kl(logp, old, logp).any()


def test_k3_pushes_without_bound_where_the_policy_has_fallen_far_below_the_reference() -> None:
    pushes = {}
    for name in ("k3", "unbiased"):
        logp = torch.tensor([-12.0], dtype=torch.float64, requires_grad=True)
        old = reference = torch.tensor([-1.0], dtype=torch.float64)
        value = k3(logp, reference) if name == "k3" else unbiased_kl(logp, old, reference)
        value.sum().backward()
        assert logp.grad is not None
        pushes[name] = logp.grad.abs().item()
    assert pushes["k3"] > 10_000
    assert pushes["unbiased"] < 1


# --- off-policy sequences ---------------------------------------------------------------------------------------------


def test_only_responses_below_average_that_have_drifted_away_are_left_out() -> None:
    logp = torch.full((ROWS, COLUMNS), -1.0, dtype=torch.float64)
    drift = torch.tensor([0.5, 0.5, 0.5, 0.05], dtype=torch.float64)[:, None]
    cfg = GRPOConfig(off_policy=0.1, beta=0.1, clip_low=0.99, clip_high=10.0)
    reference = logp - 0.3
    found = gradient(cfg, logp, logp + drift, reference)
    everything = gradient(GRPOConfig(beta=0.1, clip_low=0.99, clip_high=10.0), logp, logp + drift, reference)
    assert torch.equal(found[[0, 2, 3]], everything[[0, 2, 3]])  # better than average, or near
    only_divergence = 0.1 * -(math.exp(-0.3) - 1) / 6 / ROWS
    torch.testing.assert_close(found[1], torch.full((6,), only_divergence, dtype=torch.float64))
    masked = grpo_objective(logp, logp + drift, ADVANTAGES, MASK, cfg, reference=reference).metrics["masked"]
    assert masked.item() == pytest.approx(6 / MASK.sum().item())


def test_what_is_left_out_does_not_count_as_clipped() -> None:
    logp = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    everything = GRPOConfig(beta=0.0)  # a ratio of exp(-1/2) is clipped where advantages are negative
    assert grpo_objective(logp, logp + 0.5, ADVANTAGES, MASK, everything).metrics["clipped"] > 0
    masking = GRPOConfig(beta=0.0, off_policy=0.1)
    assert grpo_objective(logp, logp + 0.5, ADVANTAGES, MASK, masking).metrics["clipped"] == 0


def test_drift_is_measured_on_the_response_alone() -> None:
    logp = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    old = torch.where(MASK, 0.05, 50.0)
    cfg = GRPOConfig(off_policy=0.1, beta=0.0)
    assert grpo_objective(logp, old, ADVANTAGES, MASK, cfg).metrics["masked"] == 0


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"questions": 0}, {"group": 1}, {"max_new_tokens": 0}, {"epochs": 0}, {"minibatches": 0}, {"clip_low": -0.1},
        {"clip_high": float("nan")}, {"beta": -1.0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 0},
        {"minibatches": 7}, {"off_policy": 0.0}, {"supervision": "x"}, {"average": "x"}, {"divergence": "x"},
        {"resample": -1}, {"resample": 1, "supervision": "process"}, {"reference_every": -1}, {"lr": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_sense_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        GRPOConfig(**settings)
