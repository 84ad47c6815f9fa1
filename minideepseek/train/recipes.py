"""How a generation is trained where nothing else is asked for: what the reports changed, at the size of the minis."""

from __future__ import annotations

from minideepseek.train.config import TrainConfig

PLAIN = TrainConfig()
MUON = TrainConfig(optimizer="muon")  # with updates as large as AdamW's, so with its learning rate (V4, section 2.4)
RECIPES = {"v4-flash": MUON, "v4-pro": MUON, "v4-mini": MUON}


def recipe(name: str) -> TrainConfig:
    """The settings for a generation: V4 learns with Muon, all before it with AdamW."""
    return RECIPES.get(name, PLAIN)
