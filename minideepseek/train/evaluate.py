"""How well a model predicts text that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from minideepseek.data.loader import validation_batches
from minideepseek.model import Transformer
from minideepseek.train.source import TrainingData


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """loss: nats per token; bits_per_byte: the same per byte of text, comparable across tokenizers."""

    loss: float
    bits_per_byte: float


@torch.no_grad()
def evaluate(
    model: Transformer, data: TrainingData, *, seq_len: int = 128, batch_size: int = 16, batches: int = 8
) -> Evaluation:
    """The next-token loss on held-out text, always the same windows of it.

    Args:
        model: on any device.
        data: ``data.valid`` is read.
        seq_len: tokens in a window; the first ones of a window are harder, so short windows look worse.
        batch_size: windows at once.
        batches: how many batches at most.
    """
    device = model.embed.weight.device
    mode = model.training
    model.eval()
    total, rows = torch.zeros((), device=device), 0
    for ids in validation_batches(data.valid, batch_size=batch_size, seq_len=seq_len, n=batches):
        total += model.loss(ids.to(device)).lm.float() * len(ids)
        rows += len(ids)
    model.train(mode)
    loss = total.item() / rows
    return Evaluation(loss=loss, bits_per_byte=data.bits_per_byte(loss))
