"""Softmax attention in Triton, forward (forward.py), back (keys.py, queries.py), and of few queries (decode.py).

Floor: arithmetic. With B sequences, H query heads, T queries, S keys, widths E of queries and keys and Ev of values:

    forward     2·B·H·T·S·(E + Ev) FLOPs                 two products; half of that where causal and T = S
    backward    2·B·H·T·S·(3·E + 2·Ev) FLOPs             five products
    bytes       b·B·(H·T·(E + Ev) + G·S·(E + Ev)) forward, about twice that backward: hundreds of FLOPs a byte

At 790 TFLOP/s (an H200's bfloat16 product), 4 sequences of 4096 tokens with 128 heads of 192/128, causal, take 3.5 ms
forward and 9.0 ms backward. Fraction of the floor reached: not yet measured on a GPU.

The method is FlashAttention's (Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691). What is kept for the way
back are the output and, of each query, the logarithm of its softmax's divisor. With P = softmax(S), O = P V:

    dV = Pᵀ dO,   dP = dO Vᵀ,   dS = P · (dP - <dO, O>),   dQ = scale · dS K,   dK = scale · dSᵀ Q

and P is one exponential of the scores, computed again. A tile of P and dS belongs to its queries and to its keys, and a
sum over all tiles of either is wanted. One kernel could make both only by adding to dQ atomically, in an order that
changes from run to run; so there are two, each of which computes S and dP: seven products where five would do.

Tensor cores want widths that are powers of two. MLA's 192 = 128 + 64 would be filled up to 256; here the products over
the widest power of two and over the rest are added up instead. Values may have a width of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.kernels import launch
from minideepseek.kernels.attention.decode import attend_with_few
from minideepseek.kernels.attention.forward import attend
from minideepseek.kernels.attention.keys import gradients_of_keys
from minideepseek.kernels.attention.queries import gradient_of_queries, inner_products

FEW = 8  # queries: more fill a tile by themselves


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """See ``minideepseek.ops.attention``."""
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads do not divide into {k.shape[1]} groups")
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"causal attention of {q.shape[2]} queries over {k.shape[2]} keys: the first see nothing")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = map(launch.channels_last, launch.autocast(q, k, v))
    launch.check(q, k, v)
    causal = causal and q.shape[2] > 1  # a single query is the last one, and sees everything
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if q.shape[2] <= FEW and not wants_gradient and q.numel() and v.numel():
        return attend_with_few(q, k, v, v.shape[-1], scale, causal, mask)
    return _Attention.apply(q, k, v, scale, causal, mask)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, mask: Tensor | None) -> Tensor:
        ctx.scale, ctx.causal = scale, causal
        if q.numel() and v.numel():
            y, divisor = attend(q, k, v, scale, causal, mask)
        else:
            y, divisor = v.new_zeros(*q.shape[:3], v.shape[-1]), None
        ctx.save_for_backward(q, k, v, mask, y, divisor)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, y, divisor = ctx.saved_tensors
        if divisor is None:
            return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), None, None, None
        dy = launch.channels_last(dy)
        given = q, k, v, dy, divisor, inner_products(y, dy)
        dk, dv = gradients_of_keys(given, mask, ctx.scale, ctx.causal)
        return gradient_of_queries(given, mask, ctx.scale, ctx.causal), dk, dv, None, None, None
