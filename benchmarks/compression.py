"""The runs behind lesson 12: what compressed blocks can recall, and what each branch of V4's attention is for.

    python benchmarks/compression.py    # -> results/compression.csv

About five minutes of one core. Three experiments, three seeds each:

* rate: models of one layer learn to find planted pairs in rows of 64 tokens, with blocks of different sizes.
* branches: models of two layers do, with the window alone and with blocks beside it; by distance of what is asked.
* recency: models of two layers learn to tell stories, with a window of one token and one as wide as a block; the loss
  by place in a block.

Every seed is written as soon as it is done, and seeds that are in the file are not made again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from typing import Any

import measure
import torch
import torch.nn.functional as F
from tqdm import tqdm

from minideepseek import Transformer
from minideepseek.data import Loader, Recall, prepare
from minideepseek.files import atomic_file
from minideepseek.layers import CSA, HCA, Indexer, RoPE, SharedKV, SwiGLU
from minideepseek.layers.spec import AttentionSpec
from minideepseek.model import ModelConfig
from minideepseek.train import TrainConfig, train
from minideepseek.train.recall import found, teach
from minideepseek.train.threads import prepare_cpu

Row = dict[str, Any]
TASK = Recall()
SEEDS = range(3)
INDEXER = Indexer(n_heads=8, head_dim=16, top_k=8)


def shared(window: int) -> SharedKV:
    """The attention of all arms."""
    return SharedKV(
        n_heads=2,
        head_dim=32,
        d_rope=16,
        d_query_latent=32,
        window=window,
        out_groups=1,
        d_out_latent=64,
        rope=RoPE(layout="adjacent"),
    )


def model(*attention: AttentionSpec, vocab_size: int = TASK.vocab_size) -> ModelConfig:
    """A narrow model with these layers."""
    return ModelConfig(
        d_model=64,
        n_layers=len(attention),
        attention=attention,
        ffn=SwiGLU(hidden=128),
        vocab_size=vocab_size,
        max_seq_len=128,
        init_std=None,
    )


def csa(window: int, rate: int) -> CSA:
    """Before its indexer chooses: what compression alone costs."""
    return CSA(mqa=shared(window), rate=rate, indexer=INDEXER, stage="dense")


RATES: dict[tuple[str, int], ModelConfig] = {
    ("window alone", 1): model(shared(8)),
    **{("HCA", rate): model(HCA(mqa=shared(8), rate=rate)) for rate in (2, 4, 8, 16, 32)},
    **{("CSA", rate): model(csa(8, rate)) for rate in (2, 4, 8, 16)},
}
BRANCHES = {
    "window alone": model(shared(8), shared(8)),
    "window and blocks": model(shared(8), csa(8, 4)),
}
BLOCK = 16
RECENCY = {
    "blocks alone": lambda vocab: model(*[HCA(mqa=shared(1), rate=BLOCK)] * 2, vocab_size=vocab),
    "window and blocks": lambda vocab: model(*[HCA(mqa=shared(BLOCK), rate=BLOCK)] * 2, vocab_size=vocab),
}


def rate(seed: int) -> Iterator[Row]:
    """Share found for each kind and size of blocks."""
    for (kind, size), cfg in RATES.items():
        learner = Transformer(cfg, seed=seed)
        teach(learner, TASK, length=64, pairs=6, steps=160, tokens=2048, seed=seed)
        rows = TASK.rows(256, 64, pairs=6, questions=6, generator=torch.Generator().manual_seed(99))
        yield {"arm": kind, "x": size, "value": found(learner, rows).float().mean().item()}


def branches(seed: int) -> Iterator[Row]:
    """Share found by distance, in bands of eight tokens."""
    for arm, cfg in BRANCHES.items():
        learner = Transformer(cfg, seed=seed)
        teach(learner, TASK, length=64, pairs=4, steps=320, tokens=2048, seed=seed)
        rows = TASK.rows(2048, 64, pairs=4, questions=1, generator=torch.Generator().manual_seed(99))
        right, distance = found(learner, rows)[:, 0].float(), (rows.asked - rows.planted)[:, 0]
        for band in range(8):
            here = (distance + 1) // 8 == band
            yield {"arm": arm, "x": 8 * band, "value": right[here].mean().item()}


def recency(seed: int) -> Iterator[Row]:
    """Nats a token of held-out stories, by the place in its block of the token that predicts."""
    data = prepare("stories")
    held_out = next(Loader(data.valid, batch_size=128, seq_len=128, seed=0))
    for arm, build in RECENCY.items():
        settings = TrainConfig(steps=200, batch_size=8, eval_every=0, seed=seed, threads=1, dtype="fp32")
        learner = train(build(data.tokenizer.vocab_size), data, settings, progress=False).model.eval()
        with torch.no_grad():
            logits = learner(held_out[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), held_out[:, 1:].flatten(), reduction="none").view(128, -1)
        loss = loss[:, BLOCK - 1 :]  # from the first complete block on
        places = (torch.arange(loss.shape[1]) + BLOCK - 1) % BLOCK
        for place in range(BLOCK):
            yield {"arm": arm, "x": place, "value": loss[:, places == place].mean().item()}


EXPERIMENTS: dict[str, Callable[[int], Iterator[Row]]] = {"rate": rate, "branches": branches, "recency": recency}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    prepare_cpu(1)
    path, rows = measure.RESULTS / "compression.csv", []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["experiment"], int(row["seed"])) for row in rows}
    left = [(name, seed) for seed in SEEDS for name in EXPERIMENTS if (name, seed) not in done]
    for name, seed in tqdm(left, file=sys.stderr, unit="run"):
        rows += [
            {"experiment": name, "seed": seed, **row, "value": f"{row['value']:.4f}"} for row in EXPERIMENTS[name](seed)
        ]
        with atomic_file(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    measure.write_result("compression", {"model": repr(model(shared(8))), "seeds": len(SEEDS)}, summary(rows))


def summary(rows: list[Row]) -> str:
    """Mean, least and greatest of the seeds."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["experiment"], row["arm"], str(row["x"])), []).append(float(row["value"]))
    return measure.table(
        ["experiment", "arm", "x", "mean", "least", "greatest"],
        (
            [*key, f"{sum(found) / len(found):.3f}", f"{min(found):.3f}", f"{max(found):.3f}"]
            for key, found in values.items()
        ),
    )


if __name__ == "__main__":
    main()
