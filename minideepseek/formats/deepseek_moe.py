"""DeepSeekMoE on disk: ``model_type: deepseek``, V1's attention with the mixture that V2 kept.

DeepSeekMoE-16B was released with its model class inside the repository; transformers never took the class in, and
loads such a checkpoint only with that code. Fields and names of tensors here are those of the release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.formats import deepseek
from minideepseek.formats.attention import gqa_obstacle, read_gqa
from minideepseek.formats.deepseek import IGNORED, tensors
from minideepseek.formats.entry import refuse_unless, require
from minideepseek.layers.gqa import GQA
from minideepseek.layers.router import TopK
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek"


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = deepseek.parts(cfg)
    if found is None or not isinstance(found.attention, GQA):
        return "its layers are GQA with SwiGLU in front and one kind of mixture behind"
    if cfg.mtp is not None:
        return "it predicts one token at a time"
    if found.attention.head_dim * found.attention.n_heads != cfg.d_model:
        return "its heads are together as wide as the model"
    router = found.router
    if router is not None:
        if router.affinity != "softmax" or router.bias or router.groups is not None or router.scale != 1.0:
            return "its router is a plain softmax: no bias, no groups, no scale"
        if router.normalise and router.k == 1:  # the released code does not: the weight would always be 1
            return "its weight is not normalised where a token has a single expert"
    return gqa_obstacle(found.attention, cfg.d_model)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what it does not have.
    """
    refuse_unless(config, "scoring_func", "softmax")
    refuse_unless(config, "quantization_config", None)

    def router() -> TopK:
        k = require(config, "num_experts_per_tok")
        normalise = config.get("norm_topk_prob") is not None and require(config, "norm_topk_prob", bool)
        return TopK(k=k, normalise=normalise and k > 1)

    return deepseek.read_model(config, read_gqa, router)


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    router = deepseek.known_parts(cfg).router
    fields = deepseek.write_model(cfg)
    del fields["head_dim"]  # which the released class does not know
    return {
        "architectures": ["DeepseekForCausalLM"],
        "model_type": MODEL_TYPE,
        **fields,
        "scoring_func": "softmax",
        "norm_topk_prob": router.normalise if router else False,
    }


__all__ = ["IGNORED", "MODEL_TYPE", "obstacle", "read", "tensors", "write"]
