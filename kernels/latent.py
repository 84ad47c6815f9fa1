"""Attention over MLA's latents in Triton: all heads read one vector a token, which is their key and their value.

Floor: with B sequences, H heads, T queries, S cached tokens, latents of E numbers of b bytes of which Ev are values:

    bytes    b·B·S·E                     the latents once; queries and outputs are few
    FLOPs    2·B·H·T·S·(E + Ev)

For E = 576 and Ev = 512 in bfloat16 that is 1.9·H·T FLOPs a byte. At 4.3 TB/s and 790 TFLOP/s (an H200's copy and its
bfloat16 product) memory is the bound below some 97 rows H·T, and arithmetic above: 32 sequences of 8192 tokens take
0.07 ms with 16 heads, 0.09 ms with 128. Fraction of the floor reached: not yet measured on a GPU.

The kernel is attention/decode.py, with the latent's tile read once for scores and sums. Where a gradient is wanted the
general kernels make it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minideepseek.kernels import launch
from minideepseek.kernels.attention import attention
from minideepseek.kernels.attention.decode import attend_with_few


def latent_attention(
    q: Tensor,
    latents: Tensor,
    d_value: int,
    *,
    scale: float | None = None,
    causal: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """See ``minideepseek.ops.latent_attention``."""
    keys = latents[:, None]
    wants_gradient = torch.is_grad_enabled() and (q.requires_grad or latents.requires_grad)
    if wants_gradient or not (q.numel() and keys.numel()):
        return attention(q, keys, keys[..., :d_value], scale=scale, causal=causal, mask=mask)
    if causal and q.shape[2] > keys.shape[2]:
        raise ValueError(f"causal attention of {q.shape[2]} queries over {keys.shape[2]} keys: the first see nothing")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, keys = map(launch.channels_last, launch.autocast(q, keys))
    launch.check(q, keys)
    return attend_with_few(q, keys, None, d_value, scale, causal, mask)
