"""A run of alignment that was killed goes on as if nothing had happened; and only a run that is the same may go on."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minideepseek as mds
from minideepseek import UserError, checkpoint
from minideepseek.align import (
    DPOConfig,
    GRPOConfig,
    OnPolicyConfig,
    Pair,
    SFTConfig,
    demonstrations,
    dpo,
    grpo,
    kept_format,
    kept_language,
    length_penalty,
    on_policy_distill,
    sft,
    weighted,
)
from minideepseek.align.run.facts import described
from minideepseek.cli import main
from minideepseek.data.tasks import Addition, practice_problems, tokenizer_for
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.generations import generations
from minideepseek.model import Transformer
from minideepseek.train import Interrupted, TrainConfig, read_metrics, state, train
from minideepseek.train.metrics import Record

from .conftest import TINY

TASK = Addition(digits=1)
TOKENIZER = tokenizer_for(TASK)
PROBLEMS = practice_problems(TASK, 7, seed=5)
EXAMPLES = demonstrations(TASK, TOKENIZER, 10)
PAIRS = [Pair(prompt, response, response[1:]) for prompt, response in EXAMPLES]
SMALL = replace(TINY, vocab_size=TOKENIZER.vocab_size, init_std=None)
V3 = replace(generations["v3-mini"], vocab_size=TOKENIZER.vocab_size, mtp=None)
REWARD = weighted((1.0, length_penalty(6, soft=6)), (0.5, kept_language))

# Every setting that moves something from step to step; batches that do not fill an epoch.
SFT = SFTConfig(steps=6, batch_size=4, warmup=2, checkpoint_every=2)
DPO = DPOConfig(steps=6, batch_size=3, nll=0.1, lr=1e-3, checkpoint_every=2)
GRPO = GRPOConfig(
    steps=6, questions=4, group=2, max_new_tokens=4, top_k=12, minibatches=2, resample=2, reference_every=3, beta=0.1,
    lr=1e-3, checkpoint_every=2,
)  # fmt: skip
ON_POLICY = OnPolicyConfig(steps=6, batch_size=4, max_new_tokens=4, lr=1e-3, checkpoint_every=2)

Method = Callable[..., list[Record]]


def tune(model: Transformer, cfg: SFTConfig = SFT, **how: Any) -> list[Record]:
    return sft(model, EXAMPLES, cfg, tokenizer=TOKENIZER, progress=False, **how)


def prefer(model: Transformer, cfg: DPOConfig = DPO, **how: Any) -> list[Record]:
    return dpo(model, PAIRS, cfg, tokenizer=TOKENIZER, progress=False, **how)


def practise(model: Transformer, cfg: GRPOConfig = GRPO, **how: Any) -> list[Record]:
    return grpo(model, TOKENIZER, PROBLEMS, REWARD, cfg, progress=False, **how)


def consult(model: Transformer, cfg: OnPolicyConfig = ON_POLICY, **how: Any) -> list[Record]:
    return on_policy_distill(model, fresh(9), TOKENIZER, PROBLEMS, cfg, progress=False, **how)


METHODS: list[Method] = [tune, prefer, practise, consult]


def fresh(seed: int = 0) -> Transformer:
    return Transformer(SMALL, seed=seed)


def equal(one: Transformer, other: Transformer) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def at(step: int, signum: signal.Signals) -> Callable[[Record], None]:
    """Send this process a signal when it has made so many steps."""
    return lambda record: os.kill(os.getpid(), signum) if record["step"] == step else None


def killed(run: Callable[[], Any]) -> None:
    """Do ``run``, which kills itself, in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs to be killed are forked")


# --- it goes on exactly -----------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_same_records_and_weights(method: Method, tmp_path: Path) -> None:
    unbroken = fresh()
    expected = method(unbroken)
    for step in (1, 5):  # before there is a checkpoint, and a step behind the last one
        killed(lambda step=step: method(fresh(), out=tmp_path, resume=True, on_step=at(step, signal.SIGKILL)))
    assert [state.step_of(path) for path in state.checkpoints(tmp_path)] == [2, 4]
    model, made = fresh(), []
    records = method(model, out=tmp_path, resume=True, on_step=lambda record: made.append(record["step"]))
    assert made == [5, 6]
    assert records == read_metrics(tmp_path / "metrics.jsonl") == expected
    assert equal(model, unbroken)
    assert equal(mds.load(tmp_path), unbroken)
    assert Tokenizer.load(tmp_path).fingerprint == TOKENIZER.fingerprint


