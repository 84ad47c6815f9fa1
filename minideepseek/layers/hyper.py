"""Hyper-connections: several residual streams, mixed as the model sees fit, and the manifold that keeps them in bounds.

A token has n vectors instead of one, X (n, D). Each sub-layer F reads a weighted sum of them, and its output is added
to all of them, after they have been mixed:

    X' = B^T X + c · F(a X)^T        a (1, n) read, B (n, n) mix, c (n, 1) write

Hyper-connections (Zhu et al., arXiv 2409.19606) learn a, B and c freely, the same for all tokens (static) with a part
computed from X (dynamic). Over depth the signal is then multiplied by a product of free matrices, which grows without
bound. Manifold-constrained hyper-connections (Xie et al., arXiv 2512.24880; DeepSeek-V4 report, section 2.2) keep B
doubly stochastic: rows and columns of non-negative numbers that sum to one. Such a matrix makes no vector longer, and
a product of such matrices is another: the gain is one at any depth.

Both forms here compute the dynamic part alike, from all streams together as mHC does (Zhu et al.: each stream's numbers
from that stream), so that the constraint is all that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.layers.norm import RMSNorm

# How mHC's static part starts is not published. Ours starts as hyper-connections do, softly: each sub-layer reads
# mostly one stream, in turn, and streams mostly stay themselves. Were all alike, streams would never come to differ;
# nearer to the identity, twenty iterations would not arrive at the manifold.
LEAN = 2.0


@dataclass(frozen=True, kw_only=True)
class Birkhoff:
    """The Birkhoff polytope, all doubly stochastic matrices, approached by Sinkhorn and Knopp's iterations.

    Attributes:
        iterations: normalisations of rows, and of columns.
        eps: added where a sum divides, and to the factors of reading; a doubly stochastic matrix is missed by as much.
    """

    iterations: int = 20
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.eps < 0:
            raise ValueError(f"iterations={self.iterations} must be at least 1, eps={self.eps} not negative")

    def project(self, logits: Tensor) -> Tensor:
        """(..., n, n) any numbers -> (..., n, n) doubly stochastic, in the order of the released code.

        It begins with a softmax of rows and ends with columns, whose sums are therefore the more exact.
        """
        return ops.sinkhorn(logits, self.iterations, self.eps)


@dataclass(frozen=True, kw_only=True)
class HyperConnections:
    """Residual streams and how they are mixed.

    Attributes:
        streams: n; 1 is the plain residual again.
        dynamic: let the mixing depend on the token.
        manifold: where the mixing matrices live; None leaves them free (plain hyper-connections).
        gate: what the dynamic part is multiplied by at the start.
    """

    streams: int = 4
    dynamic: bool = True
    manifold: Birkhoff | None = Birkhoff()
    gate: float = 0.01

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise ValueError(f"streams={self.streams} must be positive")

    def build(self, d_model: int, norm_eps: float, layer: int) -> Links:
        """The module of block number ``layer``."""
        return Links(self, d_model, norm_eps, layer)

    def ends(self, d_model: int, norm_eps: float) -> Ends:
        """What stands before the first block and behind the last."""
        return Ends(self, d_model, norm_eps)

    @property
    def n_maps(self) -> int:
        """Numbers that mix one sub-layer: to read, to write, from stream to stream."""
        return 2 * self.streams + self.streams**2

    def n_params(self, d_model: int, n_layers: int) -> int:
        """Parameters of all layers and the final collapse: static part, and weights and gates of the dynamic one."""
        inputs = self.streams * d_model if self.dynamic else 0
        layers = 2 * n_layers * (self.n_maps * (1 + inputs) + 3 * self.dynamic)
        return layers + (0 if self.manifold is None else self.streams * (1 + inputs) + self.dynamic)

    def flops(self, d_model: int, n_layers: int) -> int:
        """Forward FLOPs for one token: making the maps, reading, mixing, writing. Sinkhorn's few thousand are left."""
        n, width = self.streams, self.streams * d_model
        maps = self.n_maps if self.dynamic else 0
        collapse = 0 if self.manifold is None else 2 * width * (n * self.dynamic + 1)
        return 2 * n_layers * 2 * width * (maps + 1 + n + 1) + collapse


