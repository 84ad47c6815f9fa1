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
IGNORED = ("rotary_emb.inv_freq",)  # a table that old versions of transformers stored


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    attention = cfg.attention
    if cfg.mtp is not None:
        return "it predicts one token at a time"
    if not isinstance(attention, GQA) or not isinstance(cfg.ffn, SwiGLU):
        return "its layers are all GQA with SwiGLU"
    if attention.rope.layout != "half_split" or attention.rope.rotated(attention.head_dim) != attention.head_dim:
        return "its RoPE turns all channels, in half_split layout"
    if cfg.d_model % attention.n_heads:  # even where head_dim is given, transformers asks for this
        return f"its d_model is a multiple of n_heads, and {cfg.d_model} is not one of {attention.n_heads}"
    return None


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V1 does not have
            (biases, scaled rotary embeddings, another activation, quantised weights).
    """
    for key, allowed in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        refuse_unless(config, key, allowed)
    refuse_unless(config, "quantization_config", None)
    d_model, n_heads = require(config, "hidden_size"), require(config, "num_attention_heads")
    n_kv_heads = n_heads if config.get("num_key_value_heads") is None else require(config, "num_key_value_heads")
    if config.get("head_dim") is not None:
        head_dim = require(config, "head_dim")
    elif n_heads < 1 or d_model % n_heads:
        raise UserError(
            f"hidden_size={d_model} is not divisible by num_attention_heads={n_heads}, and there is no head_dim"
        )
    else:
        head_dim = d_model // n_heads
    fields = {
        "d_model": d_model,
        "n_layers": require(config, "num_hidden_layers"),
        "vocab_size": require(config, "vocab_size"),
        "max_seq_len": require(config, "max_position_embeddings"),
        "norm_eps": require(config, "rms_norm_eps", float),
        "init_std": require(config, "initializer_range", float) if "initializer_range" in config else None,
    }
    hidden = require(config, "intermediate_size")
    theta = _theta(config)
    try:
        attention = GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=RoPE(theta=theta))
        return ModelConfig(**fields, attention=attention, ffn=SwiGLU(hidden=hidden))
    except ValueError as error:
        raise UserError(f"the fields do not make a model: {error}") from None


def _theta(config: Mapping[str, Any]) -> float:
    """The base of plain RoPE. transformers 5 gathers everything rotary; 4 had ``rope_theta`` and ``rope_scaling``."""
    found = {"rope_theta": require(config, "rope_theta", float)} if config.get("rope_theta") is not None else {}
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        if not isinstance(rope, Mapping):
            raise UserError(f"{key} is {rope!r}, where an object is expected")
        for name in ("rope_type", "type"):
            refuse_unless(rope, name, "default")
        refuse_unless(rope, "partial_rotary_factor", 1.0)
        if rope.get("rope_theta") is not None:
            found[f"{key}.rope_theta"] = require(rope, "rope_theta", float)
    refuse_unless(config, "partial_rotary_factor", 1.0)
    if len(set(found.values())) > 1:
        raise UserError(f"{' and '.join(f'{key}={value:g}' for key, value in found.items())} contradict each other")
    return next(iter(found.values()), 10_000.0)


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
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
