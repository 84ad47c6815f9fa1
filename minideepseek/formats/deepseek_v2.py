"""V2 and V2-Lite on disk: ``model_type: deepseek_v2``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats import deepseek
from minideepseek.formats.attention import mla_obstacle, read_mla
from minideepseek.formats.deepseek import IGNORED, tensors
from minideepseek.formats.entry import refuse_unless, require
from minideepseek.layers.mla import MLA
from minideepseek.layers.router import Groups, TopK
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek_v2"


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = deepseek.parts(cfg)
    if found is None or not isinstance(found.attention, MLA):
        return "its layers are MLA with SwiGLU in front and one kind of mixture behind"
    if found.attention.rope.layout != "adjacent":
        return "its RoPE pairs adjacent channels"
    if cfg.mtp is not None:
        return "it predicts one token at a time"
    router = found.router
    if router is not None:
        if router.affinity != "softmax" or router.bias or router.normalise:
            return "its router is a softmax without bias, its weights are not normalised"
        if router.groups is not None and router.groups.judged_by != 1:
            return "its groups are judged by their best expert"
    return mla_obstacle(found.attention)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V2 does not have.
    """
    refuse_unless(config, "scoring_func", "softmax")
    refuse_unless(config, "rope_interleave", True)
    refuse_unless(config, "quantization_config", None)
    # `norm_topk_prob` is not read: the released code and transformers never normalise in this generation.
    method = config.get("topk_method") or "greedy"
    if method not in ("greedy", "group_limited_greedy"):
        raise UserError(f"topk_method is {method!r}; supported are 'greedy' and 'group_limited_greedy'")

    def router() -> TopK:
        groups = None
        if method == "group_limited_greedy":
            groups = Groups(n=require(config, "n_group"), limit=require(config, "topk_group"))
        scale = require(config, "routed_scaling_factor", float)
        return TopK(k=require(config, "num_experts_per_tok"), groups=groups, scale=scale)

    return deepseek.read_model(config, read_mla, router)


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    router = deepseek.known_parts(cfg).router
    groups = router.groups if router else None
    return {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": MODEL_TYPE,
        **deepseek.write_model(cfg),
        "routed_scaling_factor": router.scale if router else 1.0,
        "topk_method": "greedy" if groups is None else "group_limited_greedy",
        "n_group": None if groups is None else groups.n,
        "topk_group": None if groups is None else groups.limit,
        "scoring_func": "softmax",
        "norm_topk_prob": False,
    }


__all__ = ["IGNORED", "MODEL_TYPE", "obstacle", "read", "tensors", "write"]
