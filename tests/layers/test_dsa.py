"""Sparse attention: MLA where everything is chosen, two forms that are one, and an indexer that learns by itself."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek as mds
from minideepseek import UserError
from minideepseek.accounting import cache_elements_per_token
from minideepseek.layers import DSA, MLA, MTP, Indexer, RoPE, SwiGLU, YaRN
from minideepseek.layers.dsa import seen
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.indexer import index_scores
from minideepseek.model import ModelConfig, Transformer

V, T = 61, 15
LATENT = MLA(n_heads=4, d_latent=16, d_rope=4, d_nope=8, d_value=6, d_query_latent=12)
INDEXER = Indexer(n_heads=8, head_dim=6, top_k=4)


def model(seed=0, *, n_layers=2, stage="sparse", mla=LATENT, mtp=None, **of_indexer) -> Transformer:
    attention = DSA(mla=mla, indexer=replace(INDEXER, **of_indexer), stage=stage)
    cfg = ModelConfig(
        d_model=32, n_layers=n_layers, attention=attention, ffn=SwiGLU(hidden=48), vocab_size=V, init_std=0.2, mtp=mtp
    )
    return Transformer(cfg, seed=seed).double().eval()


def tokens(batch=2, length=T, seed=0):
    return torch.randint(0, V, (batch, length), generator=torch.Generator().manual_seed(seed))


def dense(net: Transformer) -> Transformer:
    """The same weights without indexers."""
    found = Transformer(replace(net.cfg, attention=net.cfg.attention.mla)).double().eval()
    weights = {name.replace(".attention.mla.", ".attention."): value for name, value in net.state_dict().items()}
    found.load_state_dict({name: value for name, value in weights.items() if ".indexer." not in name})
    return found


def parts(net, ids):
    """What the first layer attends with, and what it chose."""
    layer, ctx = net.blocks[0].attention, net.context(ids)
    x = net.blocks[0].attention_norm(net.embed(ids))
    compressed = layer.mla.compress(x)
    query, latents = layer.mla.turn(*compressed, ctx)
    chosen = layer.indexer.choose(*layer.indexer(x, compressed[0], ctx), seen(ctx, ids.shape[1]))
    return layer, x, query, latents, chosen


def places_of(chosen):
    """A mask by place: where the chosen ones stand in each row, filled up with others to equal length."""
    first = chosen.int().sort(dim=-1, descending=True, stable=True).indices[..., : int(chosen.sum(-1).max())]
    return first, chosen.gather(-1, first)


def indexers(net):
    return {name: value for name, value in net.named_parameters() if ".indexer." in name}


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [T, T + 5])
def test_where_everything_is_chosen_it_is_mla_to_the_bit(top_k):
    net, ids = model(top_k=top_k), tokens()
    assert torch.equal(net(ids), dense(net)(ids))


def test_the_warm_up_attends_as_mla_does_with_its_gradients():
    net, ids = model(stage="warm-up"), tokens()
    other = dense(net)
    assert torch.equal(net(ids), other(ids))
    losses = [one.loss(ids).total for one in (net, other)]
    for loss in losses:
        loss.backward()
    assert torch.equal(net.blocks[0].attention.mla.down.weight.grad, other.blocks[0].attention.down.weight.grad)


def test_each_query_attends_to_its_best_tokens_and_no_others():
    net, ids = model(), tokens()
    layer, x, query, latents, chosen = parts(net, ids)
    counts = chosen.sum(-1)
    assert torch.equal(counts, torch.arange(1, T + 1).clamp(max=4).expand(2, T))
    found = layer(x, net.context(ids))
    for t in (2, 7, 14):  # by hand: those latents alone, with nothing to hide
        here = latents[:1, chosen[0, t]]
        by_hand = layer.mla.attend(query[:1, t : t + 1], here, None, "expanded")
        assert torch.allclose(found[0, t], by_hand[0, 0], atol=1e-12)


@pytest.mark.parametrize("mla", [LATENT, replace(LATENT, n_heads=1), replace(LATENT, d_value=11)])
def test_gathered_equals_masked_with_its_gradients(mla):
    net, ids = model(mla=mla), tokens()
    layer, _, query, latents, chosen = parts(net, ids)
    found = []
    for form in ("masked", "gathered"):
        if form == "masked":
            y = layer.mla.attend(query, latents, chosen[:, None], "expanded")
        else:
            y = layer.gathered(query, latents, *places_of(chosen))
        grads = torch.autograd.grad(
            y.square().sum(), [query, latents, *layer.mla.latent_up.parameters()], retain_graph=True
        )
        found.append([y, *grads])
    for masked, gathered in zip(*found, strict=True):
        assert (masked - gathered).abs().max() <= 1e-10 * masked.abs().max()


def test_a_step_of_a_decode_reads_the_chosen_latents_and_no_others():
    net, ids = model(n_layers=1), tokens()
    cache = net.new_cache(2, T)
    with torch.inference_mode():
        net(ids[:, :-1], cache=cache)
        net(ids[:, -1:], cache=cache)
        chosen = parts(net, ids)[-1][:, -1]
        before = net(ids)[:, -1]
        latents = cache.layers[0].latents.latents
        latents[~chosen] = torch.nan
        cache.length = T - 1
        again = net(ids[:, -1:], cache=cache)[:, 0]
    assert torch.allclose(again, before, atol=1e-10)


def test_gradients_of_the_language_model_are_those_of_the_chosen_set():
    net, ids = model(n_layers=1), tokens(1, 8)
    names = ["blocks.0.attention.mla.down.weight", "blocks.0.attention.mla.latent_up.weight"]
    weights = dict(net.named_parameters())
    grads = torch.autograd.grad(net.loss(ids).lm, [weights[name] for name in names])
    generator = torch.Generator().manual_seed(3)
    for name, grad in zip(names, grads, strict=True):
        direction = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):  # small enough for the choice to stay
                weights[name] += step * direction
                values.append(net.loss(ids).lm)
            weights[name] += 1e-6 * direction
        assert ((values[0] - values[1]) / 2e-6).item() == pytest.approx((grad * direction).sum().item(), rel=1e-5)


def test_a_token_sees_only_what_came_before():
    net, ids = model(), tokens()
    other = ids.clone()
    other[:, 9] = (other[:, 9] + 1) % V
    with torch.inference_mode():
        before, after = net(ids), net(other)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 4, 40])
@pytest.mark.parametrize("yarn", [None, YaRN(factor=4, original_len=8)])
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, T - 1), max_size=T - 1))
def test_decoding_in_chunks_equals_the_full_forward(top_k, yarn, cuts):
    net, ids = model(top_k=top_k, mla=replace(LATENT, rope=RoPE(layout="adjacent", yarn=yarn))), tokens()
    cache = net.new_cache(2, 3)
    with torch.inference_mode():
        found = [net(ids[:, a:b], cache=cache) for a, b in itertools.pairwise([0, *sorted(cuts), T])]
        full = net(ids)
    assert (torch.cat(found, 1) - full).abs().max() <= 1e-10 * full.abs().max()


def test_token_by_token_equals_the_full_forward_at_every_position():
    net, ids = model(), tokens(3, 40)
    cache = net.new_cache(3, 8)
    with torch.inference_mode():
        found = torch.cat([net(ids[:, t : t + 1], cache=cache) for t in range(40)], 1)
        full = net(ids)
    assert (found - full).abs().max() <= 1e-10 * full.abs().max()


@pytest.mark.parametrize("top_k", [2, 4, 6])
def test_rows_of_different_lengths_share_a_cache(top_k):
    net, ids = model(top_k=top_k), tokens(2, 12)
    lengths = torch.tensor([3, 9])  # the short row has fewer tokens than the long one may read
    cache = net.new_cache(2, 12)
    with torch.inference_mode():
        net(ids[:, :9], cache=cache)  # the short row's rest is padding, overwritten below
        full = net(ids)
        for step in range(3):
            at = lengths + step
            step_ids = ids[torch.arange(2), at][:, None]
            found = net(step_ids, cache=cache, positions=at[:, None])[:, 0]
            assert torch.allclose(found, full[torch.arange(2), at], atol=1e-10)


def test_ragged_prompts_continue_as_each_would_alone():
    net = model(top_k=3)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (2, 5, 11)]
    together = mds.generate(net, prompts, max_new_tokens=9, temperature=0.0)
    assert together == [mds.generate(net, [prompt], max_new_tokens=9, temperature=0.0)[0] for prompt in prompts]


def test_speculation_writes_the_same_text():
    net = model(mtp=MTP(depth=2))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9]]
    plain = mds.generate(net, prompts, max_new_tokens=12, temperature=0.0)
    assert mds.generate(net, prompts, max_new_tokens=12, temperature=0.0, speculative=True) == plain


def test_packed_documents_do_not_see_each_other():
    net, ids = model(), tokens(1, 14)
    segments = torch.tensor([[0] * 6 + [1] * 8])
    positions = torch.tensor([[*range(6), *range(8)]])
    with torch.inference_mode():
        found = net(ids, segments=segments, positions=positions)
        alone = torch.cat([net(ids[:, :6]), net(ids[:, 6:])], 1)
    assert torch.allclose(found, alone, atol=1e-10)


def test_the_cache_holds_latents_and_keys_and_nothing_else():
    net = model(n_layers=3)
    cache = net.new_cache(2, 7)
    assert cache.nbytes == 2 * 7 * 3 * (16 + 4 + 6) * 8 == 2 * 7 * 8 * cache_elements_per_token(net.cfg)
    net(tokens(2, 9), cache=cache)  # grows by doubling
    assert cache.nbytes == 2 * 14 * 3 * (16 + 4 + 6) * 8


def test_a_rounded_decode_equals_the_rounded_forward():
    net, ids = model(rounding=FP8(), head_dim=8), tokens()
    assert not torch.equal(net(ids), model(head_dim=8)(ids))  # another choice somewhere
    cache = net.new_cache(2, T)
    with torch.inference_mode():
        found = torch.cat([net(ids[:, t : t + 1], cache=cache) for t in range(T)], 1)
        full = net(ids)
    assert (found - full).abs().max() <= 1e-10 * full.abs().max()


def test_a_format_without_a_word_for_rounding_is_not_used(tmp_path):
    cfg = mds.generations["v3.2-mini"]
    indexer = replace(cfg.attention.indexer, rounding=FP8())
    net = Transformer(replace(cfg, attention=replace(cfg.attention, indexer=indexer)))
    with pytest.raises(UserError, match="its indexers do not round"):
        net.save(tmp_path / "model")


# --- learning ---------------------------------------------------------------------------------------------------------


def attention_by_hand(net, ids, kept):
    """The mean of the heads' attention in the first layer, over the tokens ``kept`` (B, T, S)."""
    layer, _, query, latents, _ = parts(net, ids)
    keys, _ = layer.mla.expand(latents)
    scores = (query.transpose(1, 2) @ keys.mT) * layer.mla.cfg.scale
    return scores.masked_fill(~kept[:, None], -torch.inf).softmax(-1).mean(1)


