"""The family side by side, behind lessons 10 and 15: what each generation's mini learns from one text, how it writes.

    python benchmarks/family.py losses    # -> results/family.csv, 40 runs, about half an hour of one core
    python benchmarks/family.py decode    # -> results/family_decode.json, three minutes

The minis up to V3 have equal activated parameters (within 4 %, counted with embedding and head), V4's has 7 % more
than V3's. All arms of a seed read the same text in the same order. One arm is V3 without the module that looks ahead,
so that what this does to the model itself can be told; V3 and V4 also train with V4's optimiser, so that architecture
and optimiser can be told apart. Runs are written as soon as they are done, and runs in the file are not made again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import measure
import torch
from tqdm import tqdm

import minideepseek as mds
from minideepseek.data import TokenData, prepare
from minideepseek.files import atomic_file
from minideepseek.model import ModelConfig
from minideepseek.train import Result, TrainConfig, train

FAMILY = {name: mds.generations[name] for name in ("v1-mini", "moe-mini", "v2-mini", "v3-mini", "v4-mini")}
ARMS: dict[str, ModelConfig] = FAMILY | {
    "v3-mini, no MTP": replace(FAMILY["v3-mini"], mtp=None),
    "v3-mini, Muon": FAMILY["v3-mini"],
    "v4-mini, Muon": FAMILY["v4-mini"],
}
SEEDS = range(5)
STEPS, EVERY, ROWS, LENGTH = 240, 40, 8, 128
CONTEXTS, BATCHES, TOKENS = (64, 1024), (1, 8), 32


def run(arm: str, seed: int, data: TokenData) -> Result:
    """A quarter of a million tokens; the settings that matter here are the same for all."""
    shape = {"steps": STEPS, "batch_size": ROWS, "seq_len": LENGTH, "eval_every": EVERY, "eval_batches": 24}
    optimizer = "muon" if arm.endswith("Muon") else "adamw"
    settings = TrainConfig(**shape, seed=seed, optimizer=optimizer, dtype="bf16", threads=1, device="cpu")
    return train(ARMS[arm], data, settings, progress=False)


def losses() -> None:
    path = measure.RESULTS / "family.csv"
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    done = {(row["arm"], int(row["seed"])) for row in rows}
    missing = [(arm, seed) for seed in SEEDS for arm in ARMS if (arm, seed) not in done]
    data = prepare("stories")
    for arm, seed in tqdm(missing, file=sys.stderr, unit="run"):
        began = time.process_time()
        steps, values = run(arm, seed, data).curve("valid_loss")
        spent = time.process_time() - began
        rows += [
            {
                "arm": arm,
                "seed": str(seed),
                "step": str(step),
                "valid_loss": f"{loss:.6f}",
                "cpu_seconds": f"{spent:.1f}",
            }
            for step, loss in zip(steps, values, strict=True)
        ]
        with atomic_file(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    measure.write_result("family", {"corpus": data.corpus, "digest": data.folder.name, "configs": ARMS}, text(rows))


def text(rows: list[dict[str, str]]) -> str:
    """The end of every run, as a table."""
    last = [row for row in rows if int(row["step"]) == STEPS]
    lines, base = [], {row["seed"]: float(row["valid_loss"]) for row in last if row["arm"] == "v1-mini"}
    for arm, cfg in ARMS.items():
        own = [row for row in last if row["arm"] == arm]
        found = [float(row["valid_loss"]) for row in own]
        apart = [float(row["valid_loss"]) - base[row["seed"]] for row in own]
        lines.append(
            [
                arm,
                f"{mds.report(cfg).parameters:,}",
                f"{mds.report(cfg).activated['everything']:,}",
                f"{mds.report(cfg).cache_elements_per_token}",
                f"{statistics.mean(found):.4f} ± {2 * statistics.stdev(found):.4f}",
                f"{statistics.mean(apart):+.4f} ± {2 * statistics.stdev(apart):.4f}",
                f"{statistics.mean(float(row['cpu_seconds']) for row in own):.0f}",
            ]
        )
    header = ["", "parameters", "activated", "cached numbers/token", "held-out loss", "to v1-mini, pairs", "CPU s/run"]
    return (
        f"# The family on the same text, {len(SEEDS)} seeds\n\n{STEPS} steps of {ROWS * LENGTH:,} tokens. Loss in "
        f"nats a token, mean ± two standard deviations of the seeds; all values as they went: `family.csv`.\n\n"
        f"{measure.table(header, lines)}"
    )


def writer(name: str) -> Callable[[], measure.Sample]:
    """Median CPU seconds of a step behind a prompt; how quick a model writes does not depend on what it has learnt."""
    model = mds.Transformer(FAMILY[name], seed=0)

    def sample() -> measure.Sample:
        found: measure.Sample = {}
        for context in CONTEXTS:
            for batch in BATCHES:
                ids = torch.randint(
                    0, model.cfg.vocab_size, (batch, context), generator=torch.Generator().manual_seed(0)
                )
                tokens = mds.stream(model, ids, max_new_tokens=TOKENS + 1, temperature=0.0)
                times = [time.process_time() for _ in tokens]
                found[f"{context} {batch}"] = statistics.median(b - a for a, b in pairwise(times))
        return found

    return sample


def decode(rounds: int) -> None:
    samples = measure.interleave(Path(__file__), [measure.Contender(n, ("decode",)) for n in FAMILY], rounds=rounds)
    lines = []
    for name, cfg in FAMILY.items():
        line = [name, f"{4 * mds.report(cfg).cache_elements_per_token:,}"]
        for context in CONTEXTS:
            for batch in BATCHES:
                case = f"{context} {batch}"
                speed = batch / measure.spread(samples, name, case).median
                line.append(f"{speed:,.0f}, {measure.ratio(samples, 'v1-mini', name, case):.2f}")
        lines.append(line)
    header = ["", "cache, bytes/token", *(f"context {c}, batch {b}" for c in CONTEXTS for b in BATCHES)]
    caption = (
        f"# How quickly the family writes, 1 thread, CPU time, {rounds} rounds\n\nTokens a second, and the ratio of "
        f"times, v1-mini's to the row's, median (least-greatest) of the rounds. float32, greedy, no drafts.\n\n"
    )
    measure.write_result("family_decode", {"samples": samples}, caption + measure.table(header, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=("losses", "decode"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contender", choices=FAMILY, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(writer(args.contender))
    elif args.plan == "losses":
        losses()
    else:
        decode(args.rounds)


if __name__ == "__main__":
    main()
