"""V4's attention on disk: windows, compressed entries of both kinds, and their two rotary embeddings.

config.json says what is alike in all layers once, and of each layer only its kind. transformers writes ``layer_types``
and ``compress_rates``; the released files write ``compress_ratios``, one number a layer and one for each module that
looks ahead: 0 for a window, 4 for CSA, 128 for HCA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats.entry import Entry, refuse_unless, require
from minideepseek.layers.compressed import CSA, HCA
from minideepseek.layers.indexer import Indexer
from minideepseek.layers.rope import RoPE
from minideepseek.layers.shared_kv import SharedKV
from minideepseek.layers.yarn import YaRN
from minideepseek.model import ModelConfig

Compressed = SharedKV | HCA | CSA
WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
RATIOS = {0: WINDOW, 4: SPARSE, 128: HEAVY}  # as the released files name kinds of layers
RATES = {SPARSE: 4, HEAVY: 128}  # tokens in a block, where nothing else is said


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the layers of a model are made of; None is a kind that it does not have."""

    window: SharedKV | None
    sparse: CSA | None
    heavy: HCA | None

    @property
    def far(self) -> SharedKV | None:
        """The attention of layers that compress."""
        compressing = self.sparse or self.heavy
        return None if compressing is None else compressing.mqa

    @property
    def core(self) -> SharedKV:
        """What is alike in all layers."""
        found = self.window or self.far
        assert found is not None
        return found


def parts(cfg: ModelConfig) -> Parts | str:
    """The kinds of layers of a config, modules that look ahead included; or why these fields cannot tell them."""
    ahead = () if cfg.mtp is None else (cfg.layer_ahead[0],)
    kinds: dict[type, set[Any]] = {SharedKV: set(), HCA: set(), CSA: set()}
    for attention in (*(attention for attention, _ in cfg.layers), *ahead):
        if type(attention) not in kinds:
            return "its layers are SharedKV, HCA or CSA"
        if isinstance(attention, CSA):  # what ``training`` writes down
            attention = replace(attention, stage="sparse", indexer=replace(attention.indexer, rounding=None))
        kinds[type(attention)].add(attention)
    if any(len(found) > 1 for found in kinds.values()):
        return "its layers of one kind are all alike"
    if ahead and not isinstance(ahead[0], SharedKV):
        return "its modules that look ahead see a window only"
    window, heavy, sparse = (next(iter(found), None) for found in kinds.values())
    found = Parts(window=window, sparse=sparse, heavy=heavy)
    cores = {replace(core, rope=RoPE()) for core in (window, heavy and heavy.mqa, sparse and sparse.mqa) if core}
    if len(cores) > 1 or (sparse and heavy and sparse.mqa != heavy.mqa):
        return "its layers differ in what they see, not in heads and widths"
    return _obstacle(found, cfg) or found


def _obstacle(found: Parts, cfg: ModelConfig) -> str | None:
    ropes = [core.rope for core in (found.window, found.far) if core is not None]
    if any(rope.layout != "adjacent" for rope in ropes):
        return "its RoPE pairs adjacent channels"
    if found.window is not None and found.window.rope.yarn is not None:
        return "only layers that compress have YaRN"
    yarn = None if found.far is None else found.far.rope.yarn
    if yarn is not None and (yarn.mscale, yarn.mscale_all_dim) != (0.0, 0.0):
        return "its YaRN has no temperature (mscale and mscale_all_dim are 0)"
    if found.core.norm_eps != cfg.norm_eps:
        return "all norms have one epsilon"
    return None


def read(config: Mapping[str, Any]) -> tuple[tuple[Compressed, ...], SharedKV]:
    """Attention of each layer, and of modules that look ahead.

    Raises:
        UserError: a field is missing, of another type or contradicts another.
    """
    refuse_unless(config, "attention_bias", False)
    refuse_unless(config, "num_key_value_heads", 1)
    near, far = _read_ropes(config)
    window = SharedKV(
        n_heads=require(config, "num_attention_heads"),
        head_dim=require(config, "head_dim"),
        d_rope=_rotated(config),
        d_query_latent=require(config, "q_lora_rank"),
        window=require(config, "sliding_window"),
        out_groups=require(config, "o_groups"),
        d_out_latent=require(config, "o_lora_rank"),
        rope=near,
        norm_eps=require(config, "rms_norm_eps", float),
    )
    types, rates = _types(config), _rates(config)
    made: dict[str, Compressed] = {WINDOW: window}
    if SPARSE in types:
        indexer = Indexer(
            n_heads=require(config, "index_n_heads"),
            head_dim=require(config, "index_head_dim"),
            top_k=require(config, "index_topk"),
        )
        made[SPARSE] = CSA(mqa=replace(window, rope=far), rate=rates[SPARSE], indexer=indexer)
    if HEAVY in types:
        made[HEAVY] = HCA(mqa=replace(window, rope=far), rate=rates[HEAVY])
    return tuple(made[kind] for kind in types), window


