"""What hyper-connections do to every token: numbers from its streams, a matrix made doubly stochastic, and the mixing.

All of it is small or runs once through memory, so what counts on a CPU is how often: autograd of the plain formulas
writes each stream a dozen times, these once in each direction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops import reference
from minideepseek.ops.backend import kernel_in, needs_grad, on_cpu
from minideepseek.ops.matmul import product, weight_gradient
from minideepseek.ops.reference import wide

FEW = 16  # tokens, up to which calls cost more than arithmetic


@kernel_in("hyper.sinkhorn")
def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """A doubly stochastic matrix of every matrix of numbers: rows and columns divided by their sums in turn.

    It begins with a softmax of rows, to which ``eps`` is added, and ends with columns (DeepSeek-V4's released code;
    Sinkhorn & Knopp 1967).

    Args:
        logits: (..., n, n).
        iterations: normalisations of rows, and of columns.
        eps: added to sums before they divide.

    Returns:
        (..., n, n), as exact as so many iterations are.
    """
    if not on_cpu(logits):
        return reference.sinkhorn(logits, iterations, eps)
    if needs_grad(logits):
        return _Sinkhorn.apply(logits, iterations, eps)
    if logits.numel() <= FEW * logits.shape[-1] ** 2:
        return _normalise_few(logits, iterations, eps)
    return _first(_normalise(logits, iterations, eps)[0])


@kernel_in("hyper.rms_linear")
def rms_linear(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm(x) @ weight.T``, without gain, in float32 at least: x (..., D), weight (F, D) -> (..., F)."""
    if not on_cpu(x):
        return reference.rms_linear(x, weight, eps)
    if needs_grad(x, weight):
        return _RMSLinear.apply(x, weight, eps)
    if x.numel() <= FEW * x.shape[-1]:
        rows = wide(x)
        return F.linear(F.rms_norm(rows, rows.shape[-1:], eps=eps), weight.to(rows.dtype))
    return _project(x, weight, eps)[0]


