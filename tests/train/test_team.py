"""A run that several processes share is the run of one, whose batch is cut into as many pieces: bit for bit."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minideepseek as mds
from minideepseek import UserError, generations
from minideepseek.parallel.team import Team, together
from minideepseek.train import Interrupted, TrainConfig, train
from minideepseek.train.metrics import Record, read_metrics
from minideepseek.train.resume import check_team

from .conftest import QUICK, TINY, tiny_data

V3 = replace(generations["v3-mini"], vocab_size=32, max_seq_len=16)
CFG = replace(QUICK, steps=4, checkpoint_every=2, eval_every=2)


def same_numbers(records: list[Record]) -> list[Record]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def run(cfg: TrainConfig, out: Path | None = None, resume: bool = False, stop_after: int | None = None) -> tuple:
    """Train V3 small, and tell everything that should be alike."""

    def on_step(record: Record) -> None:
        if record["step"] == stop_after:
            raise KeyboardInterrupt

    try:
        result = train(V3, tiny_data(), cfg, out=out, resume=resume, on_step=on_step, progress=False)
    except KeyboardInterrupt:
        return ()
    biases = {name: buffer for name, buffer in result.model.named_buffers() if name.endswith("router.bias")}
    return same_numbers(result.metrics), result.model.state_dict(), biases


def assert_alike(ours: tuple, theirs: tuple) -> None:
    assert ours[0] == theirs[0]
    assert all(torch.equal(value, theirs[1][name]) for name, value in ours[1].items())
    assert len(ours[2]) > 0
    assert all(value.abs().max() > 0 for value in ours[2].values())  # the bias of each router has followed


@pytest.mark.parametrize(("dtype", "steps"), [("fp32", 4), ("fp8", 2)])
def test_two_processes_are_one_that_takes_two_pieces(dtype: str, steps: int) -> None:
    """Gradients averaged, loads summed over the whole batch, metrics those of the whole batch."""
    cfg = replace(CFG, dtype=dtype, steps=steps)
    alone = run(replace(cfg, accumulation=2))
    for ours in together(run, 2, cfg):
        assert_alike(ours, alone)


def test_a_shared_run_writes_one_set_of_files_and_goes_on_from_them(tmp_path: Path) -> None:
    expected = run(replace(CFG, accumulation=2))
    together(run, 2, CFG, tmp_path, False, 3)
    assert not (tmp_path / "config.json").exists()
    for ours in together(run, 2, CFG, tmp_path, True):
        assert_alike(ours, expected)
    assert same_numbers(read_metrics(tmp_path / "metrics.jsonl")) == expected[0]
    assert torch.equal(mds.load(tmp_path).head.weight, expected[1]["head.weight"])


def asked_to_stop(out: Path) -> int:
    """Somebody tells the second process alone."""

    def on_step(record: Record) -> None:
        if Team.current().rank == 1 and record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(V3, tiny_data(), CFG, out=out, on_step=on_step, progress=False)
    except Interrupted as stop:
        return stop.signum
    return 0


def test_who_asks_one_to_stop_asks_all_and_fewer_may_go_on(tmp_path: Path) -> None:
    assert together(asked_to_stop, 2, tmp_path) == [signal.SIGTERM, signal.SIGTERM]
    assert (tmp_path / "checkpoints" / "step-000003").is_dir()
    alone = run(CFG, tmp_path, resume=True)  # the same batches, summed in another order
    expected = run(CFG)
    assert [record["loss"] for record in alone[0]] == pytest.approx([r["loss"] for r in expected[0]], rel=1e-5)


def one_batch_of_its_own() -> torch.Tensor:
    """Weights that differ at first, as if someone had forgotten a seed."""
    model = mds.Transformer(TINY, seed=Team.current().rank)
    return train(model, tiny_data(), replace(QUICK, steps=1), progress=False).model.head.weight.detach()


def test_everybody_begins_with_the_weights_of_the_first() -> None:
    alone = train(mds.Transformer(TINY, seed=0), tiny_data(), replace(QUICK, steps=1, accumulation=2), progress=False)
    for weight in together(one_batch_of_its_own, 2):
        assert torch.equal(weight, alone.model.head.weight)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size=4 cannot be divided among 3 processes .* give a multiple of 3"):
        check_team(QUICK, Team(size=3))
    with pytest.raises(UserError, match="anticipate=2 needs one process"):
        check_team(replace(QUICK, anticipate=2), Team(size=2))
