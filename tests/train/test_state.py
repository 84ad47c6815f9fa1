"""Training checkpoints: whole or not there, and damage is seen."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minideepseek as mds
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train import TrainConfig, state
from minideepseek.train.optimizer import adamw

from .conftest import TINY, VOCAB, TinyTokenizer

IDS = torch.randint(0, VOCAB, (4, 9), generator=torch.Generator().manual_seed(0))


def trained(seed: int = 0) -> tuple[Transformer, torch.optim.Optimizer]:
    model = Transformer(TINY, seed=seed)
    optimizer = adamw(model, TrainConfig())
    model.loss(IDS).total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def save(out: Path, step: int) -> Path:
    path = state.path_of(out, step)
    state.save_state(path, *trained()[:1], TinyTokenizer(), trained()[1], {"step": step})
    return path


def test_a_checkpoint_is_a_model_that_anyone_can_load(tmp_path: Path) -> None:
    model, optimizer = trained()
    state.save_state(tmp_path / "step-000001", model, TinyTokenizer(), optimizer, {"step": 1})
    assert torch.equal(mds.load(tmp_path / "step-000001")(IDS), model.eval()(IDS))


def test_what_is_loaded_goes_on_like_what_was_saved(tmp_path: Path) -> None:
    model, optimizer = trained()
    torch.manual_seed(7)
    path = tmp_path / "step-000001"
    state.save_state(path, model, TinyTokenizer(), optimizer, {"step": 1})
    drawn = torch.rand(3)
    other = Transformer(TINY, seed=1)
    other_optimizer = adamw(other, TrainConfig())
    state.load_state(path, other, other_optimizer)
    assert torch.equal(torch.rand(3), drawn)
    for m, o in ((model, optimizer), (other, other_optimizer)):
        m.loss(IDS).total.backward()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_sha256sum_agrees(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    try:
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=path, check=True)
    except FileNotFoundError:
        pytest.skip("no sha256sum here")


def files_of(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_damage_to_any_file_is_seen_and_named(tmp_path: Path) -> None:
    names = files_of(save(tmp_path, 1))
    assert {"config.json", "model.safetensors", "tokenizer.json", "trainer.json", "trainer.safetensors"} < set(names)
    for number, name in enumerate(names, 2):
        path = save(tmp_path, number)
        assert state.damage(path) is None
        content = bytearray((path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (path / name).write_bytes(content)
        reason = state.damage(path)
        assert reason is not None
        assert name in reason or name == "SHA256SUMS"
        (path / name).write_bytes(content[: len(content) // 2])
        assert state.damage(path) is not None
        (path / name).unlink()
        assert name in (state.damage(path) or "")


def test_the_newest_whole_checkpoint_is_used_and_damaged_ones_are_put_aside(tmp_path: Path) -> None:
    one, two, three = save(tmp_path, 1), save(tmp_path, 2), save(tmp_path, 3)
    with (three / "trainer.safetensors").open("r+b") as file:
        file.truncate(10)
    (two / "model.safetensors").unlink()
    lines: list[str] = []
    assert state.newest(tmp_path, lines.append) == one
    assert [str(three) in lines[0], str(two) in lines[1]] == [True, True]
    assert state.checkpoints(tmp_path) == [one]
    assert (one.parent / "damaged-step-000003" / "model.safetensors").exists()  # nothing is thrown away


def test_without_any_whole_checkpoint_the_user_is_told(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "trainer.json").unlink()
    with pytest.raises(UserError, match=r"no checkpoint under .* is whole"):
        state.newest(tmp_path, lambda line: None)


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert state.newest(tmp_path, lambda line: None) is None


def test_old_checkpoints_go_and_the_extension_point_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        save(tmp_path, step)
    state.prune(tmp_path, keep=2, always=4)
    assert [path.name for path in state.checkpoints(tmp_path)] == ["step-000004", "step-000008", "step-000010"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_checkpoints_are_in_order_of_steps_beyond_six_digits(tmp_path: Path) -> None:
    for step in (2_000_000, 999_999):
        state.path_of(tmp_path, step).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-x").mkdir()
    assert [state.step_of(path) for path in state.checkpoints(tmp_path)] == [999_999, 2_000_000]


def test_another_models_checkpoint_is_refused_by_what_differs(tmp_path: Path) -> None:
    from dataclasses import replace

    path = save(tmp_path, 1)
    other = Transformer(replace(TINY, n_layers=2), seed=0)
    with pytest.raises(UserError, match="num_hidden_layers 1 instead of 2"):
        state.load_state(path, other, adamw(other, TrainConfig()))


def test_a_save_that_fails_leaves_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(Path, "write_text", lambda *args, **kwargs: full(0))
    with pytest.raises(UserError, match="No space left on device; free some space"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert state.checkpoints(tmp_path) == [before]
    assert state.damage(before) is None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set the way of Linux")
@pytest.mark.parametrize("limit", [100, 3000, 12_000])
def test_a_file_that_cannot_grow_is_said_wherever_it_happens(tmp_path: Path, limit: int) -> None:
    """The system's own refusal, at different files: tokenizer or config, weights, trainer state."""
    import resource

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save(tmp_path, 1)
        except UserError as error:
            there.send(str(error))

    process = context.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert here.poll()
    message = here.recv()
    assert message.startswith("cannot write ")
    assert "File too large; raise the limit" in message
    assert "\n" not in message
    assert list((tmp_path / "checkpoints").iterdir()) == []
