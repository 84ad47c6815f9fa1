"""How a generation is trained where nothing else is asked for: what the reports changed, at the size of the minis."""

from __future__ import annotations

from minideepseek.train.config import TrainConfig

PLAIN = TrainConfig()
# Updates are scaled to be as large as AdamW's (V4, section 2.4), but all of their directions count. Of 0.006, 0.015 and
# 0.03 the second came furthest in v4-mini's first hundred steps, with one seed; lesson 14 has a valley with three.
MUON = TrainConfig(optimizer="muon", lr=0.015)
RECIPES = {"v4-flash": MUON, "v4-pro": MUON, "v4-mini": MUON}


def recipe(name: str) -> TrainConfig:
    """The settings for a generation: V4 learns with Muon, all before it with AdamW."""
    return RECIPES.get(name, PLAIN)
