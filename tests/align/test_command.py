"""``minideepseek align``: the way from nothing to a model that practises, by command, and what is refused."""

import json
from pathlib import Path

import pytest

import minideepseek as mds
from minideepseek import checkpoint
from minideepseek.align import SFTConfig, warmed_up
from minideepseek.cli import main
from minideepseek.data.tasks import Addition, answer_of, practice_problems
from minideepseek.data.tokenizer import Tokenizer

QUICK = ("--task", "addition:digits=1", "--steps", "3")


def call(*argv: str) -> int:
    """Run the command in this process; its exit status."""
    try:
        main(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a refused command prints."""
    assert call(*argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("minideepseek: error: ")
    assert "Traceback" not in "".join(lines)
    return lines[-1]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mini that has seen a few demonstrations."""
    out = tmp_path_factory.mktemp("align") / "warm"
    settings = ("--examples", "50", "--wrong", "0.3", "--batch-size", "4")
    assert call("align", "sft", "v1-mini", "--out", str(out), *QUICK, *settings) == 0
    return out


def test_tuning_leaves_a_whole_model_its_tokenizer_and_metrics(warm: Path) -> None:
    model, tokenizer = mds.load(warm), Tokenizer.load(warm)
    assert model.cfg.vocab_size == tokenizer.vocab_size < 30
    records = [json.loads(line) for line in (warm / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] < records[0]["loss"]


def test_a_tuned_model_practises_is_examined_and_teaches(
    warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--questions", "2", "--group", "2", "--max-new-tokens", "4", "--reward-format", "0.5")
    assert call("align", "grpo", str(warm), "--out", str(tmp_path / "practised"), *QUICK, *sizes) == 0
    records = [json.loads(line) for line in (tmp_path / "practised" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward", "flat", "kl"} <= set(records[0])
    exam = ("--task", "addition:digits=1", "--problems", "5", "--attempts", "2", "--max-new-tokens", "4")
    capsys.readouterr()
    assert call("align", "exam", str(tmp_path / "practised"), *exam) == 0
    assert "of 5 held-out problems" in capsys.readouterr().out
    teaching = ("--teacher", str(warm), "--out", str(tmp_path / "taught"), *QUICK)
    assert call("align", "consult", str(warm), *teaching, "--batch-size", "2", "--max-new-tokens", "3") == 0
    assert mds.load(tmp_path / "taught").cfg == mds.load(warm).cfg


def test_a_tuned_model_answers_when_it_is_asked_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``generate`` begins a text as ``align`` does."""
    out = tmp_path / "adder"
    model, tokenizer = warmed_up(Addition(digits=1), cfg=SFTConfig(steps=200, lr=1e-2), progress=False)
    checkpoint.save(model, out, tokenizer=tokenizer)
    right = 0
    for problem in practice_problems(Addition(digits=1), 10, seed=1):
        capsys.readouterr()
        assert call("generate", str(out), "--prompt", problem.prompt, "--temperature", "0") == 0
        right += problem.solved_by(answer_of(capsys.readouterr().out.strip().removeprefix(problem.prompt)))
    assert right > 7
    teaching = ("--teacher", str(out), "--out", str(tmp_path / "pupil"), "--problems", "20", *QUICK)
    assert call("align", "imitate", "v1-mini", *teaching, "--batch-size", "2") == 0
    assert "the teacher solved" in capsys.readouterr().out
    assert mds.load(tmp_path / "pupil").cfg.d_model == 128


def test_a_teacher_that_is_never_right_is_refused(
    warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teaching = ("--teacher", str(warm), "--out", str(tmp_path / "none"), "--problems", "2", "--attempts", "1")
    line = refused(capsys, "align", "imitate", "v1-mini", *teaching, *QUICK)
    assert "solved none of 2 problems" in line
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("polish", "v1-mini"), "no method 'polish'"),
        (("sft", "v9-mini", "--out", "x"), "no generation and no folder 'v9-mini'"),
        (("sft", "v1-mini", "--out", "x", "--task", "sorting"), "unknown task 'sorting'"),
        (("sft", "v1-mini", "--out", "x", "--wrong", "2"), "wrong=2.0 is a chance"),
        (("grpo", "v1-mini", "--out", "x", "--group", "1"), "group=1"),
        (("exam",), "MODEL"),
    ],
)
def test_mistakes_end_in_one_line(
    argv: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "align", *argv)
    assert not list(tmp_path.iterdir())


def test_a_model_that_lacks_characters_of_the_task_is_refused(warm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lacks some of the characters" in refused(capsys, "align", "exam", str(warm), "--task", "countdown")


@pytest.mark.parametrize("method", ["sft", "grpo", "imitate", "consult", "exam"])
def test_every_method_explains_its_options(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("align", method, "--help") == 0
    shown = capsys.readouterr().out
    assert f"minideepseek align {method}" in shown
    assert "--task" in shown
    assert "{fixed}" not in shown
