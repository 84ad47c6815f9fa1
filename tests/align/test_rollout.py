"""Rollouts: recorded probabilities are the sampler's and the trainer's, ends end, routes and masks replay."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from minideepseek import UserError
from minideepseek.align.batch import encode_prompt
from minideepseek.align.logprobs import response_logprobs
from minideepseek.align.rollout import Samples, rollout, sample
from minideepseek.data.tasks import Addition, practice_problems
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.generate import Sampling, generate
from minideepseek.model import Transformer

from .conftest import MINIS, SPARSE, TINY, V, exact

PROMPTS = [[4, 5, 6, 7], [8], [9, 10], [4, 5, 6, 7], [11, 12, 13]]
EOS = 1


def drawn(model: Transformer, *, seed: int = 0, steps: int = 12, **settings: object) -> Samples:
    chosen: dict = {"sampling": Sampling(), "max_new_tokens": steps, "eos_id": EOS, **settings}
    return sample(model, PROMPTS, generator=torch.Generator().manual_seed(seed), **chosen)


@pytest.mark.parametrize("name", MINIS)
def test_what_was_drawn_is_as_likely_to_the_trainer_as_it_was_to_the_sampler(name: str) -> None:
    model = Transformer(MINIS[name], seed=0).double().eval()
    found = drawn(model)
    with torch.no_grad():
        again = response_logprobs(model, found.batch)
    torch.testing.assert_close(again, found.logp, rtol=1e-6, atol=1e-6)
    assert (found.logp[found.batch.mask] < 0).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.6), Sampling(top_p=0.7), Sampling(top_k=3, temperature=1.5)], ids=str
)
def test_temperature_and_truncation_are_part_of_the_policy(sampling: Sampling) -> None:
    model = exact()
    found = drawn(model, sampling=sampling, keep_mask=True)
    with torch.no_grad():
        same = response_logprobs(model, found.batch, temperature=sampling.temperature, allowed=found.allowed)
        other = response_logprobs(model, found.batch)
    torch.testing.assert_close(same, found.logp, rtol=1e-9, atol=1e-9)
    assert (other - found.logp).abs().max() > 0.1


def test_the_mask_holds_what_could_be_drawn_and_only_that() -> None:
    found = drawn(exact(), sampling=Sampling(top_k=3), keep_mask=True)
    assert found.allowed is not None
    inside = found.allowed[found.batch.mask]
    assert (inside.sum(-1) == 3).all()
    assert inside.gather(1, found.batch.targets[found.batch.mask][:, None]).all()
    assert not found.allowed[~found.batch.mask].any()


def test_entropy_is_that_of_the_distribution_drawn_from() -> None:
    model = exact()
    found = drawn(model)
    chances = model(found.batch.ids)[:, :-1].softmax(-1)
    expected = -(chances * chances.log()).sum(-1).where(found.batch.mask, 0.0)
    torch.testing.assert_close(found.entropy, expected, rtol=1e-8, atol=1e-8)


def test_responses_end_with_their_end_and_at_the_latest_when_the_room_is_full() -> None:
    ended = 0
    for seed in range(6):
        found = drawn(exact(), seed=seed)
        for response, end in zip(found.responses(), found.ended.tolist(), strict=True):
            assert EOS not in response[:-1]
            assert (response[-1] == EOS) is end
            assert end or len(response) == 12
            ended += end
        assert found.lengths.tolist() == [len(response) for response in found.responses()]
    assert 5 < ended < 25


def test_greedy_rollouts_are_what_generate_writes() -> None:
    model = exact()
    found = drawn(model, sampling=Sampling(temperature=0.0))
    texts = generate(model, PROMPTS, max_new_tokens=12, temperature=0.0, eos_id=EOS)
    assert [[*prompt, *response] for prompt, response in zip(PROMPTS, found.responses(), strict=True)] == texts
    assert not found.logp.any()


def test_sampled_tokens_come_as_often_as_the_model_says() -> None:
    model = exact()
    prompts = [[4, 5, 6]] * 4000
    found = sample(
        model, prompts, sampling=Sampling(), max_new_tokens=1, eos_id=EOS, generator=torch.Generator().manual_seed(0)
    )
    counts = torch.bincount(found.batch.ids[:, -1], minlength=V)
    expected = 4000 * model(torch.tensor([[4, 5, 6]]))[0, -1].softmax(-1)
    chi = ((counts - expected) ** 2 / expected).sum()
    assert chi < 49.73  # 99.9 % border for 23 degrees of freedom


@pytest.mark.parametrize("cfg", [SPARSE, MINIS["v3-mini"], MINIS["v4-mini"]], ids=["tiny", "v3", "v4"])
def test_kept_routes_are_those_of_one_pass_and_replay_after_the_weights_have_moved(cfg) -> None:
    model = Transformer(cfg, seed=0).double().eval()
    found = drawn(model, keep_routing=True)
    assert found.routes
    with torch.no_grad():
        replayed = response_logprobs(model, found.batch, routes=found.routes)
        torch.testing.assert_close(replayed, found.logp, rtol=1e-6, atol=1e-6)
        for name, parameter in model.named_parameters():
            if name.endswith("router.weight"):
                parameter.mul_(1.01).add_(0.02)  # the same experts get other weights
        near = response_logprobs(model, found.batch, routes=found.routes)
        assert (near - found.logp).abs().max() > 0
        for name, buffer in model.named_buffers():
            if name.endswith("router.bias"):
                buffer.copy_(torch.linspace(-5, 5, len(buffer)))  # other experts would be chosen
        torch.testing.assert_close(response_logprobs(model, found.batch, routes=found.routes), near, rtol=0, atol=0)
        assert (response_logprobs(model, found.batch) - near).abs().max() > 1e-3


def test_the_same_seed_draws_the_same() -> None:
    def tokens(seed: int) -> Tensor:
        return drawn(exact(), seed=seed).batch.ids

    assert torch.equal(tokens(3), tokens(3))
    assert tokens(3).tolist() != tokens(4).tolist()


def test_a_rollout_has_groups_of_texts_and_the_examples_to_learn_from(tokenizer: Tokenizer) -> None:
    problems = practice_problems(Addition(), 3)
    model = Transformer(replace(TINY, vocab_size=tokenizer.vocab_size), seed=0).eval()
    found = rollout(
        model,
        tokenizer,
        problems,
        group=4,
        sampling=Sampling(),
        max_new_tokens=6,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.problems == [problem for problem in problems for _ in range(4)]
    assert len(set(found.texts)) > 6
    for problem, text, example in zip(found.problems, found.texts, found.examples(), strict=True):
        assert example.prompt == encode_prompt(tokenizer, problem.prompt)
        assert tokenizer.decode(example.response) == text


@pytest.mark.parametrize(("prompts", "steps"), [([], 3), ([[1], []], 3), ([[1]], 0)])
def test_nothing_is_not_continued(prompts: list[list[int]], steps: int) -> None:
    with pytest.raises(UserError, match="there must be some of each"):
        sample(exact(), prompts, sampling=Sampling(), max_new_tokens=steps, eos_id=EOS)