@pytest.mark.parametrize("stage", ["warm-up", "sparse"])
def test_the_indexer_imitates_the_attention_of_its_stage(stage):
    net, ids = model(stage=stage, n_layers=1).train(), tokens()
    inputs = ids[:, :-1]
    layer, x, _, _, chosen = parts(net, inputs)
    causal = torch.ones(T - 1, T - 1, dtype=torch.bool).tril()[None].expand_as(chosen)
    kept = causal if stage == "warm-up" else chosen
    p = attention_by_hand(net, inputs, kept)
    ctx = net.context(inputs)
    scores = index_scores(*layer.indexer(x, layer.mla.compress(x)[0], ctx)).masked_fill(~kept, -torch.inf)
    expected = torch.where(kept, p * (p.log() - scores.log_softmax(-1)), 0.0).sum(-1).mean()
    losses = net.loss(ids)
    assert losses.indexer.item() == pytest.approx(expected.item(), rel=1e-9)
    choosing = causal.sum(-1) > 4
    recall = (attention_by_hand(net, inputs, causal) * chosen).sum(-1)[choosing].mean()
    assert losses.metrics["recall/0"].item() == pytest.approx(recall.item(), rel=1e-9)


@pytest.mark.parametrize("stage", ["warm-up", "sparse"])
def test_the_two_losses_do_not_meet(stage):
    net = model(stage=stage).train()
    losses, own = net.loss(tokens()), indexers(net)
    others = {name: value for name, value in net.named_parameters() if name not in own}
    grads = torch.autograd.grad(losses.indexer, list(net.parameters()), retain_graph=True, allow_unused=True)
    for name, grad in zip(dict(net.named_parameters()), grads, strict=True):
        assert (grad is not None and bool(grad.any())) == (name in own), name
    grads = torch.autograd.grad(losses.lm, list(net.parameters()), allow_unused=True)
    for name, grad in zip(dict(net.named_parameters()), grads, strict=True):
        assert (grad is not None) == (name in others), name


