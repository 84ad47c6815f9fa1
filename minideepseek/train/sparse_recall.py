"""From dense to sparse attention on planted recall: what two stages keep, and what is lost without an indexer.

A model with full attention learns to answer questions about pairs hidden in rows of 128 tokens. Then each token may
read eight of them. Answers need two lookups, one layer each (what stood before this value? which value stood behind
this key?), and each is a choice among up to 127 tokens: whoever chooses wrongly, or by place alone, cannot answer.

Four arms start from the same dense model, which learns on in each of them for as long:

* ``two stages``: the indexers first learn to imitate attention (warm-up), then everything learns on what they choose.
* ``no warm-up``: indexers start in the sparse stage, learning from what they happen to choose; as many steps in all as
  the two stages take together.
* ``untrained indexer``: they stay as they are initialised, and only the model learns to live with their choice.
* ``window``: each token reads the eight latest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minideepseek.context import Context
from minideepseek.data.recall import Recall
from minideepseek.layers.dsa import SparseAttention, Stage
from minideepseek.layers.indexer import Indexer, LightningIndexer, Question
from minideepseek.layers.mla import MLA
from minideepseek.layers.rope import RoPE
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.model import ModelConfig, Transformer
from minideepseek.train.recall import found, teach
from minideepseek.train.stages import add_indexers, enter_stage

TASK = Recall()
LENGTH, PAIRS = 128, 12
INDEXER = Indexer(n_heads=4, head_dim=32, top_k=8)
ARMS = ("two stages", "no warm-up", "untrained indexer", "window")
STEPS: dict[Stage, int] = {"warm-up": 30, "sparse": 30}
LEARNING_RATES: dict[Stage, float] = {"warm-up": 1e-2, "sparse": 1e-3}
TOKENS = 2048  # in a batch

FINDER = ModelConfig(
    d_model=64,
    n_layers=2,
    attention=MLA(
        n_heads=2,
        d_latent=48,
        d_rope=16,
        d_nope=16,
        d_value=32,
        d_query_latent=48,
        rope=RoPE(theta=10_000.0 * LENGTH / 4096, layout="adjacent"),
    ),
    ffn=SwiGLU(hidden=128),
    vocab_size=TASK.vocab_size,
    max_seq_len=LENGTH,
    init_std=None,
)


class Newest(LightningIndexer):
    """The control: of all tokens it picks the latest, which makes attention a sliding window."""

    def forward(self, x: Tensor, query_latent: Tensor, ctx: Context) -> tuple[Question, Tensor]:
        """One head of one channel, whose score is the position."""
        places = (ctx.positions + 1).to(x.dtype).expand(x.shape[:2])
        one = torch.ones_like(places)[..., None]
        return Question(one[..., None], one), places[..., None]


def finder(seed: int) -> Transformer:
    """A model with full attention that answers about rows of ``LENGTH`` tokens, most of it learnt on short rows."""
    model = Transformer(FINDER, seed=seed)
    teach(model, TASK, length=32, pairs=6, steps=240, tokens=TOKENS, seed=seed)
    later = {"lr": 2e-3, "short_first": 0.0, "tokens": TOKENS, "seed": seed + 100}
    teach(model, TASK, length=LENGTH, pairs=PAIRS, steps=40, **later)  # type: ignore[arg-type]
    return model


def learn(
    model: Transformer, *, seed: int, steps: int | None = None, watch: Callable[[int, Context], object] | None = None
) -> list[float]:
    """Train ``model``, which has indexers, in the stage that it is in, in place; see ``teach``."""
    stage = sparse_layers(model)[0].cfg.stage
    how = {"lr": LEARNING_RATES[stage], "short_first": 0.0, "tokens": TOKENS, "seed": seed, "watch": watch}
    return teach(model, TASK, length=LENGTH, pairs=PAIRS, steps=steps or STEPS[stage], **how)  # type: ignore[arg-type]


def answered(model: Transformer) -> float:
    """Share of 512 questions that the model answers correctly, about rows that it never saw."""
    rows = TASK.rows(128, LENGTH, pairs=PAIRS, questions=4, generator=torch.Generator().manual_seed(99))
    return found(model, rows).float().mean().item()


def arm(name: str, dense: Transformer, *, seed: int) -> Transformer:
    """A sparse model made of ``dense``, which is left alone, as the arm ``name`` does it.

    Raises:
        ValueError: no such arm.
    """
    if name not in ARMS:
        raise ValueError(f"arm {name!r}: choose one of {', '.join(ARMS)}")
    model = add_indexers(dense, INDEXER, seed=seed)
    if name == "two stages":
        learn(model, seed=seed + 200)
    enter_stage(model, "sparse")
    for layer in sparse_layers(model):
        if name == "untrained indexer":
            layer.indexer.requires_grad_(False)
        elif name == "window":
            layer.indexer = Newest(INDEXER, FINDER.d_model, layer.mla.widths[0], layer.indexer.rope)
    learn(model, seed=seed + 300, steps=sum(STEPS.values()) if name == "no warm-up" else None)
    return model


def sparse_layers(model: Transformer) -> list[SparseAttention]:
    """Its layers of sparse attention, first to last."""
    return [module for module in model.modules() if isinstance(module, SparseAttention)]
