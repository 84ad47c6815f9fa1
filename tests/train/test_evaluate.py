"""The loss on held-out text."""

import pytest
import torch
import torch.nn.functional as F

from minideepseek.model import Transformer
from minideepseek.train import evaluate

from .conftest import TINY, TinyData


def test_it_is_the_mean_over_all_windows_though_the_last_batch_is_smaller(data: TinyData) -> None:
    model = Transformer(TINY, seed=0)
    windows = torch.from_numpy(data.valid[: 24 * 8 + 1].astype("int64")).unfold(0, 9, 8)
    logits = model(windows[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    found = evaluate(model, data, seq_len=8, batch_size=7, batches=100)
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_are_the_datas_own_count(data: TinyData) -> None:
    found = evaluate(Transformer(TINY, seed=0), data, seq_len=8)
    assert found.bits_per_byte == data.bits_per_byte(found.loss)


def test_it_leaves_no_trace_on_the_model(data: TinyData) -> None:
    model = Transformer(TINY, seed=0).train()
    evaluate(model, data, seq_len=8, batches=1)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
