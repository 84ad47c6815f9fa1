"""V3.2 on disk: ``model_type: deepseek_v32``, which is V3's format with an indexer in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minideepseek.formats import deepseek, deepseek_v3
from minideepseek.formats.attention import mla_obstacle, read_dsa
from minideepseek.formats.deepseek import IGNORED, tensors
from minideepseek.formats.entry import refuse_unless
from minideepseek.layers.dsa import DSA
from minideepseek.model import ModelConfig

MODEL_TYPE = "deepseek_v32"


def obstacle(cfg: ModelConfig) -> str | None:
    """Why the format cannot say everything about this config, or None."""
    found = deepseek.parts(cfg)
    if found is None or not isinstance(found.attention, DSA):
        return "its layers are DSA with SwiGLU in front and one kind of mixture behind"
    if found.attention.mla.rope.layout != "adjacent":
        return "its RoPE pairs adjacent channels, but for the indexer's"
    if found.attention.indexer.rounding is not None:
        return "its indexers do not round"
    return deepseek_v3.mixture_obstacle(found) or mla_obstacle(found.attention.mla)


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Fields of config.json -> ModelConfig.

    Raises:
        UserError: a field is missing, of another type or contradicts another, or asks for what V3.2 does not have.
    """
    refuse_unless(config, "rope_interleave", True)
    return deepseek_v3.read(config, read_dsa)


def write(cfg: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> fields of config.json, where there is no ``obstacle``."""
    return {
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": MODEL_TYPE,
        **deepseek_v3.write_model(cfg),
    }


__all__ = ["IGNORED", "MODEL_TYPE", "obstacle", "read", "tensors", "write"]
