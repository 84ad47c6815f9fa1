"""Probing a model tells what its routers do, changes what was asked, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch

from minideepseek.layers import GQA, HyperConnections, MoE, SwiGLU, TopK
from minideepseek.layers.probe import WithoutBest, counted, mixed, recorded, routed, routers
from minideepseek.layers.router import first_top_k
from minideepseek.model import ModelConfig, Transformer


@pytest.fixture
def model() -> Transformer:
    mixture = MoE(n_experts=6, hidden=8, router=TopK(k=2), n_shared=1)
    attention = GQA(n_heads=2, n_kv_heads=1, head_dim=8)
    dense_first = (SwiGLU(hidden=16), mixture, mixture)
    cfg = ModelConfig(d_model=16, n_layers=3, attention=attention, ffn=dense_first, vocab_size=64, init_std=None)
    return Transformer(cfg, seed=0).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def test_every_router_notes_every_pass_and_only_inside_the_block(model, ids):
    with torch.no_grad(), recorded(model) as notes:
        model(ids)
        model(ids[:1])
    model(ids)
    assert [[len(routing.experts) for routing in passes] for passes in notes] == [[18, 9], [18, 9]]


def test_a_note_holds_the_experts_of_the_highest_scores(model, ids):
    with torch.no_grad(), recorded(model) as notes:
        model(ids)
    for (routing,) in notes:
        assert torch.equal(routing.experts, first_top_k(routing.scores, 2))


def test_loads_are_counted_pass_by_pass(model, ids):
    with torch.no_grad(), recorded(model) as notes, counted(model) as loads:
        model(ids)
        model(ids[:1])
    for passes, counts in zip(notes, loads, strict=True):
        assert [count.sum().item() for count in counts] == [36, 18]
        for routing, count in zip(passes, counts, strict=True):
            assert torch.equal(count, torch.nn.functional.one_hot(routing.experts, 6).sum((0, 1)))


def test_other_rules_hold_inside_the_block_alone_also_when_it_fails(model, ids):
    before = model(ids)
    with routed(model, lambda cfg: replace(cfg, k=6)), recorded(model) as notes:
        assert not torch.equal(model(ids), before)
    assert notes[0][0].experts.shape == (18, 6)
    with pytest.raises(RuntimeError), routed(model, lambda cfg: replace(cfg, k=1)):
        raise RuntimeError
    assert torch.equal(model(ids), before)


def test_rules_that_want_too_much_are_refused_and_change_nothing(model):
    for change in (lambda cfg: replace(cfg, k=7), lambda cfg: WithoutBest.of(cfg, banned=5)):
        with pytest.raises(ValueError, match="k="), routed(model, change):
            pass
    assert {router.cfg for router in routers(model)} == {TopK(k=2)}


@pytest.mark.parametrize("cfg", [TopK(k=2), TopK(k=2, affinity="sigmoid", normalise=True, scale=2.5)])
def test_without_the_best_the_next_ones_are_chosen_and_weighed_as_if_alone(cfg):
    logits = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    order = first_top_k(logits, 6)
    found = WithoutBest.of(cfg, banned=3).route(logits)
    assert torch.equal(found.experts, order[:, 3:5])
    alone = cfg.route(logits.gather(1, order[:, 3:]))  # a layer that never had the three
    assert torch.allclose(found.weights, alone.weights)


def test_none_banned_is_the_plain_rule():
    logits, bias = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))[:, :, :]
    cfg = TopK(k=2, affinity="sigmoid", bias=True)
    plain, probed = cfg.route(logits, bias[0]), WithoutBest.of(cfg, banned=0).route(logits, bias[0])
    assert torch.equal(plain.experts, probed.experts)
    assert torch.equal(plain.weights, probed.weights)


def test_the_matrices_that_mix_streams_are_noted_sub_layer_by_sub_layer(model, ids):
    streams = Transformer(replace(model.cfg, residual=HyperConnections(streams=3)), seed=0)
    with torch.no_grad(), mixed(streams) as notes:
        streams(ids)
    streams(ids)
    assert [[mix.shape for mix in passes] for passes in notes] == [[(2, 9, 3, 3)]] * 6
    block, x = streams.blocks[0], streams.ends.spread(streams.embed(ids))
    torch.testing.assert_close(notes[0][0], block.residual.attention(x)[2])
    with mixed(model) as notes:
        assert notes == []
