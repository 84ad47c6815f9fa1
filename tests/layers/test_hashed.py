"""Hash routing: a frozen table says who, the gate says how much; and the table is dealt fairly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.context import Context
from minideepseek.layers import GQA, Groups, HashRouting, LossFree, MoE, TopK
from minideepseek.layers.hashed import HashRouter, deal
from minideepseek.model import ModelConfig, Transformer

GATE = TopK(k=2, affinity="sqrt-softplus", normalise=True, scale=1.5)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(n_experts=st.integers(1, 12), k=st.integers(1, 4), rounds=st.integers(1, 5), layer=st.integers(0, 9))
def test_every_token_has_different_experts_and_every_expert_as_many_tokens(n_experts, k, rounds, layer):
    k = min(k, n_experts)
    table = deal(torch.zeros(rounds * n_experts), n_experts, k, layer)
    assert all(len(set(row)) == k for row in table.tolist())
    assert torch.equal(table.flatten().bincount(minlength=n_experts), torch.full((n_experts,), rounds * k))


def test_frequent_tokens_are_spread_evenly_too():
    """Words of a text follow Zipf's law: among each 16 of about the same frequency every expert is dealt two."""
    frequency = (1e6 / torch.arange(1, 641))[torch.randperm(640, generator=torch.Generator().manual_seed(1))]
    table = deal(frequency, 16, 2, 0)
    for ranks in frequency.argsort(descending=True).split(16):
        assert (table[ranks].flatten().bincount(minlength=16) == 2).all()


def test_layers_deal_differently_and_each_always_alike():
    frequency = torch.zeros(500)
    tables = [deal(frequency, 16, 2, layer) for layer in (0, 1, 0)]
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[1])
    pairs = {frozenset(row) for row in tables[0].tolist()}
    assert len(pairs) > 60, "of 120 possible pairs of experts, most occur"


def router(seed: int = 0) -> HashRouter:
    found = HashRouting(gate=GATE).build(6, 8, 0, vocab_size=30).double()
    with torch.no_grad():
        found.weight.copy_(draw(8, 6, seed=seed))
    return found


IDS = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(0))
CTX = Context(positions=torch.arange(5), ids=IDS)


def test_experts_are_the_tables_and_weights_the_gates():
    layer, x = router(), draw(10, 6)
    found = layer(x, CTX)
    assert torch.equal(found.experts, layer.table[IDS.flatten()])
    scores = (x @ layer.weight.T).exp().log1p().sqrt()
    for n in range(10):
        chosen = scores[n, found.experts[n]]
        torch.testing.assert_close(found.weights[n], 1.5 * chosen / chosen.sum())
    torch.testing.assert_close(found.scores, scores)


def test_the_gate_learns_and_the_table_does_not():
    layer, x = router(), draw(10, 6).requires_grad_()
    ways = draw(10, 2, seed=3)
    assert torch.autograd.gradcheck(lambda x, _: (layer(x, CTX).weights * ways).sum(), (x, layer.weight))
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert "table" in layer.state_dict()


def test_following_a_text_deals_its_frequent_tokens_first():
    layer = router()
    frequency = torch.arange(30)
    layer.follow(frequency)
    assert torch.equal(layer.table, deal(frequency, 8, 2, 0))
    with pytest.raises(ValueError, match="frequencies of 7 tokens, and the table has 30"):
        layer.follow(torch.zeros(7))


def mixture(**fields) -> MoE:
    return MoE(
        **{"n_experts": 8, "hidden": 8, "n_shared": 1, "router": HashRouting(gate=GATE), "limit": 10.0, **fields}
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: HashRouting(gate=TopK(k=2, bias=True)), "no groups|hash routing has none"),
        (lambda: HashRouting(gate=TopK(k=2, groups=Groups(n=2, limit=1))), "hash routing has none"),
        (lambda: mixture(router=HashRouting(gate=TopK(k=9))), "only 8 can be reached"),
        (lambda: mixture(loss_free=LossFree()), "bias=True"),
        (lambda: mixture().build(6, 0), "how many tokens there are"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def model(**fields) -> Transformer:
    attention = GQA(n_heads=2, n_kv_heads=1, head_dim=8)
    cfg = ModelConfig(d_model=16, n_layers=2, attention=attention, ffn=mixture(**fields), vocab_size=40, init_std=0.3)
    return Transformer(cfg, seed=0)


def test_a_model_starts_with_tables_and_turns_to_bfloat16_without_harm():
    first, second = model(), model()
    tables = [block.ffn.router.table for block in first.blocks]
    assert not torch.equal(*tables)
    assert all(torch.equal(t, block.ffn.router.table) for t, block in zip(tables, second.blocks, strict=True))
    assert first.bfloat16().blocks[0].ffn.router.table.dtype == torch.int64


def test_equal_tokens_meet_equal_experts_wherever_they_stand():
    ids = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    counted = model().train()
    counted.loss(ids)
    for block in counted.blocks:
        expected = block.ffn.router.table[ids[:, :-1]].flatten().bincount(minlength=8)
        assert torch.equal(block.ffn.load, expected)
        assert block.ffn.after_step(0.0)["max_violation"] >= 0
