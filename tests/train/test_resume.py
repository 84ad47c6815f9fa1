"""A killed run goes on as if nothing had happened, from whatever moment it was killed in."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import minideepseek as mds
from minideepseek.errors import UserError
from minideepseek.generations import generations
from minideepseek.train import TrainConfig, read_metrics, resume, state, train
from minideepseek.train.metrics import Record
from minideepseek.train.resume import METRICS

from .conftest import QUICK, TINY, tiny_data

EVERY = replace(QUICK, checkpoint_every=1, steps=6, warmup=1, eval_every=3)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs to be killed are forked")


def without_time(records: list[Record]) -> list[Record]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def unbroken() -> list[Record]:
    return without_time(train(TINY, tiny_data(), EVERY, progress=False).metrics)


def killed(run: Callable[[], Any], after: float | None = None) -> bool:
    """Do ``run`` in a process of its own; kill it ``after`` seconds, if it has not killed itself. True if killed."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    if after is not None:
        time.sleep(after)
        process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def die_at(number: int) -> None:
    """Let this process be killed by the system right before its ``number``-th step of changing files."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "rename", "link", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    Path.write_text = counted(Path.write_text)  # type: ignore[method-assign]
    Path.write_bytes = counted(Path.write_bytes)  # type: ignore[method-assign]
    state.write_tensors = counted(state.write_tensors)  # type: ignore[attr-defined]


def consistent(out: Path) -> None:
    """Every checkpoint that can be seen is whole, and the log holds every step that the newest one has made."""
    found = state.checkpoints(out)
    assert [state.damage(path) for path in found] == [None] * len(found)
    if found:
        steps = [record["step"] for record in read_metrics(out / METRICS)]
        assert steps[: state.step_of(found[-1])] == list(range(1, (state.step_of(found[-1]) or 0) + 1))


def test_killed_before_any_change_of_files_it_goes_on_exactly(tmp_path: Path) -> None:
    """One run for each moment: between any two steps of writing, syncing, renaming and removing."""
    data = tiny_data()
    cfg = replace(QUICK, steps=4, checkpoint_every=2, keep=1, schedule="cosine")
    expected = without_time(train(TINY, data, cfg, progress=False).metrics)
    moments = list(range(1, 1000, 3))
    for moment in moments:
        out = tmp_path / str(moment)

        def run(moment: int = moment, out: Path = out) -> None:
            die_at(moment)
            train(TINY, data, cfg, out=out, progress=False)

        if not killed(run):
            break
        consistent(out)
        resumed = train(TINY, data, cfg, out=out, resume=True, progress=False)
        assert without_time(resumed.metrics) == without_time(read_metrics(out / METRICS)) == expected
        assert torch.equal(mds.load(out).head.weight, resumed.model.head.weight)
        left = [path.name for path in (*tmp_path.iterdir(), *out.iterdir(), *(out / "checkpoints").iterdir())]
        assert not [name for name in left if name.endswith(".part")]
        shutil.rmtree(out)
    assert 60 < moment < moments[-1], "the run has fewer moments than a save has files, or more than were tried"


def test_killed_again_and_again_at_random_it_arrives_at_the_same_numbers(tmp_path: Path) -> None:
    data = tiny_data()
    cfg = replace(EVERY, steps=40, dtype="bf16", accumulation=2)
    expected = without_time(train(TINY, data, cfg, out=tmp_path / "unbroken", progress=False).metrics)
    out = tmp_path / "broken"
    chance = random.Random(0)
    for _ in range(8):
        killed(lambda: train(TINY, data, cfg, out=out, resume=True, progress=False), chance.uniform(0.05, 0.6))
        consistent(out)
    resumed = train(TINY, data, cfg, out=out, resume=True, progress=False)
    assert without_time(resumed.metrics) == expected
    # Not only the numbers so far are the same, but everything that the numbers to come depend on.
    facts = [state.read_facts(state.path_of(tmp_path / name, 40)) | {"seconds": 0} for name in ("unbroken", "broken")]
    assert facts[0] == facts[1]


def test_routers_and_predictors_go_on_exactly_too(tmp_path: Path) -> None:
    """V3 keeps more than weights: biases that follow the experts' loads, modules that predict further ahead."""
    v3 = replace(generations["v3-mini"], vocab_size=32, max_seq_len=16)
    cfg = replace(QUICK, steps=6, dtype="bf16", accumulation=2)

    def run() -> None:
        train(v3, tiny_data(), cfg, out=tmp_path, on_step=stop_at(5), progress=False)

    assert killed(run)
    resumed = train(v3, tiny_data(), cfg, out=tmp_path, resume=True, progress=False)
    unbroken = train(v3, tiny_data(), cfg, progress=False)
    assert without_time(resumed.metrics) == without_time(unbroken.metrics)
    assert {"lm", "mtp", "balance"} < set(resumed.metrics[-1])
    state_of = unbroken.model.state_dict()
    assert all(torch.equal(tensor, state_of[name]) for name, tensor in resumed.model.state_dict().items())
    assert any(name.endswith("bias") and tensor.any() for name, tensor in state_of.items())


