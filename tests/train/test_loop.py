"""The loop: it learns, it repeats itself exactly, it stops when it should, and it leaves a model behind."""

import math
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import minideepseek as mds
from minideepseek.errors import UserError
from minideepseek.model import Losses, Transformer
from minideepseek.train import Interrupted, TrainConfig, read_metrics, state, train
from minideepseek.train.metrics import MetricsLog, Record
from minideepseek.train.resume import METRICS

from .conftest import QUICK, TINY, VOCAB, TinyData, tiny_data


def without_time(records: list[Record]) -> list[Record]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_it_learns(data: TinyData) -> None:
    cfg = replace(QUICK, steps=150, lr=1e-2, batch_size=16)
    result = train(TINY, data, cfg, progress=False)
    losses = result.curve()[1]
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.5)
    assert losses[-1] < 1.2  # the predecessor plus one in nine of ten cases: an entropy of about 0.67


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data: TinyData) -> None:
    one, two = (train(TINY, data, QUICK, progress=False) for _ in range(2))
    assert without_time(one.metrics) == without_time(two.metrics)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    other = train(TINY, data, replace(QUICK, seed=1), progress=False)
    assert other.curve()[1] != one.curve()[1]


def test_a_run_leaves_the_random_numbers_of_its_caller_alone(data: TinyData) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(TINY, data, replace(QUICK, steps=2), progress=False)
    assert torch.equal(torch.rand(2), expected)


def test_records_hold_everything_that_is_promised(data: TinyData) -> None:
    result = train(TINY, data, replace(QUICK, eval_every=4), progress=False)
    assert [record["step"] for record in result.metrics] == list(range(1, 11))
    assert [record["tokens"] for record in result.metrics] == [32 * step for step in range(1, 11)]
    assert [record["lr"] / QUICK.lr for record in result.metrics] == pytest.approx([0.5] + [1.0] * 7 + [0.316, 0.1])
    for record in result.metrics:
        assert record["loss"] == record["lm"]
        assert record["grad_norm"] > 0
    assert result.curve("valid_loss")[0] == [4, 8, 10]
    assert result.curve("valid_bits_per_byte")[1] == [2 * loss for loss in result.curve("valid_loss")[1]]
    seconds = result.curve("seconds")[1]
    assert seconds == sorted(seconds)


def test_every_step_is_told_as_it_happens(data: TinyData) -> None:
    told: list[Record] = []
    result = train(TINY, data, QUICK, on_step=told.append, progress=False)
    assert told == result.metrics


def test_losses_of_any_model_are_summed_and_named(data: TinyData) -> None:
    """The loop knows ``model.loss`` and nothing else: a part added by a layer shows up by itself."""

    class Balanced(Transformer):
        def loss(self, ids: torch.Tensor, *, segments: torch.Tensor | None = None) -> Losses:
            found = super().loss(ids, segments=segments)
            parts = {**dict(found), "balance": 0.01 * self.head.weight.square().mean()}
            return Losses(parts, {"load": torch.tensor(3.0)})

    result = train(Balanced(TINY, seed=0), data, QUICK, progress=False)
    for record in result.metrics:
        assert record["loss"] == pytest.approx(record["lm"] + record["balance"])
        assert record["load"] == 3.0  # reported, not trained on


def test_cutting_a_batch_into_pieces_changes_rounding_only(data: TinyData) -> None:
    whole = train(TINY, data, QUICK, progress=False).curve()[1]
    pieces = train(TINY, data, replace(QUICK, accumulation=4), progress=False).curve()[1]
    assert pieces == pytest.approx(whole, rel=1e-4)


def test_clipping_bounds_what_a_step_sees(data: TinyData) -> None:
    """AdamW forgets the scale of gradients, so look at its memory after one step: 0.1 of the clipped gradient."""
    seen: list[float] = []
    original = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW) -> None:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(torch.stack([grad.norm() for grad in grads]).norm().item())
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        result = train(TINY, data, replace(QUICK, clip=0.05, steps=3), progress=False)
        assert seen == pytest.approx([0.05] * 3, rel=1e-3)
        assert min(result.curve("grad_norm")[1]) > 0.1  # what is recorded is the norm before
        seen.clear()
        result = train(TINY, data, replace(QUICK, clip=0.0, steps=3), progress=False)
        assert seen == pytest.approx(result.curve("grad_norm")[1])


