"""What the mixtures of the family have in common on disk: attention of one kind, dense layers, then experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from minideepseek.formats.attention import Attention, attention_tensors, write_attention
from minideepseek.formats.entry import Entry, assemble, refuse_unless, require
from minideepseek.layers.balance import ExpertBalance
from minideepseek.layers.dsa import DSA
from minideepseek.layers.gqa import GQA
from minideepseek.layers.mla import MLA
from minideepseek.layers.moe import MoE
from minideepseek.layers.router import TopK
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.model import ModelConfig

IGNORED = ("rotary_emb.inv_freq",)  # a table that old versions of transformers stored


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A model of this shape. dense: number of layers in front whose feed-forward is ``first``; then ``mixture``."""

    attention: Attention
    dense: int
    first: SwiGLU | None
    mixture: MoE | None

    @property
    def router(self) -> TopK | None:
        """How the mixture chooses."""
        if self.mixture is None:
            return None
        assert isinstance(self.mixture.router, TopK)
        return self.mixture.router


def parts(cfg: ModelConfig) -> Parts | None:
    """What a config is made of; None if it is of another shape."""
    attentions = {attention for attention, _ in cfg.layers}
    ffns = [ffn for _, ffn in cfg.layers]
    dense = next((i for i, ffn in enumerate(ffns) if not isinstance(ffn, SwiGLU)), len(ffns))
    attention = next(iter(attentions))
    if len(attentions) > 1 or not isinstance(attention, GQA | MLA | DSA):
        return None
    if len({*ffns[:dense]}) > 1 or len({*ffns[dense:]}) > 1:
        return None
    first, rest = (ffns[0] if dense else None), (ffns[dense] if dense < len(ffns) else None)
    if not isinstance(first, SwiGLU | None) or not isinstance(rest, MoE | None):
        return None
    if rest is not None and not isinstance(rest.router, TopK):
        return None
    return Parts(attention=attention, dense=dense, first=first, mixture=rest)


def known_parts(cfg: ModelConfig) -> Parts:
    """What a config is made of, where there is no obstacle."""
    found = parts(cfg)
    assert found is not None
    return found


def read_model(
    config: Mapping[str, Any], attention: Callable[[Mapping[str, Any]], Attention], router: Callable[[], TopK]
) -> ModelConfig:
    """All fields: ``attention`` and ``router`` read what differs between the generations.

    Raises:
        UserError: a field is missing, of another type or contradicts another.
    """
    refuse_unless(config, "hidden_act", "silu")
    refuse_unless(config, "moe_layer_freq", 1)

    def layers() -> dict[str, Any]:
        n_layers = require(config, "num_hidden_layers")
        dense = min(require(config, "first_k_dense_replace"), n_layers)
        ffn: tuple[SwiGLU | MoE, ...] = ()
        if dense > 0:
            ffn = (SwiGLU(hidden=require(config, "intermediate_size")),) * dense
        if dense < n_layers:
            ffn += (_read_mixture(config, router()),) * (n_layers - dense)
        return {"attention": attention(config), "ffn": ffn}

    return assemble(config, layers)


def _read_mixture(config: Mapping[str, Any], router: TopK) -> MoE:
    balance: tuple[ExpertBalance, ...] = ()
    if config.get("aux_loss_alpha") is not None:
        by_sequence = config.get("seq_aux") is None or require(config, "seq_aux", bool)
        balance = (
            ExpertBalance(
                alpha=require(config, "aux_loss_alpha", float),
                over="sequence" if by_sequence else "batch",
                share=router.affinity == "sigmoid",
            ),
        )
    return MoE(
        n_experts=require(config, "n_routed_experts"),
        hidden=require(config, "moe_intermediate_size"),
        n_shared=0 if config.get("n_shared_experts") is None else require(config, "n_shared_experts"),
        router=router,
        balance=balance,
    )


def write_model(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that ``read_model`` reads, without the router's."""
    found = known_parts(cfg)
    fields: dict[str, Any] = {
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        **write_attention(found.attention),
        "first_k_dense_replace": found.dense,
        "moe_layer_freq": 1,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.max_seq_len,
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    if found.first is not None:
        fields["intermediate_size"] = found.first.hidden
    if found.mixture is not None:
        fields |= _write_mixture(found.mixture)
    if cfg.init_std is not None:
        fields["initializer_range"] = cfg.init_std
    return fields


def _write_mixture(mixture: MoE) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "moe_intermediate_size": mixture.hidden,
        "n_routed_experts": mixture.n_experts,
        "n_shared_experts": mixture.n_shared,
        "num_experts_per_tok": mixture.router.k,
    }
    # The released names know one balance loss; ``training`` writes down whatever they leave unsaid.
    first = mixture.balance[0] if mixture.balance else None
    if isinstance(first, ExpertBalance):
        fields |= {"aux_loss_alpha": first.alpha, "seq_aux": first.over == "sequence"}
    return fields


def tensors(cfg: ModelConfig) -> list[Entry]:
    """Our tensors and theirs; the experts of a layer are one tensor of ours and three for each expert of theirs."""
    found = known_parts(cfg)
    entries = [Entry("embed.weight", ("model.embed_tokens.weight",))]
    for i in range(cfg.n_layers):
        ffn = found.first if i < found.dense else found.mixture
        entries += _block(found.attention, ffn, f"blocks.{i}", f"model.layers.{i}", cfg.d_model)
    for k in range(cfg.mtp.depth if cfg.mtp else 0):  # released as layers beyond the last
        ours, theirs = f"mtp.{k}", f"model.layers.{cfg.n_layers + k}"
        entries += [
            Entry("embed.weight", (f"{theirs}.embed_tokens.weight",), copy=True),
            Entry(f"{ours}.embed_norm.weight", (f"{theirs}.enorm.weight",)),
            Entry(f"{ours}.hidden_norm.weight", (f"{theirs}.hnorm.weight",)),
            Entry(f"{ours}.join.weight", (f"{theirs}.eh_proj.weight",)),
            *_block(found.attention, found.mixture or found.first, f"{ours}.block", theirs, cfg.d_model),
            Entry(f"{ours}.norm.weight", (f"{theirs}.shared_head.norm.weight",)),
            Entry("head.weight", (f"{theirs}.shared_head.head.weight",), copy=True),
        ]
    return [*entries, Entry("norm.weight", ("model.norm.weight",)), Entry("head.weight", ("lm_head.weight",))]


def _block(attention: Attention, ffn: SwiGLU | MoE | None, ours: str, theirs: str, d_model: int) -> list[Entry]:
    assert ffn is not None
    if isinstance(ffn, MoE):
        layer = _mixture(ffn, f"{ours}.ffn", f"{theirs}.mlp", d_model)
    else:
        layer = swiglu_tensors(ffn.hidden, f"{ours}.ffn", f"{theirs}.mlp")
    return [
        Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",)),
        *attention_tensors(attention, f"{ours}.attention", f"{theirs}.self_attn"),
        Entry(f"{ours}.ffn_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
        *layer,
    ]


def swiglu_tensors(hidden: int, ours: str, theirs: str) -> list[Entry]:
    """We keep gate, up as one matrix; they keep them apart."""
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
        entries += swiglu_tensors(mixture.n_shared * mixture.hidden, f"{ours}.shared", f"{theirs}.shared_experts")
    return entries
