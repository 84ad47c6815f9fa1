"""Attention over a latent that is every head's key and, its first columns, every head's value: MLA, absorbed.

DeepSeek-V2 report, section 2.1 and appendix C: with the matrices that would expand it moved to the query and behind the
weighted sum, a token's latent and rotary key are one vector that all heads read as it lies in the cache.
"""

from __future__ import annotations

from torch import Tensor

from minideepseek.ops.attend import attention
from minideepseek.ops.backend import kernel_in


@kernel_in("latent")
def latent_attention(
    q: Tensor,
    latents: Tensor,
    d_value: int,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """``attention`` with one key head for all, whose values are its first ``d_value`` columns.

    Args:
        q: (B, H, T, E).
        latents: (B, S, E).
        d_value: width of the values, at most E.
        scale: factor on the scores; None means 1/sqrt(E).
        causal: as in ``ops.attention``.
        mask: as in ``ops.attention``.

    Returns:
        (B, H, T, d_value). A query that sees no key gets zeros.

    Raises:
        ValueError: causal with more queries than keys.
    """
    keys = latents[:, None]
    # Summing the other columns along and dropping them costs a CPU less than reading the latents around them.
    return attention(q, keys, keys, scale=scale, causal=causal, mask=mask)[..., :d_value]