@needs_fork
def test_practice_with_experts_goes_on_exactly_too(tmp_path: Path) -> None:
    cfg = replace(GRPO, steps=3, reference_every=0)
    unbroken = Transformer(V3, seed=0)
    expected = practise(unbroken, cfg)
    killed(lambda: practise(Transformer(V3, seed=0), cfg, out=tmp_path, on_step=at(3, signal.SIGKILL)))
    model = Transformer(V3, seed=0)
    assert practise(model, cfg, out=tmp_path, resume=True) == expected
    assert equal(model, unbroken)


def test_what_a_run_learns_from_makes_a_difference() -> None:
    """Else the comparisons above would prove nothing."""
    for method in METHODS:
        model = fresh()
        records = method(model)
        assert not equal(model, fresh())
        assert len({record["loss"] for record in records}) == len(records)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_model_goes_on_where_it_stands(method: Method, signum: signal.Signals, tmp_path: Path) -> None:
    """As in a notebook, where the model that was interrupted is still there."""
    unbroken, model = fresh(), fresh()
    expected = method(unbroken)
    with pytest.raises(Interrupted, match=r"stopped after step 3 of 6; checkpoint saved in .*step-000003") as stop:
        method(model, out=tmp_path, on_step=at(3, signum))
    assert stop.value.signum == signum
    assert method(model, out=tmp_path, resume=True) == expected
    assert equal(model, unbroken)


