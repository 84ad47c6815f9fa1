"""From dense attention to sparse in two stages, each a run of its own (V3.2 report, section 2.1.1).

model = add_indexers(dense, Indexer(...))   # in the warm-up: attention as it was, all but the indexers frozen
train(model, data, ...)                     # V3.2: 1000 steps at 1e-3
enter_stage(model, "sparse")                # each token reads what its indexer chose, and everything learns
train(model, data, ...)                     # V3.2: 15000 steps at 7.3e-6
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from minideepseek.errors import UserError
from minideepseek.layers.dsa import DSA, SparseAttention, Stage
from minideepseek.layers.indexer import Indexer
from minideepseek.layers.mla import MLA
from minideepseek.model import Transformer


def add_indexers(model: Transformer, indexer: Indexer, *, seed: int = 0) -> Transformer:
    """A model with the weights of ``model`` and an untrained indexer in every layer, in the warm-up.

    Args:
        model: with MLA in every layer; it is left alone.
        indexer: shape of the indexers.
        seed: of their initial weights.

    Raises:
        UserError: attention of another kind, or an indexer that does not fit it.
    """
    attention = []
    for layer, (old, _) in enumerate(model.cfg.layers):
        if not isinstance(old, MLA):
            raise UserError(
                f"layer {layer} is {type(old).__name__}; indexers choose for MLA, as v2-mini and v3-mini have"
            )
        try:
            attention.append(DSA(mla=old, indexer=indexer, stage="warm-up"))
        except ValueError as error:
            raise UserError(f"layer {layer}: {error}") from None
    found = Transformer(replace(model.cfg, attention=tuple(attention)), seed=seed).to(model.embed.weight)
    state = {name.replace(".attention.", ".attention.mla."): tensor for name, tensor in model.state_dict().items()}
    found.load_state_dict({**found.state_dict(), **state})
    freeze(found)
    return found.train(model.training)


def enter_stage(model: Transformer, stage: Stage) -> None:
    """Set the stage of a model with indexers, in place: how its layers attend, and what of it learns.

    Raises:
        UserError: there are no indexers.
    """
    layers = _sparse_layers(model)
    if not layers:
        raise UserError("a model without indexers has no stages; train.add_indexers gives it some")
    for layer in layers:
        layer.cfg = replace(layer.cfg, stage=stage)
    blocks: Any = model.blocks
    model.cfg = replace(model.cfg, attention=tuple(block.attention.cfg for block in blocks))
    model.requires_grad_(True)
    freeze(model)


def freeze(model: nn.Module) -> None:
    """Freeze what a model in the warm-up does not train: everything but its indexers. Any other is left as it is."""
    layers = _sparse_layers(model)
    if any(layer.cfg.stage == "warm-up" for layer in layers):
        model.requires_grad_(False)
        for layer in layers:
            layer.indexer.requires_grad_(True)


def _sparse_layers(model: nn.Module) -> list[SparseAttention]:
    return [module for module in model.modules() if isinstance(module, SparseAttention)]
