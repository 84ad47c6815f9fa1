"""The lightning indexer: its formula, its choice, and the loss it learns from."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.context import Context
from minideepseek.layers import Indexer, RoPE
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.indexer import (
    LightningIndexer,
    Question,
    first_largest,
    index_loss,
    index_scores,
    picked,
)
from minideepseek.ops.quantise import up_to_power_of_two

D, LATENT = 10, 7


def indexer(n_heads=3, head_dim=6, top_k=4, rope=None) -> LightningIndexer:
    cfg = Indexer(n_heads=n_heads, head_dim=head_dim, top_k=top_k)
    module = LightningIndexer(cfg, D, LATENT, rope or RoPE(theta=50.0, layout="adjacent", dim=4)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def inputs(tokens=9, batch=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, tokens, D, generator=generator, dtype=torch.float64)
    latent = torch.randn(batch, tokens, LATENT, generator=generator, dtype=torch.float64)
    ids = torch.zeros(batch, tokens, dtype=torch.int64)
    return x, latent, Context(positions=torch.arange(tokens), ids=ids)


def turned(vector, position):
    """The first four channels in half-split pairs (0, 2) and (1, 3); the others stay."""
    out = vector.clone()
    for pair in range(2):
        angle = position * 50.0 ** (-2 * pair / 4)
        a, b = vector[pair], vector[pair + 2]
        out[pair] = a * math.cos(angle) - b * math.sin(angle)
        out[pair + 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def test_scores_are_the_reports_formula():
    module, (x, latent, ctx) = indexer().requires_grad_(False), inputs()
    scores = index_scores(*module(x, latent, ctx))
    key, weigh, up = module.key.weight, module.weigh.weight, module.query_up.weight
    for t, s in ((0, 0), (8, 3), (5, 5), (7, 0)):
        k = key @ x[1, s]
        k = (k - k.mean()) / (k.var(unbiased=False) + 1e-6).sqrt() * module.key_norm.weight + module.key_norm.bias
        k = turned(k, s)
        expected = 0.0
        for head, q in enumerate((up @ latent[1, t]).view(3, 6)):
            weight = (weigh[head] @ x[1, t]) / math.sqrt(3)
            expected += float(weight * max(0.0, turned(q, t) @ k / math.sqrt(6)))
        assert scores[1, t, s].item() == pytest.approx(expected, abs=1e-12)


def test_only_the_distance_of_two_tokens_counts():
    module, (x, latent, ctx) = indexer(), inputs()
    later = Context(positions=ctx.positions + 100, ids=ctx.ids)
    assert torch.allclose(index_scores(*module(x, latent, ctx)), index_scores(*module(x, latent, later)), atol=1e-10)


def test_scoring_piece_by_piece_chooses_the_same(monkeypatch):
    module, (x, latent, ctx) = indexer(), inputs()
    question, keys = module(x, latent, ctx)
    visible = torch.ones(1, 9, 9, dtype=torch.bool).tril()
    whole = module.choose(question, keys, visible)
    monkeypatch.setattr("minideepseek.layers.indexer.AT_ONCE", 2 * 3 * 9 * 2)
    assert torch.equal(module.choose(question, keys, visible), whole)


@given(
    rows=st.lists(st.lists(st.sampled_from([-2.0, 0.0, 1.0, 3.0, -math.inf]), min_size=6, max_size=6), max_size=4),
    k=st.integers(1, 8),
)
@settings(max_examples=80, deadline=None)
def test_of_equal_scores_the_first_is_chosen_and_nothing_unseen(rows, k):
    found = first_largest(torch.tensor(rows, dtype=torch.float64).view(len(rows), 6), k)
    for row, chosen in zip(rows, found.tolist(), strict=True):
        order = sorted(range(6), key=lambda i: (-row[i], i))[:k]
        assert {i for i, there in enumerate(chosen) if there} == {i for i in order if row[i] > -math.inf}


def test_chosen_by_place_is_chosen_by_mask():
    scores = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 7:] = -torch.inf  # fewer to see than may be read
    places, there = picked(scores, 9)
    assert torch.equal(places, places.sort(-1).values)
    assert there.sum(-1).tolist() == [[7, 9, 9, 9, 9], [9] * 5, [9] * 5]
    for row, place, real in zip(
        first_largest(scores, 9).flatten(0, 1), places.flatten(0, 1), there.flatten(0, 1), strict=True
    ):
        assert row.nonzero()[:, 0].tolist() == place[real].tolist()


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=9), st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_the_largest_are_those_that_sorting_finds(row, k):
    order = sorted((i for i in range(len(row)) if row[i] > -math.inf), key=lambda i: (-row[i], i))[:k]
    places, there = picked(torch.tensor(row), k)
    assert places[there].tolist() == sorted(order)


def rounded(rounding: FP8 | None, head_dim=128):
    """An indexer of eight heads with fixed weights, over 300 tokens; float32."""
    generator = torch.Generator().manual_seed(0)
    cfg = Indexer(n_heads=8, head_dim=head_dim, top_k=32, rounding=rounding)
    module = LightningIndexer(cfg, D, LATENT, RoPE(layout="adjacent", dim=4))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x, latent = torch.randn(1, 300, D, generator=generator), torch.randn(1, 300, LATENT, generator=generator)
    ctx = Context(positions=torch.arange(300), ids=torch.zeros(1, 300, dtype=torch.int64))
    return module, module(x, latent, ctx)


def test_a_rotation_alone_changes_no_score(monkeypatch):
    _, plain = rounded(None)
    monkeypatch.setattr("minideepseek.layers.fp8.as_fp8", lambda x, **_: x)
    _, (turned, keys) = rounded(FP8())
    assert not torch.allclose(keys, plain[1], atol=0.1)
    assert torch.allclose(index_scores(turned, keys), index_scores(*plain), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rounding", [FP8(), FP8(rotate=False), FP8(power_of_two=True)])
def test_eight_bits_choose_almost_the_same_tokens(rounding):
    def choice(how):
        module, (question, keys) = rounded(how)
        return module.choose(question, keys, torch.ones(1, 300, 300, dtype=torch.bool).tril())

    exact, found = choice(None), choice(rounding)
    late = slice(100, None)  # where there is a choice to speak of
    overlap = (exact & found)[:, late].sum() / exact[:, late].sum()
    assert 0.95 < overlap < 1


def test_a_rounded_key_is_a_number_of_eight_bits_times_its_scale():
    _, (_, keys) = rounded(FP8(rotate=False, power_of_two=True))
    scales = up_to_power_of_two(keys.abs().amax(-1, keepdim=True) / 448)
    codes = keys / scales
    assert torch.equal(codes.to(torch.float8_e4m3fn).float(), codes)


def test_an_indexer_learns_through_the_rounding():
    module, (question, keys) = rounded(FP8())
    index_scores(question, keys).square().mean().backward()
    assert all(bool(parameter.grad.any()) for parameter in module.parameters())


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()[None] & (torch.rand(2, 5, 5, generator=generator) > 0.3)
    allowed |= torch.eye(5, dtype=torch.bool)
    scores = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64) * allowed
    return scores, target / target.sum(-1, keepdim=True), allowed


def test_the_loss_is_the_divergence_over_what_is_allowed():
    scores, target, allowed = case()
    expected = 0.0
    for b in range(2):
        for t in range(5):
            where = allowed[b, t]
            p, q = target[b, t, where], scores[b, t, where].softmax(-1)
            expected += (p * (p / q).log()).sum().item() / 10
    assert index_loss(scores, target, allowed).item() == pytest.approx(expected, abs=1e-12)


def test_its_gradient_is_the_difference_of_the_two_distributions():
    scores, target, allowed = case()
    (grad,) = torch.autograd.grad(index_loss(scores, target, allowed), scores)
    found = scores.detach().masked_fill(~allowed, -torch.inf).softmax(-1)
    assert torch.allclose(grad, (found - target) / 10, atol=1e-12)


def test_nothing_is_left_to_learn_when_they_agree():
    scores, _, allowed = case()
    target = scores.detach().masked_fill(~allowed, -torch.inf).softmax(-1)
    assert index_loss(scores, target, allowed).item() == pytest.approx(0.0, abs=1e-12)


def test_a_weight_may_be_negative_and_a_product_may_not():
    question = Question(torch.tensor([[[[1.0], [1.0]]]]), torch.tensor([[[-2.0, 1.0]]]))
    keys = torch.tensor([[[3.0], [-5.0]]])
    assert index_scores(question, keys).tolist() == [[[-3.0, 0.0]]]


@pytest.mark.parametrize("n_keys", [1, 64, 130])
def test_few_queries_score_as_many_do(n_keys):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(2, 9, 3, 16, generator=generator, dtype=torch.bfloat16)
    weights, keys = (
        torch.randn(2, 9, 3, generator=generator),
        torch.randn(2, n_keys, 16, generator=generator).bfloat16(),
    )
    many = index_scores(Question(queries, weights), keys)
    few = torch.cat([index_scores(Question(queries[:, t : t + 1], weights[:, t : t + 1]), keys) for t in range(9)], 1)
    torch.testing.assert_close(few, many, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("field", ["n_heads", "head_dim", "top_k"])
def test_an_indexer_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0 must be positive"):
        Indexer(**{"n_heads": 2, "head_dim": 4, "top_k": 3, field: 0})


def test_channels_that_no_hadamard_matrix_turns_are_refused():
    with pytest.raises(ValueError, match="head_dim=6: a Hadamard matrix"):
        Indexer(n_heads=2, head_dim=6, top_k=3, rounding=FP8())
    Indexer(n_heads=2, head_dim=6, top_k=3, rounding=FP8(rotate=False))