def _types(config: Mapping[str, Any]) -> list[str]:
    n_layers = require(config, "num_hidden_layers")
    if config.get("layer_types") is not None:
        types = require(config, "layer_types", list)
        unknown = [kind for kind in types if kind not in RATIOS.values()]
    else:
        ratios = require(config, "compress_ratios", list)
        unknown = [ratio for ratio in ratios if ratio not in RATIOS]
        types = [RATIOS.get(ratio) for ratio in ratios[:n_layers]]
        if any(ratios[n_layers:]):
            raise UserError("compress_ratios gives a module that looks ahead blocks; only a window is supported there")
    if unknown:
        raise UserError(f"layers of kind {unknown[0]!r} are not known; there are {', '.join(RATIOS.values())}")
    if len(types) != n_layers:
        raise UserError(f"the kinds of {len(types)} layers are given, and num_hidden_layers is {n_layers}")
    return types


def _rates(config: Mapping[str, Any]) -> dict[str, int]:
    rates = config.get("compress_rates")
    if rates is None:
        return dict(RATES)
    if not isinstance(rates, Mapping):
        raise UserError(f"compress_rates is {rates!r}, where an object is expected")
    return RATES | {kind: require(rates, kind) for kind in RATES if kind in rates}


def _rotated(config: Mapping[str, Any]) -> int:
    """Channels that turn: ``qk_rope_head_dim`` of them, or ``partial_rotary_factor`` of all; alike where both stand."""
    found = set()
    if config.get("qk_rope_head_dim") is not None:
        found.add(require(config, "qk_rope_head_dim"))
    if config.get("partial_rotary_factor") is not None:
        found.add(int(require(config, "head_dim") * require(config, "partial_rotary_factor", float)))
    if len(found) != 1:
        raise UserError("qk_rope_head_dim and partial_rotary_factor are both missing, or contradict each other")
    return int(found.pop())


def _read_ropes(config: Mapping[str, Any]) -> tuple[RoPE, RoPE]:
    """The rotary embeddings of windows alone, and of layers that compress.

    transformers nests them, as ``main`` and ``compress``; the released files give two bases, and one YaRN, which is
    meant for the second.
    """
    fields = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(fields, Mapping):
        raise UserError(f"rope_parameters is {fields!r}, where an object is expected")
    if isinstance(fields.get("main"), Mapping) and isinstance(fields.get("compress"), Mapping):
        near, far = fields["main"], fields["compress"]
        for key in ("rope_type", "type"):
            refuse_unless(near, key, "default")
        return _rope(near, require(near, "rope_theta", float)), _rope(far, require(far, "rope_theta", float))
    near_base = require(config, "rope_theta", float)
    return RoPE(theta=near_base, layout="adjacent"), _rope(fields, require(config, "compress_rope_theta", float))


def _rope(fields: Mapping[str, Any], theta: float) -> RoPE:
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return RoPE(theta=theta, layout="adjacent")
    if kind != "yarn":
        raise UserError(f"rotary embeddings of type {kind!r} are not supported; 'default' and 'yarn' are")
    refuse_unless(fields, "attention_factor", 1.0)
    refuse_unless(fields, "truncate", True)
    yarn = YaRN(
        factor=require(fields, "factor", float),
        original_len=require(fields, "original_max_position_embeddings"),
        beta_fast=require(fields, "beta_fast", float) if fields.get("beta_fast") else 32.0,
        beta_slow=require(fields, "beta_slow", float) if fields.get("beta_slow") else 1.0,
        mscale=0.0,
        mscale_all_dim=0.0,
    )
    return RoPE(theta=theta, layout="adjacent", yarn=yarn)