@needs_fork
def test_a_run_goes_on_with_the_threads_that_it_began_with(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        killed(lambda: tune(fresh(), out=tmp_path, on_step=at(3, signal.SIGKILL)))
        torch.set_num_threads(3)
        used: list[int] = []
        tune(fresh(), out=tmp_path, resume=True, on_step=lambda record: used.append(torch.get_num_threads()))
        assert set(used) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_run_that_has_finished_is_given_back(tmp_path: Path) -> None:
    model, again = fresh(), fresh()
    records = tune(model, out=tmp_path)
    assert tune(again, out=tmp_path, resume=True) == records
    assert equal(again, model)


def test_random_numbers_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    tune(fresh(), out=tmp_path)
    again = fresh()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tune(again, out=tmp_path, resume=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = practise(fresh(), out=tmp_path)
    newest = state.checkpoints(tmp_path)[-1] / "trainer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert practise(fresh(), out=tmp_path, resume=True) == expected
    said = capsys.readouterr().err
    assert "step-000006 cannot be used: trainer.safetensors is damaged or truncated" in said
    assert "going on from step-000004" in said


def test_a_disk_that_is_full_ends_in_a_line_that_names_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = state.save_state

    def full(path: Path, *rest: Any) -> None:
        if state.step_of(path) == 4:
            raise UserError(f"cannot write {path}: No space left on device; free some space")
        save(path, *rest)

    monkeypatch.setattr(state, "save_state", full)
    with pytest.raises(UserError, match=r"stopped at step 4: .*No space.*last good checkpoint is .*step-000002$"):
        tune(fresh(), out=tmp_path)
    monkeypatch.setattr(state, "save_state", save)
    model, unbroken = fresh(), fresh()
    assert tune(model, out=tmp_path, resume=True) == tune(unbroken)
    assert equal(model, unbroken)


def test_only_the_newest_checkpoints_are_kept_as_often_as_was_asked(tmp_path: Path) -> None:
    tune(fresh(), replace(SFT, checkpoint_every=1, keep=3), out=tmp_path / "often")
    assert [state.step_of(path) for path in state.checkpoints(tmp_path / "often")] == [4, 5, 6]
    tune(fresh(), replace(SFT, checkpoint_every=0), out=tmp_path / "once")
    assert [state.step_of(path) for path in state.checkpoints(tmp_path / "once")] == [6]


# --- only the same run goes on ----------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    tune(fresh(), out=tmp_path)
    with pytest.raises(UserError, match="already holds a run or a model"):
        prefer(fresh(), out=tmp_path)


def test_without_a_folder_nothing_can_be_resumed() -> None:
    for method in METHODS:
        with pytest.raises(UserError, match="resuming needs a folder"):
            method(fresh(), resume=True)


@pytest.mark.parametrize("method", METHODS)
def test_other_settings_are_refused_by_name_but_not_how_often_one_saves(method: Method, tmp_path: Path) -> None:
    cfg = {tune: SFT, prefer: DPO, practise: GRPO, consult: ON_POLICY}[method]
    records = method(fresh(), replace(cfg, checkpoint_every=0), out=tmp_path)
    with pytest.raises(UserError, match=r"made with other settings \(steps=6 became 7, lr=\S+ became 0.5\)"):
        method(fresh(), replace(cfg, lr=0.5, steps=7), out=tmp_path, resume=True)
    assert method(fresh(), replace(cfg, checkpoint_every=1, keep=1), out=tmp_path, resume=True) == records


def test_other_material_another_method_and_another_model_are_refused(tmp_path: Path) -> None:
    practise(fresh(), out=tmp_path)
    at_all = {"out": tmp_path, "resume": True, "progress": False}
    with pytest.raises(UserError, match="problems="):
        grpo(fresh(), TOKENIZER, PROBLEMS[1:], REWARD, GRPO, **at_all)
    with pytest.raises(UserError, match=r"reward=.*0.5, kept_language.*became .*0.6, kept_language"):
        grpo(
            fresh(),
            TOKENIZER,
            PROBLEMS,
            weighted((1.0, length_penalty(6, soft=6)), (0.6, kept_language)),
            GRPO,
            **at_all,
        )
    with pytest.raises(UserError, match=r"reference=None became \w+"):
        grpo(fresh(), TOKENIZER, PROBLEMS, REWARD, GRPO, reference=fresh(3), **at_all)
    with pytest.raises(UserError, match="method=practising became fine-tuning"):
        tune(fresh(), out=tmp_path, resume=True)
    with pytest.raises(UserError, match="began with another model"):
        practise(fresh(1), out=tmp_path, resume=True)
    taught = tmp_path / "taught"
    consult(fresh(), out=taught)
    with pytest.raises(UserError, match="teacher="):
        on_policy_distill(fresh(), fresh(8), TOKENIZER, PROBLEMS, ON_POLICY, out=taught, resume=True, progress=False)


@dataclass(frozen=True)
class SomeText:
    """Tokens to train on that say nothing."""

    train: np.ndarray
    valid: np.ndarray
    corpus: str = "some text"
    tokenizer: Tokenizer = TOKENIZER

    def bits_per_byte(self, loss: float) -> float:
        return loss


def test_runs_of_pre_training_and_of_alignment_do_not_go_on_with_each_other(tmp_path: Path) -> None:
    tokens = np.arange(200, dtype=np.uint32) % TOKENIZER.vocab_size
    data = SomeText(tokens, tokens)
    cfg = TrainConfig(steps=2, batch_size=2, seq_len=8, eval_every=0)
    train(SMALL, data, cfg, out=tmp_path / "pre", progress=False)
    with pytest.raises(UserError, match="is of a run of pre-training"):
        tune(mds.load(tmp_path / "pre"), out=tmp_path / "pre", resume=True)
    tune(fresh(), out=tmp_path / "tuned")
    with pytest.raises(UserError, match="is of a run of alignment"):
        train(SMALL, data, cfg, out=tmp_path / "tuned", resume=True, progress=False)


def test_things_are_described_by_what_decides_the_numbers() -> None:
    experts = {"a": fresh(1), "b": fresh(2)}

    def expert(problem: object) -> Transformer:
        return experts["a"]

    before = described(expert)
    assert before == described(expert)
    experts["b"] = fresh(3)
    assert described(expert) != before
    assert described(weighted((1.0, kept_format))) == "weighted.total([[1.0, kept_format]])"
    assert described(object()) == "<object object>"
    assert described([object() for _ in range(20)]) == described([object() for _ in range(20)])

    notes: list[str] = []

    def itself(problem: object, text: str) -> float:
        notes.append(text)
        return itself(problem, text[1:]) if text else 0.0

    before = described(itself)
    itself(None, "seen")
    assert described(itself) == before
    assert described(EXAMPLES * 2).startswith("20 (")
    assert described(EXAMPLES * 2) != described(EXAMPLES[::-1] * 2)


# --- by command -------------------------------------------------------------------------------------------------------

DYING = """
import os, signal, sys
from minideepseek.cli import main
from minideepseek.train.metrics import MetricsLog
write = MetricsLog.write
def write_and_die(log, record):
    write(log, record)
    if record["step"] == 5:
        os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))
MetricsLog.write = write_and_die
main(sys.argv[2:])
"""


def call(*argv: str) -> int:
    """Run the command in this process; its exit status."""
    try:
        main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def call_and_signal(signum: signal.Signals, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which gets the signal in its fifth step."""
    program = [sys.executable, "-c", DYING, str(int(signum)), *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small model of the task's characters."""
    monkeypatch.setattr("minideepseek.cli.align.choose_threads", lambda: 1)
    checkpoint.save(fresh(), tmp_path / "base", tokenizer=TOKENIZER)
    return tmp_path / "base"


COMMON = ("--task", "addition:digits=1", "--steps", "8", "--checkpoint-every", "3")
COMMANDS = {
    "sft": (*COMMON, "--examples", "30", "--batch-size", "4"),
    "grpo": (*COMMON, "--questions", "2", "--group", "2", "--max-new-tokens", "3", "--reward-language", "0.5"),
}


def same_files(one: Path, other: Path) -> bool:
    names = ("metrics.jsonl", "model.safetensors", "config.json", "tokenizer.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_ctrl_c_says_how_to_go_on_and_the_command_goes_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("align", "sft", str(base), *COMMANDS["sft"], "--out")
    stopped = call_and_signal(signal.SIGINT, *command, str(tmp_path / "broken"))
    assert stopped.returncode == 130
    last = stopped.stderr.strip().splitlines()[-1]
    assert last.startswith("minideepseek: stopped after step 5 of 8; checkpoint saved in ")
    assert "repeat the command with --resume" in last
    assert "Traceback" not in stopped.stderr
    assert call(*command, str(tmp_path / "broken"), "--resume") == 0
    assert call(*command, str(tmp_path / "unbroken")) == 0
    assert same_files(tmp_path / "broken", tmp_path / "unbroken")
    assert "held-out problems" in capsys.readouterr().out


def test_a_killed_command_goes_on_but_not_as_another(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("align", "grpo", str(base), *COMMANDS["grpo"], "--out")
    out = str(tmp_path / "broken")
    assert call_and_signal(signal.SIGKILL, *command, out).returncode == -signal.SIGKILL
    assert [state.step_of(path) for path in state.checkpoints(Path(out))] == [3]
    checkpoint.save(fresh(1), tmp_path / "other", tokenizer=TOKENIZER)
    monkeypatch.setattr("minideepseek.cli.align.rejection_sample", None)  # a teacher is not even asked
    for wrong, message in (
        (("align", "imitate", str(base), "--teacher", str(base), *COMMON, "--out"), "already holds a run"),
        (command, "already holds a run"),
        ((*command, out, "--resume", "--lr", "0.5"), "lr=0.0001 became 0.5"),
        ((*command, out, "--resume", "--reward-language", "0.6"), "reward="),
        ((*command, out, "--resume", "--problems", "50"), "problems="),
        (("align", "grpo", str(tmp_path / "other"), *COMMANDS["grpo"], "--resume", "--out"), "another model"),
    ):
        capsys.readouterr()
        assert call(*wrong, *([out] if wrong[-1] == "--out" else [])) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert call(*command, out, "--resume") == 0
    assert call(*command, str(tmp_path / "unbroken")) == 0
    assert same_files(Path(out), tmp_path / "unbroken")
