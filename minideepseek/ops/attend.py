"""Softmax attention with grouped heads (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek.ops.backend import kernel_in, needs_grad
from minideepseek.ops.matmul import MKL_IS_SLOW, product

FEW = 4  # queries a head, up to which calls cost more than arithmetic


LONG = 768  # queries from which a head has enough work to be taken by itself
LARGE = 2**20  # bytes of the keys that a group of heads shares, from which that holds of a decode


@kernel_in("attention")
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """softmax(scale · q kᵀ) v, each query head with the keys and values of its group.

    Args:
        q: (B, H, T, E).
        k: (B, G, S, E), H a multiple of G: query head h reads from group h // (H/G).
        v: (B, G, S, Ev); Ev may differ from E.
        scale: factor on the scores; None means 1/sqrt(E).
        causal: no query sees past itself. The *last* query stands at the *last* key, so T < S continues a cache.
        mask: bool, broadcastable to (B, H, T, S), True = visible; with ``causal``, both must allow it.

    Returns:
        (B, H, T, Ev). A query that sees no key gets zeros.

    Raises:
        ValueError: heads that do not divide, or causal with more queries than keys.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads do not divide into {k.shape[1]} groups")
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"causal attention of {q.shape[2]} queries over {k.shape[2]} keys: the first see nothing")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    causal = causal and q.shape[2] > 1  # a single query is the last one, and sees everything
    hidden = None if mask is None else ~mask
    if hidden is not None and causal:
        hidden = hidden | _future(q, k)
    if q.device.type != "cpu" or torch.is_autocast_enabled("cpu") or _too_long(q, k):
        return _library(q, k, v, scale, causal, hidden)
    if q.shape[2] <= FEW and not needs_grad(q, k, v):
        return _few(q, k, v, scale, causal, hidden)
    q = q.unflatten(1, (k.shape[1], q.shape[1] // k.shape[1]))
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    if needs_grad(q, k, v) or torch.compiler.is_compiling():
        return _attend(q, k, v, scale, causal, hidden)[0]
    if hidden is None and q.dtype == torch.float32 and MKL_IS_SLOW and q.shape[3] >= LONG:
        return _by_head(q, k, v, scale, causal)
    return _forward(q, k, v, scale, causal, hidden, None)


def _too_long(q: Tensor, k: Tensor) -> bool:
    # The library's attention keeps no scores, which in float32 wins past a few thousand keys; and what we keep for
    # the backward pass must not grow past a quarter of a gigabyte a layer.
    batch, heads, queries, _ = q.shape
    scores = batch * heads * queries * k.shape[2] * q.element_size()
    return (q.dtype == torch.float32 and queries > 2048) or (torch.is_grad_enabled() and scores > 2**29)


def _future(q: Tensor, k: Tensor) -> Tensor:
    queries, keys = q.shape[2], k.shape[2]
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)


def _library(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, hidden: Tensor | None) -> Tensor:
    """PyTorch's fused attention."""
    width = v.shape[-1]
    if width < q.shape[-1]:  # with unequal sizes it would fall back to its unfused form
        v = F.pad(v, (0, q.shape[-1] - width))
    if causal and hidden is None and q.shape[2] < k.shape[2]:
        hidden = _future(q, k)  # its own causal order lines up the *first* query with the first key
    grouped = q.shape[1] != k.shape[1]
    if hidden is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped)[..., :width]
    blind = hidden.all(-1, keepdim=True)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden | blind, scale=scale, enable_gqa=grouped)
    return y[..., :width].masked_fill(blind, 0.0)


