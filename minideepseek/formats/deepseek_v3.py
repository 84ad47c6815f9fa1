"""V3 and R1 on disk: ``model_type: deepseek_v3``, in bfloat16 or, as released, in blocks of FP8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats import deepseek, fp8
from minideepseek.formats.attention import Attention, mla_obstacle, read_mla
from minideepseek.formats.deepseek import IGNORED, tensors
from minideepseek.formats.entry import refuse_unless, require
from minideepseek.layers.mla import MLA
from minideepseek.layers.mtp import MTP
from minideepseek.layers.router import Groups, TopK
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek_v3"
JUDGED_BY = 2  # a group stands for its two best experts, whatever K and M are (released code, transformers)


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = deepseek.parts(cfg)
    if found is None or not isinstance(found.attention, MLA):
        return "its layers are MLA with SwiGLU in front and one kind of mixture behind"
    return mixture_obstacle(found) or mla_obstacle(found.attention)


def mixture_obstacle(found: deepseek.Parts) -> str | None:
    """Why the format cannot say everything about the experts, or None."""
    router = found.router
    if router is not None:
        if router.affinity != "sigmoid" or not router.bias:
            return "its router is a sigmoid with a bias"
        if router.groups is not None and (router.groups.judged_by != JUDGED_BY or router.groups.n == 1):
            return "its groups, more than one, are judged by their two best experts"
        if found.mixture is not None and not found.mixture.n_shared:
            return "it has shared experts"
    return None


def read(config: Mapping[str, Any], attention: Callable[[Mapping[str, Any]], Attention] = read_mla) -> ModelConfig:
    """Fields of config.json -> ModelConfig; ``attention`` reads what V3.2 has in its place.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V3 does not have.
    """
    refuse_unless(config, "scoring_func", "sigmoid")
    refuse_unless(config, "topk_method", "noaux_tc")
    fp8.block_size(config)

    def router() -> TopK:
        n, limit = require(config, "n_group"), require(config, "topk_group")
        return TopK(
            k=require(config, "num_experts_per_tok"),
            affinity="sigmoid",
            groups=None if n == 1 else Groups(n=n, limit=limit, judged_by=JUDGED_BY),
            normalise=require(config, "norm_topk_prob", bool),
            scale=require(config, "routed_scaling_factor", float),
            bias=True,
        )

    cfg = deepseek.read_model(config, attention, router)
    ahead = 0 if config.get("num_nextn_predict_layers") is None else require(config, "num_nextn_predict_layers")
    if ahead < 0:
        raise UserError(f"num_nextn_predict_layers is {ahead}, where a number of modules is expected")
    return replace(cfg, mtp=MTP(depth=ahead)) if ahead else cfg


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    attention = deepseek.known_parts(cfg).attention
    assert isinstance(attention, MLA)
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": MODEL_TYPE,
        **write_model(cfg),
        "rope_interleave": attention.rope.layout == "adjacent",
    }


def write_model(cfg: ModelConfig) -> dict[str, Any]:
    """All fields but attention's own pairing of channels, and the name."""
    found = deepseek.known_parts(cfg)
    router = found.router
    groups = router.groups if router else None
    return {
        **deepseek.write_model(cfg),
        "routed_scaling_factor": router.scale if router else 1.0,
        "n_group": 1 if groups is None else groups.n,
        "topk_group": 1 if groups is None else groups.limit,
        "norm_topk_prob": router.normalise if router else True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": cfg.mtp.depth if cfg.mtp else 0,
    }


__all__ = ["IGNORED", "MODEL_TYPE", "obstacle", "read", "tensors", "write"]
