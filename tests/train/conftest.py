"""A corpus and a model so small that a whole training run takes a tenth of a second."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig
from minideepseek.train import TrainConfig

VOCAB = 32

TINY = ModelConfig(
    d_model=16,
    n_layers=1,
    attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
    ffn=SwiGLU(hidden=32),
    vocab_size=VOCAB,
    max_seq_len=16,
    init_std=None,
)
QUICK = TrainConfig(
    steps=10, batch_size=4, seq_len=8, warmup=2, checkpoint_every=2, eval_every=0, dtype="fp32", device="cpu", threads=1
)


class TinyTokenizer:
    """Says what the loop asks of a tokenizer, and writes a file that nobody reads."""

    bos_id, eos_id, vocab_size = 0, 1, VOCAB

    def save(self, directory: Path, /) -> None:
        (directory / "tokenizer.json").write_text(json.dumps({"vocab": VOCAB}))


@dataclass(frozen=True)
class TinyData:
    """Tokens with something to learn: each is its predecessor plus one, most of the time."""

    train: np.ndarray
    valid: np.ndarray
    corpus: str = "tiny"
    tokenizer: TinyTokenizer = field(default_factory=TinyTokenizer)

    def bits_per_byte(self, loss: float) -> float:
        return loss * 2


def tiny_data(seed: int = 0) -> TinyData:
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(2000) < 0.9, 1, rng.integers(0, VOCAB, 2000))
    tokens = (np.cumsum(steps) % VOCAB).astype(np.uint16)
    return TinyData(train=tokens[:1800], valid=tokens[1800:])


@pytest.fixture(scope="session")
def data() -> TinyData:
    return tiny_data()
