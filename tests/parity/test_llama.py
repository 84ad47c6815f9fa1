"""V1 against transformers' Llama: the same weights give the same logits and the same gradients, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import minideepseek as mds
from minideepseek.formats import llama
from minideepseek.layers import GQA, RoPE, SwiGLU
from minideepseek.model import ModelConfig, Transformer

SHAPES = {
    "mha": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "gqa": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "mqa": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1},
    "wide heads": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24},
    "narrow heads": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 2},
}


def randomise(model: torch.nn.Module) -> None:
    """Nothing may hide behind norms of one or weights near zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.3 * noise)


def theirs(**fields: Any) -> LlamaForCausalLM:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 61} | SHAPES["gqa"]
    model = LlamaForCausalLM(LlamaConfig(**{**small, "max_position_embeddings": 64, **fields})).float()
    randomise(model)
    return model


def ours(seed: int = 0, **fields: Any) -> Transformer:
    cfg = {
        "d_model": 32,
        "n_layers": 2,
        "attention": GQA(n_heads=4, n_kv_heads=2, head_dim=8),
        "ffn": SwiGLU(hidden=48),
        "vocab_size": 61,
        "init_std": None,
    }
    model = Transformer(ModelConfig(**{**cfg, **fields}), seed=seed)
    randomise(model)
    return model


def tokens(batch: int = 2, length: int = 17, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(seed))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_and_every_gradient_equal_transformers(shape: dict[str, int], tmp_path: Path) -> None:
    reference = theirs(**shape, rope_theta=500.0)
    reference.save_pretrained(tmp_path)
    model = mds.load(tmp_path)
    ids = tokens()
    expected = reference(ids, labels=ids)
    losses = model.loss(ids)
    assert distance(model(ids), expected.logits) <= 1e-5
    assert losses.total.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    expected.loss.backward()
    losses.total.backward()
    gradients = dict(reference.named_parameters())
    mine = dict(model.named_parameters())
    for entry in llama.tensors(model.cfg):
        gradient = torch.cat([gradients.pop(name).grad for name in entry.theirs])
        assert distance(mine.pop(entry.ours).grad, gradient) <= 1e-5, entry.ours
    assert not gradients
    assert not mine


@given(
    kv=st.integers(1, 4),
    group=st.integers(1, 4),
    half=st.integers(1, 6),
    theta=st.sampled_from([100.0, 10_000.0, 1e6]),
    eps=st.sampled_from([1e-6, 1e-2]),
    length=st.integers(1, 40),
)
@settings(max_examples=15, deadline=None)
def test_logits_equal_transformers_for_any_shape(
    kv: int, group: int, half: int, theta: float, eps: float, length: int
) -> None:
    heads = kv * group
    reference = theirs(
        hidden_size=heads * 4,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=2 * half,
        rms_norm_eps=eps,
        rope_theta=theta,
        num_hidden_layers=1,
    )
    model = Transformer(llama.read(reference.config.to_dict()))
    state = reference.state_dict()
    model.load_state_dict(
        {entry.ours: torch.cat([state[name] for name in entry.theirs]) for entry in llama.tensors(model.cfg)}
    )
    ids = tokens(2, length)
    assert distance(model(ids), reference(ids).logits) <= 1e-5


def test_the_other_rope_layout_fails_parity() -> None:
    reference = theirs(**SHAPES["gqa"])
    state = reference.state_dict()
    ids = tokens()
    found = {}
    for layout in ("half_split", "adjacent"):
        attention = GQA(n_heads=4, n_kv_heads=2, head_dim=8, rope=RoPE(layout=layout))
        model = ours(attention=attention)
        entries = llama.tensors(ours().cfg)
        model.load_state_dict({entry.ours: torch.cat([state[name] for name in entry.theirs]) for entry in entries})
        found[layout] = distance(model(ids), reference(ids).logits)
    assert found["half_split"] <= 1e-5
    assert found["adjacent"] > 0.1


@pytest.mark.parametrize("shard", ["1GB", "20KB", "1KB"])
def test_sharded_checkpoints_load(tmp_path: Path, shard: str) -> None:
    reference = theirs()
    reference.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard != "1GB")
    assert distance(mds.load(tmp_path)(tokens()), reference(tokens()).logits) <= 1e-5


