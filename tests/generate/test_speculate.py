"""Speculative decoding: the text is the model's own, whatever the drafts are worth; the record says what they were."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek as mds
from minideepseek import Speculation, UserError
from minideepseek.generate import Sampling
from minideepseek.layers import GQA, MTP, SwiGLU
from minideepseek.model import ModelConfig, Transformer

V = 11
PLAIN = ModelConfig(
    d_model=16,
    n_layers=2,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=6),
    ffn=SwiGLU(hidden=20),
    vocab_size=V,
    init_std=0.4,
)
LATENT = replace(
    mds.generations["v3-mini"], d_model=32, n_layers=2, ffn=mds.generations["v3-mini"].layers[-1][1], vocab_size=V
)


def model(depth=1, seed=0, cfg=PLAIN) -> Transformer:
    return Transformer(replace(cfg, mtp=MTP(depth=depth)), seed=seed).double().eval()


def agreeing(net: Transformer) -> Transformer:
    """The same, its drafts mostly the model's own choice, as after training: modules that pass on what they get."""
    with torch.no_grad():
        for module in net.mtp:
            module.join.weight.mul_(0.1)
            module.join.weight[:, net.cfg.d_model :] += torch.eye(net.cfg.d_model)
            module.block.attention.out.weight.mul_(0.1)
    return net


def certain(net: Transformer) -> Transformer:
    """Its blocks say nothing, so that the next token follows from the last alone, and every module knows it."""
    with torch.no_grad():
        for block in [*net.blocks, *(module.block for module in net.mtp)]:
            block.attention.out.weight.zero_()
            block.ffn.down.weight.zero_()
        for module in net.mtp:  # what the head reads is what the embedding says
            module.join.weight.zero_()
            module.join.weight[:, : net.cfg.d_model] += torch.eye(net.cfg.d_model)
    return net


prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=7), min_size=1, max_size=4)


# --- greedy: token for token the plain text ---------------------------------------------------------------------------


@given(
    prompts=prompts,
    depth=st.integers(1, 3),
    steps=st.integers(0, 12),
    seed=st.integers(0, 50),
    eos=st.none() | st.integers(0, V - 1),
)
@settings(max_examples=80, deadline=None)
def test_greedy_text_is_the_plain_text(prompts, depth, steps, seed, eos):
    net = agreeing(model(depth, seed)) if seed % 2 else model(depth, seed)
    how = {"max_new_tokens": steps, "temperature": 0.0, "eos_id": eos}
    assert mds.generate(net, prompts, speculative=True, **how) == mds.generate(net, prompts, **how)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_text_of_latent_attention_and_experts_is_the_plain_text(depth, seed):
    net = model(depth, seed, LATENT)
    ids = torch.randint(0, V, (3, 6), generator=torch.Generator().manual_seed(seed))
    ragged = [row[: 2 + 2 * i].tolist() for i, row in enumerate(ids)]
    for rows in (ids[:1], ids, ragged):
        plain = mds.generate(net, rows, max_new_tokens=15, temperature=0.0)
        drafted = mds.generate(net, rows, max_new_tokens=15, temperature=0.0, speculative=True)
        assert torch.equal(drafted, plain) if isinstance(rows, torch.Tensor) else drafted == plain


@pytest.mark.parametrize("eos", [None, 3])
def test_the_stream_has_the_plain_streams_columns(eos):
    net = agreeing(model(2, 1))
    how = {"max_new_tokens": 20, "temperature": 0.0, "eos_id": eos}
    rows = [[1, 2, 3], [4], [9, 9]]
    plain, drafted = (torch.stack(list(mds.stream(net, rows, speculative=s, **how))) for s in (False, True))
    assert torch.equal(plain, drafted)
    assert not drafted.is_inference()


@torch.no_grad()
def test_caches_grow_when_a_text_is_long():
    net = certain(model(3))
    text = mds.generate(net, torch.tensor([[1, 2]]), max_new_tokens=1300, temperature=0.0, speculative=True)
    assert text.shape == (1, 1302)
    assert torch.equal(net(text)[0, 1:-1].argmax(-1), text[0, 2:])


# --- the drafts and their record --------------------------------------------------------------------------------------


