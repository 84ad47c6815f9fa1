"""Save and load: what goes in comes out, what is wrong is refused in one line, and nothing is ever half there."""

import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import minideepseek as mds
from minideepseek import UserError, checkpoint
from minideepseek.layers import GQA, RoPE, SwiGLU
from minideepseek.model import ModelConfig, Transformer

TINY = ModelConfig(
    d_model=16,
    n_layers=2,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=6, rope=RoPE(theta=500.0)),
    ffn=SwiGLU(hidden=20),
    vocab_size=37,
    max_seq_len=99,
    norm_eps=1e-5,
    init_std=0.3,
)


def same(a: Transformer, b: Transformer) -> bool:
    mine, yours = a.state_dict(), b.state_dict()
    return mine.keys() == yours.keys() and all(
        mine[name].dtype == yours[name].dtype and torch.equal(mine[name], yours[name]) for name in mine
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Transformer(TINY, seed=0).save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **fields: Any) -> None:
    """Change fields of config.json; ... removes one."""
    config = json.loads((folder / "config.json").read_text()) | fields
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def change(folder: Path, action: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    action(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


# --- what goes in comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 2000, 1])
@pytest.mark.parametrize("init_std", [0.3, None])
def test_a_model_comes_back_as_it_was(
    tmp_path: Path, dtype: torch.dtype, max_shard_bytes: int, init_std: float | None
) -> None:
    model = Transformer(replace(TINY, init_std=init_std), seed=0).to(dtype)
    checkpoint.save(model, tmp_path, max_shard_bytes=max_shard_bytes)
    back = mds.load(tmp_path)
    assert back.cfg == model.cfg == checkpoint.read_config(tmp_path)
    assert same(back, model)
    assert not back.training
    assert all(p.requires_grad for p in back.parameters())
    sizes = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    assert len(sizes) == {10**9: 1, 1: 21}.get(max_shard_bytes, len(sizes))
    assert max_shard_bytes != 2000 or max(sizes) < 37 * 16 * dtype.itemsize + 2000


def test_mini_comes_back_as_it_was(tmp_path: Path) -> None:
    model = Transformer(mds.generations["v1-mini"], seed=0)
    model.save(tmp_path)
    assert mds.load(tmp_path).cfg == model.cfg


def test_load_converts_when_asked(saved: Path) -> None:
    stored = mds.load(saved)
    assert same(mds.load(saved, dtype=torch.bfloat16), stored.bfloat16())
    assert {p.device.type for p in mds.load(saved, device="meta").parameters()} == {"meta"}


def test_training_a_loaded_model_does_not_touch_its_files(saved: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    model = mds.load(saved)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert (saved / "model.safetensors").read_bytes() == before
    assert not same(mds.load(saved), model)


def test_matrices_that_a_user_tied_are_saved_twice(tmp_path: Path) -> None:
    model = Transformer(TINY, seed=0)
    model.head.weight = model.embed.weight
    model.save(tmp_path)
    assert same(mds.load(tmp_path), model)


def test_files_have_ordinary_permissions(saved: Path) -> None:
    (saved / "ordinary").write_text("")
    assert {file.stat().st_mode for file in saved.iterdir()} == {(saved / "ordinary").stat().st_mode}


# --- nothing is ever half there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(10**9, 1), (1, 10**9), (1, 2000), (2000, 1)])
def test_saving_again_leaves_nothing_of_the_first_time(tmp_path: Path, first: int, second: int) -> None:
    checkpoint.save(Transformer(TINY, seed=0), tmp_path / "model", max_shard_bytes=first)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    new = Transformer(replace(TINY, n_layers=1), seed=1)
    checkpoint.save(new, tmp_path / "model", max_shard_bytes=second)
    checkpoint.save(new, tmp_path / "fresh", max_shard_bytes=second)
    assert same(mds.load(tmp_path / "model"), new)
    fresh = {file.name for file in (tmp_path / "fresh").iterdir()}
    assert {file.name for file in (tmp_path / "model").iterdir()} == fresh | {"notes.txt"}


def test_failing_save_leaves_the_old_checkpoint_whole(saved: Path) -> None:
    class Tokenizer:
        bos_id, eos_id = 0, 1

        def save(self, directory: str | os.PathLike[str]) -> None:
            raise RuntimeError("in the middle, with the weights written")

    with pytest.raises(RuntimeError):
        checkpoint.save(Transformer(TINY, seed=1), saved, tokenizer=Tokenizer())
    assert same(mds.load(saved), Transformer(TINY, seed=0))
    assert [file.name for file in saved.parent.iterdir()] == ["model"]


def save_for_ever(path: Path) -> None:
    """A model of three sizes in turn, in one file or many, every weight the number of the save."""
    for number in itertools.count():
        model = Transformer(replace(TINY, n_layers=1 + number % 3), seed=0)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(number)
        checkpoint.save(model, path, max_shard_bytes=(1, 3000, 10**9)[number % 3])


def test_save_killed_at_any_moment_leaves_a_whole_checkpoint(saved: Path) -> None:
    chance = random.Random(0)
    for _ in range(10):
        before = (saved / "config.json").stat().st_mtime_ns
        saver = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(saved,))
        saver.start()
        while (saved / "config.json").stat().st_mtime_ns == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        saver.kill()
        saver.join()
        model = mds.load(saved)
        values = {value for p in model.parameters() for value in p.unique().tolist()}
        assert len(values) == 1
        assert model.cfg.n_layers == 1 + values.pop() % 3


def test_full_disk_is_one_line_and_keeps_the_old_checkpoint(saved: Path) -> None:
    """The limit on the size of a file stands in for a disk with no space: the same call fails, for a like reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*model: File too large; .*choose another place") as caught:
            Transformer(TINY, seed=1).save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert same(mds.load(saved), Transformer(TINY, seed=0))
    assert [file.name for file in saved.parent.iterdir()] == ["model"]


@pytest.mark.usefixtures("saved", "unprivileged")
def test_no_permission_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*Permission denied; check the permissions"):
        Transformer(TINY, seed=1).save(tmp_path / "model")
    with pytest.raises(UserError, match=r"cannot read .*Permission denied; check the permissions"):
        mds.load(tmp_path / "model")


# --- what is wrong is refused in one line ---------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        mds.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; supported are 'llama'"),
        ({"model_type": ...}, "model_type is None; supported are"),
        ({"model_type": ["llama"]}, "model_type is ['llama']; supported are"),
        ({"hidden_size": ...}, "the field 'hidden_size' is missing"),
        ({"vocab_size": None}, "the field 'vocab_size' is missing"),
        ({"rms_norm_eps": ...}, "the field 'rms_norm_eps' is missing"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2', where int is expected"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0, where int is expected"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, where int is expected"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', where float is expected"),
        ({"num_attention_heads": 3}, "n_heads=3 is not divisible by n_kv_heads=2"),
        ({"num_attention_heads": 0, "head_dim": ...}, "num_attention_heads=0"),
        ({"num_attention_heads": 5, "head_dim": ...}, "hidden_size=16 is not divisible by num_attention_heads=5"),
        ({"head_dim": 7}, "cannot rotate 7 channels in pairs"),
        ({"num_hidden_layers": -1}, "n_layers=-1 must be positive"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but only 'silu' is supported"),
        ({"attention_bias": True}, "attention_bias is True, but only False is supported"),
        ({"mlp_bias": True}, "mlp_bias is True, but only False is supported"),
        ({"quantization_config": {"bits": 4}}, "models without it are supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear', but only 'default' is supported"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn', but only 'default' is supported"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": 1e6}, "rope_theta=1e+06 and rope_parameters.rope_theta=500 contradict each other"),
        ({"rope_theta": "big"}, "rope_theta is 'big', where float is expected"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], where an object is expected"),
    ],
)
def test_config_that_would_give_wrong_logits_is_refused(saved: Path, fields: dict[str, Any], message: str) -> None:
    edit(saved, **fields)
    assert message in refusal(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[]", "model_type is None"),
        (b"\xff\xfe\x00bad", "is not valid JSON"),
        (None, "cannot read"),
    ],
)
def test_damaged_config_is_refused(saved: Path, text: bytes | None, message: str) -> None:
    if text is None:
        (saved / "config.json").unlink()
    else:
        (saved / "config.json").write_bytes(text)
    assert message in refusal(saved)


@pytest.mark.parametrize("length", [0, 4, 100, 3000, -1])
def test_truncated_weights_are_refused(saved: Path, length: int) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[:length])
    assert "model.safetensors is damaged or truncated" in refusal(saved)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    change(saved, lambda state: state.update({"lm_head.weight": torch.zeros(37, 15)}))
    assert "lm_head.weight is torch.float32 of shape (37, 15), but config.json asks for" in refusal(saved)


def test_quantised_weights_are_refused(saved: Path) -> None:
    change(saved, lambda state: state.update({"lm_head.weight": torch.zeros(37, 16, dtype=torch.int8)}))
    assert "lm_head.weight is torch.int8 of shape (37, 16)" in refusal(saved)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_missing_tensor_is_named(saved: Path, name: str) -> None:
    change(saved, lambda state: state.pop(name))
    assert name in refusal(saved)


def test_config_of_a_deeper_model_is_refused(saved: Path) -> None:
    edit(saved, num_hidden_layers=3)
    assert "has no tensor model.layers.2.input_layernorm.weight (and 8 more), which its config.json" in refusal(saved)


def test_config_of_a_shallower_model_is_refused(saved: Path) -> None:
    edit(saved, num_hidden_layers=1)
    assert re.search(r"tensor model\.layers\.1\.\S+ \(and 8 more\) has no place in the model", refusal(saved))


def test_tensor_that_would_be_ignored_is_refused(saved: Path) -> None:
    change(saved, lambda state: state.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}))
    assert "tensor model.layers.0.self_attn.q_proj.bias has no place in the model" in refusal(saved)


def test_folder_without_weights_is_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert "holds neither model.safetensors nor model.safetensors.index.json" in refusal(saved)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_damaged_index_is_refused(saved: Path, index: str) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(index)
    assert "is not a valid index of weights" in refusal(saved)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    checkpoint.save(Transformer(TINY, seed=0), tmp_path, max_shard_bytes=1)
    (tmp_path / "model-00003-of-00021.safetensors").unlink()
    assert "model-00003-of-00021.safetensors: No such file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c", "owner/"])
def test_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no checkpoint at {re.escape(name)}: give a folder with config.json"):
        mds.load(name)


def test_file_instead_of_a_folder_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*: give a folder"):
        mds.load(saved / "config.json")


def test_hub_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(UserError, match="no folder nobody/nothing, and no model of that name could be had") as caught:
        mds.load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_hub_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "minideepseek\[hub\]"'):
        mds.load("nobody/nothing")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": replace(TINY.attention, rope=RoPE(layout="adjacent"))}, "half_split layout"),
        ({"attention": replace(TINY.attention, rope=RoPE(dim=4))}, "turns all channels"),
        ({"attention": GQA(n_heads=3, n_kv_heads=3, head_dim=4)}, "16 is not one of 3"),
        ({"ffn": (SwiGLU(hidden=4), SwiGLU(hidden=8))}, "its layers are all GQA with SwiGLU"),
    ],
)
def test_config_that_no_format_can_express_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    model = Transformer(replace(TINY, **fields), seed=0)
    with pytest.raises(UserError, match=r"no checkpoint format can express this model \(llama: ") as caught:
        model.save(tmp_path / "model")
    assert message in str(caught.value)
    assert not (tmp_path / "model").exists()
