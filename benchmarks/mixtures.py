"""The training runs behind lessons 05 and 08: how to cut experts, and how to keep them equally busy, with seeds.

    python benchmarks/mixtures.py mixtures   # -> results/mixtures.csv and results/mixtures_probes.csv
    python benchmarks/mixtures.py balance    # -> results/balance.csv

About a quarter of an hour of one core each. Every run is written as soon as it is done, and runs that are in the file
are not made again. All arms of a seed see the same text in the same order. All mixtures have as many parameters as
the others, to within 1 %, and activate as many as the dense model has.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import measure
import torch
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek.data import TokenData, prepare
from minideepseek.data.loader import validation_batches
from minideepseek.layers import GQA, ExpertBalance, LossFree, MoE, SwiGLU, TopK
from minideepseek.layers.balance import load, max_violation
from minideepseek.layers.probe import WithoutBest, recorded, routed, routers
from minideepseek.model import FeedForwardSpec, ModelConfig
from minideepseek.train import Result, TrainConfig, evaluate, train

CORPUS = "stories:facts=1000"  # facts have to be stored somewhere: parameters count
SEEDS = range(5)
STEPS, LOOK = 400, 80
WIDTH = 88  # of a standard expert; a token uses two


def small(ffn: FeedForwardSpec) -> ModelConfig:
    """Half a mini, as in lesson 03, with other feed-forward layers."""
    attention = GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    return replace(mds.generations["v1-mini"], d_model=64, n_layers=2, attention=attention, ffn=ffn)


def cut(m: int, shared: int) -> MoE:
    """Eight standard experts of which a token uses two, each cut into ``m``; ``shared`` of the pieces are for all."""
    return MoE(
        n_experts=8 * m - shared,
        n_shared=shared,
        hidden=WIDTH // m,
        router=TopK(k=2 * m - shared),
        balance=(ExpertBalance(alpha=0.01, over="batch"),),
    )


MIXTURES: dict[str, FeedForwardSpec] = {
    "dense": SwiGLU(hidden=2 * WIDTH),
    "0+8": cut(1, 0),
    "1+7": cut(1, 1),
    "1+15": cut(2, 1),
    "1+31": cut(4, 1),
    "0+32": cut(4, 0),
    "dense x4": SwiGLU(hidden=8 * WIDTH),
}


def v3_like(*, loss: ExpertBalance | None = None, speed: float = 0.0) -> MoE:
    """Half of v3-mini's mixture without its groups: sigmoid, normalised weights, three of sixteen and a shared one."""
    return MoE(
        n_experts=16,
        n_shared=1,
        hidden=WIDTH // 2,
        router=TopK(k=3, affinity="sigmoid", normalise=True, bias=speed > 0),
        balance=(loss,) if loss else (),
        loss_free=LossFree(speed=speed) if speed else None,
    )


BALANCE: dict[str, FeedForwardSpec] = {
    "nothing": v3_like(),
    "loss 0.001": v3_like(loss=ExpertBalance(alpha=0.001, share=True)),
    "loss 0.01": v3_like(loss=ExpertBalance(alpha=0.01, share=True)),
    "loss 0.1": v3_like(loss=ExpertBalance(alpha=0.1, share=True)),
    "bias 0.001": v3_like(speed=0.001),
    "bias 0.01": v3_like(speed=0.01),
    "bias 0.1": v3_like(speed=0.1),
}


def run(ffn: FeedForwardSpec, seed: int, data: TokenData) -> Result:
    settings = TrainConfig(
        steps=STEPS, lr=8e-3, seed=seed, eval_every=LOOK, eval_batches=16, dtype="bf16", threads=1, device="cpu"
    )
    return train(small(ffn), data, settings, progress=False)


