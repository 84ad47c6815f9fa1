"""The runs behind lesson 13: residual streams plain, free and on the manifold. What they cost, and how they train.

    python benchmarks/streams.py time [--rounds 5]   # -> results/streams.md
    python benchmarks/streams.py train               # -> results/streams_train.csv and results/streams_gain.csv

"train" takes a quarter of an hour of one core. Every run is written as soon as it is done, and runs that are in the
file are not made again; all arms of a seed see the same text in the same order.

"time" compares whole steps of training, forward and backward. The arm "by formulas" is mHC with the operations of
``ops.reference`` in place of ``ops.streams``: what autograd makes of the equations.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
import torch
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek import ops
from minideepseek.data import TokenData, prepare
from minideepseek.data.loader import validation_batches
from minideepseek.errors import UserError
from minideepseek.layers import GQA, HyperConnections, Residual, SwiGLU
from minideepseek.layers.hyper import composite_gain
from minideepseek.layers.probe import mixed
from minideepseek.model import ModelConfig, ResidualSpec
from minideepseek.ops import reference
from minideepseek.train import TrainConfig, evaluate, train
from minideepseek.train.threads import keep_memory

ARMS: dict[str, ResidualSpec] = {
    "plain": Residual(),
    "HC": HyperConnections(manifold=None),
    "mHC": HyperConnections(),
}
RATES, SEEDS = (0.008, 0.03, 0.1), range(5)
STEPS, PIECE = 100, 10


def deep(residual: ResidualSpec) -> ModelConfig:
    """Eight layers, half as wide as a mini: sixteen matrices in a row."""
    attention = GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    return replace(
        mds.generations["v1-mini"],
        d_model=64,
        n_layers=8,
        attention=attention,
        ffn=SwiGLU(hidden=128),
        residual=residual,
    )


# ------------------------------------------------------------------------------------------------------------ training


@torch.no_grad()
def gains(model: mds.Transformer, data: TokenData) -> list[tuple[float, float]]:
    """Median and greatest composite gain over 512 tokens, of the first sub-layer, of the first two, ..."""
    (text,) = validation_batches(data.valid, batch_size=4, seq_len=128, n=1)
    with mixed(model) as notes:
        model(text[:, :-1])
    matrices = [passes[0] for passes in notes]
    found = [composite_gain(matrices[:depth]) for depth in range(1, len(matrices) + 1)]
    return [(gain.median().item(), gain.max().item()) for gain in found]


def one_run(arm: str, lr: float, seed: int, data: TokenData) -> dict[str, list[Row]]:
    steps: list[dict[str, float]] = []
    settings = TrainConfig(
        steps=STEPS, batch_size=8, lr=lr, seed=seed, eval_every=0, checkpoint_every=0, dtype="fp32", threads=1
    )
    run: Row = {"arm": arm, "lr": lr, "seed": seed}
    deeper: list[Row] = []
    try:
        model = train(deep(ARMS[arm]), data, settings, progress=False, on_step=steps.append, out=None).model
        valid = f"{evaluate(model, data, batches=8).loss:.6f}"
        for depth, (median, most) in enumerate(gains(model, data), 1):
            deeper.append(run | {"depth": depth, "median": f"{median:.6g}", "max": f"{most:.6g}"})
    except UserError:  # it diverged
        valid = "inf"
    rows = []
    for start in range(0, len(steps), PIECE):
        piece = steps[start : start + PIECE]
        mean = sum(record["loss"] for record in piece) / len(piece)
        norm = max(record["grad_norm"] for record in piece)
        last = start + PIECE >= len(steps)
        values = {"loss": f"{mean:.6f}", "grad_norm": f"{norm:.6g}", "valid_loss": valid if last else ""}
        rows.append(run | {"step": piece[-1]["step"], **values})
    return {"streams_train": rows, "streams_gain": deeper}


def train_all() -> None:
    files = {name: measure.RESULTS / f"{name}.csv" for name in ("streams_train", "streams_gain")}
    rows = {name: read(path) if path.exists() else [] for name, path in files.items()}
    done = {(row["arm"], float(row["lr"]), int(row["seed"])) for row in rows["streams_train"]}
    plan = [(arm, lr, seed) for seed in SEEDS for lr in RATES for arm in ARMS if (arm, lr, seed) not in done]
    data = prepare("stories")
    for arm, lr, seed in tqdm(plan, file=sys.stderr, unit="run"):
        for name, found in one_run(arm, lr, seed, data).items():
            rows[name] += found
            if rows[name]:
                write(files[name], rows[name])


# ---------------------------------------------------------------------------------------------------------------- time

CONTENDERS = {"plain": "plain", "HC": "HC", "mHC": "mHC", "mHC by formulas": "mHC"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def sampler(name: str) -> Callable[[], measure.Sample]:
    keep_memory()
    if "formulas" in name:
        for op in ("sinkhorn", "rms_linear", "read_streams", "write_streams"):
            setattr(ops, op, getattr(reference, op))
    residual = ARMS[CONTENDERS[name]]
    ids = torch.randint(0, 2048, (16, 129), generator=torch.Generator().manual_seed(0))
    models = {"v1-mini": replace(mds.generations["v1-mini"], residual=residual), "lesson 13": deep(residual)}
    works = {}
    for title, cfg in models.items():
        for dtype_name, dtype in DTYPES.items():
            model = mds.Transformer(cfg, seed=0).to(dtype).train()
            works[f"{title} {dtype_name}"] = functools.partial(step, model, ids)
    return lambda: {case: measure.cpu_seconds(work) for case, work in works.items()}


def step(model: mds.Transformer, ids: torch.Tensor) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    model.loss(ids).total.backward()


def time_all(rounds: int, threads: int) -> None:
    contenders = [measure.Contender(name) for name in CONTENDERS]
    samples = measure.interleave(Path(__file__), contenders, rounds=rounds, threads=threads)
    rows = [
        [
            case,
            f"{measure.spread(samples, 'plain', case, scale=1e3).median:.0f}",
            *(f"{measure.ratio(samples, name, 'plain', case):.2f}" for name in list(CONTENDERS)[1:]),
        ]
        for case in samples["plain"][0]
    ]
    text = (
        f"# Residual streams: forward and backward of 2,048 tokens, {threads} thread(s), CPU time, {rounds} rounds\n\n"
        "Ratios are of times, median (least-greatest) of the rounds; four streams.\n\n"
        + measure.table(["", "plain, ms", *(f"{name}, times plain" for name in list(CONTENDERS)[1:])], rows)
    )
    measure.write_result("streams", {"samples": samples}, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=("time", "train"), nargs="?", default="time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(args.contender))
    elif args.plan == "time":
        time_all(args.rounds, args.threads)
    else:
        train_all()


if __name__ == "__main__":
    main()
