"""DeepSeekMoE on disk, as released; transformers has no class for it, so one is put together from those it has."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DeepseekV2Config, LlamaConfig, LlamaForCausalLM
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

import minideepseek as mds
from minideepseek import UserError, checkpoint
from minideepseek.layers import GQA, MoE, RoPE, SwiGLU, TopK, YaRN
from minideepseek.model import ModelConfig, Transformer

E, K = 5, 2
RELEASED = {  # the fields of the released model's config.json, its numbers made small
    "architectures": ["DeepseekForCausalLM"],
    "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "model_type": "deepseek",
    "moe_intermediate_size": 12,
    "moe_layer_freq": 1,
    "n_routed_experts": E,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": K,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": 64,
}


@pytest.fixture
def theirs() -> nn.Module:
    """LLaMA of transformers, whose later layers have V2's mixture."""
    common = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
    }
    model = LlamaForCausalLM(LlamaConfig(**common))
    mixture = DeepseekV2Config(
        **common,
        n_routed_experts=E,
        n_shared_experts=2,
        num_experts_per_tok=K,
        moe_intermediate_size=12,
        topk_method="greedy",
        routed_scaling_factor=1.0,
    )
    for layer in model.model.layers[1:]:
        layer.mlp = DeepseekV2Moe(mixture)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model.eval()


def released_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each expert's matrices apart, as the release has them."""
    found = {}
    for name, tensor in state.items():
        prefix, _, kind = name.partition("experts.")
        if not kind.startswith(("gate_up_proj", "down_proj")) or "shared" in prefix:
            found[name] = tensor
            continue
        for e in range(E):
            parts = tensor[e].chunk(2) if kind == "gate_up_proj" else (tensor[e],)
            for part, matrix in zip(("gate", "up") if kind == "gate_up_proj" else ("down",), parts, strict=True):
                found[f"{prefix}experts.{e}.{part}_proj.weight"] = matrix.contiguous()
    return found


def write(folder: Path, model: nn.Module, **fields: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(RELEASED | fields))
    save_file(released_names(model.state_dict()), folder / "model.safetensors", {"format": "pt"})


def test_a_released_checkpoint_has_their_logits(theirs: nn.Module, tmp_path: Path) -> None:
    write(tmp_path, theirs)
    us = mds.load(tmp_path)
    ids = torch.randint(0, 64, (2, 21), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = theirs(ids).logits
        assert (us(ids) - right).abs().max() <= 1e-5 * right.abs().max()


def test_what_we_save_has_the_released_names_and_fields(theirs: nn.Module, tmp_path: Path) -> None:
    write(tmp_path / "theirs", theirs)
    us = mds.load(tmp_path / "theirs")
    us.save(tmp_path / "ours")
    mine, yours = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert mine.keys() == yours.keys()
    assert all(torch.equal(mine[name], yours[name]) for name in mine)
    fields = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {key: fields[key] for key in RELEASED.keys() - {"rope_scaling", "torch_dtype"}} == {
        key: value for key, value in RELEASED.items() if key not in ("rope_scaling", "torch_dtype")
    }
    assert "minideepseek" not in fields
    assert mds.load(tmp_path / "ours").cfg == us.cfg


def test_weights_are_normalised_where_the_release_says_so(theirs: nn.Module, tmp_path: Path) -> None:
    for single in (False, True):  # of one expert the released code takes the affinity, normalised or not
        write(tmp_path, theirs, norm_topk_prob=True, num_experts_per_tok=1 if single else K)
        mixture = mds.load(tmp_path).cfg.layers[-1][1]
        assert isinstance(mixture, MoE)
        assert mixture.router.normalise is not single


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "type is 'linear'"),
        ({"aux_loss_alpha": "some"}, "aux_loss_alpha is 'some', where float is expected"),
        ({"seq_aux": 1}, "seq_aux is 1, where bool is expected"),
        ({"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        ({"num_experts_per_tok": 9}, "only 5 can be reached"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
    ],
)
def test_what_would_be_another_model_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED | fields))
    with pytest.raises(UserError) as error:
        checkpoint.read_config(tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attention", "router", "says"),
    [
        (GQA(n_heads=4, n_kv_heads=2, head_dim=6), TopK(k=2), "together as wide as the model"),
        (GQA(n_heads=4, n_kv_heads=2, head_dim=8, rope=RoPE(layout="adjacent")), TopK(k=2), "half_split"),
        (
            GQA(n_heads=4, n_kv_heads=2, head_dim=8, rope=RoPE(yarn=YaRN(factor=4, original_len=64))),
            TopK(k=2),
            "without YaRN",
        ),
        (GQA(n_heads=4, n_kv_heads=2, head_dim=8), TopK(k=2, scale=2.0), "a plain softmax"),
        (GQA(n_heads=4, n_kv_heads=2, head_dim=8), TopK(k=2, affinity="sigmoid"), "a plain softmax"),
        (GQA(n_heads=4, n_kv_heads=2, head_dim=8), TopK(k=1, normalise=True), "a single expert"),
    ],
)
def test_what_it_cannot_say_is_refused(attention: GQA, router: TopK, says: str) -> None:
    mixture = MoE(n_experts=4, hidden=8, router=router)
    cfg = ModelConfig(d_model=32, n_layers=2, attention=attention, ffn=(SwiGLU(hidden=8), mixture), vocab_size=8)
    with pytest.raises(UserError, match="no checkpoint format can express this model") as error:
        checkpoint.write_config(cfg)
    assert f"deepseek: {says}" in str(error.value) or says in str(error.value).partition("deepseek_v2")[0]


def test_the_mini_is_saved_and_loaded(tmp_path: Path) -> None:
    model = Transformer(mds.generations["moe-mini"], seed=0).eval()
    model.save(tmp_path)
    ids = torch.randint(0, 64, (2, 9))
    assert torch.equal(mds.load(tmp_path)(ids), model(ids))