def _few(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, hidden: Tensor | None) -> Tensor:
    """A step of a decode, one query a head or those that judge drafts: as few calls as there can be. No gradient."""
    (batch, heads, queries, width), groups, keys = q.shape, k.shape[1], k.shape[2]
    # To the library's one call the heads of a group are queries of one sequence. In float32 it reads best where a
    # core's own cache nearly holds the keys, or many heads share them; otherwise two products read faster.
    apart = _apart(q, k, v)
    whole = queries == 1 and q.dtype == torch.float32 and hidden is None and width == v.shape[-1] and not apart
    # (A compiled step takes it always: an answer that changes as the text grows would be compiled anew.)
    if whole and (torch.compiler.is_compiling() or heads >= 8 * groups or k.nbytes < 2**21):
        y = F.scaled_dot_product_attention(q.view(batch, groups, -1, width), k, v, scale=scale)
        return y.reshape(q.shape)
    rows, k, v = (q * scale).reshape(batch * groups, -1, width), k.flatten(0, 1), v.flatten(0, 1)
    # oneDNN compiles a product for every new shape, and each step of a decode has a key more than the last. Cut here,
    # the long part keeps its shape for 64 steps, and of the short one there are only 64, none of one key: the compiler
    # would make a case of its own of that.
    cut = max(keys - 2, 0) // 64 * 64 if apart or q.dtype == torch.bfloat16 else 0
    if apart:
        scores = torch.stack(
            [torch.cat([product(r, x[:cut]), r @ x[cut:].t()], 1) for r, x in zip(rows, k, strict=True)]
        )
    elif cut:
        scores = torch.cat([torch.bmm(k[:, :cut], rows.mT), torch.bmm(k[:, cut:], rows.mT)], 1).mT
    else:
        scores = torch.bmm(k, rows.mT).mT  # (B·G, H/G·T, S); products like the few rows second
    if hidden is not None:
        hidden = hidden.expand(batch, heads, queries, -1).reshape(scores.shape)
        scores = scores.masked_fill(hidden, -torch.inf)
    elif causal:
        for query in range(queries - 1):  # blind to what comes after it, in every head
            scores[:, query::queries, keys - queries + query + 1 :] = -torch.inf
    p = scores.softmax(-1)
    if hidden is not None:  # the softmax of nothing is 0/0
        p = p.masked_fill(hidden, 0.0)
    if apart:
        y = torch.stack([product(r[:, :cut], x[:cut].t()) + r[:, cut:] @ x[cut:] for r, x in zip(p, v, strict=True)])
    elif cut:
        y = torch.baddbmm(torch.bmm(p[..., :cut], v[:, :cut]), p[..., cut:], v[:, cut:])
    else:
        y = torch.bmm(p, v)
    return y.view(batch, heads, queries, -1)


