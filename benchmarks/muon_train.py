"""The runs behind lesson 14: AdamW, our Muon and PyTorch's own, at equal steps and at equal time.

    python benchmarks/muon_train.py   # -> results/muon_train.csv and .md

A quarter of an hour of one core. Every run is written as soon as it is done, and runs that are in the file are not
made again; all arms of a seed see the same text in the same order, with the same schedule and clipping.

PyTorch's Muon is used as it comes: five iterations, each parameter one matrix (queries, keys and values together, gate
and up together), update scaled to AdamW's size ("match_rms_adamw"); like ours it leaves embedding, head and gains to
AdamW.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import measure
import torch
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek.data import Loader, TokenData, prepare
from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig, Transformer
from minideepseek.train import TrainConfig, evaluate
from minideepseek.train.optimizer import adamw, muon, set_lr
from minideepseek.train.schedule import factor
from minideepseek.train.threads import keep_memory

RATES, SEEDS = (0.004, 0.008, 0.016, 0.032, 0.064), range(3)
STEPS, LOOK = 160, 10


def small() -> ModelConfig:
    """Half a mini: the model of lessons 03, 05 and 08, dense."""
    attention = GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    return replace(mds.generations["v1-mini"], d_model=64, n_layers=2, attention=attention, ffn=SwiGLU(hidden=176))


class TorchMuon:
    """PyTorch's Muon for matrices, AdamW for the rest."""

    def __init__(self, model: Transformer, cfg: TrainConfig) -> None:
        own = [p for p in model.blocks.parameters() if p.ndim == 2]
        ids = {id(p) for p in own}
        rest = [p for p in model.parameters() if id(p) not in ids]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": cfg.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(own, lr=cfg.lr, weight_decay=cfg.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, fused=True),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()


ARMS: dict[str, Callable] = {"AdamW": adamw, "Muon": muon, "torch.optim.Muon": TorchMuon}


TIMELY = "Muon, in AdamW's time"  # fewer steps, each at its best rate, with a schedule that ends when they do


def one_run(arm: str, lr: float, seed: int, data: TokenData, steps: int = STEPS) -> list[Row]:
    """Held-out loss as it went, with the processor seconds that training alone had taken."""
    cfg = TrainConfig(steps=steps, lr=lr, seed=seed, dtype="fp32")
    model = Transformer(small(), seed=seed).train()
    loader = Loader(data.train, batch_size=cfg.batch_size, seq_len=cfg.seq_len, seed=seed)
    optimizer = ARMS[arm.partition(",")[0]](model, cfg)
    rows: list[Row] = []
    seconds = 0.0
    for done in range(1, steps + 1):
        start = time.process_time()
        set_lr(optimizer, lr * factor(cfg.schedule, done - 1, steps=steps, warmup=cfg.warmup))
        model.loss(next(loader)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None
        seconds += time.process_time() - start
        if done % LOOK == 0 or done == steps:
            loss = evaluate(model, data, batches=8).loss
            model.train()
            values = {"step": done, "seconds": f"{seconds:.3f}", "valid_loss": f"{loss:.6f}"}
            rows.append({"arm": arm, "lr": lr, "seed": seed, **values})
    return rows


def main() -> None:
    path = measure.RESULTS / "muon_train.csv"
    rows = read(path) if path.exists() else []
    done = {(row["arm"], float(row["lr"]), int(row["seed"])) for row in rows}
    plan = [(arm, lr, seed) for seed in SEEDS for lr in RATES for arm in ARMS if (arm, lr, seed) not in done]
    keep_memory()
    torch.set_num_threads(1)
    data = prepare("stories")
    for arm, lr, seed in tqdm(plan, file=sys.stderr, unit="run"):
        rows += one_run(arm, lr, seed, data)
        write(path, rows)
    lr, steps = timely(rows)
    for seed in SEEDS:
        if (TIMELY, lr, seed) not in done:
            rows += one_run(TIMELY, lr, seed, data, steps)
            write(path, rows)
    report(rows, data)


def timely(rows: list[Row]) -> tuple[float, int]:
    """Muon's best rate, and how many of its steps take as long as AdamW's run at its best."""
    found: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if int(row["step"]) == STEPS:
            found[str(row["arm"]), float(row["lr"])].append((float(row["valid_loss"]), float(row["seconds"])))
    means = {key: torch.tensor(values).mean(0).tolist() for key, values in found.items()}
    best = {arm: min((loss, seconds, lr) for (own, lr), (loss, seconds) in means.items() if own == arm) for arm in ARMS}
    return best["Muon"][2], round(STEPS * best["AdamW"][1] / best["Muon"][1])


def report(rows: list[Row], data: TokenData) -> None:
    """Held-out loss at the end of each run."""
    ends: dict[tuple[str, float], dict[int, list[float]]] = defaultdict(dict)
    for row in rows:  # the last of a run stays
        point = [float(row["step"]), float(row["seconds"]), float(row["valid_loss"])]
        ends[str(row["arm"]), float(row["lr"])][int(row["seed"])] = point
    lines = []
    for (arm, lr), seeds in sorted(ends.items()):
        steps, seconds, loss = torch.tensor(list(seeds.values()), dtype=torch.float64).unbind(1)
        ms = 1e3 * (seconds / steps).mean()
        lines.append([f"{arm}, lr {lr:g}", f"{steps[0]:.0f}", f"{ms:.1f}", f"{loss.mean():.3f} ± {2 * loss.std():.3f}"])
    text = (
        f"# Muon against AdamW: half a mini, steps of 2,048 tokens, one thread, {len(SEEDS)} seeds\n\n"
        "Held-out loss in nats a token at the end, with two standard deviations.\n\n"
        + measure.table(["", "steps", "ms a step", "loss"], lines)
    )
    measure.write_result("muon_train", {"model": repr(small()), "corpus": data.corpus, "seeds": len(SEEDS)}, text)


if __name__ == "__main__":
    main()