def test_a_fresh_interpreter_goes_on_exactly(tmp_path: Path, unbroken: list[Record]) -> None:
    def run() -> None:
        train(TINY, tiny_data(), EVERY, out=tmp_path, on_step=stop_at(4), progress=False)

    assert killed(run)
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import *
from dataclasses import replace
from minideepseek.train import train
cfg = replace(QUICK, checkpoint_every=1, steps=6, warmup=1, eval_every=3)
train(TINY, tiny_data(), cfg, out={str(tmp_path)!r}, resume=True, progress=False)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert without_time(read_metrics(tmp_path / METRICS)) == unbroken


def stop_at(step: int) -> Callable[[Record], None]:
    return lambda record: os.kill(os.getpid(), signal.SIGKILL) if record["step"] == step else None


def test_a_run_that_has_finished_is_given_back(tmp_path: Path) -> None:
    first = train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    again = train(TINY, tiny_data(), EVERY, out=tmp_path, resume=True, progress=False)
    assert again.metrics == first.metrics
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_resuming_nothing_begins_and_says_so(
    tmp_path: Path, unbroken: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(TINY, tiny_data(), EVERY, out=tmp_path, resume=True, progress=False)
    assert without_time(result.metrics) == unbroken
    assert "starting at the beginning" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, unbroken: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    last = state.path_of(tmp_path, 6)
    with (last / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    result = train(TINY, tiny_data(), EVERY, out=tmp_path, resume=True, progress=False)
    assert without_time(result.metrics) == unbroken
    line = capsys.readouterr().err.strip()
    assert str(last) in line
    assert "model.safetensors is damaged or truncated" in line
    assert state.damage(last) is None  # made again
    assert (last.parent / "damaged-step-000006").exists()


def test_without_any_whole_checkpoint_nothing_is_touched(tmp_path: Path) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    for path in state.checkpoints(tmp_path):
        (path / "trainer.json").write_text("{")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="no checkpoint under"):
        train(TINY, tiny_data(), EVERY, out=tmp_path, resume=True, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-2},
        {"batch_size": 8},
        {"seq_len": 4},
        {"seed": 1},
        {"warmup": 5},
        {"betas": (0.9, 0.99)},
        {"optimizer": "muon"},
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    train(TINY, tiny_data(), replace(EVERY, steps=2), out=tmp_path, progress=False)
    name = next(iter(change))
    with pytest.raises(UserError, match=rf"made with other settings \({name}="):
        train(TINY, tiny_data(), replace(EVERY, steps=2, **change), out=tmp_path, resume=True, progress=False)


def test_a_checkpoint_from_before_there_was_a_setting_had_its_default(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"step": 1, "settings": {**asdict(EVERY), "betas": [0.9, 0.95]}}
    del facts["settings"]["optimizer"]
    resume.check_settings(tmp_path, facts, EVERY)
    with pytest.raises(UserError, match=r"\(optimizer=adamw became muon\)"):
        resume.check_settings(tmp_path, facts, replace(EVERY, optimizer="muon"))


def test_other_data_is_refused(tmp_path: Path) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="trained on other data"):
        train(TINY, tiny_data(seed=1), EVERY, out=tmp_path, resume=True, progress=False)


def test_another_model_is_refused_by_what_differs(tmp_path: Path) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="hidden_size 16 instead of 32"):
        train(replace(TINY, d_model=32), tiny_data(), EVERY, out=tmp_path, resume=True, progress=False)


def test_fewer_steps_than_made_are_refused(tmp_path: Path) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="already beyond steps=4"):
        train(TINY, tiny_data(), replace(EVERY, steps=4), out=tmp_path, resume=True, progress=False)


