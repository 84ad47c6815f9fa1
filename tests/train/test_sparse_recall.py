"""The experiment of lesson 11: its arms differ in what they say they do, and the whole of it, once, on one seed."""

import pytest
import torch

from minideepseek.layers.dsa import seen
from minideepseek.model import Transformer
from minideepseek.train import add_indexers, sparse_recall
from minideepseek.train.sparse_recall import ARMS, FINDER, INDEXER, TASK, Newest, answered, arm, finder, sparse_layers


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Transformer:
    """An untaught dense model, and stages of two steps."""
    monkeypatch.setattr(sparse_recall, "STEPS", {"warm-up": 2, "sparse": 2})
    monkeypatch.setattr(sparse_recall, "TOKENS", 256)
    return Transformer(FINDER, seed=0).eval()


def indexers(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if ".indexer." in name}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_sparse_and_leaves_the_dense_model_alone(short: Transformer, name: str) -> None:
    before = {key: value.clone() for key, value in short.state_dict().items()}
    model = arm(name, short, seed=0)
    assert all(layer.cfg.stage == "sparse" for layer in sparse_layers(model))
    assert all(torch.equal(value, before[key]) for key, value in short.state_dict().items())
    assert not torch.equal(model.embed.weight, before["embed.weight"])


def test_indexers_learn_but_where_they_are_left_untrained(short: Transformer) -> None:
    start = indexers(add_indexers(short, INDEXER, seed=0))
    moved = {
        name: any(not torch.equal(value, start[key]) for key, value in indexers(arm(name, short, seed=0)).items())
        for name in ARMS[:3]
    }
    assert moved == {"two stages": True, "no warm-up": True, "untrained indexer": False}


def test_a_window_reads_the_latest(short: Transformer) -> None:
    model = arm("window", short, seed=0)
    layer = sparse_layers(model)[1]
    assert isinstance(layer.indexer, Newest)
    ids = torch.zeros(2, 20, dtype=torch.int64)
    ctx = model.context(ids)
    x = model.embed(ids)
    chosen = layer.indexer.choose(*layer.indexer(x, x, ctx), seen(ctx, 20))
    distance = torch.arange(20)[:, None] - torch.arange(20)
    assert torch.equal(chosen, ((distance >= 0) & (distance < 8)).expand(2, -1, -1))


def test_another_arm_is_refused(short: Transformer) -> None:
    with pytest.raises(ValueError, match="arm 'three stages': choose one of two stages, no warm-up"):
        arm("three stages", short, seed=0)


def test_each_query_of_a_question_chooses_among_many() -> None:
    rows = TASK.rows(
        1, sparse_recall.LENGTH, pairs=sparse_recall.PAIRS, questions=4, generator=torch.Generator().manual_seed(0)
    )
    assert int(rows.asked[0]) >= 96
    assert INDEXER.top_k == 8


@pytest.mark.slow
def test_two_stages_keep_what_was_found_and_nothing_less_does() -> None:
    dense = finder(0)
    found = {name: answered(arm(name, dense, seed=0)) for name in ("two stages", "untrained indexer", "window")}
    assert answered(dense) > 0.95
    assert found["two stages"] >= 0.95 * answered(dense)
    assert max(found["untrained indexer"], found["window"]) < 0.3