def _apart(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether each group of heads by itself is sooner through: oneDNN is slow with stacks of large matrices."""
    rows, (keys, width) = q.shape[2] * q.shape[1] // k.shape[1], k.shape[2:]
    return (
        not torch.compiler.is_compiling()
        and (q.dtype == torch.bfloat16 or (q.dtype == torch.float32 and MKL_IS_SLOW))
        and rows >= 8
        and keys > 128
        and keys * width * k.element_size() >= LARGE
        and k.stride(2) == width  # gaps between rows would stall it
        and v.stride(2) == v.shape[3]
    )


def _blocks(queries: int, keys: int, causal: bool) -> Iterator[tuple[int, int, int]]:
    """(first query, one past the last, keys that the last one sees): about eight blocks, of 64 to 256 queries.

    Under causal order a block never multiplies with keys that all its queries are blind to, which saves up to half
    of the work; and its scores are still in the cache when the softmax reads them.
    """
    size = min(256, max(64, queries // 8))
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        yield start, stop, keys - queries + stop if causal else keys


def _rows(x: Tensor, start: int, stop: int) -> Tensor:
    """(B, G, H/G, T, E) -> (B·G, H/G·(stop - start), E): all heads of a group meet its keys in one product."""
    return x[:, :, :, start:stop].flatten(2, 3).flatten(0, 1)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, hidden: Tensor | None, kept: list[Tensor] | None
) -> Tensor:
    """q (B, G, H/G, T, E), k (B·G, S, E), v (B·G, S, Ev) -> (B, H, T, Ev). Appends each block's probabilities."""
    batch, groups, per_group, queries, _ = q.shape
    keys, width = v.shape[1:]
    blind = None
    if hidden is not None:
        hidden = hidden.expand(batch, groups * per_group, queries, keys).unflatten(1, (groups, per_group))
        blind = hidden.all(-1, keepdim=True)
        blind = blind if blind.any() else None
    out = q.new_empty(batch, queries, groups, per_group, width)  # in the order in which the next layer reads it
    for start, stop, seen in _blocks(queries, keys, causal):
        rows = _rows(q, start, stop) * scale
        if rows.dtype == torch.bfloat16 and 1 < rows.shape[1] < 8:  # bfloat16 products want the few rows second
            scores = (k[:, :seen] @ rows.mT).mT.contiguous()
        else:
            scores = rows @ k[:, :seen].mT
        tile = scores.view(batch, groups, per_group, stop - start, seen)
        if hidden is not None:
            tile.masked_fill_(hidden[:, :, :, start:stop, :seen], -torch.inf)
        elif causal:
            tile[..., start - stop :] += tile.new_full((stop - start, stop - start), -torch.inf).triu_(1)
        p = scores.softmax(-1)
        if blind is not None:  # the softmax of nothing is 0/0
            p.view_as(tile).masked_fill_(blind[:, :, :, start:stop], 0.0)
        if kept is not None:
            kept.append(p)
        y = (p @ v[:, :seen]).view(batch, groups, per_group, stop - start, width)
        out[:, start:stop] = y.permute(0, 3, 1, 2, 4)
    return out.flatten(2, 3).transpose(1, 2)


def _by_head(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """``_forward`` of a long text, one head's block after the other, its products taken by the library that is quick.

    That one multiplies no stack of matrices; but a block by itself stays in the processor's cache from the scores to
    the weighted sum.
    """
    batch, groups, per_group, queries, _ = q.shape
    keys, width = v.shape[1:]
    out = q.new_empty(batch, queries, groups, per_group, width)
    k, v, size = k.contiguous(), v.contiguous(), 256  # gaps between rows would stall it
    future = q.new_full((size, size), -torch.inf).triu_(1)
    for row, group, head in itertools.product(range(batch), range(groups), range(per_group)):
        mine_k, mine_v = k[row * groups + group], v[row * groups + group]
        for start in range(0, queries, size):
            stop = min(start + size, queries)
            seen = keys - queries + stop if causal else keys
            scores = product(q[row, group, head, start:stop] * scale, mine_k[:seen])
            if causal:
                scores[:, start - stop :] += future[: stop - start, : stop - start]
            out[row, start:stop, group, head] = product(scores.softmax(-1), mine_v[:seen].t())
    return out.flatten(2, 3).transpose(1, 2)


# An operation of its own rather than an autograd.Function: the compiler takes it whole, where it would unroll the loop
# over blocks or, given the plain formula, make one block of everything and lose what blocks save.
@torch.library.custom_op("minideepseek::attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, hidden: Tensor | None) -> list[Tensor]:
    """The output, then each block's probabilities, which the backward pass wants again."""
    kept: list[Tensor] = []
    out = _forward(q, k, v, scale, causal, hidden, kept)
    return [out, *kept]


# With P = softmax(S), O = PV:  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P·(dP - rowsum(P·dP)),  dQ = s·dS K,  dK = s·dSᵀ Q.
@torch.library.custom_op("minideepseek::attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: list[Tensor], scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    batch, groups, per_group, queries, width = q.shape
    grad = grad.unflatten(1, (groups, per_group))
    wide = torch.promote_types(k.dtype, torch.float32)  # several blocks add to the same key
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    scaled = k * scale
    for (start, stop, seen), p in zip(_blocks(queries, k.shape[1], causal), kept, strict=True):
        g, rows = _rows(grad, start, stop), _rows(q, start, stop) * scale
        dv[:, :seen] += p.mT @ g
        dscores = torch.ops.aten._softmax_backward_data(g @ v[:, :seen].mT, p, -1, p.dtype)
        dk[:, :seen] += dscores.mT @ rows
        tile = (dscores @ scaled[:, :seen]).view(batch, groups, per_group, stop - start, width)
        dq[:, :, :, start:stop] = tile
    return dq, dk.to(k.dtype), dv.to(v.dtype)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, hidden: Tensor | None) -> list[Tensor]:
    batch, groups, per_group, queries, _ = q.shape
    out = q.new_empty(batch, queries, groups * per_group, v.shape[2]).transpose(1, 2)
    blocks = _blocks(queries, k.shape[1], causal)
    return [out, *(q.new_empty(k.shape[0], per_group * (stop - start), seen) for start, stop, seen in blocks)]


@_attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    q, k, v, ctx.scale, ctx.causal, _ = inputs
    ctx.set_materialize_grads(False)  # nobody differentiates the probabilities
    ctx.save_for_backward(q, k, v, *output[1:])


def _recall(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    if grads[0] is None:
        return (None,) * 6
    q, k, v, *kept = ctx.saved_tensors
    return *_attend_backward(grads[0], q, k, v, kept, ctx.scale, ctx.causal), None, None, None


_attend.register_autograd(_recall, setup_context=_remember)
