"""V1 on disk: DeepSeek LLM was released as ``model_type: llama``, and so are its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.formats.attention import gqa_obstacle, gqa_tensors, read_gqa, write_gqa
from minideepseek.formats.deepseek import swiglu_tensors
from minideepseek.formats.entry import Entry, assemble, refuse_unless, require
from minideepseek.layers.gqa import GQA
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.model import ModelConfig

MODEL_TYPE = "llama"
IGNORED = ("rotary_emb.inv_freq",)  # a table that old versions of transformers stored


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    if cfg.mtp is not None:
        return "it predicts one token at a time"
    if not isinstance(cfg.attention, GQA) or not isinstance(cfg.ffn, SwiGLU):
        return "its layers are all GQA with SwiGLU"
    return gqa_obstacle(cfg.attention, cfg.d_model)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V1 does not have
            (biases, scaled rotary embeddings, another activation, quantised weights).
    """
    for key, allowed in (("hidden_act", "silu"), ("mlp_bias", False), ("quantization_config", None)):
        refuse_unless(config, key, allowed)
    return assemble(
        config, lambda: {"attention": read_gqa(config), "ffn": SwiGLU(hidden=require(config, "intermediate_size"))}
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    assert isinstance(cfg.attention, GQA)
    assert isinstance(cfg.ffn, SwiGLU)
    fields: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        **write_gqa(cfg.attention),
        "intermediate_size": cfg.ffn.hidden,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.max_seq_len,
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": "silu",
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    if cfg.init_std is not None:  # a width-scaled start has no name in this format
        fields["initializer_range"] = cfg.init_std
    return fields


def tensors(cfg: ModelConfig) -> list[Entry]:
    """Our tensors and theirs."""
    attention, ffn = cfg.attention, cfg.ffn
    assert isinstance(attention, GQA)
    assert isinstance(ffn, SwiGLU)
    entries = [Entry("embed.weight", ("model.embed_tokens.weight",))]
    for i in range(cfg.n_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        entries += [
            Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)),
            *gqa_tensors(attention, f"{ours}.attention", f"{theirs}.self_attn"),
            Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
            *swiglu_tensors(ffn.hidden, f"{ours}.ffn", f"{theirs}.mlp"),
        ]
    return [*entries, Entry("norm.weight", ("model.norm.weight",)), Entry("head.weight", ("lm_head.weight",))]
