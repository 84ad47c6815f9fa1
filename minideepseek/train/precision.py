"""Mixed precision: the weights live in fp32, the passes run on a bf16 copy that is made once a step, or in fp8 on it.

bf16 keeps fp32's range with 8 bits of precision: enough to multiply, too few to add a small update to a large weight.
So there are two sets of weights (Micikevicius et al., arXiv 1710.03740), and gradients are added up in fp32 as in V1
(report, section 2.4). Casting whole matrices once a step costs a few milliseconds; autocast casts again in every layer.

fp8 is V3's framework (report, section 3.3): as bf16, but layers multiply in eight bits (``ops.products``), and AdamW
keeps its moments in bf16. It is simulated, so it shows what the bits cost and not what they save.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from minideepseek import ops
from minideepseek.errors import UserError
from minideepseek.model import ModelConfig, Transformer
from minideepseek.ops.fp8 import Scheme


def bf16_is_faster(device: torch.device) -> bool:
    """Whether this processor multiplies bf16 matrices faster than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Elsewhere bf16 is emulated and slower than fp32: on CPUs it takes AMX tiles or AVX512's dot product.
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


Precision = Literal["auto", "fp32", "bf16", "fp8"]


def choose_dtype(wish: Precision, device: torch.device) -> Precision:
    """``auto`` as ``bf16`` or ``fp32``, anything else as it is."""
    if wish == "auto":
        return "bf16" if bf16_is_faster(device) else "fp32"
    if wish in ("bf16", "fp8") and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"{torch.cuda.get_device_name(device)} has no bf16; use dtype fp32 or auto")
    return wish


def choose_device(wish: str, model: Transformer | ModelConfig) -> torch.device:
    """The device of this name; ``auto``: where the model is, or for one that is not built yet, the GPU if there is one.

    Raises:
        UserError: it is not here.
    """
    if wish != "auto":
        try:
            device = torch.device(wish)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device={wish!r} is not here ({str(error).splitlines()[0]}); use cpu") from None
        return device
    if isinstance(model, Transformer):
        return model.embed.weight.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Replica:
    """The module that computes, kept in step with the model that learns.

    In fp32 both are one. Else every parameter of ``module`` is a copy of the model's in bf16; buffers are shared.

    Args:
        model: fp32 weights, which the optimiser updates in place.
        dtype: ``fp32``, ``bf16`` or ``fp8``.
    """

    def __init__(self, model: Transformer, dtype: Precision) -> None:
        self.model = self.module = model
        self.masters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._copies: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._scheme = Scheme() if dtype == "fp8" else None
        if dtype == "fp32":
            return
        self.module = copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})
        for parameter in self.module.parameters():
            parameter.data = parameter.data.bfloat16()
        self._copies = [p for p in self.module.parameters() if p.requires_grad]
        self._grads = [torch.zeros_like(master) for master in self.masters]
        for master, grad in zip(self.masters, self._grads, strict=True):
            master.grad = grad

    def arithmetic(self) -> AbstractContextManager[None]:
        """What passes of ``module`` run within."""
        return ops.products_in(self._scheme)

    def gather(self, *, first: bool) -> None:
        """Take over the gradients of one piece of a batch, in fp32: the first replaces, the others add."""
        if not self._copies:
            return
        new = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._copies]
        if first:
            torch._foreach_copy_(self._grads, new)
        else:
            for grad, piece in zip(self._grads, new, strict=True):
                grad += piece
        for p in self._copies:
            p.grad = None

    @torch.no_grad()
    def update(self) -> None:
        """After the optimiser's step: round the new weights into the copy, drop used gradients."""
        if self._copies:
            torch._foreach_copy_(self._copies, self.masters)
        else:
            for p in self.masters:
                p.grad = None
