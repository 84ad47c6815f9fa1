"""V4 on disk: ``model_type: deepseek_v4``.

Tensors have the names of the released files (``layers.0.attn.wq_a.weight``, the module that looks ahead under
``mtp.0``), which transformers reads, too. It writes a mixture of these and of its own, so both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.formats import compressed, fp8
from minideepseek.formats.entry import Entry, assemble, refuse_unless, require
from minideepseek.layers.hashed import HashRouting
from minideepseek.layers.hyper import Birkhoff, HyperConnections
from minideepseek.layers.moe import MoE
from minideepseek.layers.mtp import MTP
from minideepseek.layers.router import Affinity, TopK
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek_v4"
IGNORED = ("inv_freq",)  # rotary tables
AFFINITIES: dict[str, Affinity] = {"sqrtsoftplus": "sqrt-softplus", "sigmoid": "sigmoid"}
BY_ID, BY_AFFINITY = "hash_moe", "moe"

# transformers' own names -> the released ones; the first pattern that fits a part of a name is replaced, in turn.
RENAMED = tuple(
    (re.compile(pattern), released)
    for pattern, released in (
        (r"^model\.", ""),
        (r"^embed_tokens\.", "embed."),
        (r"^lm_head\.", "head."),
        (r"^hc_head\.hc_", "hc_head_"),
        (r"\.self_attn\.", ".attn."),
        (r"\.mlp\.", ".ffn."),
        (r"\.input_layernorm\.", ".attn_norm."),
        (r"\.post_attention_layernorm\.", ".ffn_norm."),
        (r"\.(attn|ffn)_hc\.", r".hc_\1_"),
        (r"\.sinks$", ".attn_sink"),
        (r"\.compressor\.indexer\.(scorer\.)?weights_proj\.", ".indexer.weights_proj."),
        (r"\.compressor\.indexer\.q_b_proj\.", ".indexer.wq_b."),
        (r"\.compressor\.indexer\.", ".indexer.compressor."),
        (r"\.compressor\.kv_norm\.", ".compressor.norm."),
        (r"\.attn\.norm\.", ".attn.kv_norm."),  # as transformers 5.23 writes it
        (r"\.position_bias$", ".ape"),
        (r"\.q_a_norm\.", ".q_norm."),
        (r"\.q_a_proj\.", ".wq_a."),
        (r"\.q_b_proj\.", ".wq_b."),
        (r"\.kv_proj\.", ".wkv."),
        (r"\.(attn|compressor)\.gate_proj\.", r".\1.wgate."),
        (r"\.o_a_proj\.", ".wo_a."),
        (r"\.o_b_proj\.", ".wo_b."),
        (r"\.gate\.e_score_correction_bias$", ".gate.bias"),
        (r"\.shared_experts\.gate_proj\.", ".shared_experts.w1."),
        (r"\.shared_experts\.down_proj\.", ".shared_experts.w2."),
        (r"\.shared_experts\.up_proj\.", ".shared_experts.w3."),
        (r"\.scale$", f".weight{fp8.SCALE}"),  # of numbers in few bits, here under the name that V3 gave them
    )
)


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = compressed.parts(cfg)
    if isinstance(found, str):
        return found
    if not isinstance(cfg.residual, HyperConnections) or cfg.residual.manifold is None or not cfg.residual.dynamic:
        return "its residual streams are mixed dynamically, on a manifold"
    mixtures = [ffn for _, ffn in cfg.layers]
    if not all(isinstance(ffn, MoE) and ffn.n_shared == 1 and ffn.limit is not None for ffn in mixtures):
        return "its layers have experts, one of them shared, and a limit"
    gates = {replace(_gate(ffn), bias=False) for ffn in mixtures if isinstance(ffn, MoE)}
    shapes = {(ffn.n_experts, ffn.hidden, ffn.limit) for ffn in mixtures if isinstance(ffn, MoE)}
    if len(gates) > 1 or len(shapes) > 1:
        return "its mixtures are alike, but for who chooses the experts"
    gate = next(iter(gates))
    if gate.affinity not in AFFINITIES.values() or gate.groups is not None or not gate.normalise:
        return "its gates are normalised affinities that do not compete, without groups"
    if not all(_by_id(ffn) or _gate(ffn).bias for ffn in mixtures if isinstance(ffn, MoE)):
        return "its routers have a bias"
    return None


def _gate(mixture: MoE) -> TopK:
    return mixture.router.gate if isinstance(mixture.router, HashRouting) else mixture.router


def _by_id(mixture: MoE) -> bool:
    return isinstance(mixture.router, HashRouting)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig, in the spelling of transformers or of the released files.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V4 does not have.
    """
    for key, allowed in (("hidden_act", "silu"), ("n_shared_experts", 1), ("norm_topk_prob", True)):
        refuse_unless(config, key, allowed)
    refuse_unless(config, "mlp_bias", False)
    fp8.block_size(config)

    def layers() -> dict[str, Any]:
        attention, window = compressed.read(config)
        manifold = Birkhoff(iterations=require(config, "hc_sinkhorn_iters"), eps=require(config, "hc_eps", float))
        depth = 0 if config.get("num_nextn_predict_layers") is None else require(config, "num_nextn_predict_layers")
        return {
            "attention": attention,
            "ffn": _read_mixtures(config),
            "residual": HyperConnections(streams=require(config, "hc_mult"), manifold=manifold),
            "mtp": MTP(depth=depth, attention=window) if depth else None,
        }

    return assemble(config, layers)


