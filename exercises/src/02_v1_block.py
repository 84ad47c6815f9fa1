# %% [markdown]
# # Exercises 02 · A V1 block from bricks
#
# Six tasks on [lesson 02](../../notebooks/02_v1_block.ipynb), about 90 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("block.rms_norm")` helps in three steps, `solution("block.rms_norm")` shows ours once you have tried, and
# `status()` at the end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F
from torch import nn

# %% [markdown]
# ## 1. RMSNorm
#
# Write the norm at the entrance of every branch (Zhang & Sennrich, arXiv 1910.07467, eq. 4):
#
# $$\mathrm{RMSNorm}(x)_i = \frac{x_i}{\sqrt{\frac1D\sum_j x_j^2 + \epsilon}}\; g_i$$
#
# - `x` has any shape $(\dots, D)$, the gain $g$ has shape $(D,)$; the result has the shape and the dtype of `x`.
# - `x` may be of 16 bits. A sum of squares does not fit into them: compute in float32, and come back at the end.
# - `x` may be tiny. V1's embeddings start at a size of 0.006, and there $\epsilon$ counts.


# %% task="block.rms_norm" title="RMSNorm" kind="implement" difficulty=1 minutes=10 forbid=["rms_norm", "RMSNorm"]
def rms_norm(x, gain, eps=1e-6):
    """x: (..., D), gain: (D,) -> (..., D), in the dtype of x."""
    ### BEGIN SOLUTION
    wide = x.float()
    root = torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide / root * gain.float()).to(x.dtype)
    ### END SOLUTION


# %% tags=["judge"]
from minideepseek.judge.author import (
    Equals,
    Part,
    Reaches,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    value,
)


def rms_norm_by_rows(x, gain, eps=1e-6):
    """Row by row, from the definition."""
    rows = [row / (row.square().sum() / len(row) + eps) ** 0.5 * gain for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)


def _wide(norm):
    """A mistake of the formula, made by somebody who otherwise minds the dtypes."""
    return lambda x, gain, eps=1e-6: (norm(x.float(), eps) * gain.float()).to(x.dtype)


def _in_its_own_dtype(x, gain, eps=1e-6):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


@checks(
    "block.rms_norm",
    oracle=rms_norm_by_rows,
    mistakes={
        "eps stands outside the root; it belongs under it, beside the mean": _wide(
            lambda x, eps: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)
        ),
        "eps is missing": _wide(lambda x, eps: x * x.pow(2).mean(-1, keepdim=True).rsqrt()),
        "this is LayerNorm: RMSNorm does not subtract the mean": _wide(
            lambda x, eps: (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True, correction=0) + eps).rsqrt()
        ),
        "the squares are summed; divide by D, or take their mean": _wide(
            lambda x, eps: x * (x.pow(2).sum(-1, keepdim=True) + eps).rsqrt()
        ),
        "the mean runs over all entries; each vector has its own": _wide(
            lambda x, eps: x * (x.pow(2).mean() + eps).rsqrt()
        ),
        "the root is missing": _wide(lambda x, eps: x / (x.pow(2).mean(-1, keepdim=True) + eps)),
        "the squares are summed in 16 bits: go to float32 first": _in_its_own_dtype,
        "the result stays in float32: return the dtype of x": lambda x, gain, eps=1e-6: (
            x.float() * (x.float().pow(2).mean(-1, keepdim=True) + eps).rsqrt() * gain.float()
        ),
    },
    alternatives=[
        lambda x, gain, eps=1e-6: (
            x.float()
            * torch.rsqrt(torch.linalg.vecdot(x.float(), x.float())[..., None] / x.shape[-1] + eps)
            * gain.float()
        ).type_as(x),
        lambda x, gain, eps=1e-6: (x.double() * (x.double().square().mean(-1, True) + eps) ** -0.5 * gain).to(x.dtype),
    ],
    hints=(
        "Over which dimension does the mean run, and which shape must it have so that x can be divided by it?",
        "Square, take the mean over the last dimension with keepdim=True, add eps, take the root. Divide, multiply by "
        "the gain. Do all of it on x.float().",
        "wide = x.float(); root = torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps); what is left is the division, "
        "the gain, and .to(x.dtype).",
    ),
)
def _(draw):
    width = draw.integer(5, 24)
    x, gain = draw.normal(draw.integer(2, 4), draw.integer(2, 8), width), draw.normal(width)
    plain = call("rms_norm", x, gain, grad=True)
    one = call("rms_norm", x[0, 0], gain)
    yield contract("keeps shape and dtype, changes no input", 1, [plain, one], [Untouched(), Reaches()])
    ragged = [
        call("rms_norm", draw.normal(*shape, width), draw.normal(width), grad=True) for shape in [(3,), (2, 1, 4)]
    ]
    yield value("equals the formula, gradients too", 2, [plain, *ragged])
    tiny = [
        call("rms_norm", draw.normal(3, width, scale=scale), gain, eps=eps)
        for scale, eps in [(6e-3, 1e-6), (1e-4, 1e-6), (1e-2, 1e-3)]
    ]
    zeros = call("rms_norm", torch.zeros(2, width), gain)
    yield value("is right for tiny vectors, and for zeros", 1, [*tiny, zeros])
    half = [
        call("rms_norm", draw.normal(4, 256, scale=scale, dtype=dtype), draw.normal(256, dtype=dtype))
        for scale, dtype in [(300.0, torch.float16), (1.0, torch.bfloat16)]
    ]
    yield value("computes 16-bit inputs in float32", 1, half)
