"""What ``deepseek_v2`` and ``deepseek_v3`` have in common on disk: MLA, a mixture after the first dense layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats.entry import Entry, refuse_unless, require
from minideepseek.layers.mla import MLA
from minideepseek.layers.moe import MoE
from minideepseek.layers.rope import Layout, RoPE
from minideepseek.layers.router import TopK
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.layers.yarn import YaRN
from minideepseek.model import ModelConfig

IGNORED = ("rotary_emb.inv_freq",)  # a table that old versions of transformers stored


def parts(cfg: ModelConfig) -> tuple[MLA, int, SwiGLU | None, MoE | None] | None:
    """The attention, the number of dense layers in front, their SwiGLU and the mixture; None if it is another shape."""
    attentions = {attention for attention, _ in cfg.layers}
    ffns = [ffn for _, ffn in cfg.layers]
    dense = next((i for i, ffn in enumerate(ffns) if not isinstance(ffn, SwiGLU)), len(ffns))
    attention = next(iter(attentions))
    if len(attentions) > 1 or not isinstance(attention, MLA) or len({*ffns[:dense]}) > 1 or len({*ffns[dense:]}) > 1:
        return None
    first, rest = (ffns[0] if dense else None), (ffns[dense] if dense < len(ffns) else None)
    if not isinstance(first, SwiGLU | None) or not isinstance(rest, MoE | None):
        return None
    return attention, dense, first, rest


def read_attention(config: Mapping[str, Any]) -> MLA:
    """The fields of MLA and of its rotary part."""
    refuse_unless(config, "attention_bias", False)
    return MLA(
        n_heads=require(config, "num_attention_heads"),
        d_latent=require(config, "kv_lora_rank"),
        d_rope=require(config, "qk_rope_head_dim"),
        d_nope=require(config, "qk_nope_head_dim"),
        d_value=require(config, "v_head_dim"),
        d_query_latent=None if config.get("q_lora_rank") is None else require(config, "q_lora_rank"),
        rope=read_rope(config),
    )


def read_rope(config: Mapping[str, Any]) -> RoPE:
    """``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (4): plain or YaRN."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = require(rope if rope.get("rope_theta") is not None else config, "rope_theta", float)
    layout: Layout = "half_split" if config.get("rope_interleave") is False else "adjacent"
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return RoPE(theta=theta, layout=layout)
    if kind != "yarn":
        raise UserError(f"rotary embeddings of type {kind!r} are not supported; 'default' and 'yarn' are")
    # mscale_all_dim absent or 0 means: no temperature in the softmax, all of it in cos and sin.
    all_dim = float(rope.get("mscale_all_dim") or 0.0)
    return RoPE(
        theta=theta,
        layout=layout,
        yarn=YaRN(
            factor=require(rope, "factor", float),
            original_len=require(rope, "original_max_position_embeddings"),
            beta_fast=float(rope.get("beta_fast") or 32),
            beta_slow=float(rope.get("beta_slow") or 1),
            mscale=float(rope.get("mscale") or 1.0) if all_dim else 1.0,
            mscale_all_dim=all_dim,
        ),
    )


def read_model(config: Mapping[str, Any], router: Callable[[], TopK]) -> ModelConfig:
    """All fields but those of the router, which the two generations read differently."""
    refuse_unless(config, "hidden_act", "silu")
    refuse_unless(config, "moe_layer_freq", 1)
    n_layers = require(config, "num_hidden_layers")
    dense = min(require(config, "first_k_dense_replace"), n_layers)
    ffn: tuple[SwiGLU | MoE, ...] = ()
    if dense > 0:
        ffn = (SwiGLU(hidden=require(config, "intermediate_size")),) * dense
    if dense < n_layers:
        mixture = MoE(
            n_experts=require(config, "n_routed_experts"),
            hidden=require(config, "moe_intermediate_size"),
            n_shared=0 if config.get("n_shared_experts") is None else require(config, "n_shared_experts"),
            router=router(),
        )
        ffn += (mixture,) * (n_layers - dense)
    return ModelConfig(
        d_model=require(config, "hidden_size"),
        n_layers=n_layers,
        attention=read_attention(config),
        ffn=ffn,
        vocab_size=require(config, "vocab_size"),
        max_seq_len=require(config, "max_position_embeddings"),
        norm_eps=require(config, "rms_norm_eps", float),
        init_std=require(config, "initializer_range", float) if "initializer_range" in config else None,
    )


def write_model(cfg: ModelConfig) -> dict[str, Any]:
    """All fields but those of the router."""
    found = parts(cfg)
    assert found is not None
    attention, dense, first, mixture = found
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": attention.rope.theta}
    yarn = attention.rope.yarn
    if yarn is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_len,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "mscale": yarn.mscale,
            "mscale_all_dim": yarn.mscale_all_dim,
        }
    fields: dict[str, Any] = {
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_heads,
        "kv_lora_rank": attention.d_latent,
        "q_lora_rank": attention.d_query_latent,
        "qk_rope_head_dim": attention.d_rope,
        "qk_nope_head_dim": attention.d_nope,
        "v_head_dim": attention.d_value,
        "first_k_dense_replace": dense,
        "moe_layer_freq": 1,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.max_seq_len,
        "rms_norm_eps": cfg.norm_eps,
        "rope_parameters": rope,
        "rope_theta": attention.rope.theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
    }
    if first is not None:
        fields["intermediate_size"] = first.hidden
    if mixture is not None:
        fields |= {
            "moe_intermediate_size": mixture.hidden,
            "n_routed_experts": mixture.n_experts,
            "n_shared_experts": mixture.n_shared,
            "num_experts_per_tok": mixture.router.k,
            "routed_scaling_factor": mixture.router.scale,
        }
    if cfg.init_std is not None:
        fields["initializer_range"] = cfg.init_std
    return fields


