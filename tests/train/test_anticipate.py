"""Anticipatory routing: who is chosen is decided by the weights of some steps ago, how much by those of now."""

import copy
from dataclasses import replace

import pytest
import torch

from minideepseek.context import Routes
from minideepseek.data.loader import Loader
from minideepseek.errors import UserError
from minideepseek.layers import MLA, MTP, HashRouting, MoE, RoPE, TopK
from minideepseek.model import Transformer
from minideepseek.train import TrainConfig, train
from minideepseek.train.anticipate import Foresight

from .conftest import QUICK, TINY

GATE = TopK(k=2, affinity="sqrt-softplus", normalise=True, scale=1.5)
CHOOSING = MoE(n_experts=8, hidden=8, n_shared=1, router=replace(GATE, bias=True))
BY_ID = MoE(n_experts=8, hidden=8, n_shared=1, router=HashRouting(gate=GATE))
CFG = replace(TINY, n_layers=3, ffn=(BY_ID, CHOOSING, CHOOSING), mtp=MTP())
SAVED = replace(  # a shape that lies in files
    TINY,
    n_layers=2,
    attention=MLA(n_heads=2, d_latent=8, d_rope=4, d_nope=4, d_value=4, rope=RoPE(layout="adjacent")),
    ffn=replace(CHOOSING, router=TopK(k=2, affinity="sigmoid", normalise=True, bias=True)),
    mtp=MTP(),
)
RUN = replace(QUICK, steps=8, lr=3e-2)


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 32, (4, 9), generator=torch.Generator().manual_seed(seed))


def moved(model: Transformer, by: float = 0.5) -> Transformer:
    """The model some steps later."""
    later = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in later.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return later


def noted(model: Transformer) -> Routes:
    routes = Routes()
    with torch.no_grad():
        model.loss(ids(), routes=routes)
    return routes


def test_a_pass_with_its_own_choices_is_the_plain_pass():
    model = Transformer(CFG, seed=0).train()
    routes = noted(model)
    assert [tuple(one.shape) for one in routes.chosen] == [(32, 2), (32, 2), (28, 2)]  # two layers, and looking ahead
    plain, same = model.loss(ids()), model.loss(ids(), routes=Routes(routes.chosen))
    assert torch.equal(plain.total, same.total)


def test_experts_are_those_of_old_weights_and_gates_those_of_new_ones():
    old = Transformer(CFG, seed=0).train()
    new = moved(old)
    before, now = noted(old), noted(new)
    seen = []
    for block in new.blocks[1:]:
        block.ffn.router.register_forward_hook(lambda _module, inputs, routing: seen.append((inputs[0], routing)))
    new.loss(ids(), routes=Routes(before.chosen))
    for (x, routing), chosen, own, block in zip(seen, before.chosen, now.chosen, new.blocks[1:], strict=False):
        assert torch.equal(routing.experts, chosen)
        assert not torch.equal(routing.experts, own)
        scores = (x @ block.ffn.router.weight.T).exp().log1p().sqrt().gather(1, chosen)
        torch.testing.assert_close(routing.weights, 1.5 * scores / scores.sum(-1, keepdim=True))


def test_looking_ahead_is_not_counted_as_load():
    model = Transformer(CFG, seed=0).train()
    noted(model)
    assert not any(block.ffn.load.any() for block in model.blocks)
    model.loss(ids())
    assert all(block.ffn.load.sum() == 64 for block in model.blocks)


def test_choices_of_another_pass_are_refused():
    model = Transformer(CFG, seed=0).train()
    chosen = noted(model).chosen
    for wrong in ([], chosen[:1], [one[:5] for one in chosen]):
        with pytest.raises(ValueError, match="of another pass"):
            model.loss(ids(), routes=Routes(wrong))


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("pieces", [1, 2])
def test_each_batch_is_routed_by_the_weights_of_ahead_steps_before(data, ahead, pieces):
    model = Transformer(CFG, seed=0).train()
    loader = Loader(data.train, batch_size=4, seq_len=8, seed=0)
    foresight = Foresight(model, loader, ahead=ahead, pieces=pieces)
    history = []
    for step in range(6):
        history.append(copy.deepcopy(model))
        routes = foresight.next()
        batch = next(loader)
        assert len(routes) == pieces
        for piece, found in zip(batch.chunk(pieces), routes, strict=True):
            expected = Routes()
            with torch.no_grad():
                history[max(step - ahead, 0)].loss(piece, routes=expected)
            assert all(torch.equal(a, b) for a, b in zip(found.chosen, expected.chosen, strict=True))
        model.load_state_dict(moved(model, 0.1).state_dict())


def curve(result) -> list[float]:
    return [record["loss"] for record in result.metrics]


def test_no_foresight_is_the_plain_run_and_some_is_another(data, monkeypatch):
    from minideepseek.train import loop

    plain = curve(train(CFG, data, RUN, progress=False))
    ahead = curve(train(CFG, data, replace(RUN, anticipate=2), progress=False))
    assert ahead[0] == plain[0]
    assert ahead[1:] != plain[1:]
    assert ahead[-1] < ahead[0] - 0.2
    now = lambda *args, ahead, **kwargs: Foresight(*args, ahead=0, **kwargs)  # noqa: E731
    monkeypatch.setattr(loop, "Foresight", now)
    assert curve(train(CFG, data, replace(RUN, anticipate=2), progress=False)) == plain


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_killed_run_goes_on_with_the_choices_of_weights_that_are_gone(data, tmp_path, accumulation):
    cfg = replace(RUN, anticipate=3, accumulation=accumulation, schedule="constant")
    whole = curve(train(SAVED, data, cfg, out=tmp_path / "whole", progress=False))

    def killed(record):
        if record["step"] == 5:  # after the checkpoint of step 4
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(SAVED, data, cfg, out=tmp_path / "killed", on_step=killed, progress=False)
    again = train(SAVED, data, cfg, out=tmp_path / "killed", resume=True, progress=False)
    assert curve(again) == whole


def test_what_cannot_be_is_refused(data):
    with pytest.raises(UserError, match="no routers that choose"):
        train(TINY, data, replace(RUN, anticipate=1), progress=False)
    with pytest.raises(UserError, match="compile=True"):
        TrainConfig(anticipate=1, compile=True)
    with pytest.raises(UserError, match="anticipate=-1"):
        TrainConfig(anticipate=-1)
