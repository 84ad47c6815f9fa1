"""What a generation is trained with when nobody asks for anything else; and tables that follow the text."""

from dataclasses import replace

import numpy as np
import torch

import minideepseek as mds
from minideepseek.layers import HashRouting, MoE, TopK
from minideepseek.layers.hashed import deal
from minideepseek.train import TrainConfig, recipe, source, train

from .conftest import QUICK, TINY

HASHED = MoE(n_experts=4, hidden=8, n_shared=1, router=HashRouting(gate=TopK(k=2, normalise=True)))


def test_v4_learns_with_muon_at_a_rate_of_its_own_and_nothing_else_changes():
    for name in mds.generations:
        expected = {"optimizer": "muon", "lr": recipe(name).lr} if name.startswith("v4") else {}
        assert recipe(name) == TrainConfig(**expected)


def test_a_new_models_tables_follow_the_text(data):
    cfg = replace(TINY, ffn=HASHED)
    model = train(cfg, data, replace(QUICK, steps=1), progress=False).model
    table = model.blocks[0].ffn.router.table
    counts = torch.from_numpy(np.bincount(data.train, minlength=cfg.vocab_size))
    assert torch.equal(table, deal(counts, 4, 2, 0))
    assert not torch.equal(table, mds.Transformer(cfg).blocks[0].ffn.router.table)


def test_a_model_that_is_trained_further_keeps_its_tables(data):
    model = mds.Transformer(replace(TINY, ffn=HASHED), seed=0)
    before = model.blocks[0].ffn.router.table.clone()
    train(model, data, replace(QUICK, steps=1), progress=False)
    assert torch.equal(model.blocks[0].ffn.router.table, before)


def test_a_part_of_a_large_text_tells_its_frequencies(monkeypatch):
    tokens = np.random.default_rng(0).choice(5, 100_000, p=[0.5, 0.2, 0.1, 0.1, 0.1]).astype(np.uint16)
    assert torch.equal(source.frequencies(tokens, 7), torch.from_numpy(np.bincount(tokens, minlength=7)))
    monkeypatch.setattr(source, "COUNTED", 10_000)
    found = source.frequencies(tokens, 7)
    assert found.sum() == 10_000
    assert torch.allclose(found[:5] / 10_000, torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1]), atol=0.02)
