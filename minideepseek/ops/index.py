"""The lightning indexer's scores: every query's view of every key, weighted over heads (V3.2 report, eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from minideepseek.ops.backend import kernel_in
from minideepseek.ops.reference import wide

FEW = 4  # queries a row, up to which scoring reads the keys as a decode does


@kernel_in("index")
def index_scores(queries: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """sum over heads j of weights[t, j] · relu(queries[t, j] · keys[s]), for every t and s, whatever may be seen.

    Args:
        queries: (B, T, H, D).
        weights: (B, T, H).
        keys: (B, S, D), the same for all heads.

    Returns:
        (B, T, S), float32 at least.
    """
    weights = wide(weights)
    batch, tokens, heads, _ = queries.shape
    if tokens <= FEW:
        # bfloat16 products are compiled for each new shape, and a decode has one key more at each step: cut here, the
        # long part keeps its shape for 64 steps.
        cut = keys.shape[1] // 64 * 64 if keys.dtype == torch.bfloat16 else 0
        if 0 < cut < keys.shape[1]:
            return torch.cat([_few(queries, weights, part) for part in (keys[:, :cut], keys[:, cut:])], -1)
        return _few(queries, weights, keys)
    products = (queries.flatten(1, 2) @ keys.mT).to(weights.dtype).relu().view(batch, tokens, heads, -1)
    return (weights[:, :, None] @ products).squeeze(2)


def _few(queries: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """``index_scores`` of a few queries: with these second, a product is several times as quick."""
    products = torch.bmm(keys, queries.flatten(1, 2).mT).relu_().to(weights.dtype)  # (B, S, T·H)
    each = zip(products.split(queries.shape[2], -1), weights.unbind(1), strict=True)
    return torch.cat([product @ weight[..., None] for product, weight in each], -1).mT
