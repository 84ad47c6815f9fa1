"""The training runs behind lesson 06: four attentions in one small model, with seeds.

    python benchmarks/attention.py    # -> results/attention.csv

About four minutes of one core. Every run is written as soon as it is done, and runs that are in the file are not made
again. All arms of a seed see the same text in the same order.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import measure
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek.data import prepare
from minideepseek.layers import GQA, MLA, SwiGLU
from minideepseek.model import AttentionSpec
from minideepseek.train import TrainConfig, train

SEEDS = range(5)
ARMS: dict[str, AttentionSpec] = {
    "MHA": GQA(n_heads=4, n_kv_heads=4, head_dim=16),
    "GQA-2": GQA(n_heads=4, n_kv_heads=2, head_dim=16),
    "MQA": GQA(n_heads=4, n_kv_heads=1, head_dim=16),
    "MLA": MLA(n_heads=4, d_latent=24, d_rope=8, d_nope=16, d_value=16),  # the cache of MQA
    "MLA, wide": MLA(n_heads=4, d_latent=56, d_rope=8, d_nope=16, d_value=16),  # the cache of GQA-2
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path = measure.RESULTS / "attention.csv"
    rows: list[Row] = read(path) if path.exists() else []
    done = {(row["arm"], int(row["seed"])) for row in rows}
    data = prepare("stories")
    for seed, arm in tqdm([(s, a) for s in SEEDS for a in ARMS if (a, s) not in done], file=sys.stderr, unit="run"):
        model = replace(mds.generations["v1-mini"], d_model=64, n_layers=2, ffn=SwiGLU(hidden=176), attention=ARMS[arm])
        settings = TrainConfig(
            steps=300, batch_size=8, lr=8e-3, seed=seed, eval_every=20, dtype="bf16", threads=1, device="cpu"
        )
        steps, losses = train(model, data, settings, progress=False).curve("valid_loss")
        cached = ARMS[arm].cache_elements(1)
        rows += [
            {"arm": arm, "cached": cached, "seed": seed, "step": step, "valid_loss": f"{loss:.6f}"}
            for step, loss in zip(steps, losses, strict=True)
        ]
        write(path, rows)
    measure.write_result(
        "attention",
        {"arms": {arm: repr(spec) for arm, spec in ARMS.items()}, "corpus": data.corpus, "seeds": len(SEEDS)},
        f"{len(ARMS) * len(SEEDS)} training runs of 300 steps, held-out loss in nats a token as they went;\n"
        "`cached` counts the numbers that a layer keeps of a token: `attention.csv`.",
    )


if __name__ == "__main__":
    main()
