"""Checkpoints lose nothing: a loaded model is the one that was saved, also for training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import minideepseek as mds
from minideepseek import UserError, checkpoint
from minideepseek.layers import (
    DSA,
    MTP,
    Capacity,
    CommunicationBalance,
    DeviceBalance,
    ExpertBalance,
    LossFree,
    MoE,
    SwiGLU,
)
from minideepseek.model import ModelConfig, Transformer


def config_of(cfg: ModelConfig, folder: Path) -> ModelConfig:
    """The config after a way through the file."""
    (folder / "config.json").write_text(json.dumps(checkpoint.write_config(cfg)))
    return checkpoint.read_config(folder)


@pytest.mark.parametrize("name", mds.generations)
def test_every_generation_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    assert config_of(mds.generations[name], tmp_path) == mds.generations[name]


def test_what_the_released_fields_say_is_not_said_twice() -> None:
    assert "minideepseek" not in checkpoint.write_config(mds.generations["v1-67b"])
    lite = checkpoint.write_config(mds.generations["v2-lite"])  # its only loss has a name in the release
    assert "minideepseek" not in lite
    assert (lite["aux_loss_alpha"], lite["seq_aux"]) == (0.001, True)
    assert set(checkpoint.write_config(mds.generations["v3"])["minideepseek"]) == {"loss_free", "mtp"}
    assert set(checkpoint.write_config(mds.generations["v2"])["minideepseek"]) == {"balance", "capacity"}


alphas = st.floats(0, 1)
overs = st.sampled_from(["batch", "sequence"])
losses = st.one_of(
    st.builds(ExpertBalance, alpha=alphas, over=overs, share=st.booleans()),
    st.builds(DeviceBalance, alpha=alphas, over=overs, devices=st.sampled_from([1, 2, 4])),
    st.builds(CommunicationBalance, alpha=alphas, over=overs, devices=st.just(4), limit=st.integers(1, 4)),
)


@given(
    name=st.sampled_from(["moe-mini", "v2-mini", "v3-mini"]),
    balance=st.lists(losses, max_size=3).map(tuple),
    loss_free=st.none() | st.builds(LossFree, speed=alphas, until=st.floats(0, 1)),
    capacity=st.none() | st.builds(Capacity, devices=st.sampled_from([1, 2]), factor=st.floats(0.1, 2), spared=alphas),
    mtp=st.none() | st.builds(MTP, depth=st.integers(1, 3), weight=alphas, late_weight=st.none() | alphas),
    init_std=st.none() | st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_whatever_it_is_trained_with_comes_back(
    name: str, balance: Any, loss_free: Any, capacity: Any, mtp: Any, init_std: Any, tmp_path_factory: Any
) -> None:
    cfg = mds.generations[name]
    v3 = name == "v3-mini"

    def changed(ffn: Any) -> Any:
        if isinstance(ffn, SwiGLU):
            return ffn
        return replace(ffn, balance=balance, loss_free=loss_free if v3 else None, capacity=capacity)

    ffn = tuple(changed(ffn) for _, ffn in cfg.layers)
    cfg = replace(cfg, ffn=ffn, mtp=mtp if v3 else None, init_std=init_std)
    assert config_of(cfg, tmp_path_factory.mktemp("model")) == cfg


def test_the_stage_of_sparse_attention_comes_back(tmp_path: Path) -> None:
    cfg = mds.generations["v3.2-mini"]
    assert isinstance(cfg.attention, DSA)
    warm = replace(cfg, attention=replace(cfg.attention, stage="warm-up"))
    assert config_of(warm, tmp_path) == warm
    assert "stage" not in checkpoint.write_config(cfg)["minideepseek"]


def test_transformers_keeps_what_it_does_not_understand(tmp_path: Path) -> None:
    model = Transformer(mds.generations["v2-mini"], seed=0)
    model.save(tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    back = mds.load(tmp_path / "theirs")
    assert replace(back.cfg, init_std=None) == model.cfg  # it writes down a spread of its own where there was none


@pytest.mark.parametrize("name", [name for name in mds.generations if name.endswith("-mini")])
def test_training_goes_on_from_a_loaded_model(name: str, tmp_path: Path) -> None:
    model = Transformer(mds.generations[name], seed=0).train()
    model.save(tmp_path)
    back = mds.load(tmp_path).train()
    assert back.cfg == model.cfg
    ids = torch.randint(0, 2048, (2, 12), generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # the second loss follows the correction of the routers
        expected, found = model.loss(ids), back.loss(ids)
        assert dict(expected).keys() == dict(found).keys()
        assert torch.equal(expected.total, found.total)
        for net in (model, back):
            for layer in net.modules():
                if hasattr(layer, "after_step"):
                    layer.after_step(0.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("nonsense", "'nonsense' is not an object of"),
        ({"color": "red"}, "is not an object of balance, capacity, experts_rounding, index_rounding, loss_free"),
        ({"balance": 3}, "balance is 3, where a list is expected"),
        ({"balance": [{"alpha": 0.1}]}, "a kind of ExpertBalance, DeviceBalance, CommunicationBalance is expected"),
        ({"balance": [{"kind": ["ExpertBalance"], "alpha": 0.1}]}, "a kind of ExpertBalance, DeviceBalance"),
        ({"balance": [{"kind": "ExpertBalance"}]}, "alpha"),
        ({"balance": [{"kind": "ExpertBalance", "alpha": "much"}]}, "alpha of ExpertBalance is 'much'"),
        ({"balance": [{"kind": "ExpertBalance", "alpha": True}]}, "alpha of ExpertBalance is True"),
        ({"balance": [{"kind": "ExpertBalance", "alpha": float("nan")}]}, "alpha=nan"),
        ({"balance": [{"kind": "ExpertBalance", "alpha": 0.1, "over": "night"}]}, "over of ExpertBalance is 'night'"),
        ({"balance": [{"kind": "DeviceBalance", "alpha": 0.1, "devices": 3}]}, "16 experts do not make 3"),
        ({"capacity": {"devices": 5}}, "16 experts do not make 5"),
        ({"capacity": {"devices": 4, "factor": -1}}, "must be positive"),
        ({"loss_free": {"speed": 0.1, "until": 7}}, "until=7"),
        ({"loss_free": {"sped": 0.1}}, "is not an object of speed, until"),
        ({"experts_rounding": {"kind": "FP8"}}, "a kind of FP4 is expected"),
        ({"experts_rounding": {"kind": "FP4", "rotate": True}}, "turns weights away"),
        ({"stage": "sparse"}, "it has a stage, and the model no indexers"),
        ({"mtp": {"depth": 2}}, "mtp has depth=2, and the model 1"),
        ({"mtp": {"depth": 1, "late_weight": [0.1]}}, "late_weight of MTP is [0.1]"),
    ],
)
def test_a_garbled_object_is_one_line(change: Any, says: str, tmp_path: Path) -> None:
    fields = checkpoint.write_config(mds.generations["v3-mini"])
    text = json.dumps(fields | {"minideepseek": change})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="the object 'minideepseek' is not one that was saved with this model") as error:
        checkpoint.read_config(tmp_path)
    assert says in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_object_for_experts_without_experts_is_refused(tmp_path: Path) -> None:
    fields = checkpoint.write_config(mds.generations["v1-mini"])
    (tmp_path / "config.json").write_text(json.dumps(fields | {"minideepseek": {"loss_free": None}}))
    with pytest.raises(UserError, match="it has loss_free for experts, and the model has none"):
        checkpoint.read_config(tmp_path)


def test_layers_that_differ_more_than_a_format_can_say_are_refused() -> None:
    cfg = mds.generations["v2-mini"]
    first, *rest = [ffn for _, ffn in cfg.layers]
    assert isinstance(rest[0], MoE)
    cfg = replace(cfg, ffn=(first, replace(rest[0], balance=()), *rest[1:]))
    with pytest.raises(UserError, match="one kind of mixture behind"):
        checkpoint.write_config(cfg)
