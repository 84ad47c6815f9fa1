"""The runs behind lesson 07: a small MLA model learns to find in rows of 64 tokens, and is asked in rows of up to 512.

    python benchmarks/long_context.py    # -> results/long_context.csv

About seven minutes of one core. Ways to read on: the rotations as trained, all of them slowed (position interpolation),
YaRN without and with its temperature; each at once, and after a few more steps on rows four times as long. Every
seed is written as soon as it is done, and seeds that are in the file are not made again.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import measure
import torch
from tqdm import tqdm

from minideepseek import Transformer
from minideepseek.data import Recall
from minideepseek.files import atomic_file
from minideepseek.layers import MLA, RoPE, SwiGLU, YaRN
from minideepseek.model import ModelConfig
from minideepseek.train.recall import found, teach
from minideepseek.train.threads import prepare_cpu

TASK = Recall()
SHORT, LONG = 64, 256
LENGTHS = [64, 128, 192, 256, 384, 512]
SEEDS = range(5)
MORE_STEPS = 40

# The base of the rotations is scaled with the length: the slowest pair makes as small a part of a turn in 64 tokens
# as V2's (base 10,000) in 4,096.
ROPE = RoPE(theta=10_000.0 * SHORT / 4096, layout="adjacent")
FINDER = ModelConfig(
    d_model=64,
    n_layers=2,
    attention=MLA(n_heads=2, d_latent=48, d_rope=16, d_nope=16, d_value=32, rope=ROPE),
    ffn=SwiGLU(hidden=128),
    vocab_size=TASK.vocab_size,
    max_seq_len=SHORT,
    init_std=None,
)

YARN = YaRN(factor=LONG / SHORT, original_len=SHORT)


Row = dict[str, Any]


class AllSlowed(RoPE):
    """Position interpolation (Chen et al., arXiv 2306.15595): every pair turns at a quarter of its speed."""

    def frequencies(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().frequencies(*args, **kwargs) * (SHORT / LONG)


WAYS: dict[str, RoPE] = {
    "as trained": ROPE,
    "all slowed": AllSlowed(theta=ROPE.theta, layout=ROPE.layout),
    "YaRN, no temperature": replace(ROPE, yarn=replace(YARN, mscale=0.0, mscale_all_dim=0.0)),
    "YaRN": replace(ROPE, yarn=YARN),
}


def turned(model: Transformer, rope: RoPE) -> Transformer:
    """The same weights, other rotations."""
    attention = model.cfg.attention
    assert isinstance(attention, MLA)
    other = Transformer(replace(model.cfg, attention=replace(attention, rope=rope)))
    other.load_state_dict(model.state_dict())
    return other


def run(seed: int) -> Iterator[Row]:
    """Share of correct answers for every way, before and after training on, length by length and by depth."""
    model = Transformer(FINDER, seed=seed)
    teach(model, TASK, length=SHORT, pairs=12, seed=seed)
    for way, rope in WAYS.items():
        reader = turned(model, rope)
        for more in (0, MORE_STEPS):
            if more:
                teach(reader, TASK, length=LONG, pairs=12, steps=more, lr=1e-3, short_first=0.0, seed=seed + 100)
            for length in LENGTHS:
                yield from (
                    {"way": way, "seed": seed, "more_steps": more, "length": length, "depth": depth, "found": share}
                    for depth, share in enumerate(by_depth(reader, length))
                )


def by_depth(model: Transformer, length: int, bands: int = 8) -> list[str]:
    """Share of correct answers about pairs in each eighth of the haystack, first to last."""
    generator = torch.Generator().manual_seed(99)
    rows = TASK.rows(128, length, pairs=12, questions=4, generator=generator)
    right, band = found(model, rows).float().flatten(), (rows.planted * bands // int(rows.asked[0])).flatten()
    return [f"{right[band == i].mean():.4f}" for i in range(bands)]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    prepare_cpu(1)
    path = measure.RESULTS / "long_context.csv"
    rows: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for seed in tqdm(sorted(set(SEEDS) - {int(row["seed"]) for row in rows}), file=sys.stderr, unit="seed"):
        rows += run(seed)
        with atomic_file(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    measure.write_result("long_context", {"model": repr(FINDER), "seeds": len(SEEDS)}, summary(rows))


def summary(rows: list[Row]) -> str:
    """Mean share found over seeds and depths, in per cent."""

    def share(way: str, more: int, length: int) -> str:
        chosen = [
            float(row["found"])
            for row in rows
            if (row["way"], int(row["more_steps"]), int(row["length"])) == (way, more, length)
        ]
        return f"{100 * sum(chosen) / len(chosen):.1f}"

    table = measure.table(
        [f"trained on {SHORT} tokens; % found at", *map(str, LENGTHS)],
        (
            [way if not more else f"{way}, {more} more steps on {LONG}", *(share(way, more, n) for n in LENGTHS)]
            for more in (0, MORE_STEPS)
            for way in WAYS
        ),
    )
    return f"{table}\n\n{len(SEEDS)} seeds, four questions about twelve planted pairs in each row."


if __name__ == "__main__":
    main()