def by_the_book(net, prompt, steps):
    """Drafts without a cache: every round runs the whole text through the model and the chain again."""
    depth, text, record = len(net.mtp), list(prompt), Speculation(accepted=[0] * len(net.mtp))
    limit = len(prompt) + steps

    def best(text):
        return int(net(torch.tensor([text]))[0, -1].argmax())

    text.append(best(text))
    while len(text) < limit:
        drafted, stream = list(text), net.hidden(ids := torch.tensor([text[:-1]]), net.context(ids))
        for k, module in enumerate(net.mtp, 1):
            ids = torch.tensor([drafted[k:]])
            stream = module(stream, net.embed(ids), net.context(ids))
            drafted.append(int(net.logits(stream[0, -1]).argmax()))
        own = list(text)
        while len(own) < len(text) + depth + 1:
            own.append(best(own))
        agreed = [a == b for a, b in zip(drafted[len(text) :], own[len(text) :], strict=False)]
        stood = len(list(itertools.takewhile(bool, agreed)))
        record.count([stood])
        text = own[: min(len(text) + stood + 1, limit)]
    return text, record


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_drafting_from_caches_is_drafting_from_the_whole_text(depth, seed):
    net, record = agreeing(model(depth, seed)), Speculation()
    text = mds.generate(net, [[5, seed]], max_new_tokens=17, temperature=0.0, speculative=record)
    assert (text[0], record) == by_the_book(net, [5, seed], 17)


def test_the_record_adds_up():
    net, record = agreeing(model(2, 3)), Speculation()
    new = 40
    mds.generate(net, [[1], [2, 3, 4]], max_new_tokens=new, temperature=0.0, speculative=record)
    first, second = record.accepted
    assert record.drafted == 2 * record.passes
    assert record.passes >= first >= second > 0
    assert record.acceptance == [first / record.passes, second / first]
    # after the first token, each pass writes one token and those accepted; a row's last pass may write beyond its end
    assert 2 * (new - 1) <= record.passes + first + second <= 2 * (new - 1) + 2 * 2
    assert record.tokens_per_pass == pytest.approx(1 + (first + second) / record.passes)
    mds.generate(net, [[1]], max_new_tokens=5, temperature=0.0, speculative=record)
    assert record.passes > first + second - 2 * new


def test_perfect_drafts_all_stand():
    net = certain(model(2))
    record = Speculation()
    mds.generate(net, [[1], [2, 3]], max_new_tokens=31, temperature=0.0, speculative=record)
    assert record.acceptance == [1.0, 1.0]
    assert record.tokens_per_pass == 3
    assert record.passes == 2 * 10


def test_an_empty_record_knows_nothing():
    assert math.isnan(Speculation().tokens_per_pass)
    assert math.isnan(Speculation(accepted=[0]).acceptance[0])


# --- drawn: of the same distribution ----------------------------------------------------------------------------------


def exact(net, prompt, steps, sampling):
    """Probability of every continuation, by running every text."""
    found = {(): 1.0}
    for _ in range(steps):
        texts = list(found)
        logits = net(torch.tensor([[*prompt, *text] for text in texts]))[:, -1]
        chances = sampling.probabilities(logits).tolist()
        found = {
            (*text, token): found[text] * p
            for text, row in zip(texts, chances, strict=True)
            for token, p in enumerate(row)
            if p > 0
        }
    return found


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.6), Sampling(top_k=3), Sampling(top_p=0.7)], ids=str
)
@torch.no_grad()
def test_drawn_texts_have_the_models_distribution(depth, sampling):
    """Chi-square over all texts of four tokens of a vocabulary of four; half the rows start one token later."""
    net = agreeing(model(depth, 2, replace(PLAIN, vocab_size=4)))
    n, steps = 3000, 4
    starts = [[1], [3, 2]]
    record = Speculation()
    texts = mds.generate(
        net,
        starts * n,
        max_new_tokens=steps,
        seed=0,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        speculative=record,
    )
    assert 0.2 < record.acceptance[0] < 0.95  # both branches of the rule are walked, often
    for i, start in enumerate(starts):
        wanted = exact(net, start, steps, sampling)
        counts = dict.fromkeys(wanted, 0)
        for text in texts[i::2]:
            counts[tuple(text[len(start) :])] += 1  # a text that cannot be is a KeyError
        common = [text for text in wanted if n * wanted[text] >= 5]
        rest = 1 - sum(wanted[text] for text in common)
        observed = [counts[text] for text in common] + [n - sum(counts[text] for text in common)]
        expected = [n * wanted[text] for text in common] + [n * rest]
        chi2 = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1e-9)
        freedom = len(common) - (rest < 1e-9)
        assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_the_same_seed_draws_the_same_text():
    net = agreeing(model(2))
    texts = [mds.generate(net, [[1], [2, 3]], max_new_tokens=12, seed=s, speculative=True) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_look_ahead_is_refused_in_one_line():
    plain = Transformer(PLAIN, seed=0)
    with pytest.raises(UserError, match=r"modules that look ahead, as v3 and v3-mini have") as caught:
        mds.generate(plain, [[1]], speculative=True)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_chain_is_refused():
    record = Speculation()
    mds.generate(model(2), [[1]], max_new_tokens=4, speculative=record)
    with pytest.raises(UserError, match="has counted 2 modules, this model has 1"):
        mds.generate(model(1), [[1]], speculative=record)
