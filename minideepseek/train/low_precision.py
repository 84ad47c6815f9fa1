"""The last stage of V4's training: experts and indexers learn to be kept in four bits (report, section 5.2.1).

model = in_fp4(model)       # the same weights, rounded wherever they are used
train(model, data, ...)     # gradients reach the weights behind the rounding
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minideepseek.errors import UserError
from minideepseek.layers.compressed import CSA
from minideepseek.layers.dsa import DSA
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.moe import MoE
from minideepseek.model import ModelConfig, Transformer


def fp4_config(cfg: ModelConfig) -> ModelConfig:
    """The config with routed experts' weights in FP4, and indexers' queries and keys, rotated before.

    Raises:
        UserError: there are neither experts nor indexers.
    """

    def rounded(part: Any) -> Any:
        if isinstance(part, MoE):
            return replace(part, rounding=FP4())
        if isinstance(part, DSA | CSA):
            return replace(part, indexer=replace(part.indexer, rounding=FP4(rotate=True)))
        return part

    layers = [(rounded(attention), rounded(ffn)) for attention, ffn in cfg.layers]
    found = replace(cfg, attention=tuple(a for a, _ in layers), ffn=tuple(f for _, f in layers))
    if found == cfg and not any(isinstance(ffn, MoE) for _, ffn in cfg.layers):
        raise UserError("this model has neither experts nor indexers, which is what V4 keeps in FP4")
    return found


def in_fp4(model: Transformer) -> Transformer:
    """A model of the weights of ``model``, which is left alone, that computes with them in FP4 (see ``fp4_config``)."""
    found = Transformer(fp4_config(model.cfg)).to(model.embed.weight)
    found.load_state_dict(model.state_dict())
    return found.train(model.training)
