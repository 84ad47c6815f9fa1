"""From dense attention to sparse in stages, each a run of its own (V3.2 report, section 2.1.1; V4 report, section 4.2).

model = add_indexers(dense, Indexer(...))   # in the warm-up: attention as it was, all but the indexers frozen
train(model, data, ...)                     # V3.2: 1000 steps at 1e-3
enter_stage(model, "sparse")                # each token reads what its indexer chose, and everything learns
train(model, data, ...)                     # V3.2: 15000 steps at 7.3e-6

A model of V4's kind has its indexers from the start. ``enter_stage(model, "dense")`` lets its CSA layers read all
entries and their indexers rest, until the warm-up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from minideepseek.errors import UserError
from minideepseek.layers.compressed import CompressedSparseAttention, Stage
from minideepseek.layers.dsa import DSA, SparseAttention
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
        UserError: there are no indexers, or their layers know no such stage.
    """
    layers = _sparse_layers(model)
    if not layers:
        raise UserError("a model without indexers has no stages; train.add_indexers gives it some")
    try:
        changed: list[Any] = [replace(layer.cfg, stage=stage) for layer in layers]  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(str(error)) from None
    for layer, cfg in zip(layers, changed, strict=True):
        layer.cfg = cfg
    blocks: Any = model.blocks
    model.cfg = replace(model.cfg, attention=tuple(block.attention.cfg for block in blocks))
    model.requires_grad_(True)
    freeze(model)


def freeze(model: nn.Module) -> None:
    """Freeze what a stage does not train: in the warm-up all but the indexers, in the dense stage these alone."""
    layers = _sparse_layers(model)
    if any(layer.cfg.stage == "warm-up" for layer in layers):
        model.requires_grad_(False)
    for layer in layers:
        if layer.cfg.stage != "sparse":
            layer.indexer.requires_grad_(layer.cfg.stage == "warm-up")


def _sparse_layers(model: nn.Module) -> list[SparseAttention | CompressedSparseAttention]:
    kinds = (SparseAttention, CompressedSparseAttention)
    return [module for module in model.modules() if isinstance(module, kinds)]