def _read_mixtures(config: Mapping[str, Any]) -> tuple[MoE, ...]:
    scoring = require(config, "scoring_func", str)
    if scoring not in AFFINITIES:
        raise UserError(f"scoring_func is {scoring!r}; supported are {', '.join(map(repr, AFFINITIES))}")
    gate = TopK(
        k=require(config, "num_experts_per_tok"),
        affinity=AFFINITIES[scoring],
        normalise=True,
        scale=require(config, "routed_scaling_factor", float),
    )
    mixture = MoE(
        n_experts=require(config, "n_routed_experts"),
        hidden=require(config, "moe_intermediate_size"),
        n_shared=1,
        router=replace(gate, bias=True),
        limit=require(config, "swiglu_limit", float),
    )
    made = {BY_AFFINITY: mixture, BY_ID: replace(mixture, router=HashRouting(gate=gate))}
    n_layers = require(config, "num_hidden_layers")
    if config.get("mlp_layer_types") is not None:
        kinds = require(config, "mlp_layer_types", list)
    else:
        tables = min(require(config, "num_hash_layers"), n_layers)
        kinds = [BY_ID] * tables + [BY_AFFINITY] * (n_layers - tables)
    if len(kinds) != n_layers or not set(kinds) <= set(made):
        raise UserError(f"mlp_layer_types must name {n_layers} layers, each {BY_ID!r} or {BY_AFFINITY!r}")
    return tuple(made[kind] for kind in kinds)


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    found, residual, (_, mixture) = compressed.parts(cfg), cfg.residual, cfg.layers[0]
    assert isinstance(found, compressed.Parts)
    assert isinstance(residual, HyperConnections)
    assert isinstance(mixture, MoE)
    assert residual.manifold is not None
    gate = _gate(mixture)
    fields = {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": MODEL_TYPE,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        **compressed.write(cfg, found),
        "moe_intermediate_size": mixture.hidden,
        "n_routed_experts": mixture.n_experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": gate.k,
        "scoring_func": {ours: theirs for theirs, ours in AFFINITIES.items()}[gate.affinity],
        "norm_topk_prob": True,
        "routed_scaling_factor": gate.scale,
        "mlp_layer_types": [BY_ID if isinstance(ffn, MoE) and _by_id(ffn) else BY_AFFINITY for _, ffn in cfg.layers],
        "swiglu_limit": mixture.limit,
        "hc_mult": residual.streams,
        "hc_sinkhorn_iters": residual.manifold.iterations,
        "hc_eps": residual.manifold.eps,
        "num_nextn_predict_layers": cfg.mtp.depth if cfg.mtp else 0,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.max_seq_len,
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    if cfg.init_std is not None:
        fields["initializer_range"] = cfg.init_std
    return fields


def released(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor under the name of the released files, whoever named it; stacked experts one by one."""
    for pattern, found in RENAMED:
        name = pattern.sub(found, name, count=1)
    stem, stacked, what = name.rpartition(".experts.")
    if not stacked or what not in ("gate_up_proj", "down_proj") or tensor.ndim != 3:
        yield name, tensor
        return
    for number, expert in enumerate(tensor):
        one = f"{stem}.experts.{number}"
        if what == "down_proj":
            yield f"{one}.w2.weight", expert
        else:
            gate, up = expert.chunk(2)
            yield f"{one}.w1.weight", gate
            yield f"{one}.w3.weight", up


def tensors(cfg: ModelConfig) -> list[Entry]:
    """Our tensors and theirs; the experts of a layer are one tensor of ours and three for each expert of theirs."""
    entries = [Entry("embed.weight", ("embed.weight",))]
    for i, (attention, ffn) in enumerate(cfg.layers):
        entries += _block(attention, ffn, f"blocks.{i}", f"layers.{i}", cfg.d_model)
    entries += [*_maps("ends.weights", "hc_head"), Entry("norm.weight", ("norm.weight",))]
    for k in range(cfg.mtp.depth if cfg.mtp else 0):
        ours, theirs = f"mtp.{k}", f"mtp.{k}"
        names = {
            "embed_norm": "enorm",
            "stream_norm": "hnorm",
            "from_embedding": "e_proj",
            "from_stream": "h_proj",
            "norm": "norm",
        }
        entries += [
            *(Entry(f"{ours}.{mine}.weight", (f"{theirs}.{yours}.weight",)) for mine, yours in names.items()),
            *_block(*cfg.layer_ahead, f"{ours}.block", theirs, cfg.d_model),
            *_maps(f"{ours}.ends.weights", f"{theirs}.hc_head"),
        ]
    return [*entries, Entry("head.weight", ("head.weight",))]


def _block(attention: Any, ffn: Any, ours: str, theirs: str, d_model: int) -> list[Entry]:
    return [
        Entry(f"{ours}.attention_norm.weight", (f"{theirs}.attn_norm.weight",)),
        *compressed.tensors(attention, f"{ours}.attention", f"{theirs}.attn"),
        *_maps(f"{ours}.residual.attention", f"{theirs}.hc_attn"),
        Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.ffn_norm.weight",)),
        *_mixture(ffn, f"{ours}.ffn", f"{theirs}.ffn", d_model),
        *_maps(f"{ours}.residual.ffn", f"{theirs}.hc_ffn"),
    ]


def _maps(ours: str, theirs: str) -> list[Entry]:
    names = {"weight": "fn", "base": "base", "gate": "scale"}
    return [Entry(f"{ours}.{mine}", (f"{theirs}_{yours}",)) for mine, yours in names.items()]


def _mixture(mixture: MoE, ours: str, theirs: str, d_model: int) -> list[Entry]:
    experts = [f"{theirs}.experts.{e}" for e in range(mixture.n_experts)]
    gate_up = tuple(f"{expert}.{name}.weight" for expert in experts for name in ("w1", "w3"))
    down = tuple(f"{expert}.w2.weight" for expert in experts)
    shared = tuple(f"{theirs}.shared_experts.{name}.weight" for name in ("w1", "w3"))
    choice = Entry(f"{ours}.router.table", (f"{theirs}.gate.tid2eid",))
    if not _by_id(mixture):
        choice = Entry(f"{ours}.router.bias", (f"{theirs}.gate.bias",))
    return [
        Entry(f"{ours}.router.weight", (f"{theirs}.gate.weight",)),
        choice,
        Entry(f"{ours}.gate_up", gate_up, (mixture.hidden,) * len(gate_up)),
        Entry(f"{ours}.down", down, (d_model,) * len(down)),
        Entry(f"{ours}.shared.gate_up.weight", shared, (mixture.hidden,) * 2),
        Entry(f"{ours}.shared.down.weight", (f"{theirs}.shared_experts.w2.weight",)),
    ]
