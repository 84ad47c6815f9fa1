"""Dense to sparse: a warm-up that moves the indexers alone, then a stage in which everything learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import minideepseek as mds
from minideepseek.errors import UserError
from minideepseek.layers import CSA, DSA, HCA, MLA, MTP, Indexer, MoE, SharedKV, SwiGLU
from minideepseek.model import Transformer
from minideepseek.train import TrainConfig, add_indexers, enter_stage, train

from .conftest import QUICK, TINY, VOCAB, tiny_data

INDEXER = Indexer(n_heads=8, head_dim=8, top_k=4)
RUN: TrainConfig = replace(QUICK, steps=6, seq_len=14, checkpoint_every=2)


def dense(seed: int = 0) -> Transformer:
    cfg = mds.generations["v3-mini"]
    mixture = cfg.layers[-1][1]
    assert isinstance(mixture, MoE)
    mla = MLA(n_heads=2, d_latent=8, d_rope=4, d_nope=8, d_value=8, d_query_latent=8)
    ffn = (SwiGLU(hidden=16), replace(mixture, hidden=8))
    return Transformer(
        replace(cfg, d_model=16, n_layers=2, attention=mla, ffn=ffn, vocab_size=VOCAB, mtp=MTP(depth=1)), seed=seed
    )


def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, 14), generator=torch.Generator().manual_seed(0))


def copied(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model: Transformer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_a_model_with_new_indexers_is_the_model_it_was() -> None:
    old = dense()
    new = add_indexers(old, INDEXER)
    assert new.cfg.attention == DSA(mla=old.cfg.layers[0][0], indexer=INDEXER, stage="warm-up")  # type: ignore[arg-type]
    with torch.inference_mode():
        assert torch.equal(new.eval()(ids()), old.eval()(ids()))
    assert {name for name, p in new.named_parameters() if p.requires_grad} == {
        name for name, _ in new.named_parameters() if ".indexer." in name
    }
    assert all(p.requires_grad for p in old.parameters())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_warm_up_moves_the_indexers_and_nothing_else(dtype: Any, optimizer: Any) -> None:
    model = add_indexers(dense(), INDEXER)
    before = copied(model)
    result = train(model, tiny_data(), replace(RUN, dtype=dtype, optimizer=optimizer), progress=False)
    changed = moved(model, before)  # buffers included: routers are not corrected either
    assert changed == {name for name in before if ".indexer." in name}
    record = result.metrics[-1]
    assert {"lm", "mtp", "indexer", "recall/0", "recall/1"} <= record.keys()
    assert not {"balance", "max_violation"} & record.keys()
    assert record["loss"] == pytest.approx(record["lm"] + record["mtp"] + record["indexer"], rel=1e-5)


def test_the_warm_up_teaches_and_the_sparse_stage_trains_everything(tmp_path: Path) -> None:
    model = add_indexers(dense(), INDEXER)
    warm = train(model, tiny_data(), replace(RUN, steps=60, lr=1e-2), progress=False)
    losses, recalls = warm.curve("indexer")[1], warm.curve("recall/1")[1]
    assert losses[-1] < 0.5 * losses[0]
    assert recalls[-1] > recalls[0]
    enter_stage(model, "sparse")
    before = copied(model)
    sparse = train(model, tiny_data(), RUN, out=tmp_path, progress=False)
    assert {name for name in before if not name.endswith("router.bias")} <= moved(model, before)
    assert any(name.endswith("router.bias") for name in moved(model, before))
    assert {"balance", "max_violation", "indexer"} <= sparse.metrics[-1].keys()
    assert mds.load(tmp_path).cfg == model.cfg


def test_a_killed_warm_up_goes_on_exactly(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(record: Any) -> None:
        if record["step"] == 5:
            raise Killed

    whole = train(add_indexers(dense(), INDEXER), tiny_data(), RUN, progress=False)
    with pytest.raises(Killed):
        train(add_indexers(dense(), INDEXER), tiny_data(), RUN, out=tmp_path, on_step=die, progress=False)
    # From the folder alone: the saved config knows its stage, and the loop freezes by it.
    saved = mds.checkpoint.read_config(tmp_path / "checkpoints" / "step-000004")
    resumed = train(saved, tiny_data(), RUN, out=tmp_path, resume=True, progress=False)
    assert [record["indexer"] for record in resumed.metrics] == [record["indexer"] for record in whole.metrics]
    assert moved(resumed.model, copied(whole.model)) == set()


def test_a_stage_can_be_entered_and_left() -> None:
    model = add_indexers(dense(), INDEXER)
    warm, state = model.cfg, copied(model)
    enter_stage(model, "sparse")
    assert all(p.requires_grad for p in model.parameters())
    assert all(attention.stage == "sparse" for attention, _ in model.cfg.layers)  # type: ignore[attr-defined]
    enter_stage(model, "warm-up")
    assert model.cfg == warm
    assert not model.embed.weight.requires_grad
    assert moved(model, state) == set()


def compressed() -> Transformer:
    shared = SharedKV(n_heads=2, head_dim=8, d_rope=4, d_query_latent=8, window=4, out_groups=1, d_out_latent=8)
    csa = CSA(mqa=shared, rate=2, indexer=INDEXER, stage="dense")
    cfg = replace(TINY, d_model=16, n_layers=3, attention=(shared, csa, HCA(mqa=shared, rate=4)))
    return Transformer(cfg, seed=0)


@pytest.mark.parametrize(
    ("stage", "learns"), [("dense", "the rest"), ("warm-up", "indexers"), ("sparse", "everything")]
)
def test_blocks_are_chosen_in_the_same_stages(stage: Any, learns: str) -> None:
    model = compressed()
    enter_stage(model, stage)
    before = copied(model)
    indexers = {name for name in before if ".indexer." in name}
    result = train(model, tiny_data(), RUN, progress=False)
    expected = {"the rest": set(before) - indexers, "indexers": indexers, "everything": set(before)}[learns]
    assert moved(model, before) == expected
    assert ("indexer" in result.metrics[-1]) == ("recall/1" in result.metrics[-1]) == (stage != "dense")


def test_other_attention_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="layer 0 is GQA; indexers choose for MLA"):
        add_indexers(Transformer(TINY), INDEXER)
    with pytest.raises(UserError, match=r"layer 0: indexer\.head_dim=2 has no room"):
        add_indexers(dense(), replace(INDEXER, head_dim=2))
    with pytest.raises(UserError, match="a model without indexers has no stages"):
        enter_stage(dense(), "sparse")
    with pytest.raises(UserError, match="stage='dense': choose 'warm-up' or 'sparse'"):
        enter_stage(add_indexers(dense(), INDEXER), "dense")