class Maps(nn.Module):
    """Numbers from streams: ``base + gate · weight · rms(X)``, in parts that have a gate each.

    Attributes:
        base: all parts one after the other; the static numbers.
        weight: (sum of sizes, n·D), where the config is dynamic. Each part is a matrix of its own.
        gate: (number of parts,), where the config is dynamic.
    """

    weight: Tensor | None
    gate: Tensor | None

    def __init__(self, cfg: HyperConnections, d_model: int, norm_eps: float, start: Sequence[Tensor]) -> None:
        super().__init__()
        self.cfg, self.norm_eps, self.start = cfg, norm_eps, start
        self.sizes = [part.numel() for part in start]
        self.base = nn.Parameter(torch.empty(sum(self.sizes)))
        self.register_parameter("weight", None)
        self.register_parameter("gate", None)
        if cfg.dynamic:
            self.weight = nn.Parameter(torch.zeros(sum(self.sizes), cfg.streams * d_model))
            self.gate = nn.Parameter(torch.empty(len(self.sizes)))
            self.stacked = {"weight": tuple(self.sizes)}
        self.initialise_own()

    @torch.no_grad()
    def initialise_own(self) -> None:
        """Static numbers and gates to where they start."""
        self.base.copy_(torch.cat([part.flatten() for part in self.start]))
        if self.gate is not None:
            self.gate.fill_(self.cfg.gate)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: (B, T, n, D) -> the parts, (B, T, size) each, or (size,) where they are static; float32 at least."""
        base = self.base.to(torch.promote_types(x.dtype, torch.float32))
        if self.weight is None or self.gate is None:
            return list(base.split(self.sizes))
        raw = ops.rms_linear(x.flatten(-2), self.weight, self.norm_eps)
        if self.cfg.manifold is None:
            raw = raw.tanh()
        gates = torch.cat([g.expand(n) for g, n in zip(self.gate.to(base.dtype), self.sizes, strict=True)])
        return list(torch.addcmul(base, gates, raw).split(self.sizes, -1))


class Mixing(Maps):
    """How one sub-layer reads and writes the streams; ``turn`` numbers the sub-layers of the model."""

    def __init__(self, cfg: HyperConnections, d_model: int, norm_eps: float, turn: int) -> None:
        n = cfg.streams
        own = torch.zeros(n, device="cpu")
        own[turn % n] = 1.0
        same = torch.eye(n, device="cpu")
        if cfg.manifold is None:
            start = (own, torch.ones(n, device="cpu"), same)
        else:  # what a sigmoid, twice a sigmoid and a projection are taken of
            start = (LEAN * (own - 0.5), torch.zeros(n, device="cpu"), LEAN * same)
        super().__init__(cfg, d_model, norm_eps, start)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """x (B, T, n, D) -> factors to read (..., n), to write (..., n), and the matrix X is multiplied by (..., n, n).

        The last is the transpose of what is projected: the released weights are stored so.
        """
        read, write, mix = super().forward(x)
        mix = mix.unflatten(-1, (self.cfg.streams, self.cfg.streams))
        manifold = self.cfg.manifold
        if manifold is None:
            return read, write, mix.mT
        return read.sigmoid() + manifold.eps, 2 * write.sigmoid(), manifold.project(mix).mT

    def read(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, n, D) -> what the sub-layer reads (B, T, D); mixed streams, and how its output is written."""
        read, write, mix = self(x)
        h, mixed = ops.read_streams(x, read, mix)
        return h, (mixed, write)


class Links(nn.Module):
    """The module of a ``HyperConnections`` config in one block; its methods are those of ``Residual``."""

    def __init__(self, cfg: HyperConnections, d_model: int, norm_eps: float, layer: int) -> None:
        super().__init__()
        self.attention = Mixing(cfg, d_model, norm_eps, 2 * layer)
        self.ffn = Mixing(cfg, d_model, norm_eps, 2 * layer + 1)

    def enter(self, x: Tensor) -> tuple[Tensor, Any]:
        """x (B, T, n, D) -> what attention's norm reads (B, T, D), and what to keep until it is through."""
        return self.attention.read(x)

    def between(self, y: Tensor, kept: Any, norm: RMSNorm) -> tuple[Tensor, Any]:
        """Attention's output (B, T, D) -> what the feed-forward layer reads, normed (B, T, D), and what to keep."""
        x, kept = self.ffn.read(self.leave(y, kept))
        return norm(x), kept

    def leave(self, y: Tensor, kept: Any) -> Tensor:
        """A sub-layer's output (B, T, D) -> streams (B, T, n, D)."""
        mixed, write = kept
        return ops.write_streams(mixed, write, y)


class Ends(nn.Module):
    """Where streams come from and where they go: copies of the embedding, and one vector for the last norm.

    mHC weighs the streams as a sub-layer's reading does; plain hyper-connections add them up.
    """

    def __init__(self, cfg: HyperConnections, d_model: int, norm_eps: float) -> None:
        super().__init__()
        self.cfg = cfg
        start = [torch.zeros(cfg.streams, device="cpu")]
        self.weights = None if cfg.manifold is None else Maps(cfg, d_model, norm_eps, start)

    def spread(self, x: Tensor) -> Tensor:
        """Embeddings (B, T, D) -> (B, T, n, D), all alike."""
        # In memory, not by a stride of zero: for that a batch of products has only its slowest way.
        return x[..., None, :].expand(*x.shape[:-1], self.cfg.streams, x.shape[-1]).contiguous()

    def handed(self, x: Tensor, read: Tensor) -> Tensor:
        """What modules that look ahead start from (see ``Residual.handed``): the streams."""
        return x

    def collapse(self, x: Tensor) -> Tensor:
        """x: (B, T, n, D) -> (B, T, D)."""
        if self.weights is None or self.cfg.manifold is None:
            return x.sum(-2)
        (read,) = self.weights(x)
        weights = read.sigmoid() + self.cfg.manifold.eps
        return (weights[..., None] * x).sum(-2).to(x.dtype)  # a batch of products 1 x n takes a very slow way back


def composite_gain(mixes: Sequence[Tensor]) -> Tensor:
    """How much a chain of mixing matrices can enlarge a signal, forward or backward (arXiv 2512.24880, section 3.1).

    Args:
        mixes: (..., n, n) for each sub-layer, first to last.

    Returns:
        (...): the greatest sum of absolute values of a row or a column of their product.
    """
    product = mixes[0]
    for mix in mixes[1:]:
        product = mix @ product
    size = product.abs()
    return torch.maximum(size.sum(-1).amax(-1), size.sum(-2).amax(-1))
