"""Mixture of experts: many small feed-forward networks, of which each token uses a few.

DeepSeekMoE (Dai et al., arXiv 2401.06066): fine-grained experts (a usual one cut into m, of which m times as many are
used: same cost, many more combinations) and shared experts that every token uses, so that the routed ones need not
each learn what all tokens need. Layer output = shared(x) + sum over the chosen of weight · expert(x).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.balance import BalanceLoss, LossFree, load, load_variation, max_violation
from minideepseek.layers.capacity import Capacity
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.hashed import HashRouting
from minideepseek.layers.router import TopK
from minideepseek.layers.swiglu import FeedForward, SwiGLU


@dataclass(frozen=True, kw_only=True)
class MoE:
    """Shape of a mixture.

    Attributes:
        n_experts: routed experts, N_r.
        hidden: inner width of one expert.
        router: how a token's experts are chosen.
        n_shared: shared experts N_s, one SwiGLU of N_s times the width.
        balance: losses that even the load while training.
        loss_free: correction of the router's bias after each step; needs ``router.bias``.
        capacity: while training, drop what goes beyond it; None drops nothing.
        limit: of SwiGLU in all experts, as in ``SwiGLU``.
        rounding: of the routed experts' weights, wherever they are used; None leaves them.
    """

    n_experts: int
    hidden: int
    router: TopK | HashRouting
    n_shared: int = 0
    balance: tuple[BalanceLoss, ...] = ()
    loss_free: LossFree | None = None
    capacity: Capacity | None = None
    limit: float | None = None
    rounding: FP4 | None = None

    def __post_init__(self) -> None:
        if self.n_experts < 1 or self.hidden < 1 or self.n_shared < 0:
            raise ValueError(
                f"n_experts={self.n_experts}, hidden={self.hidden}, n_shared={self.n_shared} make no mixture"
            )
        if self.limit is not None and not self.limit > 0:
            raise ValueError(f"limit={self.limit} must be positive, or None")
        self.router.check(self.n_experts)
        if self.rounding is not None and self.rounding.rotate:
            raise ValueError("rounding.rotate turns weights away from what they multiply: choose FP4(rotate=False)")
        for balance in self.balance:
            balance.check(self.n_experts)
        if self.capacity is not None:
            self.capacity.check(self.n_experts)
        if self.loss_free is not None and not self.router.bias:
            raise ValueError("loss_free corrects the router's bias: give the router bias=True")

    def build(self, d_model: int, layer: int, vocab_size: int = 0) -> Experts:
        """The module for one layer; a router with a table asks for the size of the vocabulary."""
        return Experts(self, d_model, layer, vocab_size)

    def n_params(self, d_model: int) -> int:
        """Parameters of one layer: routed and shared experts, router. The bias is a buffer."""
        return (self.n_experts + self.n_shared) * self._expert(d_model) + self.n_experts * d_model

    def n_activated(self, d_model: int) -> int:
        """Parameters that one token touches."""
        return (self.router.k + self.n_shared) * self._expert(d_model) + self.n_experts * d_model

    def _expert(self, d_model: int) -> int:
        return 3 * d_model * self.hidden


class Experts(nn.Module):
    """The module of a ``MoE`` config.

    Attributes:
        gate_up: (E, 2F, D).
        down: (E, D, F).
        load: (E,) int64 buffer, assignments since the last ``after_step``; not part of a checkpoint.
        dropped: () int64 buffer, how many of them fell.
    """

    load: Tensor
    dropped: Tensor

    def __init__(self, cfg: MoE, d_model: int, layer: int, vocab_size: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.router = cfg.router.build(d_model, cfg.n_experts, layer, vocab_size)
        self.gate_up = nn.Parameter(torch.empty(cfg.n_experts, 2 * cfg.hidden, d_model))
        self.stacked = {"gate_up": (cfg.hidden, cfg.hidden)}  # as in ``Linear``, of each expert
        self.down = nn.Parameter(torch.empty(cfg.n_experts, d_model, cfg.hidden))
        for matrices in (self.gate_up, self.down):  # as a layer by itself; a Transformer draws all its weights anew
            nn.init.normal_(matrices, std=matrices.shape[-1] ** -0.5)
        shared = SwiGLU(hidden=cfg.n_shared * cfg.hidden, limit=cfg.limit) if cfg.n_shared else None
        self.shared = None if shared is None else FeedForward(shared, d_model)
        self.register_buffer("load", torch.zeros(cfg.n_experts, dtype=torch.int64), persistent=False)
        self.register_buffer("dropped", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D). Training adds balance losses and counts loads, unless frozen or decoding."""
        rows = x.flatten(0, 1)
        routing = self.router(rows, ctx)
        weights = routing.weights
        writes = ctx is not None and ctx.cache is not None  # text, and learns nothing: whatever the mode, no training
        if self.training and self.down.requires_grad and not writes:
            # A pass that only notes routes, for later, is not counted.
            counts = torch.is_grad_enabled() or ctx.routes is None
            if counts:
                self.load += load(routing.experts, self.cfg.n_experts)
            for balance in self.cfg.balance:
                ctx.add_loss("balance", balance.loss(routing, x.shape[0]))
            if self.cfg.capacity is not None:
                keep = self.cfg.capacity.keep(routing, ctx.ids)
                self.dropped += (~keep).sum() * counts
                weights = weights * keep
        gate_up: Tensor = self.gate_up
        down: Tensor = self.down
        if self.cfg.rounding is not None:
            gate_up, down = self.cfg.rounding(gate_up), self.cfg.rounding(down)
        y = ops.experts(rows, gate_up, down, routing.experts, weights, self.cfg.limit).view_as(x)
        return y if self.shared is None else y + self.shared(x, ctx)

    @torch.no_grad()
    def after_step(self, progress: float) -> dict[str, Tensor]:
        """Once after each step, ``progress`` of the training in 0..1: correct the bias, forget the loads.

        Returns:
            What to log of the whole step: ``max_violation`` and ``load_variation``, and the share ``dropped``.
        """
        found = {"max_violation": max_violation(self.load), "load_variation": load_variation(self.load)}
        if self.cfg.capacity is not None:
            found["dropped"] = self.dropped / self.load.sum().clamp(min=1)
        if self.cfg.loss_free is not None:
            assert isinstance(self.router.bias, Tensor)
            self.cfg.loss_free.correct(self.router.bias, self.load, progress)
        self.load.zero_()
        self.dropped.zero_()
        return found
