"""The command line: help worth reading, one line and status 2 for whatever the user can put right, nothing lost."""

import json
import re
import subprocess
import sys

import pytest
import torch

import minideepseek as mds
from minideepseek.cli import COMMANDS, main
from minideepseek.data import Tokenizer
from minideepseek.generate import plain as decoding

TINY = [
    *("--model.d-model", "32", "--model.n-layers", "1", "--model.ffn.hidden", "48", "--model.vocab-size", "300"),
    *("--model.attention.n-heads", "2", "--model.attention.n-kv-heads", "1", "--model.attention.head-dim", "8"),
    *("--seq-len", "16", "--batch-size", "4", "--max-tokens", "4000", "--eval-batches", "1", "--threads", "1"),
]  # fmt: skip


def call(*argv):
    """Run the command in this process; returns its exit status."""
    try:
        main(argv)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    status = call(*argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    errors = [line for line in lines if line.startswith("minideepseek: error: ")]
    assert len(errors) == 1
    assert lines[-1] == errors[0]
    assert "Traceback" not in "".join(lines)
    return errors[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small corpus of the user's own."""
    file = tmp_path_factory.mktemp("corpus") / "notes.txt"
    file.write_text("\n\n".join(f"Note {i}: the {i}th day was {'sunny' if i % 3 else 'wet'}." for i in range(400)))
    return f"file:{file}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text):
    """The folder of a tiny model trained by the command."""
    out = tmp_path_factory.mktemp("run") / "model"
    assert call("train", "v1-mini", "--out", str(out), "--data", text, "--steps", "6", *TINY) == 0
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_says_what_it_is(capsys, command):
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"minideepseek {command}" in shown
    assert "{fixed}" not in shown
    for block in re.split(r"\n│ (?=--)", shown)[1:]:
        words = re.sub(r"[│─╭╮╰╯\s]+", " ", block)
        assert re.search(r"[a-z]{3,} [a-z]+", words.split("(default")[0].split(" ", 2)[-1]), block


def test_the_overview_lists_all_commands(capsys):
    assert call() == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == mds.__version__


def test_metrics_hold_one_object_a_step_at_full_precision(trained):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 7))
    assert records[-1]["loss"] < records[0]["loss"]
    # a float32 written in full, not a rounded one
    assert any(len(repr(record["loss"])) > 12 for record in records)


