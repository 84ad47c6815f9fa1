"""Training mixtures: what corrects itself between steps survives a kill, and its load is in the log."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minideepseek as mds
from minideepseek.errors import UserError
from minideepseek.layers import MLA, MTP, LossFree, MoE, SwiGLU
from minideepseek.model import ModelConfig
from minideepseek.train import TrainConfig, read_metrics, train
from minideepseek.train.metrics import Record
from minideepseek.train.resume import METRICS

from .conftest import QUICK, VOCAB, tiny_data


def tiny(name: str) -> ModelConfig:
    """The mini, smaller still: its experts and its routing stay."""
    cfg = mds.generations[name]
    mixture = cfg.layers[-1][1]
    assert isinstance(mixture, MoE)
    attention = cfg.attention
    if isinstance(attention, MLA):
        attention = replace(attention, n_heads=2, d_latent=8, d_rope=4, d_nope=8, d_value=8, d_query_latent=8)
    else:
        attention = replace(attention, n_heads=2, n_kv_heads=1, head_dim=8)
    ffn = (SwiGLU(hidden=16), replace(mixture, hidden=8))
    return replace(cfg, d_model=16, n_layers=2, attention=attention, ffn=ffn, vocab_size=VOCAB, max_seq_len=16)


RUN = replace(QUICK, steps=8, checkpoint_every=1, accumulation=2)
NAMES = ["moe-mini", "v2-mini", "v3-mini"]


def without_time(records: list[Record]) -> list[Record]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


class Killed(Exception):
    pass


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_exactly_with_its_corrections(name: str, dtype: str, tmp_path: Path) -> None:
    cfg = replace(RUN, dtype=dtype)

    def die(record: Record) -> None:
        if record["step"] == 4:  # of which no checkpoint is left: step 4 is run twice
            raise Killed

    unbroken = train(tiny(name), tiny_data(), cfg, progress=False)
    with pytest.raises(Killed):
        train(tiny(name), tiny_data(), cfg, out=tmp_path, on_step=die, progress=False)
    resumed = train(tiny(name), tiny_data(), cfg, out=tmp_path, resume=True, progress=False)
    assert without_time(resumed.metrics) == without_time(unbroken.metrics)
    whole, again = unbroken.model.state_dict(), resumed.model.state_dict()
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    if name == "v3-mini":
        assert any(key.endswith("router.bias") and bool(value.any()) for key, value in whole.items())
        saved = mds.load(tmp_path)
        assert all(torch.equal(saved.state_dict()[key], value) for key, value in whole.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_step_logs_how_evenly_its_experts_were_used(name: str, tmp_path: Path) -> None:
    train(tiny(name), tiny_data(), RUN, out=tmp_path, progress=False)
    records = read_metrics(tmp_path / METRICS)
    assert len(records) == RUN.steps
    for record in records:
        assert record["max_violation"] > 0
        assert record["load_variation"] > 0
        assert record["balance"] > 0
        assert ("dropped" in record) == (name == "v2-mini")
        assert ("mtp" in record) == (name == "v3-mini")
        # what is logged beside the loss is no part of it
        parts = record["lm"] + record["balance"] + record.get("mtp", 0.0)
        assert record["loss"] == pytest.approx(parts, rel=1e-5)
    if name == "v2-mini":
        assert 0 < max(record["dropped"] for record in records) < 1


def test_pieces_of_a_batch_are_one_step_to_the_routers() -> None:
    whole, pieces = (
        train(tiny("v3-mini"), tiny_data(), replace(RUN, steps=1, accumulation=n), progress=False) for n in (1, 4)
    )
    key = "blocks.1.ffn.router.bias"
    assert whole.model.state_dict()[key].any()
    assert torch.equal(whole.model.state_dict()[key], pieces.model.state_dict()[key])
    assert whole.metrics[0]["max_violation"] == pieces.metrics[0]["max_violation"]


def test_the_weight_of_looking_ahead_follows_its_schedule_also_after_a_resume(tmp_path: Path) -> None:
    cfg = replace(tiny("v3-mini"), mtp=MTP(weight=0.4, late_weight=0.0, late=0.5))
    first = train(cfg, tiny_data(), replace(RUN, schedule="constant"), out=tmp_path, progress=False)
    ahead = [record["step"] for record in first.metrics if "mtp" in record]
    assert ahead == [1, 2, 3, 4]


@pytest.mark.parametrize("change", [{"loss_free": LossFree(speed=0.5)}, {"loss_free": None}, {"balance": ()}], ids=str)
def test_a_run_is_not_resumed_with_another_way_to_balance(change: dict, tmp_path: Path) -> None:
    cfg = tiny("v3-mini")
    train(cfg, tiny_data(), replace(RUN, steps=2), out=tmp_path, progress=False)
    first, mixture = (ffn for _, ffn in cfg.layers)
    assert isinstance(mixture, MoE)
    other = replace(cfg, ffn=(first, replace(mixture, **change)))
    with pytest.raises(UserError, match="is of another model"):
        train(other, tiny_data(), replace(RUN, steps=2), out=tmp_path, resume=True, progress=False)


def test_a_loaded_model_is_trained_further(tmp_path: Path) -> None:
    train(tiny("v3-mini"), tiny_data(), replace(RUN, steps=3), out=tmp_path, progress=False)
    more = train(mds.load(tmp_path), tiny_data(), TrainConfig(**vars(replace(RUN, steps=2))), progress=False)
    assert more.metrics[0]["loss"] < 0.98 * train(tiny("v3-mini"), tiny_data(), RUN, progress=False).metrics[0]["loss"]
