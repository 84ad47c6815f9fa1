"""V2, V3, V3.2 against transformers: the same weights give the same logits and gradients, both ways, with buffers."""

import json
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
)

import minideepseek as mds
from minideepseek.cli import main

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "attn_implementation": "eager",
}
V2 = {"n_shared_experts": 2, "num_experts_per_tok": 3, "topk_method": "greedy", "routed_scaling_factor": 1.0}
V3 = {
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
# With few heads many scores are exactly 0, and whom they then choose is their topk's accident.
V32 = {**V3, "index_n_heads": 32, "index_head_dim": 8, "index_topk": 5}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
}
CASES = {
    "v2": (2, {}),
    "v2 without query latent": (2, {"q_lora_rank": None}),
    "v2 in groups": (
        2,
        {
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 16.0,
        },
    ),
    "v2 with yarn": (2, {"rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}}),
    "v2 dense": (2, {"first_k_dense_replace": 3}),
    "v3": (3, {}),
    "v3 without query latent": (3, {"q_lora_rank": None}),
    "v3 with yarn": (3, {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "v3 with yarn and no temperature": (3, {"rope_parameters": YARN}),
    "v3 uneven": (3, {"n_shared_experts": 2, "norm_topk_prob": False, "v_head_dim": 6, "qk_nope_head_dim": 10}),
    "v3 ungrouped": (3, {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 5}),
    "v3 without dense layers": (3, {"first_k_dense_replace": 0}),
    "v3.2": (32, {}),
    "v3.2 reading one token": (32, {"index_topk": 1}),
    "v3.2 reading all": (32, {"index_topk": 64}),
    "v3.2 with yarn": (32, {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}}),
    "v3.2 with yarn and no temperature": (32, {"rope_parameters": YARN}),
    "v3.2 turning all of the index": (32, {"index_head_dim": 4, "index_n_heads": 24, "index_topk": 9}),
    "v3.2 uneven": (32, {"n_shared_experts": 2, "norm_topk_prob": False, "v_head_dim": 6, "qk_nope_head_dim": 10}),
    "v3.2 dense": (32, {"first_k_dense_replace": 3}),
}


def theirs(generation: int, fields: dict[str, Any]) -> torch.nn.Module:
    config, kind, base = {
        2: (DeepseekV2Config, DeepseekV2ForCausalLM, V2),
        3: (DeepseekV3Config, DeepseekV3ForCausalLM, V3),
        32: (DeepseekV32Config, DeepseekV32ForCausalLM, V32),
    }[generation]
    model = kind(config(**{**SMALL, **base, **fields})).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(0.2 * noise)
            elif "inv_freq" not in name:
                tensor.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model


def tokens(length: int = 21) -> torch.Tensor:
    return torch.randint(2, 64, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_theirs(case, tmp_path):
    them = theirs(*CASES[case])
    them.save_pretrained(tmp_path / "theirs")
    us = mds.load(tmp_path / "theirs")
    ids = tokens()
    right = them(ids).logits
    assert (us(ids) - right).abs().max() <= 1e-5 * right.abs().max()
    torch.nn.functional.cross_entropy(right[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    us.loss(ids).total.backward()  # in eval mode: no balance losses, which they do not have
    grads = {name: parameter.grad for name, parameter in us.named_parameters() if parameter.grad is not None}
    us.load_state_dict({**us.state_dict(), **grads})
    us.save(tmp_path / "gradients")  # our gradients, under their names
    named = AutoModelForCausalLM.from_pretrained(tmp_path / "gradients").state_dict()
    for name, parameter in them.named_parameters():
        if ".indexer." in name:  # a choice has no gradient, and they do not train it otherwise
            assert parameter.grad is None
            continue
        difference = (named[name] - parameter.grad).abs().max()
        assert difference <= 1e-5 * max(parameter.grad.abs().max(), 1e-3), name


@pytest.mark.parametrize("case", CASES)
def test_what_we_save_they_load(case, tmp_path):
    theirs(*CASES[case]).save_pretrained(tmp_path / "theirs")
    us = mds.load(tmp_path / "theirs")
    mds.checkpoint.save(us, tmp_path / "ours", max_shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    ids = tokens()
    with torch.no_grad():
        back = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")(ids).logits
        mine = us(ids)
    assert (back - mine).abs().max() <= 1e-5 * mine.abs().max()
    assert mds.load(tmp_path / "ours").cfg == us.cfg


@pytest.mark.parametrize("case", ["v2", "v3 with yarn", "v3.2"])
def test_greedy_continuations_are_theirs(case, tmp_path):
    them = theirs(*CASES[case])
    them.save_pretrained(tmp_path)
    expected = them.generate(tokens(9), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(mds.generate(mds.load(tmp_path), tokens(9), max_new_tokens=12, temperature=0.0), expected)


@pytest.mark.parametrize(
    ("generation", "changes", "says"),
    [
        (2, {"topk_method": "lottery"}, "lottery"),
        (2, {"scoring_func": "sigmoid"}, "scoring_func"),
        (2, {"kv_lora_rank": None}, "kv_lora_rank"),
        (2, {"attention_bias": True}, "attention_bias"),
        (3, {"num_experts_per_tok": 7}, "only 4"),
        (3, {"n_group": 3}, "equal groups"),
        (3, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "llama3"),
        (3, {"norm_topk_prob": "yes"}, "norm_topk_prob"),
        (32, {"index_topk": None}, "index_topk"),
        (32, {"index_head_dim": 2}, "no room for"),
        (32, {"q_lora_rank": None}, "q_lora_rank"),
    ],
)
def test_what_would_give_other_logits_is_refused_in_one_line(generation, changes, says, tmp_path, capsys):
    theirs(generation, {}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
