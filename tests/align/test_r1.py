"""The four stages of R1: each starts where it should, and together they do what R1-Zero does not."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minideepseek import UserError
from minideepseek.align import examine, kept_language, rollout
from minideepseek.align.grpo import GRPOConfig
from minideepseek.align.r1 import R1Config, R1Run, r1
from minideepseek.align.sft import SFTConfig, demonstrations, sft
from minideepseek.data.tasks import Addition, Flaws, Problem, practice_problems, tokenizer_for
from minideepseek.generate import Sampling
from minideepseek.model import Transformer
from minideepseek.train import Interrupted

from .conftest import TINY

TASK = Addition(digits=1, languages="both")
TOKENIZER = tokenizer_for(TASK)
SMALL = replace(TINY, d_model=32, vocab_size=TOKENIZER.vocab_size, init_std=None)
PROBLEMS = practice_problems(TASK, 100, seed=1)
PRACTICE = GRPOConfig(steps=12, questions=16, max_new_tokens=14, lr=1e-3)
QUICK = R1Config(
    cold_start=SFTConfig(steps=30, lr=3e-3),
    reasoning=PRACTICE,
    fine_tuning=SFTConfig(steps=150, lr=1e-2),
    everything=replace(PRACTICE, steps=6, temperature=0.7),
    preferring=2,
)
asked: list[str] = []


def noticed(problem: Problem, text: str) -> float:
    asked.append(text)
    return 0.0


@pytest.fixture(scope="module")
def base() -> Transformer:
    """What the web would have taught it: sums with slips, in two languages at once, often without tags."""
    model = Transformer(SMALL, seed=0)
    flaws = Flaws(wrong=0.2, mixed=0.3, bare=0.3)
    sft(model, demonstrations(TASK, TOKENIZER, 600, flaws=flaws), SFTConfig(steps=300, lr=1e-2), progress=False)
    return model


@pytest.fixture(scope="module")
def run(base: Transformer) -> R1Run:
    asked.clear()
    cold_start = demonstrations(TASK, TOKENIZER, 40, seed=2)
    return r1(base, TOKENIZER, PROBLEMS, cold_start, preference=noticed, cfg=QUICK, progress=False)


def language(model: Transformer) -> float:
    how = {"group": 2, "sampling": Sampling(), "max_new_tokens": 14, "generator": torch.Generator().manual_seed(0)}
    found = rollout(model, TOKENIZER, PROBLEMS[:40], **how)
    shares = [kept_language(problem, text) for problem, text in zip(found.problems, found.texts, strict=True)]
    return sum(shares) / len(shares)


def test_the_stages_make_a_readable_reasoner_of_a_base_model(base: Transformer, run: R1Run) -> None:
    before, after = (
        examine(model, TOKENIZER, PROBLEMS[:40], attempts=2, max_new_tokens=14) for model in (base, run.models["r1"])
    )
    assert after.pass_at[1] > before.pass_at[1] + 0.2
    assert after.formatted > 0.9 > before.formatted
    assert language(run.models["r1"]) > 0.9 > 0.8 > language(base)


def test_every_stage_starts_where_it_should(base: Transformer, run: R1Run) -> None:
    assert list(run.models) == ["base", "dev1", "dev2", "dev3", "r1"]
    assert run.models["base"] is base
    assert [len(records) for records in run.records.values()] == [30, 12, 150, 6]
    assert [record["step"] for record in run.records["r1"]] == [1, 2, 3, 4, 5, 6]
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in run.models.values()]
    distance = [[(one - other).norm().item() for other in weights] for one in weights]
    assert distance[0][1] < distance[0][2]  # the second stage goes on from the first
    assert distance[3][4] < distance[2][4]  # the fourth from the third, which began at the base again
    assert 40 < run.kept <= len(PROBLEMS)


def test_fine_tuning_begins_at_the_base_again_and_what_follows_stays_near_its_result(
    base: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[r1.__module__]
    began: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def head(model: Transformer) -> torch.Tensor:
        return model.head.weight.detach().clone()

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def watching(model: Transformer, *args: Any, **how: Any) -> Any:
            began.append((head(model), head(how["reference"]) if "reference" in how else None))
            return method(model, *args, **how)

        return watching

    for name in ("sft", "grpo"):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    practice = replace(PRACTICE, steps=2, questions=2, group=2)
    tuning = replace(QUICK.fine_tuning, steps=3)
    cfg = replace(QUICK, reasoning=practice, fine_tuning=tuning, everything=practice, preferring=1)
    run = r1(base, TOKENIZER, PROBLEMS, demonstrations(TASK, TOKENIZER, 40, seed=2), cfg=cfg, progress=False)
    starts, references = zip(*began, strict=True)
    for start, expected in zip(starts, ("base", "dev1", "base", "dev3"), strict=False):
        assert torch.equal(start, head(run.models[expected]))
    assert references[:3] == (None, None, None)
    assert all(torch.equal(reference, head(run.models["dev3"])) for reference in references[3:])
    assert len(began) == 5


def test_preferences_are_asked_for_at_the_very_end_only(run: R1Run) -> None:
    assert len(set(asked)) > 1
    assert [record["reward"] > 0 for record in run.records["r1"]] == [True] * 6
    group = PRACTICE.questions * PRACTICE.group
    assert len(asked) == 2 * group  # in two steps


def test_a_base_that_finds_nothing_readable_is_refused() -> None:
    nothing = replace(QUICK, reasoning=replace(PRACTICE, steps=1), cold_start=SFTConfig(steps=1))
    with pytest.raises(UserError, match="stage 2 found no answer"):
        r1(
            Transformer(SMALL, seed=0),
            TOKENIZER,
            PROBLEMS[:4],
            demonstrations(TASK, TOKENIZER, 4),
            cfg=nothing,
            progress=False,
        )


def test_an_interrupted_run_goes_on_in_its_stage(base: Transformer, tmp_path: Path) -> None:
    """Here in the last of all, which is the only one in which preferences are asked for."""
    practice = replace(PRACTICE, steps=3, questions=2, group=2)
    tuning = replace(QUICK.fine_tuning, steps=3)
    cfg = replace(QUICK, reasoning=replace(practice, steps=2), fine_tuning=tuning, everything=practice)
    shown = demonstrations(TASK, TOKENIZER, 40, seed=2)
    seen: list[str] = []

    def lengthy(problem: Problem, text: str) -> float:
        if (tmp_path / "preferring").exists() and not seen:
            seen.append(text)
            os.kill(os.getpid(), signal.SIGINT)
        return float(len(text))

    def go(**how: Any) -> R1Run:
        return r1(base, TOKENIZER, PROBLEMS, shown, preference=lengthy, cfg=cfg, progress=False, **how)

    unbroken = go()
    with pytest.raises(Interrupted, match=r"stopped after step 1 of 2; .*preferring"):
        go(out=tmp_path)
    assert not (tmp_path / "preferring" / "config.json").exists()
    resumed = go(out=tmp_path, resume=True)
    assert resumed.records == unbroken.records
    for name, model in resumed.models.items():
        theirs = unbroken.models[name].state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in model.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"dev1", "dev2", "dev3", "everything", "preferring"}


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"preferring": 41}, {"preferring": -1}])
def test_settings_without_sense_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        R1Config(**settings)