def test_bf16_learns_as_fp32_does(data: TinyData) -> None:
    cfg = replace(QUICK, steps=100, lr=1e-2)
    fp32 = train(TINY, data, cfg, progress=False)
    bf16 = train(TINY, data, replace(cfg, dtype="bf16"), progress=False)
    assert bf16.curve()[1] != fp32.curve()[1]
    assert bf16.curve()[1] == pytest.approx(fp32.curve()[1], abs=0.15)
    assert all(p.dtype == torch.float32 for p in bf16.model.parameters())


def test_a_model_is_trained_in_place_and_its_frozen_parts_stay(data: TinyData) -> None:
    model = Transformer(TINY, seed=5)
    model.embed.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = train(model, data, QUICK, progress=False)
    assert result.model is model
    assert not model.training
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(before) - {"embed.weight"}


def test_the_folder_is_a_model_and_holds_the_metrics(data: TinyData, tmp_path: Path) -> None:
    result = train(TINY, data, QUICK, out=tmp_path / "run", progress=False)
    ids = torch.arange(8)[None]
    assert torch.equal(mds.load(tmp_path / "run")(ids), result.model(ids))
    assert (tmp_path / "run" / "tokenizer.json").exists()
    assert read_metrics(tmp_path / "run" / METRICS) == result.metrics
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000008", "step-000010"]


