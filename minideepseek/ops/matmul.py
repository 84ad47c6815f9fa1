"""The matrix product, in the form that this machine's libraries are quickest at."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops.backend import needs_grad, on_cpu

# PyTorch sends float32 products on x86 to Intel's MKL, which keeps its quick code for Intel's processors; oneDNN, in
# the same PyTorch, runs at full speed on all of them.
MKL_IS_SLOW = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and "AMD" in str(getattr(torch.cpu, "get_capabilities", str)())
)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: what ``torch.nn.functional.linear`` computes, sooner on some processors.

    Args:
        x: (..., D).
        weight: (F, D).

    Returns:
        (..., F).
    """
    if torch.compiler.is_compiling() and one_row(x) and not needs_grad(x, weight):
        return times_vector(weight, x.flatten()).to(x.dtype).view(*x.shape[:-1], -1)
    if not _gains(x):
        return F.linear(x, weight)
    if needs_grad(x, weight):
        return _Linear.apply(x, weight)
    return product(x, weight)


def one_row(x: Tensor) -> bool:
    """Whether ``x`` (..., D) is a single row, on the CPU: a step of one text's decode."""
    return x.device.type == "cpu" and x.numel() == x.shape[-1]


def times_vector(weight: Tensor, x: Tensor) -> Tensor:
    """weight (..., F, D), x broadcast against it -> (..., F), summed and returned in float32 at least.

    For the compiler, which makes one loop of it, and of the lookup of ``weight`` if it is one: each number is read
    once, where it lies. PyTorch itself would write all the products down first.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return (weight.to(wide) * x.to(wide)).sum(-1)


def _gains(x: Tensor) -> bool:
    """Whether PyTorch's own form leaves something to gain for ``x``."""
    if torch.compiler.is_compiling():  # which needs no help but with the library
        return (
            MKL_IS_SLOW and x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        )
    return on_cpu(x) and x.dtype != torch.float64


def product(a: Tensor, b: Tensor, *, small: int = 2**14) -> Tensor:
    """a (..., K), b (N, K) -> a @ b.T (..., N). No gradient. Of fewer than ``small`` elements, ``b`` is left to MKL."""
    if not _takes_onednn(a) or a.numel() == 0 or b.numel() < small:
        return F.linear(a, b)
    (many, width), rows = b.shape, a.numel() // a.shape[-1]
    if torch.compiler.is_compiling():
        return F.linear(a, b) if rows <= 8 and b.numel() < 2**17 else _opaque_product(a, b)  # to be called costs, too
    # With few rows, as in a decode, a product only waits for ``b`` to arrive from memory, and what matters is in which
    # order it is read.
    if rows == 1 and a.ndim < 4 and many % 16 == 0 and b.is_contiguous():
        columns = a.expand(many // 16, 1, width).mT  # a reshape has other strides, which send bmm a slower way
        return torch.bmm(b.view(-1, 16, width), columns).view(*a.shape[:-1], many)
    if 1 < rows < 8 and width < 1024:
        return (b @ a.reshape(rows, width).t()).t().contiguous().view(*a.shape[:-1], many)
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def weight_gradient(grad: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """grad (N, F), x (N, D) -> grad.T @ x (F, D), written into ``out`` if that is given. No gradient."""
    if not _takes_onednn(grad):
        return torch.mm(grad.t(), x, out=out)
    # The same numbers either way, but oneDNN likes the longer side second; and it takes a thousand times as long if
    # there are gaps between its rows, as a slice of something wider has.
    if grad.shape[1] > x.shape[1]:
        found = product(x.t(), grad.contiguous().t()).t()
    else:
        found = product(grad.t(), x.contiguous().t())
    return found if out is None else out.copy_(found)


def _takes_onednn(x: Tensor) -> bool:
    return MKL_IS_SLOW and x.dtype == torch.float32 and x.device.type == "cpu"


@torch.library.custom_op("minideepseek::product", mutates_args=())
def _opaque_product(a: Tensor, b: Tensor) -> Tensor:
    """``product`` for the compiler, which would look inside and stumble."""
    return product(a, b)


@_opaque_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.reshape(-1, weight.shape[0])
        dx = product(grad, weight.t()).view(x.shape) if ctx.needs_input_grad[0] else None
        dweight = weight_gradient(grad, x.reshape(-1, x.shape[-1])) if ctx.needs_input_grad[1] else None
        return dx, dweight
