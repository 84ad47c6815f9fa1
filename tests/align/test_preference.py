"""Preferences: DPO's loss in closed form, what its metrics mean, and a reward model that orders what it was shown."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from minideepseek import UserError
from minideepseek.align.batch import Example, encode_prompt, pad
from minideepseek.align.preference.dpo import DPOConfig, Pair, dpo, dpo_loss, pair_logprobs, preference_pairs
from minideepseek.align.preference.reward_model import (
    RewardModel,
    RewardModelConfig,
    learnt,
    preference_loss,
    score_pairs,
    train_reward_model,
)
from minideepseek.align.rollout import rollout
from minideepseek.data.tasks import Addition, Problem, practice_problems
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.generate import Sampling
from minideepseek.model import Transformer

from .conftest import TINY, V, exact


def some_pairs(n: int, seed: int = 0) -> list[Pair]:
    """What is preferred begins with token 5, what is not with token 6."""
    generator = torch.Generator().manual_seed(seed)

    def ids(size: int) -> list[int]:
        return torch.randint(7, V, (size,), generator=generator).tolist()

    return [Pair(ids(2 + i % 3), [5, *ids(1 + i % 4), 1], [6, *ids(2 + i % 2), 1]) for i in range(n)]


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_at_the_reference_the_loss_is_log_two_and_pulls_both_ways_alike() -> None:
    chosen = torch.tensor([-3.0, -20.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-4.0, -1.0], dtype=torch.float64, requires_grad=True)
    loss = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.3)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.15] * 2)
    assert rejected.grad.tolist() == pytest.approx([0.15] * 2)


def test_the_loss_is_that_of_the_paper() -> None:
    numbers = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chosen, rejected, ref_chosen, ref_rejected = numbers
    margin = 0.7 * (chosen - ref_chosen) - 0.7 * (rejected - ref_rejected)
    expected = -(1 / (1 + (-margin).exp())).log()
    torch.testing.assert_close(dpo_loss(*numbers, beta=0.7), expected)


def test_a_margin_beyond_all_numbers_is_no_loss_and_no_nan() -> None:
    huge = torch.tensor([1e6])
    assert dpo_loss(huge, -huge, 0 * huge, 0 * huge, beta=1.0).item() == 0.0
    assert dpo_loss(-huge, huge, 0 * huge, 0 * huge, beta=1.0).isfinite().all()


def test_what_is_compared_are_sums_over_response_tokens() -> None:
    model, pairs = exact(), some_pairs(5)
    found = pair_logprobs(model, pairs)
    for k, responses in enumerate(zip(*((pair.chosen, pair.rejected) for pair in pairs), strict=True)):
        for i, response in enumerate(responses):
            row = torch.tensor([[*pairs[i].prompt, *response]])
            logp = model(row).log_softmax(-1)[0, len(pairs[i].prompt) - 1 : -1]
            assert found[k][i].item() == pytest.approx(logp.gather(1, torch.tensor(response)[:, None]).sum().item())


# --- training ---------------------------------------------------------------------------------------------------------


def test_preferences_are_learnt_and_hold_for_pairs_never_seen() -> None:
    model = Transformer(TINY, seed=0)
    before = copy.deepcopy(model)
    records = dpo(model, some_pairs(160), DPOConfig(steps=60, lr=1e-3), progress=False)
    assert records[0]["loss"] == pytest.approx(math.log(2))
    assert records[0]["margin"] == pytest.approx(0.0, abs=1e-6)
    assert records[-1]["loss"] < 0.6
    assert records[-1]["accuracy"] > 0.8
    unseen = some_pairs(30, seed=9)
    with torch.no_grad():
        now, then = pair_logprobs(model, unseen), pair_logprobs(before, unseen)
    assert ((now[0] - then[0]) > (now[1] - then[1])).double().mean() > 0.8  # 0.90 to 1.00 over five seeds


def test_metrics_tell_the_two_likelihoods_apart() -> None:
    model, pairs = Transformer(TINY, seed=0), some_pairs(4)
    with torch.no_grad():
        then = pair_logprobs(model, pairs)
    records = dpo(
        model, pairs, DPOConfig(steps=2, batch_size=4, lr=1e-3, warmup=0, schedule="constant"), progress=False
    )
    once = Transformer(TINY, seed=0)
    dpo(once, pairs, DPOConfig(steps=1, batch_size=4, lr=1e-3, warmup=0, schedule="constant"), progress=False)
    with torch.no_grad():
        now = pair_logprobs(once, pairs)
    record = records[1]
    assert record["chosen"] == pytest.approx((now[0] - then[0]).mean().item(), abs=1e-5)
    assert record["rejected"] == pytest.approx((now[1] - then[1]).mean().item(), abs=1e-5)
    assert record["margin"] == pytest.approx(0.1 * (record["chosen"] - record["rejected"]), abs=1e-6)


def test_a_share_of_plain_loss_holds_up_what_is_preferred() -> None:
    """Pairs that differ in one token only: what is unlearnt of one is unlearnt of the other."""
    shared = [Pair([8, 9], [10, 11, 12, 5, 1], [10, 11, 12, 6, 1])] * 4
    risen = {}
    for nll in (0.0, 1.0):
        model = Transformer(TINY, seed=0)
        cfg = DPOConfig(steps=25, batch_size=4, lr=1e-3, nll=nll)
        risen[nll] = dpo(model, shared, cfg, progress=False)[-1]["chosen"]
    assert risen[1.0] > risen[0.0] + 0.5


def test_the_share_of_plain_loss_is_the_mean_over_tokens_of_each_response() -> None:
    pairs = some_pairs(4)
    losses = {}
    for nll in (0.0, 0.5):
        cfg = DPOConfig(steps=1, batch_size=4, nll=nll)
        losses[nll] = dpo(Transformer(TINY, seed=0), pairs, cfg, progress=False)[0]["loss"]
    with torch.no_grad():
        chosen, _ = pair_logprobs(Transformer(TINY, seed=0), pairs)
    expected = -(chosen / torch.tensor([len(pair.chosen) for pair in pairs])).mean().item()
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * expected, rel=1e-5)


def test_pairs_are_made_of_the_best_and_the_worst_of_a_group(tokenizer: Tokenizer) -> None:
    model = Transformer(replace(TINY, vocab_size=tokenizer.vocab_size), seed=0).eval()
    problems = practice_problems(Addition(), 6)
    found = rollout(
        model,
        tokenizer,
        problems,
        group=6,
        sampling=Sampling(),
        max_new_tokens=8,
        generator=torch.Generator().manual_seed(0),
    )

    def reward(problem: Problem, text: str) -> float:
        return -float(len(text)) if problem.numbers[0] % 2 else 0.0  # some groups are all alike

    pairs = preference_pairs(found, reward)
    odd = [problem for problem in problems if problem.numbers[0] % 2]
    assert 0 < len(odd) < 6
    assert [pair.prompt for pair in pairs] == [encode_prompt(tokenizer, problem.prompt) for problem in odd]
    for pair, problem in zip(pairs, odd, strict=True):
        own = [text for text, asked in zip(found.texts, found.problems, strict=True) if asked is problem]
        assert len(tokenizer.decode(pair.chosen)) == min(map(len, own))
        assert len(tokenizer.decode(pair.rejected)) == max(map(len, own))
    more = preference_pairs(found, reward, most=3)
    assert len(pairs) < len(more) <= 3 * len(pairs)
    assert all(len(tokenizer.decode(p.chosen)) < len(tokenizer.decode(p.rejected)) for p in more)


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"beta": float("nan")}, {"nll": -1.0}, {"batch_size": 0}])
def test_settings_without_sense_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        DPOConfig(**settings)


def test_no_pairs_are_refused() -> None:
    for train in (dpo, train_reward_model):
        with pytest.raises(UserError, match="no pairs"):
            train(Transformer(TINY, seed=0), [], progress=False)


# --- the reward model -------------------------------------------------------------------------------------------------


def test_a_reward_model_learns_an_order_that_holds_for_pairs_never_seen() -> None:
    model = Transformer(TINY, seed=0)
    before = copy.deepcopy(model.state_dict())
    judge, records = train_reward_model(model, some_pairs(60), RewardModelConfig(steps=40, lr=3e-3), progress=False)
    assert records[0]["loss"] == pytest.approx(math.log(2))
    assert records[-1]["loss"] < 0.2
    with torch.no_grad():
        chosen, rejected = score_pairs(judge, some_pairs(40, seed=9))
    assert (chosen > rejected).double().mean() > 0.95
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_score_depends_on_the_whole_response_and_on_nothing_behind_it() -> None:
    judge = RewardModel(exact())
    with torch.no_grad():
        judge.score.copy_(torch.linspace(-1, 1, TINY.d_model))
    short, long = Example([4, 5], [6, 7]), Example([4, 5], [6, 7, 8, 9, 10, 11])
    alone, padded = judge(pad([short])), judge(pad([short, long]))
    torch.testing.assert_close(padded[:1], alone)
    row = torch.tensor([[4, 5, 6, 7]])
    expected = judge.model.hidden(row, judge.model.context(row))[0, -1] @ judge.score
    torch.testing.assert_close(alone[0], expected)
    assert (padded[0] - padded[1]).abs() > 1e-3


def test_preferences_are_bradley_and_terrys() -> None:
    scores = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 3.0, -5.0])
    chances = [1 / 2, math.exp(1) / (math.exp(1) + math.exp(3)), math.exp(-2) / (math.exp(-2) + math.exp(-5))]
    assert preference_loss(*scores).exp().reciprocal().tolist() == pytest.approx(chances)


def test_a_learnt_reward_is_a_reward_like_any_other(tokenizer: Tokenizer) -> None:
    judge = RewardModel(Transformer(replace(TINY, vocab_size=tokenizer.vocab_size), seed=0)).eval()
    with torch.no_grad():
        judge.score.fill_(0.1)
    reward = learnt(judge, tokenizer)
    problem = practice_problems(Addition(), 1)[0]
    assert reward(problem, "85") != reward(problem, "8")
    ids = [[*encode_prompt(tokenizer, problem.prompt), *tokenizer.encode("85"), tokenizer.eos_id]]
    hidden = judge.model.hidden(torch.tensor(ids), judge.model.context(torch.tensor(ids)))
    assert reward(problem, "85") == pytest.approx((hidden[0, -1] @ judge.score).item(), rel=1e-5)
