"""In how many bits layers multiply: as many as their tensors have, or eight.

This is the one place that decides. What a ``Linear`` and the experts of a mixture multiply is taken in FP8 inside
``with products_in(scheme)``; nothing else ever is, so that embedding, head, routers, norms and the core of attention
keep their bits (V3 report, section 3.3.1). A ``Linear(..., exact=True)`` keeps them, too: the output head, and those
matrices that DeepSeek stores unrounded beside FP8 (V3's ``eh_proj``, V4's compressors).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from minideepseek.ops.experts import experts as exact_experts
from minideepseek.ops.fp8 import Scheme, fp8_experts, fp8_linear
from minideepseek.ops.matmul import linear as exact_linear

_scheme: Scheme | None = None


@contextmanager
def products_in(scheme: Scheme | None) -> Iterator[None]:
    """Within the block layers multiply in simulated FP8; ``None``: as many bits as their tensors have.

    A gradient is taken as its forward pass was, wherever ``backward`` is called.
    """
    global _scheme
    before, _scheme = _scheme, scheme
    try:
        yield
    finally:
        _scheme = before


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x (..., D), weight (F, D) -> (..., F)."""
    return exact_linear(x, weight) if _scheme is None else fp8_linear(x, weight, _scheme)


def experts(
    x: Tensor, gate_up: Tensor, down: Tensor, indices: Tensor, weights: Tensor, limit: float | None = None
) -> Tensor:
    """Weighted sum of each token's experts; see ``ops.experts.experts``."""
    if _scheme is None:
        return exact_experts(x, gate_up, down, indices, weights, limit)
    return fp8_experts(x, gate_up, down, indices, weights, limit, _scheme)
