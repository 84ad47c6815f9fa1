"""V1 on disk: DeepSeek LLM was released as ``model_type: llama``, and so are its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats.entry import Entry, refuse_unless, require
from minideepseek.layers.gqa import GQA
from minideepseek.layers.rope import RoPE
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.model import ModelConfig

MODEL_TYPE = "llama"


def fits(cfg: ModelConfig) -> bool:
    """Whether the format can say everything about this config."""
    attention = cfg.attention
    return (
        isinstance(attention, GQA)
        and isinstance(cfg.ffn, SwiGLU)
        and attention.rope.layout == "half_split"
        and attention.rope.rotated(attention.head_dim) == attention.head_dim
    )


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing or contradicts another, or asks for what V1 does not have (biases, scaled
            rotary embeddings, another activation).
    """
    refuse_unless(config, "hidden_act", "silu", "silu")
    refuse_unless(config, "attention_bias", False, False)
    refuse_unless(config, "mlp_bias", False, False)
    # transformers 5 gathers everything rotary in `rope_parameters`; 4 had `rope_theta` and `rope_scaling`.
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"config.json asks for rotary embeddings of type {kind!r}; only 'default' is supported")
    refuse_unless(rope, "partial_rotary_factor", 1.0, 1.0)
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    d_model, n_heads = require(config, "hidden_size"), require(config, "num_attention_heads")
    n_kv_heads = n_heads if config.get("num_key_value_heads") is None else require(config, "num_key_value_heads")
    if config.get("head_dim") is not None:
        head_dim = require(config, "head_dim")
    elif n_heads < 1 or d_model % n_heads:
        raise UserError(
            f"config.json has hidden_size={d_model} and num_attention_heads={n_heads}: not divisible, and no head_dim"
        )
    else:
        head_dim = d_model // n_heads
    try:
        return ModelConfig(
            d_model=d_model,
            n_layers=require(config, "num_hidden_layers"),
            attention=GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=RoPE(theta=float(theta))),
            ffn=SwiGLU(hidden=require(config, "intermediate_size")),
            vocab_size=require(config, "vocab_size"),
            max_seq_len=require(config, "max_position_embeddings"),
            norm_eps=require(config, "rms_norm_eps", float),
            init_std=require(config, "initializer_range", float) if "initializer_range" in config else None,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"config.json contradicts itself: {error}") from None


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json. ``fits(cfg)`` must hold."""
    attention, ffn = cfg.attention, cfg.ffn
    assert isinstance(attention, GQA)
    assert isinstance(ffn, SwiGLU)
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        "intermediate_size": ffn.hidden,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.max_seq_len,
        "rms_norm_eps": cfg.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rope.theta},
        "rope_theta": attention.rope.theta,  # where transformers 4, vLLM and llama.cpp look for it
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    if cfg.init_std is not None:  # a width-scaled start has no name in this format
        fields["initializer_range"] = cfg.init_std
    return fields


def tensors(cfg: ModelConfig) -> list[Entry]:
    """Our tensors and theirs. We keep q, k, v as one matrix and gate, up as one; they keep them apart."""
    attention, ffn = cfg.attention, cfg.ffn
    assert isinstance(attention, GQA)
    assert isinstance(ffn, SwiGLU)
    q, kv = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
    entries = [Entry("embed.weight", ("model.embed_tokens.weight",))]
    for i in range(cfg.n_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        heads = tuple(f"{theirs}.self_attn.{name}_proj.weight" for name in "qkv")
        gate_up = tuple(f"{theirs}.mlp.{name}_proj.weight" for name in ("gate", "up"))
        entries += [
            Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)),
            Entry(f"{ours}.attention.qkv.weight", heads, (q, kv, kv)),
            Entry(f"{ours}.attention.out.weight", (f"{theirs}.self_attn.o_proj.weight",)),
            Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
            Entry(f"{ours}.ffn.gate_up.weight", gate_up, (ffn.hidden, ffn.hidden)),
            Entry(f"{ours}.ffn.down.weight", (f"{theirs}.mlp.down_proj.weight",)),
        ]
    return [*entries, Entry("norm.weight", ("model.norm.weight",)), Entry("head.weight", ("lm_head.weight",))]
