"""The training runs behind lesson 03: four schedules, and four ways to draw the first weights, with seeds.

    python benchmarks/training_v1.py schedules    # -> results/schedules.csv
    python benchmarks/training_v1.py starts       # -> results/starts.csv

About a quarter of an hour and five minutes of one core. Every run is written as soon as it is done, and runs that are
in the file are not made again. All arms of a seed see the same text in the same order.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
from tqdm import tqdm

import minideepseek as mds
from minideepseek.data import TokenData, prepare
from minideepseek.files import atomic_file
from minideepseek.layers import GQA, SwiGLU
from minideepseek.train import Result, TrainConfig, train
from minideepseek.train.schedule import SCHEDULES

MINI = mds.generations["v1-mini"]
SMALL = replace(
    MINI, d_model=64, n_layers=2, attention=GQA(n_heads=4, n_kv_heads=2, head_dim=16), ffn=SwiGLU(hidden=176)
)
SEEDS = range(5)


def schedule_run(schedule: str, seed: int, data: TokenData) -> Result:
    """Half a mini on 1.2 million tokens, at a peak where both cosine and steps do well (4e-3 starves the cosine)."""
    settings = {"steps": 600, "lr": 8e-3, "schedule": schedule, "eval_every": 20}
    return train(SMALL, data, TrainConfig(**settings, **_common(seed)), progress=False)


#: first weights -> (std of the matrices, of the embedding, peak learning rate); None: 0.4/sqrt(fan-in)
STARTS: dict[str, tuple[float | None, float | None, float]] = {
    "scaled": (None, None, 4e-3),
    "plain": (0.006, 0.006, 4e-3),
    "plain, lr halved": (0.006, 0.006, 2e-3),
    "plain, embedding scaled": (0.006, None, 4e-3),
}


def start_run(start: str, seed: int, data: TokenData) -> Result:
    """A mini's first hundred steps."""
    matrices, embedding, lr = STARTS[start]
    model = mds.Transformer(replace(MINI, init_std=matrices), seed=seed)
    if embedding is None:
        # The generator gives the same draws whatever the standard deviation: only the size differs.
        model.embed.weight.data = mds.Transformer(MINI, seed=seed).embed.weight.data
    settings = {"steps": 100, "lr": lr, "schedule": "constant", "eval_every": 5, "eval_batches": 4}
    return train(model, data, TrainConfig(**settings, **_common(seed)), progress=False)


def _common(seed: int) -> dict[str, object]:
    return {"seed": seed, "dtype": "bf16", "threads": 1, "device": "cpu"}


Row = dict[str, str | int | float]
PLANS: dict[str, tuple[list[str], Callable[[str, int, TokenData], Result]]] = {
    "schedules": (list(SCHEDULES), schedule_run),
    "starts": (list(STARTS), start_run),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=PLANS)
    name = parser.parse_args().plan
    arms, run = PLANS[name]
    path = measure.RESULTS / f"{name}.csv"
    rows = read(path) if path.exists() else []
    done = {(row["arm"], int(row["seed"])) for row in rows}
    missing = [(arm, seed) for seed in SEEDS for arm in arms if (arm, seed) not in done]
    data = prepare("stories")
    for arm, seed in tqdm(missing, file=sys.stderr, unit="run"):
        steps, losses = run(arm, seed, data).curve("valid_loss")
        rows += [
            {"arm": arm, "seed": seed, "step": step, "valid_loss": f"{loss:.6f}"}
            for step, loss in zip(steps, losses, strict=True)
        ]
        write(path, rows)
    measure.write_result(
        name,
        {
            "model": repr(SMALL if name == "schedules" else MINI),
            "corpus": data.corpus,
            "digest": data.folder.name,
            "seeds": len(SEEDS),
        },
        f"{len(arms) * len(SEEDS)} training runs, held-out loss in nats a token as they went: `{name}.csv`.",
    )


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    with atomic_file(path) as beside, beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