def probes(model: mds.Transformer, data: TokenData) -> Iterator[tuple[str, int, float]]:
    """(what was changed, how far, held-out loss then) for a trained mixture."""
    if not routers(model):
        return
    cfg = routers(model)[0].cfg
    n_experts = routers(model)[0].weight.shape[0]
    for banned in (1, 2, 4, 8, 16):  # thirty-seconds of all experts
        count = round(banned * n_experts / 32)
        if count and count <= n_experts - cfg.k:
            with routed(model, lambda cfg, count=count: WithoutBest.of(cfg, banned=count)):
                yield "without the best, of 32", banned, evaluate(model, data, batches=16).loss
    for k in range(1, cfg.k):
        with routed(model, lambda cfg, k=k: replace(cfg, k=k)):
            yield "fewer used", k, evaluate(model, data, batches=16).loss
    if model.blocks[0].ffn.shared is not None:
        other = copy.deepcopy(model)
        for block in other.blocks:
            block.ffn.shared = None
        with routed(other, lambda cfg: replace(cfg, k=cfg.k + 1)):
            yield "a routed one for the shared", 1, evaluate(other, data, batches=16).loss


@torch.no_grad()
def global_violation(model: mds.Transformer, data: TokenData) -> float:
    """MaxVio over held-out text, mean over layers."""
    with recorded(model) as notes:
        for ids in validation_batches(data.valid, batch_size=16, seq_len=128, n=16):
            model(ids[:, :-1])
    found = []
    for passes in notes:
        counts = torch.stack([load(routing.experts, routing.scores.shape[1]) for routing in passes]).sum(0)
        found.append(max_violation(counts).item())
    return sum(found) / len(found)


def mixture_rows(arm: str, seed: int, data: TokenData) -> dict[str, list[Row]]:
    result = run(MIXTURES[arm], seed, data)
    curve = [
        {"arm": arm, "seed": seed, "step": step, "valid_loss": f"{loss:.6f}"}
        for step, loss in zip(*result.curve("valid_loss"), strict=True)
    ]
    probed: list[Row] = [
        {"arm": arm, "seed": seed, "probe": name, "value": value, "valid_loss": f"{loss:.6f}"}
        for name, value, loss in probes(result.model, data)
    ]
    return {"mixtures": curve, "mixtures_probes": probed}


def balance_rows(arm: str, seed: int, data: TokenData) -> dict[str, list[Row]]:
    result = run(BALANCE[arm], seed, data)
    violation = torch.tensor(result.curve("max_violation")[1]).view(-1, 20).mean(1).tolist()
    losses = dict(zip(*result.curve("valid_loss"), strict=True))
    overall = global_violation(result.model, data)
    rows: list[Row] = []
    for i, value in enumerate(violation, 1):
        last = i == len(violation)
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "step": 20 * i,
                "batch_violation": f"{value:.5f}",  # mean of 20 steps
                "valid_loss": f"{losses[20 * i]:.6f}" if 20 * i in losses else "",
                "global_violation": f"{overall:.5f}" if last else "",
            }
        )
    return {"balance": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", choices=("mixtures", "balance"))
    name = parser.parse_args().plan
    arms, make = (MIXTURES, mixture_rows) if name == "mixtures" else (BALANCE, balance_rows)
    files = {name: measure.RESULTS / f"{name}.csv"}
    if name == "mixtures":
        files["mixtures_probes"] = measure.RESULTS / "mixtures_probes.csv"
    rows = {file: read(path) if path.exists() else [] for file, path in files.items()}
    done = {(row["arm"], int(row["seed"])) for row in rows[name]}
    missing = [(arm, seed) for seed in SEEDS for arm in arms if (arm, seed) not in done]
    data = prepare(CORPUS)
    for arm, seed in tqdm(missing, file=sys.stderr, unit="run"):
        for file, found in make(arm, seed, data).items():
            rows[file] += found
            if rows[file]:
                write(files[file], rows[file])
    seeds = len({row["seed"] for row in rows[name]})
    measure.write_result(
        name,
        {
            "models": {arm: repr(small(ffn)) for arm, ffn in arms.items()},
            "corpus": data.corpus,
            "digest": data.folder.name,
            "seeds": seeds,
        },
        f"{len(arms) * seeds} training runs, held-out loss in nats a token as they went: "
        + ", ".join(f"`{Path(path).name}`" for path in files.values())
        + ".",
    )


if __name__ == "__main__":
    main()
