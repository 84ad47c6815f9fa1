"""V4 against transformers: the same weights give the same logits and gradients, both ways, with tables and buffers."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV4Config, DeepseekV4ForCausalLM

import minideepseek as mds
from minideepseek.cli import main
from minideepseek.layers import CSA, HCA, HashRouting, SharedKV

W, C, H = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
YARN = {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "qk_rope_head_dim": 4,
    "q_lora_rank": 12,
    "o_groups": 2,
    "o_lora_rank": 6,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "sliding_window": 8,
    "layer_types": [W, C, H, C],
    "compress_rates": {C: 4, H: 8},
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "index_n_heads": 32,  # with few heads many scores are exactly 0, and whom they then choose is topk's accident
    "index_head_dim": 8,
    "index_topk": 2,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "rope_parameters": YARN,
    "num_nextn_predict_layers": 0,
    "attn_implementation": "eager",
}
CASES: dict[str, dict[str, Any]] = {
    "all kinds of layers": {},
    "windows only": {"layer_types": [W] * 4},
    "heavy first, as in pro": {"layer_types": [H, H, C, H], "mlp_layer_types": ["hash_moe"] * 3 + ["moe"]},
    "sparse only, reading one block": {"layer_types": [C] * 4, "index_topk": 1},
    "reading all blocks": {"index_topk": 64},
    "without yarn": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "without tables": {"mlp_layer_types": ["moe"] * 4},
    "tables only": {"mlp_layer_types": ["hash_moe"] * 4},
    "sigmoid affinities": {"scoring_func": "sigmoid", "routed_scaling_factor": 2.5, "num_experts_per_tok": 3},
    "a tight limit": {"swiglu_limit": 0.3},
    "a window of one": {"sliding_window": 1},
    "other rates and widths": {
        "compress_rates": {C: 3, H: 5},
        "head_dim": 24,
        "qk_rope_head_dim": 8,
        "num_attention_heads": 6,
        "o_groups": 3,
        "o_lora_rank": 5,
        "index_head_dim": 10,
    },
    "two streams, few iterations": {"hc_mult": 2, "hc_sinkhorn_iters": 4, "hc_eps": 1e-3, "rms_norm_eps": 1e-5},
}


def theirs(**fields: Any) -> DeepseekV4ForCausalLM:
    model = DeepseekV4ForCausalLM(DeepseekV4Config(**{**SMALL, **fields})).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("tid2eid"):
                experts = model.config.n_routed_experts
                tensor.copy_(torch.rand(len(tensor), experts, generator=generator).argsort(-1)[:, : tensor.shape[1]])
            elif name.endswith("e_score_correction_bias"):
                tensor.copy_(0.2 * noise)
            elif "inv_freq" not in name:
                tensor.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model


def tokens(length: int = 29) -> torch.Tensor:
    return torch.randint(2, 64, (2, length), generator=torch.Generator().manual_seed(0))


def close(found: torch.Tensor, right: torch.Tensor) -> bool:
    return bool((found - right).abs().max() <= 1e-5 * right.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_theirs(case, tmp_path):
    them = theirs(**CASES[case])
    them.save_pretrained(tmp_path / "theirs")
    us = mds.load(tmp_path / "theirs")
    with torch.no_grad():
        for length in (3, 8, 40):  # no block complete, one, and a text longer than the window
            assert close(us(tokens(length)), them(tokens(length), use_cache=False).logits)
    ids = tokens()
    right = them(ids, use_cache=False).logits
    assert close(us(ids), right)
    torch.nn.functional.cross_entropy(right[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    us.loss(ids).total.backward()  # in eval mode: no losses of routers and indexers, which they do not have
    grads = {name: parameter.grad for name, parameter in us.named_parameters() if parameter.grad is not None}
    us.load_state_dict({**us.state_dict(), **grads})
    us.save(tmp_path / "gradients")  # our gradients, under their names
    named = AutoModelForCausalLM.from_pretrained(tmp_path / "gradients").state_dict()
    largest = max(parameter.grad.abs().max() for parameter in them.parameters() if parameter.grad is not None)
    for name, parameter in them.named_parameters():
        if ".indexer." in name:  # a choice has no gradient, and they do not train it otherwise
            assert parameter.grad is None
            continue
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        difference = (named[name] - grad).abs().max()
        # Where large terms cancel (gates of streams that are still alike), their rounding remains, in theirs and ours.
        assert difference <= 1e-5 * max(grad.abs().max(), 0.3 * largest), name


@pytest.mark.parametrize("case", CASES)
def test_what_we_save_they_load(case, tmp_path):
    theirs(**CASES[case]).save_pretrained(tmp_path / "theirs")
    us = mds.load(tmp_path / "theirs")
    mds.checkpoint.save(us, tmp_path / "ours", max_shard_bytes=50_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    back, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert close(back.eval()(tokens(), use_cache=False).logits, us(tokens()))
    assert mds.load(tmp_path / "ours").cfg == us.cfg


@pytest.mark.parametrize("case", ["all kinds of layers", "heavy first, as in pro", "other rates and widths"])
def test_greedy_continuations_are_theirs_whichever_cache_they_use(case, tmp_path):
    them = theirs(**CASES[case])
    them.save_pretrained(tmp_path)
    us, prompt = mds.load(tmp_path), tokens(9)
    expected = them.generate(prompt, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(mds.generate(us, prompt, max_new_tokens=30, temperature=0.0), expected)


def test_names_of_their_own_mean_the_same(tmp_path):
    """A state dict written down as it is, experts stacked."""
    them = theirs()
    them.save_pretrained(tmp_path)
    state = {name: tensor.clone() for name, tensor in them.state_dict().items()}
    assert "model.layers.1.self_attn.compressor.indexer.scorer.weights_proj.weight" in state
    save_file(state, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert close(mds.load(tmp_path)(tokens()), them(tokens(), use_cache=False).logits)


def released_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The same config in the spelling of the released files."""
    ratios = {W: 0, C: 4, H: 128}
    gone = ("layer_types", "compress_rates", "mlp_layer_types", "rope_parameters", "partial_rotary_factor")
    yarn = config["rope_parameters"]["compress"]
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    return {key: value for key, value in config.items() if key not in gone} | {
        "compress_ratios": [ratios[kind] for kind in config["layer_types"]] + [0],
        "num_hash_layers": config["mlp_layer_types"].count("hash_moe"),
        "rope_scaling": {"type": "yarn", **{key: yarn[key] for key in keys}},
    }