def write(cfg: ModelConfig, found: Parts) -> dict[str, Any]:
    """The fields that ``read`` reads."""
    core, kinds = found.core, {SharedKV: WINDOW, CSA: SPARSE, HCA: HEAVY}
    near = (found.window or core).rope
    far = near if found.far is None else found.far.rope
    share = core.d_rope / core.head_dim
    turning: dict[str, Any] = {"rope_type": "default", "rope_theta": far.theta, "partial_rotary_factor": share}
    if far.yarn is not None:
        turning |= {
            "rope_type": "yarn",
            "factor": far.yarn.factor,
            "original_max_position_embeddings": far.yarn.original_len,
            "beta_fast": far.yarn.beta_fast,
            "beta_slow": far.yarn.beta_slow,
            "attention_factor": 1.0,
        }
    fields = {
        "num_attention_heads": core.n_heads,
        "num_key_value_heads": 1,
        "head_dim": core.head_dim,
        "qk_rope_head_dim": core.d_rope,
        "partial_rotary_factor": share,
        "q_lora_rank": core.d_query_latent,
        "o_groups": core.out_groups,
        "o_lora_rank": core.d_out_latent,
        "sliding_window": core.window,
        "layer_types": [kinds[type(attention)] for attention, _ in cfg.layers],
        "compress_rates": {
            SPARSE: found.sparse.rate if found.sparse else RATES[SPARSE],
            HEAVY: found.heavy.rate if found.heavy else RATES[HEAVY],
        },
        "rope_theta": near.theta,
        "compress_rope_theta": far.theta,
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": near.theta, "partial_rotary_factor": share},
            "compress": turning,
        },
        "attention_bias": False,
    }
    if found.sparse is not None:
        indexer = found.sparse.indexer
        fields |= {
            "index_n_heads": indexer.n_heads,
            "index_head_dim": indexer.head_dim,
            "index_topk": indexer.top_k,
        }
    return fields


def tensors(attention: Compressed, ours: str, theirs: str) -> list[Entry]:
    """What reads the same input is one matrix of ours."""
    if isinstance(attention, SharedKV):
        return _core(attention, ours, theirs)
    width = attention.mqa.head_dim
    entries = _core(attention.mqa, f"{ours}.mqa", theirs)
    entries += _compressor(width, isinstance(attention, CSA), f"{ours}.compressor", f"{theirs}.compressor")
    if isinstance(attention, CSA):
        mine, yours = f"{ours}.indexer", f"{theirs}.indexer"
        entries += [
            *_compressor(attention.indexer.head_dim, True, f"{mine}.compressor", f"{yours}.compressor"),
            Entry(f"{mine}.query.weight", (f"{yours}.wq_b.weight",)),
            Entry(f"{mine}.weights.weight", (f"{yours}.weights_proj.weight",)),
        ]
    return entries


def _core(core: SharedKV, ours: str, theirs: str) -> list[Entry]:
    down = tuple(f"{theirs}.{name}.weight" for name in ("wq_a", "wkv"))
    return [
        Entry(f"{ours}.down.weight", down, (core.d_query_latent, core.head_dim)),
        Entry(f"{ours}.query_norm.weight", (f"{theirs}.q_norm.weight",)),
        Entry(f"{ours}.query_up.weight", (f"{theirs}.wq_b.weight",)),
        Entry(f"{ours}.kv_norm.weight", (f"{theirs}.kv_norm.weight",)),
        Entry(f"{ours}.sink", (f"{theirs}.attn_sink",)),
        Entry(f"{ours}.out_down", (f"{theirs}.wo_a.weight",), (core.out_groups * core.d_out_latent,)),
        Entry(f"{ours}.out_up.weight", (f"{theirs}.wo_b.weight",)),
    ]


def _compressor(width: int, overlap: bool, ours: str, theirs: str) -> list[Entry]:
    rows = width * (2 if overlap else 1)
    down = tuple(f"{theirs}.{name}.weight" for name in ("wkv", "wgate"))
    return [
        Entry(f"{ours}.down.weight", down, (rows, rows)),
        Entry(f"{ours}.place", (f"{theirs}.ape",)),
        Entry(f"{ours}.norm.weight", (f"{theirs}.norm.weight",)),
    ]