def test_tied_checkpoint_loads_as_two_matrices(tmp_path: Path) -> None:
    reference = theirs(tie_word_embeddings=True)
    reference.save_pretrained(tmp_path)
    model = mds.load(tmp_path)
    assert distance(model(tokens()), reference(tokens()).logits) <= 1e-5
    assert model.head.weight.data_ptr() != model.embed.weight.data_ptr()
    model.save(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert distance(again(tokens()).logits, reference(tokens()).logits) <= 1e-5


@pytest.mark.parametrize("both", [False, True])
def test_tied_config_with_two_matrices_is_read_as_transformers_reads_it(tmp_path: Path, both: bool) -> None:
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    if not both:  # the head alone: both ends are the head
        from safetensors.torch import load_file, save_file

        state = load_file(tmp_path / "model.safetensors")
        del state["model.embed_tokens.weight"]
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens()).logits
    assert distance(mds.load(tmp_path)(tokens()), expected) <= 1e-5


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 300.0},
        {"rope_theta": 300.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
        {"rope_scaling": {"type": "default", "rope_theta": 300.0}},
        {"rope_theta": 300, "rope_parameters": {"rope_theta": 300.0}},
        {"rope_parameters": None},
        {},
    ],
)
def test_rope_base_is_read_from_old_and_new_fields(tmp_path: Path, rope: dict[str, Any]) -> None:
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | rope))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(tokens()).logits
    assert distance(mds.load(tmp_path)(tokens()), expected) <= 1e-5


def test_tables_that_old_versions_stored_are_ignored(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    reference = theirs()
    reference.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    assert distance(mds.load(tmp_path)(tokens()), reference(tokens()).logits) <= 1e-5


@pytest.mark.parametrize("shape", ["mha", "gqa", "mqa", "wide heads"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 3000])
def test_transformers_reads_what_we_save(tmp_path: Path, shape: str, max_shard_bytes: int) -> None:
    fields = SHAPES[shape]
    heads, kv = fields["num_attention_heads"], fields["num_key_value_heads"]
    attention = GQA(n_heads=heads, n_kv_heads=kv, head_dim=fields.get("head_dim", 8), rope=RoPE(theta=777.0))
    model = ours(attention=attention, norm_eps=1e-3)
    mds.checkpoint.save(model, tmp_path, max_shard_bytes=max_shard_bytes)
    reference, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(reference) is LlamaForCausalLM
    assert distance(model(tokens()), reference(tokens()).logits) <= 1e-5


def test_transformers_keeps_our_dtype(tmp_path: Path) -> None:
    model = ours().bfloat16()
    model.save(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert reference.dtype == torch.bfloat16
    assert distance(model(tokens()), reference(tokens()).logits.float()) <= 0.03


def test_transformers_generates_the_same_text_and_stops_only_where_we_say(tmp_path: Path) -> None:
    """A config without an end-of-text id would get transformers' default, 2, and stop at a token that means nothing."""
    model = ours()
    with torch.no_grad():
        model.head.weight[2] = 3 * model.norm.weight  # token 2 is likely after anything
    model.save(tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = reference.generate(tokens(), max_new_tokens=20, do_sample=False)
    found = mds.generate(model, tokens(), max_new_tokens=20, temperature=0.0)
    assert (found[:, 17:] == 2).any()
    assert torch.equal(found, expected)


def test_special_ids_of_the_tokenizer_reach_transformers(tmp_path: Path) -> None:
    class Tokenizer:
        bos_id, eos_id = 7, 9

        def save(self, directory: Path) -> None:
            (directory / "tokenizer.json").write_text("{}")

    mds.checkpoint.save(ours(), tmp_path, tokenizer=Tokenizer())
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (reference.config.bos_token_id, reference.generation_config.eos_token_id) == (7, 9)
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


def test_decode_with_our_cache_equals_theirs(tmp_path: Path) -> None:
    reference = theirs(**SHAPES["gqa"])
    reference.save_pretrained(tmp_path)
    model, ids = mds.load(tmp_path), tokens(3, 30)
    cache, state, outputs = model.new_cache(3, 8), None, []
    with torch.no_grad():
        for part in ids.split([11, 1, 1, 7, 10], 1):
            expected = reference(part, past_key_values=state, use_cache=True)
            state = expected.past_key_values
            outputs.append(distance(model(part, cache=cache), expected.logits))
    assert max(outputs) <= 1e-5
