"""Looking at a router's decisions, and overruling them: who was chosen, and what if somebody else had been?

All work on a model as it is, for as long as a ``with`` block lasts. Routing by other rules is how DeepSeekMoE tests
whether its experts are specialists (arXiv 2401.06066, section 4.5): the loss with other experts than the best. How
residual streams are mixed can be looked at in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from minideepseek.layers.balance import load
from minideepseek.layers.hyper import Mixing
from minideepseek.layers.router import Router, Routing, TopK, first_top_k


def routers(model: nn.Module) -> list[Router]:
    """The routers of a model, first layer first."""
    return [module for module in model.modules() if isinstance(module, Router)]


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[list[Routing]]]:
    """Note what the routers decide: one list a router, first layer first, with one entry for each pass."""
    with _noted(routers(model), lambda routing: routing) as found:
        yield found


@contextmanager
def counted(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Note the loads alone, (E,) int64 for each router and pass: little enough to keep of a whole training."""
    with _noted(routers(model), lambda routing: load(routing.experts, routing.scores.shape[-1])) as found:
        yield found


@contextmanager
def mixed(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Note what multiplies the residual streams: one list a sub-layer, first to last, with (B, T, n, n) for each pass.

    Static matrices are (n, n).
    """
    with _noted([module for module in model.modules() if isinstance(module, Mixing)], lambda maps: maps[2]) as found:
        yield found


@contextmanager
def _noted(modules: Sequence[nn.Module], what: Callable[[Any], Any]) -> Iterator[list[list[Any]]]:
    found: list[list[Any]] = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, notes=notes: notes.append(what(output)))
        for module, notes in zip(modules, found, strict=True)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def routed(model: nn.Module, change: Callable[[TopK], TopK]) -> Iterator[None]:
    """Choose by other rules: ``change`` gets each router's config and returns the one to use instead.

    Raises:
        ValueError: the new rules want more experts than there are.
    """
    before = [(router, router.cfg) for router in routers(model)]
    try:
        for router, cfg in before:
            router.cfg = change(cfg)
            router.cfg.check(router.weight.shape[0])
        yield
    finally:
        for router, cfg in before:
            router.cfg = cfg


@dataclass(frozen=True, kw_only=True)
class WithoutBest(TopK):
    """``TopK`` among what is left when each token's best experts are not to be had.

    Attributes:
        banned: how many of the best are taken away. They leave before the softmax, so the others' weights grow: what
            is missing then is knowledge, not volume.
    """

    banned: int

    @classmethod
    def of(cls, cfg: TopK, banned: int) -> WithoutBest:
        """The rules of ``cfg`` without the best ``banned`` experts."""
        return cls(**{field.name: getattr(cfg, field.name) for field in fields(TopK)}, banned=banned)

    def check(self, n_experts: int) -> None:
        """As ``TopK.check``, of the experts that are left."""
        super().check(n_experts)
        if not 0 <= self.banned <= n_experts - self.k:
            raise ValueError(f"without the best banned={self.banned} of {n_experts} experts, k={self.k} are not left")

    def route(self, logits: Tensor, bias: Tensor | None = None) -> Routing:
        """logits (N, E) float32, bias (E,) -> who goes where."""
        best = first_top_k(logits.detach(), self.banned)
        return super().route(logits.scatter(1, best, -torch.inf), bias)
