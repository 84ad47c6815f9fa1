"""Warm starts: made once, found again, and another for other settings."""

import pytest
import torch

from minideepseek.align import warm
from minideepseek.align.sft import SFTConfig
from minideepseek.align.warm import solver, warmed_up
from minideepseek.data.tasks import Addition, Flaws, tokenizer_for
from minideepseek.model import Transformer

TASK = Addition(digits=1)
QUICK = SFTConfig(steps=3, batch_size=4)


def weights(model: Transformer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_warm_start_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "EXAMPLES", 30)
    made, tokenizer = warmed_up(TASK, cfg=QUICK, progress=False)
    assert tokenizer.fingerprint == tokenizer_for(TASK).fingerprint
    assert not torch.equal(weights(made), weights(Transformer(solver(tokenizer), seed=0)))

    def never(*args: object, **settings: object) -> None:
        raise AssertionError("it was there already")

    with monkeypatch.context() as patch:
        patch.setattr(warm, "sft", never)
        found, _ = warmed_up(TASK, cfg=QUICK, progress=False)
    assert torch.equal(weights(found), weights(made))
    assert not found.training
    others = [
        warmed_up(TASK, cfg=QUICK, seed=1, progress=False),
        warmed_up(TASK, cfg=QUICK, flaws=Flaws(wrong=0.5), progress=False),
        warmed_up(Addition(digits=1, languages="both"), cfg=QUICK, progress=False),
    ]
    assert all(weights(model).shape != weights(made).shape or not torch.equal(weights(model), weights(made))
               for model, _ in others)  # fmt: skip


def test_a_solver_is_small() -> None:
    tokenizer = tokenizer_for(TASK)
    assert 90_000 < sum(p.numel() for p in Transformer(solver(tokenizer), seed=0).parameters()) < 120_000