def test_a_trained_model_loads_in_python_and_in_transformers(trained):
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        ours = mds.load(trained)(ids)
        theirs = AutoModelForCausalLM.from_pretrained(trained)(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_generate_continues_the_prompt_the_same_for_the_same_seed(trained, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert call("generate", str(trained), "--prompt", "Note 7", "--max-new-tokens", "20", "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("Note 7")
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_where_nothing_can_be_compiled_generate_says_so_in_one_line_and_goes_on(trained, capsys, monkeypatch):
    arguments = ("generate", str(trained), "--prompt", "Note 7", "--max-new-tokens", "5")
    assert call(*arguments) == 0
    plain = capsys.readouterr().out

    def broken(function, **settings):
        raise RuntimeError("no compiler\nand a page of details")

    monkeypatch.setattr(torch, "compile", broken)
    decoding._compiled.cache_clear()
    assert call(*arguments, "--compile") == 0
    out, err = capsys.readouterr()
    assert out == plain
    assert err.startswith("minideepseek: torch.compile is not possible here")
    assert len(err.splitlines()) == 1


def test_resume_goes_on_where_a_shorter_call_ended(tmp_path, text, capsys):
    options = ["--data", text, "--schedule", "constant", *TINY]
    assert call("train", "v1-mini", "--out", str(tmp_path / "whole"), "--steps", "8", *options) == 0
    assert call("train", "v1-mini", "--out", str(tmp_path / "parts"), "--steps", "5", *options) == 0
    assert call("train", "v1-mini", "--out", str(tmp_path / "parts"), "--steps", "8", "--resume", *options) == 0
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_report_prints_the_papers_numbers(capsys):
    assert call("report", "v1-67b") == 0
    assert "67,425,001,472" in capsys.readouterr().out


def test_report_counts_a_checkpoint_too(trained, capsys):
    assert call("report", str(trained)) == 0
    assert f"{sum(p.numel() for p in mds.load(trained).parameters()):,}" in capsys.readouterr().out


def test_convert_keeps_the_logits(trained, tmp_path):
    assert call("convert", str(trained), str(tmp_path / "half"), "--dtype", "bfloat16", "--max-shard-gb", "1e-5") == 0
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        difference = (mds.load(trained)(ids) - mds.load(tmp_path / "half", dtype=torch.float32)(ids)).abs().max()
    assert 0 < difference < 0.1
    assert Tokenizer.load(tmp_path / "half").encode("Note") == Tokenizer.load(trained).encode("Note")


def test_doctor_speaks_of_threads_and_of_what_is_missing(capsys):
    assert call("doctor") == 0
    shown = capsys.readouterr().out
    assert "threads" in shown
    assert "torch" in shown


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "name a generation"),
        (["train", "v1-mni", "--out", "x"], "did you mean 'v1-mini'"),
        (["train", "v1-mini"], "--out"),
        (["train", "v1-mini", "--out", "x", "--stepz", "3"], "did you mean --steps"),
        (["train", "v1-mini", "--out", "x", "--steps", "many"], "--steps"),
        (["train", "v1-mini", "--out", "x", "--steps", "0"], "steps=0"),
        (["train", "v1-mini", "--out", "x", "--schedule", "stairs"], "multi-step"),
        (["train", "v1-mini", "--out", "x", "--model.attention.n-heads", "3"], "n_heads=3 is not divisible"),
        (["train", "v1-mini", "--out", "x", "--data", "storys"], "stories"),
        (["train", "v1-mini", "--out", "x", "--data", "file:/nowhere.txt"], "/nowhere.txt"),
        (["train", "v1-mini", "--out", "x", "--resume", "--extend", "y"], "--resume"),
        (["generate", "/nowhere"], "no checkpoint at /nowhere"),
        (["report", "v9"], "no generation and no checkpoint folder 'v9'"),
        (["report", "v1-7b", "--seq-len", "0"], "must be positive"),
        (["convert", "/nowhere", "/tmp/never"], "no checkpoint"),
        (["data", "file:/nowhere"], "/nowhere"),
        (["lessons", "opne"], "opne"),
        (["lessons", "list", "99"], "99"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, monkeypatch, tmp_path, argv, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *argv)
    assert not (tmp_path / "x").exists()  # nothing half-begun is left behind


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"\x00\x01\xff\xfe" * 500, "binary"), (b"one short line", "tokens|short")]
)
def test_an_unusable_corpus_is_named(capsys, tmp_path, content, says):
    file = tmp_path / "corpus.txt"
    file.write_bytes(content)
    line = refused(capsys, "train", "v1-mini", "--out", str(tmp_path / "x"), "--data", f"file:{file}")
    assert any(word in line for word in says.split("|"))


def damaged(trained, tmp_path, **changes):
    """A copy of the trained model with other fields in config.json (None removes one)."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_key_value_heads": 3}, "divisible"),
        ({"num_hidden_layers": 2}, "missing|layers.1"),
        ({"intermediate_size": 64}, "shape"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_size": "wide"}, "wide"),
        ({"vocab_size": 200}, "shape|rows"),
    ],
)
def test_a_config_that_lies_is_refused(capsys, trained, tmp_path, changes, says):
    line = refused(capsys, "generate", str(damaged(trained, tmp_path, **changes)))
    assert any(word in line for word in says.split("|"))


def test_truncated_weights_are_refused(capsys, trained, tmp_path):
    folder = damaged(trained, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in refused(capsys, "generate", str(folder))


def test_a_tokenizer_of_another_vocabulary_is_refused(capsys, trained, tmp_path):
    folder = damaged(trained, tmp_path)
    words = [a + b + c for a in ("stra", "mon", "ul") for b in ("der", "tik", "ba") for c in ("lo", "ness", "ist")]
    larger = Tokenizer.train([" ".join(words)] * 3, vocab_size=400)
    assert larger.vocab_size > mds.load(folder).cfg.vocab_size
    larger.save(folder)
    assert "do not belong together" in refused(capsys, "generate", str(folder))


def test_a_file_in_the_way_of_the_output_is_named(capsys, tmp_path, text):
    (tmp_path / "x").write_text("mine")
    line = refused(capsys, "train", "v1-mini", "--out", str(tmp_path / "x"), "--data", text, "--steps", "2", *TINY)
    assert str(tmp_path / "x") in line
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize("more_than_there_is", [lambda: torch.empty(2**57), lambda: bytearray(2**62)])
def test_a_model_too_large_for_the_machine_is_said_to_be_so_in_one_line(capsys, monkeypatch, more_than_there_is):
    monkeypatch.setattr("minideepseek.cli.report.main", lambda args: more_than_there_is())
    with pytest.raises(SystemExit) as stop:
        main(["report", "v4-pro"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("minideepseek: error: there is not enough memory")
    assert error.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("minideepseek.cli.report.main", lambda args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        main(["report", "v4-pro"])


def test_the_installed_command_exits_with_2_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "minideepseek", "report", "v1-67"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'v1-67b'" in done.stderr