def test_the_stages_differ_only_where_there_is_a_choice():
    ids = tokens()
    losses = [model(stage=stage, top_k=T).train().loss(ids) for stage in ("warm-up", "sparse")]
    assert torch.equal(losses[0].indexer, losses[1].indexer)
    assert losses[0].metrics == {}


def test_outside_of_training_nothing_is_added():
    losses = model().loss(tokens())
    assert [name for name, _ in losses] == ["lm"]
    assert losses.metrics == {}


def test_a_warm_up_teaches_the_indexer_what_to_keep():
    net, ids = model(stage="warm-up").train(), tokens(8, 32)
    optimizer = torch.optim.Adam(indexers(net).values(), lr=1e-2)
    history = []
    for _ in range(60):
        losses = net.loss(ids)
        optimizer.zero_grad()
        losses.indexer.backward()
        optimizer.step()
        history.append((losses.indexer.item(), losses.metrics["recall/0"].item()))
    assert history[-1][0] < 0.6 * history[0][0]
    assert history[-1][1] > history[0][1]


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_a_step_costs_no_more_attention_in_a_longer_text():
    cfg = mds.generations["v3"].attention
    sparse = DSA(mla=cfg, indexer=Indexer(n_heads=64, head_dim=128, top_k=2048))
    beyond = [sparse.score_flops(n) - sparse.indexer.score_flops(n) for n in (2048, 65_536)]
    assert beyond[0] == beyond[1] == cfg.score_flops(2048)


def test_a_new_key_norm_changes_nothing_at_first():
    norm = model().blocks[0].attention.indexer.key_norm
    assert bool((norm.weight == 1).all())
    assert bool((norm.bias == 0).all())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"stage": "hot"}, "stage='hot'"),
        ({"mla": replace(LATENT, d_query_latent=None)}, "d_query_latent=None"),
        ({"indexer": replace(INDEXER, head_dim=2)}, "no room for the mla.d_rope=4"),
    ],
)
def test_nonsense_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        DSA(**{"mla": LATENT, "indexer": INDEXER, **fields})