def test_the_released_spelling_of_the_config_means_the_same(tmp_path):
    theirs(compress_rates={C: 4, H: 128}).save_pretrained(tmp_path)
    expected = mds.checkpoint.read_config(tmp_path)
    config = released_fields(json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert mds.checkpoint.read_config(tmp_path) == expected
    kinds = [type(attention) for attention, _ in expected.layers]
    assert kinds == [SharedKV, CSA, HCA, CSA]
    assert isinstance(expected.layers[0][1].router, HashRouting)


@pytest.mark.parametrize("name", ["v4-flash", "v4-pro"])
def test_published_models_are_theirs_tensor_for_tensor(name, tmp_path):
    """On meta: every tensor of the released layout, of its shape, but for modules that look ahead, which they drop."""
    from minideepseek.formats import FORMATS

    cfg = replace(mds.generations[name], mtp=None)
    with torch.device("meta"):
        us = mds.Transformer(cfg)
        them = DeepseekV4ForCausalLM(DeepseekV4Config(**mds.checkpoint.write_config(cfg)))
    found = {}
    for key, tensor in them.state_dict().items():
        found |= {own: tuple(part.shape) for own, part in FORMATS["deepseek_v4"].released(key, tensor)}
    state = us.state_dict()
    ours = {}
    for entry in FORMATS["deepseek_v4"].tensors(cfg):
        tensor = state.pop(entry.ours)
        rows = entry.rows or (len(tensor),)
        width = tensor.shape[-1:] if tensor.ndim > 1 else ()
        ours |= {key: (n, *width) for key, n in zip(entry.theirs, rows, strict=True)}
    assert not state
    assert ours == {key: shape for key, shape in found.items() if "inv_freq" not in key}


def test_modules_that_look_ahead_lie_where_the_release_has_them(tmp_path):
    us = mds.Transformer(replace(mds.generations["v4-mini"], vocab_size=64), seed=0).eval()
    us.save(str(tmp_path))
    names = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("mtp.0.")}
    released = ("e_proj.weight", "h_proj.weight", "enorm.weight", "hnorm.weight", "norm.weight", "hc_head_fn")
    layer = ("attn.wq_a.weight", "attn.attn_sink", "hc_attn_fn", "ffn.gate.bias", "ffn.experts.15.w2.weight")
    assert {f"mtp.0.{name}" for name in (*released, *layer)} <= names
    assert not any("compressor" in name or "embed" in name for name in names)
    back = mds.load(tmp_path)
    assert back.cfg == us.cfg
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in us.state_dict().items())
    them, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        assert close(us(tokens()), them.eval()(tokens(), use_cache=False).logits)
    them.save_pretrained(tmp_path / "again")  # which keeps the field that announces the module, and drops it
    assert mds.load(tmp_path / "again").cfg.mtp is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layer_types": ["sliding_attention"]}, "kinds of 1 layers are given"),
        ({"layer_types": ["lottery"] * 4}, "'lottery' are not known"),
        ({"layer_types": None}, "compress_ratios"),
        ({"mlp_layer_types": ["dense"] * 4}, "mlp_layer_types must name 4 layers"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ({"n_shared_experts": 2}, "n_shared_experts"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"partial_rotary_factor": 0.5}, "contradict each other"),
        ({"index_topk": None}, "index_topk"),
        ({"swiglu_limit": 0.0}, "limit=0.0 must be positive"),
        ({"o_groups": 3}, "out_groups=3"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"num_experts_per_tok": 9}, "only 8 can be reached"),
    ],
)
def test_what_would_give_other_logits_is_refused_in_one_line(changes, says, tmp_path, capsys):
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "dtype", "says"),
    [("layers.0.ffn.gate.tid2eid", torch.float32, "whole numbers"), ("norm.weight", torch.int64, "floating-point")],
)
def test_a_tensor_of_the_wrong_kind_is_refused(name, dtype, says, tmp_path):
    mds.Transformer(replace(mds.generations["v4-mini"], vocab_size=64), seed=0).save(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, name: state[name].to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(mds.UserError, match=says):
        mds.load(tmp_path)


@pytest.mark.parametrize("expert", [-1, 16])
def test_a_table_that_names_an_expert_who_is_not_there_is_refused(expert, tmp_path):
    mds.Transformer(replace(mds.generations["v4-mini"], vocab_size=64), seed=0).save(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    state["layers.0.ffn.gate.tid2eid"][5, 1] = expert
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(mds.UserError, match="experts that are not there"):
        mds.load(tmp_path)


def test_a_table_of_narrower_numbers_is_a_table(tmp_path):
    us = mds.Transformer(replace(mds.generations["v4-mini"], vocab_size=64), seed=0)
    us.save(str(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    name = "layers.0.ffn.gate.tid2eid"
    save_file({**state, name: state[name].int()}, tmp_path / "model.safetensors")
    table = mds.load(tmp_path).blocks[0].ffn.router.table
    assert table.dtype == torch.int64
    assert torch.equal(table, us.blocks[0].ffn.router.table)
