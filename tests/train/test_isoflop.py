"""The grid: trials cost what they say, and what they reached survives the table it is written to."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import minideepseek as mds
from minideepseek import accounting
from minideepseek.errors import UserError
from minideepseek.train import isoflop
from minideepseek.train.isoflop import Outcome, Trial
from minideepseek.train.laws import batch_opt, lr_opt

from .conftest import TinyData

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96)


def outcome(trial: Trial, loss: float = 2.5) -> Outcome:
    return Outcome(trial=trial, bits_per_byte=loss, cpu_seconds=1.25)


@pytest.mark.parametrize("width", [24, 48, 96])
def test_m_is_every_flop_of_the_blocks_and_none_of_the_vocabulary(width: int) -> None:
    trial = Trial(compute=2e10, d_model=width)
    with torch.device("meta"):  # where every operation takes its plain form, whose products the counter sees
        model, ids = mds.Transformer(trial.model), torch.zeros(2, isoflop.SEQ_LEN, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.hidden(ids, model.context(ids)).sum().backward()
    assert counter.get_total_flops() == trial.scales["M"] * ids.numel()


@pytest.mark.parametrize("width", WIDTHS)
def test_models_have_the_proportions_that_m_supposes(width: int) -> None:
    model = Trial(compute=2e10, d_model=width).model
    assert accounting.block_parameters(model) == pytest.approx(accounting.n1(width, model.n_layers), rel=0.02)


@pytest.mark.parametrize("compute", [2e10, 6e10, 1.8e11])
@pytest.mark.parametrize("width", [16, 64])
def test_a_trial_spends_its_budget_at_the_laws_settings(compute: float, width: int) -> None:
    trial = Trial(compute=compute, d_model=width)
    cfg = trial.settings
    assert cfg.steps * cfg.tokens_per_step * trial.scales["M"] == pytest.approx(compute, rel=0.02)
    assert cfg.lr == lr_opt(compute)
    assert cfg.tokens_per_step == pytest.approx(batch_opt(compute), abs=isoflop.SEQ_LEN / 2)


def test_factors_step_away_from_the_laws() -> None:
    plain, other = (Trial(compute=6e10, d_model=16, lr_factor=f, batch_factor=1 / f).settings for f in (1.0, 0.5))
    assert other.lr == plain.lr / 2
    assert other.batch_size == pytest.approx(2 * plain.batch_size, abs=1)
    assert other.steps * other.tokens_per_step == pytest.approx(plain.steps * plain.tokens_per_step, rel=0.01)


@pytest.mark.parametrize("wrong", [{"compute": 0.0}, {"d_model": 34}, {"d_model": 0}, {"lr_factor": -1.0}])
def test_a_trial_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be positive|does not divide"):
        Trial(**{"compute": 1e10, "d_model": 16} | wrong)  # type: ignore[arg-type]


def test_the_same_trial_reaches_the_same_loss_and_longer_ones_a_lower(data: TinyData) -> None:
    short, again, long = (isoflop.run(Trial(compute=c, d_model=8), data) for c in (1e7, 1e7, 1e8))
    assert short.bits_per_byte == again.bits_per_byte
    assert long.bits_per_byte < short.bits_per_byte - 0.5
    assert long.cpu_seconds > 0


def test_columns_count_the_budget_in_the_measure_of_the_scale() -> None:
    outcomes = [outcome(Trial(compute=c, d_model=w), w / 10) for c in (1e10, 3e10) for w in (8, 16, 32)]
    compute, scale, loss = isoflop.columns(outcomes)
    assert set(compute) == {1e10, 3e10}
    assert list(loss[:3]) == [0.8, 1.6, 3.2]
    for name in ("6N1", "6N2"):
        other, size, same = isoflop.columns(outcomes, name)
        np.testing.assert_allclose(other / compute, size / scale)  # the tokens are what they are
        np.testing.assert_array_equal(loss, same)
    assert (isoflop.columns(outcomes, "6N1")[1] < scale).all()


def test_a_table_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    outcomes = [outcome(Trial(compute=2e10, d_model=w, seed=3, lr_factor=0.25), 2.123456) for w in WIDTHS]
    isoflop.write(path, outcomes)
    assert isoflop.read(path) == outcomes
    assert len(path.read_text().splitlines()) == 1 + len(outcomes)


def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        isoflop.read(tmp_path / "missing.csv")
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no table of IsoFLOP runs"):
        isoflop.read(path)
    path.write_text("compute,d_model,seed,lr_factor,batch_factor,bits_per_byte,cpu_seconds\n1e10,16,0,1")
    with pytest.raises(UserError, match="no table of IsoFLOP runs"):
        isoflop.read(path)