def tensors(cfg: ModelConfig) -> list[Entry]:
    """Our tensors and theirs; the experts of a layer are one tensor of ours and three for each expert of theirs."""
    found = parts(cfg)
    assert found is not None
    attention, dense, first, mixture = found
    entries = [Entry("embed.weight", ("model.embed_tokens.weight",))]
    for i in range(cfg.n_layers):
        ffn = first if i < dense else mixture
        entries += _block(attention, ffn, f"blocks.{i}", f"model.layers.{i}", cfg.d_model)
    for k in range(cfg.mtp.depth if cfg.mtp else 0):  # released as layers beyond the last
        ours, theirs = f"mtp.{k}", f"model.layers.{cfg.n_layers + k}"
        entries += [
            Entry("embed.weight", (f"{theirs}.embed_tokens.weight",), copy=True),
            Entry(f"{ours}.embed_norm.weight", (f"{theirs}.enorm.weight",)),
            Entry(f"{ours}.hidden_norm.weight", (f"{theirs}.hnorm.weight",)),
            Entry(f"{ours}.join.weight", (f"{theirs}.eh_proj.weight",)),
            *_block(attention, mixture or first, f"{ours}.block", theirs, cfg.d_model),
            Entry(f"{ours}.norm.weight", (f"{theirs}.shared_head.norm.weight",)),
            Entry("head.weight", (f"{theirs}.shared_head.head.weight",), copy=True),
        ]
    return [*entries, Entry("norm.weight", ("model.norm.weight",)), Entry("head.weight", ("lm_head.weight",))]


def _block(attention: MLA, ffn: SwiGLU | MoE | None, ours: str, theirs: str, d_model: int) -> list[Entry]:
    assert ffn is not None
    if isinstance(ffn, MoE):
        layer = _mixture(ffn, f"{ours}.ffn", f"{theirs}.mlp", d_model)
    else:
        layer = _swiglu(ffn.hidden, f"{ours}.ffn", f"{theirs}.mlp")
    return [
        Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)),
        *_attention(attention, f"{ours}.attention", f"{theirs}.self_attn"),
        Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
        *layer,
    ]


def _attention(attention: MLA, ours: str, theirs: str) -> list[Entry]:
    queries = attention.n_heads * attention.d_query
    latent = attention.d_latent + attention.d_rope
    if attention.d_query_latent is None:
        down = Entry(
            f"{ours}.down.weight", (f"{theirs}.q_proj.weight", f"{theirs}.kv_a_proj_with_mqa.weight"), (queries, latent)
        )
        query = []
    else:
        names = (f"{theirs}.q_a_proj.weight", f"{theirs}.kv_a_proj_with_mqa.weight")
        down = Entry(f"{ours}.down.weight", names, (attention.d_query_latent, latent))
        query = [
            Entry(f"{ours}.query_norm.weight", (f"{theirs}.q_a_layernorm.weight",)),
            Entry(f"{ours}.query_up.weight", (f"{theirs}.q_b_proj.weight",)),
        ]
    return [
        down,
        *query,
        Entry(f"{ours}.latent_norm.weight", (f"{theirs}.kv_a_layernorm.weight",)),
        Entry(f"{ours}.latent_up.weight", (f"{theirs}.kv_b_proj.weight",)),
        Entry(f"{ours}.out.weight", (f"{theirs}.o_proj.weight",)),
    ]


def _swiglu(hidden: int, ours: str, theirs: str) -> list[Entry]:
    gate_up = tuple(f"{theirs}.{name}_proj.weight" for name in ("gate", "up"))
    return [
        Entry(f"{ours}.gate_up.weight", gate_up, (hidden, hidden)),
        Entry(f"{ours}.down.weight", (f"{theirs}.down_proj.weight",)),
    ]


def _mixture(mixture: MoE, ours: str, theirs: str, d_model: int) -> list[Entry]:
    experts = [f"{theirs}.experts.{e}" for e in range(mixture.n_experts)]
    gate_up = tuple(f"{expert}.{name}_proj.weight" for expert in experts for name in ("gate", "up"))
    down = tuple(f"{expert}.down_proj.weight" for expert in experts)
    entries = [
        Entry(f"{ours}.router.weight", (f"{theirs}.gate.weight",)),
        Entry(f"{ours}.gate_up", gate_up, (mixture.hidden,) * len(gate_up)),
        Entry(f"{ours}.down", down, (d_model,) * len(down)),
    ]
    if mixture.router.bias:
        entries.append(Entry(f"{ours}.router.bias", (f"{theirs}.gate.e_score_correction_bias",)))
    if mixture.n_shared:
        entries += _swiglu(mixture.n_shared * mixture.hidden, f"{ours}.shared", f"{theirs}.shared_experts")
    return entries
