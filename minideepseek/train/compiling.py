"""The passes of training, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minideepseek.compiling import or_plain
from minideepseek.context import Routes
from minideepseek.model import Transformer

Passes = Callable[[Tensor, float, Routes | None], dict[str, Tensor]]
Objective = Callable[[Tensor, Routes | None], dict[str, Tensor]]


def passes(model: Transformer, *, compile: bool, warn: Callable[[str], None]) -> Passes:
    """The forward and backward pass of ``model`` as one function.

    Args:
        model: gradients are added to its parameters' ``.grad``.
        compile: let torch.compile fuse the passes; the first call then takes a minute.
        warn: told, in one line, if that is not possible here.

    Returns:
        A function of ids (B, T + 1), a weight on the loss, and experts chosen before (or None), which returns scalars
        without graph: the loss's parts, their sum ``total``, and what the layers report besides.
    """

    def objective(ids: Tensor, routes: Routes | None) -> dict[str, Tensor]:
        losses = model.loss(ids) if routes is None else model.loss(ids, routes=routes)
        return {"total": losses.total, **dict(losses), **losses.metrics}

    def run(objective: Objective, ids: Tensor, weight: float, routes: Routes | None) -> dict[str, Tensor]:
        losses = objective(ids, routes)
        (losses["total"] if weight == 1.0 else losses["total"] * weight).backward()
        return {name: value.detach() for name, value in losses.items()}

    def forget() -> None:
        for p in model.parameters():
            p.grad = None

    plain = partial(run, objective)
    if not compile:
        return plain
    return or_plain(lambda: partial(run, torch.compile(objective)), plain, warn=warn, undo=forget)
