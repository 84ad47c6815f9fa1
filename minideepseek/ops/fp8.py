"""Products in FP8, simulated: both factors rounded to eight bits, their product summed in float32.

A layer multiplies three times: forward, for the gradient of its input, and for that of its weights. V3 (report, section
3.3) takes all three in FP8, every number in E4M3, and makes up for the few bits with many scales: each number shares
one only with others that it will be summed with, so that the scale can be applied to the sum. Along the way

    y = x W^T           x in tiles of 1 x 128 along the channels,   W in blocks of 128 x 128
    dx = g W            g in tiles of 1 x 128 along the channels,   W the same, turned
    dW = g^T x          g and x in tiles of 128 x 1, along the tokens

so blocks of weights serve both ways, and what was kept of x is rounded once more, in the other direction (section
3.5.2). Everything but these products (embedding, head, routers, norms, attention itself) has more bits.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minideepseek.ops.backend import on_triton
from minideepseek.ops.experts import dispatch, experts
from minideepseek.ops.gate import swiglu
from minideepseek.ops.matmul import product, weight_gradient
from minideepseek.ops.quantise import E4M3, E5M2, Block, Format, as_fp8
from minideepseek.ops.reference import wide

LEAST_PEAK = 1e-30  # gradients of a mean over many tokens are tiny; all that is asked is not to divide by zero


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Which numbers of a product share a scale, and what a number is. The default is V3's.

    Attributes:
        activations: tokens x channels that share a scale where channels are summed; turned where tokens are.
        weights: outputs x inputs that share a scale.
        gradients: of a layer's output, tokens x channels, as ``activations``.
        forward: format of activations and weights.
        backward: format of gradients.
        power_of_two: scales are powers of two (V4).
    """

    activations: Block = (1, 128)
    weights: Block = (128, 128)
    gradients: Block = (1, 128)
    forward: Format = E4M3
    backward: Format = E4M3
    power_of_two: bool = False

    def __post_init__(self) -> None:
        for name in ("activations", "weights", "gradients"):
            block = getattr(self, name)
            if block is not None and (not isinstance(block, tuple) or len(block) != 2 or min(block) < 1):
                raise ValueError(f"{name}={block}: rows and columns that share a scale, or None for the whole tensor")

    @property
    def in_tiles(self) -> bool:
        """Whether tiles and blocks are V3's, which the kernels in ``minideepseek.kernels.fp8`` multiply."""
        blocks = self.activations, self.weights, self.gradients
        in_torch = self.forward.dtype is not None and self.backward.dtype is not None
        return in_torch and blocks == ((1, 128), (128, 128), (1, 128))

    def activation(self, x: Tensor, *, over_tokens: bool = False) -> Tensor:
        """x (N, D) in float32 at least, rounded for a product that sums over channels, or over tokens."""
        return self._round(x, _turned(self.activations) if over_tokens else self.activations, self.forward)

    def weight(self, weight: Tensor) -> Tensor:
        """weight (F, D) in float32 at least, rounded."""
        return self._round(weight, self.weights, self.forward)

    def gradient(self, grad: Tensor, *, over_tokens: bool = False) -> Tensor:
        """grad (N, F) in float32 at least, rounded for a product that sums over channels, or over tokens."""
        return self._round(grad, _turned(self.gradients) if over_tokens else self.gradients, self.backward)

    def _round(self, x: Tensor, block: Block, form: Format) -> Tensor:
        return as_fp8(wide(x), block=block, form=form, power_of_two=self.power_of_two, least_peak=LEAST_PEAK)


def _turned(block: Block) -> Block:
    return (block[1], block[0]) if isinstance(block, tuple) else block


#: As before V3: one scale for each tensor.
PER_TENSOR = Scheme(activations=None, weights=None, gradients=None)
#: The same with more range and fewer digits for gradients (Micikevicius et al., arXiv 2209.05433, section 3).
HYBRID = Scheme(activations=None, weights=None, gradients=None, backward=E5M2)
#: Gradients scaled in blocks, as weights are: a model of 16B diverged (V3 report, appendix B.2).
BLOCK_GRADIENTS = Scheme(gradients=(128, 128))


def fp8_linear(x: Tensor, weight: Tensor, scheme: Scheme) -> Tensor:
    """``ops.linear`` with its three products in FP8.

    Args:
        x: (..., D).
        weight: (F, D).
        scheme: what is rounded how.

    Returns:
        (..., F) in x's dtype; gradients come in those of x and weight.
    """
    if scheme.in_tiles and on_triton(x) and _has_eight_bits(x.device):
        kernel = importlib.import_module("minideepseek.kernels.fp8").fp8_linear
        return kernel(x, weight, scheme.forward.dtype, scheme.backward.dtype, scheme.power_of_two)
    return _Linear.apply(x, weight, scheme)


def _has_eight_bits(device: torch.device) -> bool:
    """Whether the device multiplies in eight bits: GPUs since Ada and Hopper do, and the interpreter."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


def fp8_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    indices: Tensor,
    weights: Tensor,
    limit: float | None,
    scheme: Scheme,
) -> Tensor:
    """``ops.experts`` with every product of every expert in FP8; arguments as there.

    Tiles along the tokens, and scales of whole tensors, are made of one expert's tokens alone. Outputs are weighed and
    summed in float32 (V3 keeps the combination out of FP8, section 3.3.3).
    """
    if not indices.numel():  # no token, nothing to round
        return experts(x, gate_up, down, indices, weights, limit)
    plan = dispatch(indices, len(gate_up))
    gate_ups, downs = gate_up.unbind(), down.unbind()  # one gradient for all, where E views would make E of full size
    rows = x[plan.source]
    parts = []
    for expert, start, end in plan.busy():
        hidden = swiglu(fp8_linear(rows[start:end], gate_ups[expert], scheme), limit)
        parts.append(fp8_linear(hidden, downs[expert], scheme))
    outputs = wide(torch.cat(parts))[plan.slot].unflatten(0, indices.shape)  # (N, K, D)
    return (outputs * weights[..., None]).sum(1).to(x.dtype)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scheme: Scheme) -> Tensor:
        rows, matrix = scheme.activation(x.reshape(-1, x.shape[-1])), scheme.weight(weight)
        ctx.save_for_backward(rows, matrix)
        ctx.scheme, ctx.shape, ctx.dtypes = scheme, x.shape, (x.dtype, weight.dtype)
        return product(rows, matrix).view(*x.shape[:-1], len(weight)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, matrix = ctx.saved_tensors
        scheme, (x_dtype, weight_dtype) = ctx.scheme, ctx.dtypes
        grad = grad.reshape(-1, len(matrix))
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = product(scheme.gradient(grad), matrix.t()).view(ctx.shape).to(x_dtype)
        if ctx.needs_input_grad[1]:
            grad, rows = scheme.gradient(grad, over_tokens=True), scheme.activation(rows, over_tokens=True)
            dweight = weight_gradient(grad, rows).to(weight_dtype)
        return dx, dweight, None
