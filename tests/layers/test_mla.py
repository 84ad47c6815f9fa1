"""MLA: three ways to attend that are one, a cache of nothing but latents, and YaRN's numbers."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.layers import MLA, RoPE, SwiGLU, YaRN
from minideepseek.model import ModelConfig, Transformer

YARN = YaRN(factor=40, original_len=4096)


def model(seed=0, *, n_layers=2, **fields) -> Transformer:
    shape = {"n_heads": 4, "d_latent": 16, "d_rope": 4, "d_nope": 8, "d_value": 6, "d_query_latent": 12} | fields
    cfg = ModelConfig(
        d_model=32, n_layers=n_layers, attention=MLA(**shape), ffn=SwiGLU(hidden=48), vocab_size=61, init_std=0.2
    )
    return Transformer(cfg, seed=seed).double()


def tokens(batch=2, length=15):
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(0))


VARIANTS = [
    {},
    {"d_query_latent": None},
    {"d_value": 11},
    {"n_heads": 1},
    {"rope": RoPE(layout="adjacent", yarn=YARN)},
    {"rope": RoPE(layout="half_split")},
]


@pytest.mark.parametrize("fields", VARIANTS)
def test_absorbed_equals_expanded_with_its_gradients(fields):
    layer = model(**fields).blocks[0].attention
    ctx = model(**fields).context(tokens())
    x = torch.randn(2, 15, 32, dtype=torch.float64, requires_grad=True)
    query, latents = layer.project(x, ctx)
    found = {}
    for form in ("expanded", "absorbed"):
        y = layer.attend(query, latents, None, form)
        grads = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], retain_graph=True)
        found[form] = [y, *grads]
    for expanded, absorbed in zip(found["expanded"], found["absorbed"], strict=True):
        assert (expanded - absorbed).abs().max() <= 1e-10 * expanded.abs().max()


@pytest.mark.parametrize("fields", VARIANTS)
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 14), max_size=6))
def test_decoding_in_chunks_equals_the_full_forward(fields, cuts):
    net, ids = model(**fields), tokens()
    borders = [0, *sorted(cuts), 15]
    cache = net.new_cache(2, 4)
    with torch.inference_mode():
        parts = [net(ids[:, a:b], cache=cache) for a, b in itertools.pairwise(borders)]
        full = net(ids)
    assert (torch.cat(parts, 1) - full).abs().max() <= 1e-10 * full.abs().max()


def test_rows_of_different_lengths_share_a_cache():
    net, ids = model(), tokens(2, 12)
    lengths = torch.tensor([5, 9])
    cache = net.new_cache(2, 12)
    with torch.inference_mode():
        net(ids[:, :9], cache=cache)  # the short row's last four are padding, overwritten below
        step = net(torch.stack([ids[0, 5:6], ids[1, 9:10]]), cache=cache, positions=lengths[:, None])
        full = net(ids)
    assert torch.allclose(step[0, 0], full[0, 5], atol=1e-10)
    assert torch.allclose(step[1, 0], full[1, 9], atol=1e-10)


def test_the_cache_holds_the_latents_and_nothing_else():
    net = model(n_layers=3)
    cache = net.new_cache(2, 7)
    assert cache.nbytes == 2 * 7 * 3 * (16 + 4) * 8
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    assert cache.nbytes == sum(tensor.nbytes for tensor in tensors)


def test_few_queries_absorb_and_many_expand():
    layer = Transformer(
        ModelConfig(
            d_model=64,
            n_layers=1,
            attention=MLA(n_heads=16, d_latent=512, d_rope=64, d_nope=128, d_value=128),
            ffn=SwiGLU(hidden=8),
            vocab_size=8,
        )
    ).blocks[0].attention  # fmt: skip
    assert layer.cheaper_form(1, 4096) == "absorbed"
    assert layer.cheaper_form(4096, 4096) == "expanded"


def test_a_token_sees_only_what_came_before():
    net, ids = model(), tokens()
    other = ids.clone()
    other[:, 9] = (other[:, 9] + 1) % 61
    with torch.inference_mode():
        before, after = net(ids), net(other)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


@pytest.mark.parametrize("field", ["n_heads", "d_latent", "d_rope", "d_nope", "d_value", "d_query_latent"])
def test_a_width_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}=0"):
        model(**{field: 0})


# --- YaRN, with the constants of V2 and V3 (V2 report, section 3.1.4; V3 report, section 4.3) -------------------------


def test_eleven_pairs_stay_twelve_blend_nine_are_slowed():
    ramp = YARN.ramp(64, 10_000.0)
    assert int((ramp == 0).sum()) == 11
    assert int(((ramp > 0) & (ramp < 1)).sum()) == 12
    assert int((ramp == 1).sum()) == 9


def test_temperatures_are_those_of_v2_and_v3():
    v2 = YaRN(factor=40, original_len=4096, mscale=0.707, mscale_all_dim=0.707)
    assert math.sqrt(v2.softmax_scale) == pytest.approx(1.2608, abs=1e-4)
    assert math.sqrt(YARN.softmax_scale) == pytest.approx(1.3689, abs=1e-4)
    assert v2.amplitude == YARN.amplitude == 1.0
    v3 = MLA(n_heads=1, d_latent=1, d_rope=64, d_nope=128, d_value=1, rope=RoPE(layout="adjacent", yarn=YARN))
    assert v3.scale == pytest.approx(0.1352, abs=1e-4)


def test_stretching_by_one_changes_nothing():
    plain, stretched = RoPE(), RoPE(yarn=YaRN(factor=1, original_len=4096))
    assert torch.equal(plain.frequencies(64), stretched.frequencies(64))
    assert stretched.yarn.softmax_scale == 1.0


@pytest.mark.parametrize("fields", [{"factor": 0.5}, {"original_len": 0}, {"beta_slow": 40}, {"beta_slow": 0}])
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match="must be"):
        YaRN(**{"factor": 4, "original_len": 64, **fields})
