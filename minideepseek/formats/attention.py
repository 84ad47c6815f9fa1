"""Attention on disk: GQA as LLaMA writes it, MLA and DSA as DeepSeek does, and the rotary embedding of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats.entry import Entry, refuse_unless, require
from minideepseek.layers.dsa import DSA
from minideepseek.layers.gqa import GQA
from minideepseek.layers.indexer import Indexer
from minideepseek.layers.mla import MLA
from minideepseek.layers.rope import Layout, RoPE
from minideepseek.layers.yarn import YaRN

Attention = GQA | MLA | DSA


def write_attention(attention: Attention) -> dict[str, Any]:
    """The fields of attention of any kind."""
    if isinstance(attention, GQA):
        return write_gqa(attention)
    return write_mla(attention) if isinstance(attention, MLA) else write_dsa(attention)


def attention_tensors(attention: Attention, ours: str, theirs: str) -> list[Entry]:
    """The tensors of attention of any kind."""
    if isinstance(attention, GQA):
        return gqa_tensors(attention, ours, theirs)
    return mla_tensors(attention, ours, theirs) if isinstance(attention, MLA) else dsa_tensors(attention, ours, theirs)


def gqa_obstacle(attention: GQA, d_model: int) -> str | None:
    """Why LLaMA's fields cannot say everything about it, or None."""
    rope = attention.rope
    if rope.layout != "half_split" or rope.yarn is not None or rope.rotated(attention.head_dim) != attention.head_dim:
        return "its RoPE turns all channels, in half_split layout, without YaRN"
    if d_model % attention.n_heads:  # even where head_dim is given, transformers asks for this
        return f"its d_model is a multiple of n_heads, and {d_model} is not one of {attention.n_heads}"
    return None


def read_gqa(config: Mapping[str, Any]) -> GQA:
    """Heads and plain RoPE; without ``head_dim`` the heads share the model's width."""
    refuse_unless(config, "attention_bias", False)
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
    rope = _rope_fields(config)
    for name in ("rope_type", "type"):
        refuse_unless(rope, name, "default")
    return GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, rope=RoPE(theta=rope["rope_theta"]))


def write_gqa(attention: GQA) -> dict[str, Any]:
    """The fields that ``read_gqa`` reads."""
    return {
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        **_write_rope(attention.rope),
        "attention_bias": False,
    }


def gqa_tensors(attention: GQA, ours: str, theirs: str) -> list[Entry]:
    """We keep q, k, v as one matrix; they keep them apart."""
    heads = tuple(f"{theirs}.{name}_proj.weight" for name in "qkv")
    q, kv = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
    return [
        Entry(f"{ours}.qkv.weight", heads, (q, kv, kv)),
        Entry(f"{ours}.out.weight", (f"{theirs}.o_proj.weight",)),
    ]


def mla_obstacle(attention: MLA) -> str | None:
    """Why DeepSeek's fields cannot say everything about it, or None."""
    yarn = attention.rope.yarn
    if yarn is not None and (yarn.mscale != 1.0 if yarn.mscale_all_dim == 0.0 else yarn.mscale == 0.0):
        return "the temperature of its YaRN is given by mscale and mscale_all_dim, neither 0, or is 1 and 0"
    return None


def read_mla(config: Mapping[str, Any]) -> MLA:
    """Latents, heads, plain RoPE or YaRN."""
    refuse_unless(config, "attention_bias", False)
    return MLA(
        n_heads=require(config, "num_attention_heads"),
        d_latent=require(config, "kv_lora_rank"),
        d_rope=require(config, "qk_rope_head_dim"),
        d_nope=require(config, "qk_nope_head_dim"),
        d_value=require(config, "v_head_dim"),
        d_query_latent=None if config.get("q_lora_rank") is None else require(config, "q_lora_rank"),
        rope=_read_yarn(config),
    )


def write_mla(attention: MLA) -> dict[str, Any]:
    """The fields that ``read_mla`` reads."""
    return {
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_heads,
        "kv_lora_rank": attention.d_latent,
        "q_lora_rank": attention.d_query_latent,
        "qk_rope_head_dim": attention.d_rope,
        "qk_nope_head_dim": attention.d_nope,
        "v_head_dim": attention.d_value,
        **_write_rope(attention.rope),
        "attention_bias": False,
    }


