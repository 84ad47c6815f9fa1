"""The training runs behind lesson 07: tokens limited to few devices, three balance losses, and dropping, with seeds.

    python benchmarks/training_v2.py    # -> results/training_v2.csv

About ten minutes of one core. Every run is written as soon as it is done, and runs that are in the file are not made
again. All arms of a seed start from the same weights and see the same text in the same order. The layers have V2's
eight devices and six experts a token, four experts a device instead of twenty.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import measure
import torch
from tqdm import tqdm
from training_v1 import Row, read, write

import minideepseek as mds
from minideepseek.data import TokenData, prepare, validation_batches
from minideepseek.layers import (
    MLA,
    Capacity,
    CommunicationBalance,
    DeviceBalance,
    ExpertBalance,
    Groups,
    MoE,
    TopK,
)
from minideepseek.layers.balance import BalanceLoss, load, max_violation
from minideepseek.layers.probe import recorded
from minideepseek.model import ModelConfig
from minideepseek.train import Result, TrainConfig, evaluate, train

SEEDS = range(5)
STEPS = 200
DEVICES, EXPERTS, K = 8, 32, 6

EXPERT, DEVICE = ExpertBalance(alpha=0.003), DeviceBalance(alpha=0.05, devices=DEVICES)
TRAFFIC = CommunicationBalance(alpha=0.02, devices=DEVICES, limit=3)


def small(limit: int | None = 3, balance: tuple[BalanceLoss, ...] = (), *, drop: bool = False) -> ModelConfig:
    """Half a mini of V2's kind. The scale keeps what V2's 16 does: six weights of an even router sum to 0.6."""
    mixture = MoE(
        n_experts=EXPERTS,
        n_shared=2,
        hidden=16,
        router=TopK(k=K, groups=Groups(n=DEVICES, limit=limit) if limit else None, scale=16.0 * EXPERTS / 160),
        balance=balance,
        capacity=Capacity(devices=DEVICES) if drop else None,
    )
    attention = MLA(n_heads=4, d_latent=24, d_rope=8, d_nope=16, d_value=16)
    return replace(mds.generations["v2-mini"], d_model=64, n_layers=2, attention=attention, ffn=mixture)


ARMS: dict[str, ModelConfig] = {
    "any device": small(None, (EXPERT, DEVICE)),
    "4 devices": small(4, (EXPERT, DEVICE)),
    "3 devices": small(3, (EXPERT, DEVICE)),  # also: the first two losses
    "2 devices": small(2, (EXPERT, DEVICE)),
    "no loss": small(),
    "expert loss": small(balance=(EXPERT,)),
    "all three": small(balance=(EXPERT, DEVICE, TRAFFIC)),
    "all three, dropping": small(balance=(EXPERT, DEVICE, TRAFFIC), drop=True),
    "no loss, dropping": small(drop=True),
}


def run(cfg: ModelConfig, seed: int, data: TokenData) -> Result:
    settings = TrainConfig(
        steps=STEPS, batch_size=8, lr=8e-3, seed=seed, eval_every=0, dtype="fp32", threads=1, device="cpu"
    )
    return train(cfg, data, settings, progress=False)


@torch.no_grad()
def traffic(model: mds.Transformer, data: TokenData) -> dict[str, float]:
    """On held-out text, mean over layers: devices a token is sent to, and three kinds of unevenness as MaxVio."""
    with recorded(model) as notes:
        for ids in validation_batches(data.valid, batch_size=16, seq_len=128, n=8):
            model(ids[:, :-1])
    found: dict[str, list[float]] = {name: [] for name in ("touched", "experts", "compute", "received")}
    for passes in notes:
        chosen = torch.cat([routing.experts for routing in passes])  # (N, K)
        device = chosen // (EXPERTS // DEVICES)
        sent = torch.zeros(len(chosen), DEVICES).scatter_(1, device, 1.0)  # once a device, however many experts there
        found["touched"].append(sent.sum(1).mean().item())
        found["experts"].append(max_violation(load(chosen, EXPERTS)).item())
        found["compute"].append(max_violation(load(device, DEVICES)).item())
        found["received"].append(max_violation(sent.sum(0)).item())
    return {name: sum(values) / len(values) for name, values in found.items()}


@torch.no_grad()
def loss_while_dropping(model: mds.Transformer, data: TokenData) -> float:
    """Held-out loss as training sees it: what goes beyond a device's share falls."""
    model.train()
    batches = validation_batches(data.valid, batch_size=16, seq_len=128, n=8)
    losses = [model.loss(ids).lm.item() for ids in batches]
    model.eval()
    return sum(losses) / len(losses)


def measured(arm: str, seed: int, data: TokenData) -> Row:
    result = run(ARMS[arm], seed, data)
    found = {"valid_loss": evaluate(result.model, data).loss, **traffic(result.model, data)}
    if dropped := result.curve("dropped")[1]:
        found["dropped"] = sum(dropped[-50:]) / 50
        found["valid_loss_dropping"] = loss_while_dropping(result.model, data)
    columns = ("valid_loss", "touched", "experts", "compute", "received", "dropped", "valid_loss_dropping")
    return {"arm": arm, "seed": seed, **{name: f"{found[name]:.5f}" if name in found else "" for name in columns}}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    path = measure.RESULTS / "training_v2.csv"
    rows = read(path) if path.exists() else []
    done = {(row["arm"], int(row["seed"])) for row in rows}
    data = prepare("stories")
    missing = [(arm, seed) for seed in SEEDS for arm in ARMS if (arm, seed) not in done]
    for arm, seed in tqdm(missing, file=sys.stderr, unit="run"):
        rows.append(measured(arm, seed, data))
        write(path, rows)
    measure.write_result(
        "training_v2",
        {
            "models": {arm: repr(cfg) for arm, cfg in ARMS.items()},
            "corpus": data.corpus,
            "digest": data.folder.name,
            "seeds": len(SEEDS),
        },
        f"{len(rows)} training runs of {STEPS} steps: held-out loss in nats a token, devices a token is sent to,\n"
        "MaxVio of experts, of the devices' work and of what they receive; for runs that drop, the share dropped in\n"
        "the last 50 steps and the loss with dropping: `training_v2.csv`.",
    )


if __name__ == "__main__":
    main()
