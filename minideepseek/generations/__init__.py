"""The spine: the family as a chain of small differences. Reading these files in order is reading the history.

``v1``, ``moe``, ``v2``, ``v3``, ``v32``, ``v4``: each says what changed since the one before. Every generation stands
there twice: at its published size, which builds on ``torch.device("meta")`` and reproduces the papers' tables, and as a
*mini* of the same shape of ideas that trains on a laptop in minutes, all minis with about equal activated parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from minideepseek.generations.moe import MOE_2B, MOE_16B, MOE_145B, MOE_MINI, after_dense
from minideepseek.generations.v1 import V1_7B, V1_67B, V1_MINI
from minideepseek.generations.v2 import LATENT, LATENT_MINI, V2, V2_LITE, V2_MINI
from minideepseek.generations.v3 import V3, V3_MINI
from minideepseek.generations.v4 import V4_FLASH, V4_MINI, V4_PRO
from minideepseek.generations.v32 import V32, V32_MINI
from minideepseek.model import ModelConfig

generations: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "v1-7b": V1_7B,
        "v1-67b": V1_67B,
        "moe-2b": MOE_2B,
        "moe-16b": MOE_16B,
        "moe-145b": MOE_145B,
        "v2": V2,
        "v2-lite": V2_LITE,
        "v3": V3,
        "v3.2": V32,
        "v4-flash": V4_FLASH,
        "v4-pro": V4_PRO,
        "v1-mini": V1_MINI,
        "moe-mini": MOE_MINI,
        "v2-mini": V2_MINI,
        "v3-mini": V3_MINI,
        "v3.2-mini": V32_MINI,
        "v4-mini": V4_MINI,
    }
)

__all__ = [
    "LATENT",
    "LATENT_MINI",
    "MOE_2B",
    "MOE_16B",
    "MOE_145B",
    "MOE_MINI",
    "V1_7B",
    "V1_67B",
    "V1_MINI",
    "V2",
    "V2_LITE",
    "V2_MINI",
    "V3",
    "V3_MINI",
    "V4_FLASH",
    "V4_MINI",
    "V4_PRO",
    "V32",
    "V32_MINI",
    "after_dense",
    "generations",
]