def mla_tensors(attention: MLA, ours: str, theirs: str) -> list[Entry]:
    """What reads the same input is one matrix of ours."""
    queries = attention.n_heads * attention.d_query
    latent = attention.d_latent + attention.d_rope
    if attention.d_query_latent is None:
        names = (f"{theirs}.q_proj.weight", f"{theirs}.kv_a_proj_with_mqa.weight")
        entries = [Entry(f"{ours}.down.weight", names, (queries, latent))]
    else:
        names = (f"{theirs}.q_a_proj.weight", f"{theirs}.kv_a_proj_with_mqa.weight")
        entries = [
            Entry(f"{ours}.down.weight", names, (attention.d_query_latent, latent)),
            Entry(f"{ours}.query_norm.weight", (f"{theirs}.q_a_layernorm.weight",)),
            Entry(f"{ours}.query_up.weight", (f"{theirs}.q_b_proj.weight",)),
        ]
    return [
        *entries,
        Entry(f"{ours}.latent_norm.weight", (f"{theirs}.kv_a_layernorm.weight",)),
        Entry(f"{ours}.latent_up.weight", (f"{theirs}.kv_b_proj.weight",)),
        Entry(f"{ours}.out.weight", (f"{theirs}.o_proj.weight",)),
    ]


def read_dsa(config: Mapping[str, Any]) -> DSA:
    """MLA, and its indexer."""
    indexer = Indexer(
        n_heads=require(config, "index_n_heads"),
        head_dim=require(config, "index_head_dim"),
        top_k=require(config, "index_topk"),
    )
    require(config, "q_lora_rank")  # which MLA could do without
    return DSA(mla=read_mla(config), indexer=indexer)


def write_dsa(attention: DSA) -> dict[str, Any]:
    """The fields that ``read_dsa`` reads; they have no word for the stage."""
    indexer = attention.indexer
    return {
        **write_mla(attention.mla),
        "index_n_heads": indexer.n_heads,
        "index_head_dim": indexer.head_dim,
        "index_topk": indexer.top_k,
    }


def dsa_tensors(attention: DSA, ours: str, theirs: str) -> list[Entry]:
    """MLA's, and the indexer's one by one."""
    names = {
        "query_up.weight": "wq_b.weight",
        "key.weight": "wk.weight",
        "key_norm.weight": "k_norm.weight",
        "key_norm.bias": "k_norm.bias",
        "weigh.weight": "weights_proj.weight",
    }
    return [
        *mla_tensors(attention.mla, f"{ours}.mla", theirs),
        *(Entry(f"{ours}.indexer.{mine}", (f"{theirs}.indexer.{yours}",)) for mine, yours in names.items()),
    ]


def _rope_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything rotary, with its base. transformers 5 gathers it; 4 had ``rope_theta`` and ``rope_scaling``."""
    theta = {"rope_theta": require(config, "rope_theta", float)} if config.get("rope_theta") is not None else {}
    found: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key) or {}
        if not isinstance(rope, Mapping):
            raise UserError(f"{key} is {rope!r}, where an object is expected")
        if rope.get("rope_theta") is not None:
            theta[f"{key}.rope_theta"] = require(rope, "rope_theta", float)
        found |= rope
    for fields in (config, found):
        refuse_unless(fields, "partial_rotary_factor", 1.0)
    if len(set(theta.values())) > 1:
        raise UserError(f"{' and '.join(f'{key}={value:g}' for key, value in theta.items())} contradict each other")
    return found | {"rope_theta": next(iter(theta.values()), 10_000.0)}


def _read_yarn(config: Mapping[str, Any]) -> RoPE:
    rope = _rope_fields(config)
    layout: Layout = "half_split" if config.get("rope_interleave") is False else "adjacent"
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return RoPE(theta=rope["rope_theta"], layout=layout)
    if kind != "yarn":
        raise UserError(f"rotary embeddings of type {kind!r} are not supported; 'default' and 'yarn' are")

    def number(key: str, default: float) -> float:
        return require(rope, key, float) if rope.get(key) else default

    refuse_unless(rope, "attention_factor", None)
    refuse_unless(rope, "truncate", True)
    # mscale_all_dim absent or 0 means: no temperature in the softmax, all of it in cos and sin.
    all_dim = number("mscale_all_dim", 0.0)
    yarn = YaRN(
        factor=require(rope, "factor", float),
        original_len=require(rope, "original_max_position_embeddings"),
        beta_fast=number("beta_fast", 32.0),
        beta_slow=number("beta_slow", 1.0),
        mscale=number("mscale", 1.0) if all_dim else 1.0,
        mscale_all_dim=all_dim,
    )
    return RoPE(theta=rope["rope_theta"], layout=layout, yarn=yarn)


def _write_rope(rope: RoPE) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.yarn is not None:
        fields |= {
            "rope_type": "yarn",
            "factor": rope.yarn.factor,
            "original_max_position_embeddings": rope.yarn.original_len,
            "beta_fast": rope.yarn.beta_fast,
            "beta_slow": rope.yarn.beta_slow,
            "mscale": rope.yarn.mscale,
            "mscale_all_dim": rope.yarn.mscale_all_dim,
        }
    return {"rope_parameters": fields, "rope_theta": rope.theta}  # where transformers 5, and where all others look
