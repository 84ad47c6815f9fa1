"""Experts and indexers in four bits: what is computed, where gradients go, and that training with it in mind helps."""

import copy
from dataclasses import replace

import pytest
import torch

import minideepseek as mds
from minideepseek import UserError, checkpoint, ops
from minideepseek.context import Context
from minideepseek.layers import CSA, FP4, MoE, TopK
from minideepseek.layers.indexer import Indexer
from minideepseek.model import Transformer
from minideepseek.ops.mxfp4 import as_fp4
from minideepseek.ops.quantise import hadamard
from minideepseek.train import in_fp4
from minideepseek.train.low_precision import fp4_config

V4 = replace(mds.generations["v4-mini"], vocab_size=64)
MIXTURE = MoE(n_experts=4, hidden=32, n_shared=1, router=TopK(k=2, affinity="sigmoid", normalise=True))


def context(n: int) -> Context:
    return Context(positions=torch.arange(n), ids=torch.zeros(1, n, dtype=torch.int64))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_experts_are_multiplied_by_rounded_weights_and_the_shared_one_is_not():
    torch.manual_seed(0)
    layer = replace(MIXTURE, rounding=FP4()).build(16, 0).double()
    x, ctx = draw(1, 9, 16), context(9)
    routing = layer.router(x[0], ctx)
    expected = ops.experts(x[0], as_fp4(layer.gate_up), as_fp4(layer.down), routing.experts, routing.weights)
    torch.testing.assert_close(layer(x, ctx), expected[None] + layer.shared(x, ctx))


def test_gradients_are_those_at_the_rounded_weights_and_move_the_unrounded_ones():
    torch.manual_seed(0)
    aware = replace(MIXTURE, rounding=FP4()).build(16, 0).double()
    plain = MIXTURE.build(16, 0).double()
    plain.load_state_dict(aware.state_dict())
    with torch.no_grad():
        for name in ("gate_up", "down"):
            getattr(plain, name).copy_(as_fp4(getattr(aware, name)))
    x, ctx = draw(1, 9, 16), context(9)
    for layer in (aware, plain):
        layer(x, ctx).square().sum().backward()
    for name, parameter in aware.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad)
    assert not torch.equal(aware.gate_up, as_fp4(aware.gate_up))


def test_an_indexers_queries_and_keys_are_turned_and_rounded():
    x = draw(3, 7, 64)
    assert torch.equal(FP4(rotate=True)(x), as_fp4(hadamard(x)))
    spec = fp4_config(V4).layers[1][0]
    assert isinstance(spec, CSA)
    layer = spec.build(V4.d_model, 0).double().eval()
    keys = layer.indexer(draw(1, 12, 128), draw(1, 12, 64, seed=1), context(12), None)[1]
    torch.testing.assert_close(as_fp4(keys), keys)  # only what four bits can hold


def student(seed: int) -> tuple[MoE, torch.nn.Module, torch.nn.Module]:
    """A mixture that has learnt to imitate another network for a while, and that network."""
    torch.manual_seed(seed)
    teacher = MoE(n_experts=1, hidden=96, router=TopK(k=1)).build(32, 0)
    cfg = replace(MIXTURE, n_shared=0)
    layer = cfg.build(32, 0)
    fit(layer, teacher, steps=100, lr=1e-2, seed=seed)
    return cfg, layer, teacher


def error(layer: torch.nn.Module, teacher: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    ctx = context(x.shape[1])
    with torch.no_grad():
        y = teacher(x, ctx)
    return (layer(x, ctx) - y).square().mean() / y.square().mean()


def fit(layer: torch.nn.Module, teacher: torch.nn.Module, *, steps: int, lr: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        error(layer, teacher, torch.randn(1, 128, 32, generator=generator)).backward()
        optimizer.step()


@pytest.mark.parametrize("seed", range(3))
def test_training_with_rounding_in_mind_beats_rounding_afterwards(seed):
    """Both go on for as many steps on the same data; both are judged in FP4, on data that neither saw."""
    cfg, layer, teacher = student(seed)
    aware = copy.deepcopy(layer)
    aware.cfg = replace(cfg, rounding=FP4())
    for one in (layer, aware):
        fit(one, teacher, steps=60, lr=3e-3, seed=100)
    held_out = torch.randn(1, 2048, 32, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        exact = error(layer, teacher, held_out)
        layer.cfg = aware.cfg
        rounded, trained = error(layer, teacher, held_out), error(aware, teacher, held_out)
    assert exact < trained < rounded


def test_a_whole_model_goes_to_four_bits_and_back_through_a_file(tmp_path):
    model = Transformer(V4, seed=0)
    before = copy.deepcopy(model.state_dict())
    low = in_fp4(model)
    assert all(torch.equal(value, before[name]) for name, value in low.state_dict().items())
    ids = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(low(ids), model(ids), atol=1e-4)
    low.loss(ids).total.backward()
    assert all(parameter.grad is not None for parameter in low.parameters())
    low.eval().save(str(tmp_path))
    back = mds.load(tmp_path)
    assert back.cfg == low.cfg == fp4_config(V4)
    assert torch.equal(back(ids), low(ids))
    assert checkpoint.write_config(low.cfg)["minideepseek"]["experts_rounding"]["kind"] == "FP4"


def test_decoding_in_four_bits_with_a_cache_is_the_full_pass():
    model = in_fp4(Transformer(V4, seed=0)).double().eval()
    ids = torch.randint(0, 64, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cache = model.new_cache(2, 50)
        pieces = [model(piece, cache=cache) for piece in ids.split([30, 1, 1, 18], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="block=0"):
        FP4(block=0)
    with pytest.raises(ValueError, match="turns weights away"):
        replace(MIXTURE, rounding=FP4(rotate=True))
    with pytest.raises(ValueError, match="power of two"):
        Indexer(n_heads=2, head_dim=12, top_k=4, rounding=FP4(rotate=True))
    with pytest.raises(UserError, match="neither experts nor indexers"):
        in_fp4(Transformer(replace(mds.generations["v1-mini"], d_model=32, n_layers=1, vocab_size=8)))
