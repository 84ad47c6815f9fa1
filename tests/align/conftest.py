"""Models and tasks so small that a test of them takes a moment."""

from dataclasses import replace

import pytest
import torch

from minideepseek.align.batch import Example
from minideepseek.data.tasks import Addition, tokenizer_for
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.generations import generations
from minideepseek.layers import GQA, MoE, SwiGLU, TopK
from minideepseek.model import ModelConfig, Transformer

V = 24
TINY = ModelConfig(
    d_model=16,
    n_layers=2,
    attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
    ffn=SwiGLU(hidden=24),
    vocab_size=V,
    max_seq_len=32,
    init_std=0.3,
)
SPARSE = replace(
    TINY, ffn=MoE(n_experts=6, hidden=12, n_shared=1, router=TopK(k=2, affinity="sigmoid", normalise=True, bias=True))
)
MINIS = {name: replace(cfg, vocab_size=V) for name, cfg in generations.items() if name.endswith("-mini")}


def exact(cfg: ModelConfig = TINY, seed: int = 0) -> Transformer:
    """A model in float64."""
    return Transformer(cfg, seed=seed).double().eval()


def some_examples(n: int = 5, seed: int = 0) -> list[Example]:
    """Prompts and responses of different lengths, of any tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> list[int]:
        return torch.randint(3, V, (n,), generator=generator).tolist()

    return [Example(ids(1 + (3 * i) % 4), ids(1 + (2 * i + 1) % 5)) for i in range(n)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tokenizer_for(Addition())