def test_the_log_is_on_the_disk_before_a_checkpoint_that_needs_it(
    data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill cannot tell, but a power cut could."""
    calls: list[str] = []
    flush, save = MetricsLog.flush, state.save_state
    monkeypatch.setattr(MetricsLog, "flush", lambda log: (calls.append("flush"), flush(log)))
    monkeypatch.setattr(state, "save_state", lambda *args: (calls.append("save"), save(*args)))
    train(TINY, data, replace(QUICK, checkpoint_every=5), out=tmp_path, progress=False)
    assert calls == ["flush", "save"] * 3  # after 5, 8 (80 %) and 10 steps


def test_a_finished_run_is_not_overwritten(data: TinyData, tmp_path: Path) -> None:
    train(TINY, data, QUICK, out=tmp_path, progress=False)
    with pytest.raises(UserError, match="already holds a run"):
        train(TINY, data, QUICK, out=tmp_path, progress=False)


def test_a_folder_has_one_run_at_a_time(data: TinyData, tmp_path: Path) -> None:
    def second(record: Record) -> None:
        with pytest.raises(UserError, match="another run is training into"):
            train(TINY, data, QUICK, out=tmp_path, resume=True, progress=False)
        raise StopIteration

    with pytest.raises(StopIteration):
        train(TINY, data, QUICK, out=tmp_path, on_step=second, progress=False)


def test_a_file_in_the_way_is_said(data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="it is a file"):
        train(TINY, data, QUICK, out=tmp_path / "file", progress=False)
    with pytest.raises(UserError, match="cannot write"):
        train(TINY, data, QUICK, out=tmp_path / "file" / "run", progress=False)


def test_the_working_directory_is_refused_before_the_first_step(
    data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the working directory is in it"):
        train(TINY, data, QUICK, out=".", progress=False)


def test_no_permission_is_said(data: TinyData, tmp_path: Path, unprivileged: None) -> None:
    with pytest.raises(UserError, match="Permission denied; check the permissions"):
        train(TINY, data, QUICK, out=tmp_path / "run", progress=False)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(data: TinyData) -> None:
    with pytest.raises(UserError, match=f"tokenizer has {VOCAB} tokens, the model only 16"):
        train(replace(TINY, vocab_size=16), data, QUICK, progress=False)


def test_what_cannot_be_saved_is_refused_before_the_first_step(data: TinyData, tmp_path: Path) -> None:
    from minideepseek.layers import GQA, RoPE

    strange = replace(TINY, attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8, rope=RoPE(dim=4)))
    with pytest.raises(UserError, match="no checkpoint format"):
        train(strange, data, QUICK, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_said(data: TinyData) -> None:
    with pytest.raises(UserError, match="is not here"):
        train(TINY, data, replace(QUICK, device="cuda:99"), progress=False)
    with pytest.raises(UserError, match="is not here"):
        train(TINY, data, replace(QUICK, device="abacus"), progress=False)


class Poisoned(Transformer):
    """Its loss is not a number from a certain step on."""

    calls = 0

    def loss(self, ids: torch.Tensor, *, segments: torch.Tensor | None = None) -> Losses:
        self.calls += 1
        found = super().loss(ids, segments=segments)
        return Losses({"lm": found.lm * math.nan}) if self.calls == 6 else found


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_checkpoint(data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step 6: the loss is nan") as caught:
        train(Poisoned(TINY, seed=0), data, QUICK, out=tmp_path, progress=False)
    last = tmp_path / "checkpoints" / "step-000004"
    assert str(last) in str(caught.value)
    assert all(p.isfinite().all() for p in mds.load(last).parameters())


def test_a_learning_rate_far_too_large_is_stopped(data: TinyData) -> None:
    with pytest.raises(UserError, match=r"training stopped at step \d+: .*a smaller lr than 100"):
        train(TINY, data, replace(QUICK, steps=300, lr=100.0, clip=0.0), progress=False)


def stop_at(step: int, signum: int) -> object:
    return lambda record: os.kill(os.getpid(), signum) if record["step"] == step else None


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_and_says_how_to_go_on(data: TinyData, tmp_path: Path, signum: int) -> None:
    unbroken = train(TINY, data, QUICK, progress=False)
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted, match=r"after step 5 of 10.*--resume") as caught:
        train(TINY, data, QUICK, out=tmp_path, on_step=stop_at(5, signum), progress=False)
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before
    assert (tmp_path / "checkpoints" / "step-000005").is_dir()
    resumed = train(TINY, data, QUICK, out=tmp_path, resume=True, progress=False)
    assert without_time(resumed.metrics) == without_time(unbroken.metrics)


@pytest.fixture
def default_ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background and the shell has turned SIGINT off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_without_a_folder_ctrl_c_does_what_it_always_does(data: TinyData, default_ctrl_c: None) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train(TINY, data, QUICK, on_step=stop_at(5, signal.SIGINT), progress=False)
    assert not isinstance(caught.value, Interrupted)


def test_it_runs_outside_the_main_thread(data: TinyData, tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(TINY, data, QUICK, out=tmp_path, progress=False)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert len(results[0].metrics) == 10


def test_a_compiler_that_fails_is_said_once_and_done_without(
    data: TinyData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(function: object) -> object:
        def compiled(*args: object) -> None:
            raise RuntimeError("no working C++ compiler\nand a page of details")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    plain = train(TINY, data, QUICK, progress=False)
    fallen_back = train(TINY, data, replace(QUICK, compile=True), progress=False)
    assert fallen_back.curve()[1] == plain.curve()[1]
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert "torch.compile is not possible here (RuntimeError: no working C++ compiler)" in lines[0]


@pytest.mark.slow
def test_a_compiled_run_follows_the_plain_one(data: TinyData, capsys: pytest.CaptureFixture[str]) -> None:
    plain = train(TINY, data, QUICK, progress=False)
    compiled = train(TINY, data, replace(QUICK, compile=True), progress=False)
    if "not possible here" in capsys.readouterr().err:
        pytest.skip("no compiler on this machine")
    assert compiled.curve()[1] == pytest.approx(plain.curve()[1], rel=1e-4)


def test_tensorboard_gets_every_curve(data: TinyData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(TINY, data, replace(QUICK, tensorboard=True, eval_every=5), out=tmp_path, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(r["step"], pytest.approx(r["loss"])) for r in result.metrics]
    assert [event.step for event in events.Scalars("valid_loss")] == [5, 10]


def test_files_are_needed_for_what_lives_in_files(data: TinyData) -> None:
    for wrong in ({"resume": True}, {"cfg": replace(QUICK, tensorboard=True)}):
        with pytest.raises(UserError, match="need a folder"):
            train(TINY, data, **{"cfg": QUICK, "progress": False, **wrong})  # type: ignore[arg-type]


def test_the_defaults_suit_any_prepared_corpus() -> None:
    assert train(TINY, tiny_data(), replace(TrainConfig(), steps=2, seq_len=8, threads=1), progress=False).out is None


def test_a_namespace_will_do_for_data(data: TinyData) -> None:
    """The loop asks for five attributes, not for a class."""
    names = ("corpus", "train", "valid", "tokenizer", "bits_per_byte")
    simple = SimpleNamespace(**{name: getattr(data, name) for name in names})
    assert len(train(TINY, simple, QUICK, progress=False).metrics) == 10
