"""Four bits for V4's experts and indexers: rounded after training, or trained with the rounding in mind.

    python benchmarks/fp4.py    # -> results/fp4.csv and results/fp4.md; about ten minutes of one core

A v4-mini is trained for a while; then it goes on for some more steps, once as it was and once in simulated FP4, on the
same text in the same order. Both are judged on held-out text in FP4, the first one also as it is. Every seed is written
as soon as it is done, and seeds that are in the file are not made again.
"""

from __future__ import annotations

import copy
import statistics
import sys
from dataclasses import replace

import measure
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek.data import TokenData, prepare
from minideepseek.train import TrainConfig, evaluate, in_fp4, recipe, train

SEEDS = range(3)
SHARED = {"batch_size": 8, "eval_every": 0, "checkpoint_every": 0, "dtype": "fp32", "threads": 1, "device": "cpu"}
BEFORE = replace(recipe("v4-mini"), steps=120, **SHARED)
MORE = replace(recipe("v4-mini"), steps=40, lr=5e-3, warmup=5, schedule="cosine", **SHARED)


def losses(seed: int, data: TokenData) -> dict[str, float]:
    """Held-out losses in nats a token of one seed."""

    def on(model: mds.Transformer, settings: TrainConfig) -> mds.Transformer:
        return train(model, data, replace(settings, seed=seed), progress=False).model

    base = on(mds.Transformer(mds.generations["v4-mini"], seed=seed), BEFORE)
    plain, aware = on(copy.deepcopy(base), MORE), on(in_fp4(base), MORE)
    judged = {"not rounded": plain, "rounded after training": in_fp4(plain), "trained in FP4": aware}
    return {name: evaluate(model.eval(), data, batches=16).loss for name, model in judged.items()}


def main() -> None:
    path = measure.RESULTS / "fp4.csv"
    rows: list[Row] = read(path) if path.exists() else []
    data = prepare("stories")
    for seed in tqdm([s for s in SEEDS if str(s) not in {str(row["seed"]) for row in rows}], file=sys.stderr):
        rows += [{"seed": seed, "arm": arm, "valid_loss": f"{loss:.6f}"} for arm, loss in losses(seed, data).items()]
        write(path, rows)
    found = {(str(row["arm"]), str(row["seed"])): float(row["valid_loss"]) for row in rows}
    arms = list(dict.fromkeys(arm for arm, _ in found))
    cells = [[arm, *(f"{found[arm, str(seed)]:.4f}" for seed in SEEDS)] for arm in arms]
    saved = [found[arms[1], str(seed)] - found[arms[2], str(seed)] for seed in SEEDS]
    text = (
        f"# V4-mini in four bits: held-out loss in nats a token, {BEFORE.steps} steps and {MORE.steps} more\n\n"
        + measure.table(["", *(f"seed {seed}" for seed in SEEDS)], cells)
        + f"\n\nTrained in FP4 is better than rounded after training by {statistics.mean(saved):.4f} on average, "
        f"{min(saved):.4f} to {max(saved):.4f}."
    )
    measure.write_result("fp4", {"losses": rows, "before": repr(BEFORE), "more": repr(MORE)}, text)


if __name__ == "__main__":
    main()
