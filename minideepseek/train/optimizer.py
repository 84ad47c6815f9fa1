"""The optimisers of a run, AdamW (Loshchilov & Hutter, arXiv 1711.05101) or Muon, and what they remember."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from minideepseek.model import Transformer
from minideepseek.train.config import TrainConfig
from minideepseek.train.muon import Muon, stacked_rows


def new_optimizer(model: Transformer, cfg: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that ``cfg`` asks for."""
    optimizer = {"adamw": adamw, "muon": muon}[cfg.optimizer](model, cfg)
    return bf16_moments(optimizer) if cfg.dtype == "fp8" else optimizer


def bf16_moments(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let ``optimizer`` keep AdamW's two moments as bf16 could hold them: rounded after every step, in place.

    V3 report, section 3.3.3. A step moves a moment by a share 1 - beta of what it lacks, and a bf16 number not at all
    if that is below half of its last bit, 1/512 to 1/256 of it. V3's betas, 0.9 and 0.95, are far above; with the usual
    0.999 the second moment would stand still at a fraction of what it should become.
    """

    def round_moments(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for state in optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name].copy_(state[name].bfloat16())

    optimizer.register_step_post_hook(round_moments)
    return optimizer


def adamw(model: nn.Module, cfg: TrainConfig) -> torch.optim.AdamW:
    """The optimiser of ``model``'s trainable parameters, fused into one pass over memory.

    V1 gives betas (0.9, 0.95) and decay 0.1 (report, section 2.2) but not what decays. We decay whatever has two or
    more dimensions, the embedding included, and leave the gains of norms alone: pulled to zero they would silence
    their layer.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, fused=True)


def muon(model: Transformer, cfg: TrainConfig) -> Muon:
    """Muon for every trainable matrix but embedding and head; the rest as with ``adamw``.

    Its products are rounded to bfloat16 where the passes' are.
    """
    vocabulary = {model.embed.weight, model.head.weight}
    rows = {p: own for p, own in stacked_rows(model).items() if p.requires_grad and p not in vocabulary}
    others = [p for p in model.parameters() if p.requires_grad and p not in rows]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim >= 2]},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    dtype = torch.bfloat16 if cfg.dtype in ("bf16", "fp8") else None
    return Muon(rows, groups, lr=cfg.lr, weight_decay=cfg.weight_decay, betas=cfg.betas, dtype=dtype)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def export_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What the optimiser remembers, as ``<parameter's name>/<what>`` -> tensor."""
    return {
        f"{name}/{what}": value
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def import_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what ``export_state`` took out.

    Tensors are copied into memory of their own: a tensor inside a mapped file may be aligned otherwise, and some
    processors' libraries then add in another order.
    """
    parameters = dict(model.named_parameters())
    for key, value in state.items():
        name, what = key.rsplit("/", 1)
        parameter = parameters[name]
        # The fused optimiser keeps its step counts where the weights are.
        optimizer.state[parameter][what] = value.to(parameter.device, copy=True)