def test_the_earlier_choice_of_threads_and_type_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = replace(EVERY, steps=3, dtype="auto", threads=0, schedule="constant")
    train(TINY, tiny_data(), auto, out=tmp_path, progress=False)
    before = state.read_facts(state.path_of(tmp_path, 3))["settled"]
    monkeypatch.setattr("minideepseek.train.precision.bf16_is_faster", lambda device: before["dtype"] == "fp32")
    train(TINY, tiny_data(), replace(auto, steps=4), out=tmp_path, resume=True, progress=False)
    assert state.read_facts(state.path_of(tmp_path, 4))["settled"] == before


def test_a_change_that_costs_exactness_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = replace(EVERY, steps=3, schedule="constant")
    train(TINY, tiny_data(), cfg, out=tmp_path, progress=False)
    train(TINY, tiny_data(), replace(cfg, steps=4, dtype="bf16"), out=tmp_path, resume=True, progress=False)
    assert "resumed with dtype fp32 -> bf16: the last digits will differ" in capsys.readouterr().err


# --- extending a run --------------------------------------------------------------------------------------------------


def test_a_run_is_extended_from_its_80_percent_point_exactly(tmp_path: Path) -> None:
    """V1's reason for the multi-step schedule: the first 80 % are the beginning of any longer run."""
    short, long = replace(QUICK, steps=10), replace(QUICK, steps=20)
    train(TINY, tiny_data(), short, out=tmp_path / "short", progress=False)
    branch = tmp_path / "short" / "checkpoints" / "step-000008"
    extended = train(TINY, tiny_data(), long, out=tmp_path / "long", resume=branch, progress=False)
    assert without_time(extended.metrics) == without_time(train(TINY, tiny_data(), long, progress=False).metrics)
    assert read_metrics(tmp_path / "long" / METRICS) == extended.metrics
    assert len(read_metrics(tmp_path / "short" / METRICS)) == 10


def test_a_killed_run_may_be_made_longer_in_place(tmp_path: Path) -> None:
    def run() -> None:
        train(TINY, tiny_data(), replace(QUICK, steps=10), out=tmp_path, on_step=stop_at(7), progress=False)

    assert killed(run)
    longer = replace(QUICK, steps=30)
    resumed = train(TINY, tiny_data(), longer, out=tmp_path, resume=True, progress=False)
    assert without_time(resumed.metrics) == without_time(train(TINY, tiny_data(), longer, progress=False).metrics)


def test_beyond_the_point_one_is_told_where_to_extend_from(tmp_path: Path) -> None:
    train(TINY, tiny_data(), QUICK, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="cannot go on to 20 steps") as caught:
        train(TINY, tiny_data(), replace(QUICK, steps=20), out=tmp_path, resume=True, progress=False)
    assert f"extend it from {tmp_path / 'checkpoints' / 'step-000008'} into another folder" in str(caught.value)


def test_a_cosine_cannot_be_extended(tmp_path: Path) -> None:
    cosine = replace(QUICK, schedule="cosine")
    train(TINY, tiny_data(), cosine, out=tmp_path, progress=False)
    with pytest.raises(UserError, match=r"cannot go on to 20 steps.*start a new run"):
        train(TINY, tiny_data(), replace(cosine, steps=20), out=tmp_path, resume=True, progress=False)


def test_a_checkpoint_to_extend_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot resume from .*SHA256SUMS is missing"):
        train(TINY, tiny_data(), QUICK, out=tmp_path / "out", resume=tmp_path / "nothing", progress=False)


def test_facts_are_plain_json_that_names_what_the_run_was(tmp_path: Path) -> None:
    train(TINY, tiny_data(), EVERY, out=tmp_path, progress=False)
    facts = json.loads((state.path_of(tmp_path, 6) / "trainer.json").read_text())
    assert facts["step"] == 6
    assert facts["data"]["corpus"] == "tiny"
    assert TrainConfig(**{**facts["settings"], "betas": tuple(facts["settings"]["betas"])}) == EVERY
    assert facts["settled"]["torch"] == torch.__version__


def test_tokens_are_told_apart_whole_and_in_slices() -> None:
    import numpy as np

    from minideepseek.train.source import digest

    for n in (10, 5000, 1_000_000):
        tokens = np.arange(n, dtype=np.uint32) % 1000
        assert digest(tokens) == digest(tokens.astype(np.uint16))
        other = tokens.copy()
        other[-1] += 1
        assert len({digest(tokens), digest(tokens[:-1]), digest(other)}) == 3