@kernel_in("hyper.streams")
def read_streams(x: Tensor, read: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """What a sub-layer reads of the streams, and the streams mixed.

    Args:
        x: (..., n, D).
        read: (..., n), or (n,) for all tokens alike; float32 at least.
        mix: (..., n, n) or (n, n).

    Returns:
        ``read @ x`` (..., D) in ``x``'s dtype, and ``mix @ x`` (..., n, D) in ``mix``'s, which nothing has rounded.
    """
    if not on_cpu(x) or read.ndim == 1:
        return reference.read_streams(x, read, mix)
    if needs_grad(x, read, mix):
        return _Read.apply(x, read, mix)
    return _read(x, torch.cat([read[..., None, :], mix], -2))


@kernel_in("hyper.streams")
def write_streams(mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
    """``mixed + write ⊗ y``: mixed (..., n, D), write (..., n) or (n,), y (..., D) -> (..., n, D) in ``y``'s dtype."""
    if not on_cpu(y) or write.ndim == 1:
        return reference.write_streams(mixed, write, y)
    if needs_grad(mixed, write, y):
        return _Write.apply(mixed, write, y)
    return _write(mixed, write, y)


def _last(x: Tensor) -> Tensor:
    """(..., n, n) -> (n, n, ...) in memory: tokens last, where sums of a few numbers each stand side by side."""
    return x.movedim((-2, -1), (0, 1)).contiguous()


def _first(x: Tensor) -> Tensor:
    return x.movedim((0, 1), (-2, -1)).contiguous()


def _normalise(logits: Tensor, iterations: int, eps: float) -> tuple[Tensor, list[Tensor]]:
    """(..., n, n) -> the matrices (n, n, ...), and what columns and rows were divided by, first to last."""
    m, sums = _last(logits).softmax(1).add_(eps), []
    for step in range(2 * iterations - 1):
        s = m.sum(step % 2, keepdim=True).add_(eps)
        m.div_(s)
        sums.append(s)
    return m, sums


def _normalise_few(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """The same matrices (..., n, n), for a step of a decode: a product with ones sums, spreads and adds in one call."""
    n = logits.shape[-1]
    m = (logits.softmax(-1) + eps).view(-1, n, n)
    ones, small = m.new_ones(1, 1, 1).expand_as(m), m.new_full((1, 1, 1), eps).expand_as(m)
    for step in range(2 * iterations - 1):
        m.div_(torch.baddbmm(small, m, ones) if step % 2 else torch.baddbmm(small, ones, m))
    return m.view_as(logits)


class _Sinkhorn(torch.autograd.Function):
    # What went into a division is what came out times its sums: the way back keeps only sums, and undoes the forward
    # as it goes. It carries p = m·dm, the gradient by log m: of a division by sums that is  p - m·sum(p).
    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int, eps: float) -> Tensor:
        m, sums = _normalise(logits, iterations, eps)
        ctx.save_for_backward(m, *sums)
        ctx.eps = eps
        return _first(m)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        m, *sums = ctx.saved_tensors
        p, m = _last(grad) * m, m.clone()
        for step in reversed(range(len(sums))):
            p.addcmul_(m, p.sum(step % 2, keepdim=True), value=-1)
            m.mul_(sums[step])
        if ctx.eps:
            p.mul_(1 - ctx.eps / m)
            m.sub_(ctx.eps)
        return _first(p.addcmul_(m, p.sum(1, keepdim=True), value=-1)), None, None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """As ``product``; few numbers from many tokens are worth the quicker library's longer start."""
    return product(a, b, small=2**12 if a.numel() >= 2**14 else 2**14)


def _project(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and 1/rms of every row (..., 1). A row is divided behind the product, where it is shorter."""
    rows = wide(x)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return _product(rows, weight.to(rows.dtype)).mul_(inverse), inverse


class _RMSLinear(torch.autograd.Function):
    # With r = 1/rms and z = r·Wx:  dW = (r·g) xᵀ,  dx = Wᵀ(r·g) - x·r²·(g·z)/D.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        z, inverse = _project(x, weight, eps)
        ctx.save_for_backward(x, weight, z, inverse)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, z, inverse = ctx.saved_tensors
        dim = x.shape[-1]
        rows, z, r, g = wide(x).reshape(-1, dim), z.flatten(0, -2), inverse.flatten(0, -2), grad.flatten(0, -2)
        pull = (g * z).sum(-1, keepdim=True).mul_(r.square()).div_(-dim)
        g = g * r
        dx = _product(g, weight.to(g.dtype).t()).addcmul_(rows, pull)
        return dx.to(x.dtype).view(x.shape), weight_gradient(g, rows).to(weight.dtype), None


def _read(x: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """both (..., n + 1, n): how the sub-layer reads, then how streams mix. One product reads the streams once."""
    out = torch.bmm(both.flatten(0, -3), x.to(both.dtype).flatten(0, -3)).view(*both.shape[:-1], x.shape[-1])
    return out[..., 0, :].to(x.dtype, memory_format=torch.contiguous_format, copy=True), out[..., 1:, :]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, read: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([read[..., None, :], mix], -2)
        ctx.save_for_backward(x, both)
        return _read(x, both)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, mixed_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, both = ctx.saved_tensors
        g = torch.cat([grad.to(both.dtype)[..., None, :], mixed_grad], -2).flatten(0, -3)
        dx = torch.bmm(both.flatten(0, -3).mT, g).to(x.dtype).view(x.shape)
        dboth = torch.bmm(g, x.to(both.dtype).flatten(0, -3).mT).view(both.shape)
        return dx, dboth[..., 0, :], dboth[..., 1:, :]


def _write(mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
    return torch.addcmul(mixed, write[..., None], y.to(mixed.dtype)[..., None, :]).to(y.dtype)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor, write: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(write, y)
        return _write(mixed, write, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        write, y = ctx.saved_tensors
        g = grad.to(write.dtype)
        dwrite = (g * y.to(write.dtype)[..., None, :]).sum(-1)
        dy = torch.bmm(write.flatten(0, -2)[:, None], g.flatten(0, -3)).view(y.shape)
        return g, dwrite, dy.to(y.dtype)
