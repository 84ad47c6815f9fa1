"""The training runs behind lesson 04, a grid of them: budgets by widths by seeds, and learning rates by batches.

    python benchmarks/scaling_grid.py grid     # -> results/isoflop.csv
    python benchmarks/scaling_grid.py sweep    # -> results/lr_batch.csv

Each takes several minutes of one core. Every run is written as soon as it is done, and runs that are in the file are
not made again: stop and go on as you like, or add trials below.
"""

from __future__ import annotations

import argparse
import sys

import measure
from tqdm import tqdm

from minideepseek.train import isoflop
from minideepseek.train.isoflop import Trial

#: budget -> widths around the valley's floor, and seeds
GRID = {
    2.0e10: ((8, 12, 16, 24, 32, 48), 3),
    6.0e10: ((12, 16, 24, 32, 48, 64), 3),
    1.8e11: ((16, 24, 32, 48, 64, 96), 3),
    5.4e11: ((24, 32, 48, 64, 96), 2),
}
#: budget -> a width near its floor, and seeds
SWEEP = {2.2e9: (8, 2), 2.0e10: (16, 1)}
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of what the laws give, for learning rate and batch


def grid() -> list[Trial]:
    """All trials of the grid, the first seed of every budget before the second of any."""
    trials = [
        Trial(compute=compute, d_model=width, seed=seed)
        for compute, (widths, seeds) in GRID.items()
        for seed in range(seeds)
        for width in widths
    ]
    return sorted(trials, key=lambda trial: trial.seed)


def sweep() -> list[Trial]:
    """All trials of the sweep."""
    return [
        Trial(compute=compute, d_model=width, seed=seed, lr_factor=lr, batch_factor=batch)
        for compute, (width, seeds) in SWEEP.items()
        for seed in range(seeds)
        for lr in FACTORS
        for batch in FACTORS
    ]


PLANS = {"grid": ("isoflop", grid), "sweep": ("lr_batch", sweep)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=PLANS)
    name, plan = PLANS[parser.parse_args().plan]
    path = measure.RESULTS / f"{name}.csv"
    done = isoflop.read(path) if path.exists() else []
    data = isoflop.corpus()
    missing = [trial for trial in plan() if trial not in {outcome.trial for outcome in done}]
    for trial in (bar := tqdm(missing, file=sys.stderr, unit="run")):
        bar.set_postfix_str(f"C={trial.compute:.1e} width={trial.d_model} seed={trial.seed}")
        done.append(isoflop.run(trial, data))
        isoflop.write(path, done)
    seconds = sum(outcome.cpu_seconds for outcome in done)
    measure.write_result(
        name,
        {"runs": len(done), "cpu_seconds": round(seconds), "corpus": data.corpus, "digest": data.folder.name},
        f"{len(done)} training runs, {seconds / 60:.1f} CPU minutes in all: `{name}.csv`.",
    )


if __name__ == "__main__":
    main()
