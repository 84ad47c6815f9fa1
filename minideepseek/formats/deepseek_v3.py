"""V3 and R1 on disk: ``model_type: deepseek_v3``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minideepseek.errors import UserError
from minideepseek.formats import deepseek
from minideepseek.formats.deepseek import IGNORED, tensors
from minideepseek.formats.entry import refuse_unless, require
from minideepseek.layers.mtp import MTP
from minideepseek.layers.router import Groups, TopK
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek_v3"
JUDGED_BY = 2  # a group stands for its two best experts, whatever K and M are (released code, transformers)


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = deepseek.parts(cfg)
    if found is None:
        return "its layers are MLA with SwiGLU in front and one kind of mixture behind"
    mixture = found[3]
    if mixture is None:
        return None
    router = mixture.router
    if router.affinity != "sigmoid" or not router.bias:
        return "its router is a sigmoid with a bias"
    if router.groups is not None and router.groups.judged_by != JUDGED_BY:
        return "its groups are judged by their two best experts"
    if not mixture.n_shared:
        return "it has shared experts"
    return None


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V3 does not have.
    """
    refuse_unless(config, "scoring_func", "sigmoid")
    refuse_unless(config, "topk_method", "noaux_tc")
    refuse_unless(config, "quantization_config", None)

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

    depth = config.get("num_nextn_predict_layers") or 0
    try:
        cfg = deepseek.read_model(config, router)
        return replace(cfg, mtp=MTP(depth=depth)) if depth else cfg
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the fields do not make a model: {error}") from None


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    found = deepseek.parts(cfg)
    assert found is not None
    attention, _, _, mixture = found
    groups = mixture.router.groups if mixture else None
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": MODEL_TYPE,
        **deepseek.write_model(cfg),
        "n_group": 1 if groups is None else groups.n,
        "topk_group": 1 if groups is None else groups.limit,
        "norm_topk_prob": mixture.router.normalise if mixture else True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_interleave": attention.rope.layout == "adjacent",
        "num_nextn_predict_layers": cfg.mtp.depth if cfg.mtp else 0,
    }


__all__ = ["IGNORED", "MODEL_TYPE", "obstacle", "read", "tensors", "write"]
