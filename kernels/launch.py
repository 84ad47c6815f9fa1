"""What every kernel's launcher needs to decide: how large a tile, how many programs, whether the tensors fit."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

#: Longest row that a kernel holds in the registers of one program.
LONGEST_ROW = 65_536


def check(*tensors: Tensor) -> None:
    """Refuse what the kernels would compute wrongly or read from the wrong memory."""
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise TypeError(f"the Triton kernels take float32, bfloat16 and float16, not {tensor.dtype}")
        if tensor.device != tensors[0].device:
            raise ValueError(f"tensors on {tensors[0].device} and {tensor.device}: a kernel needs all on one device")


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """``tensors`` in the type that autocast, where it is on, wants a matrix product's operands to have."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def run(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch ``kernel`` on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **options)


def precision(x: Tensor) -> str:
    """How ``tl.dot`` multiplies float32: exactly, or by tensor cores with 10 bits, if PyTorch's own products may."""
    return "tf32" if x.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def channels_last(x: Tensor) -> Tensor:
    """``x`` with neighbouring channels neighbours in memory."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def rows_of(x: Tensor) -> Tensor:
    """x (..., D) as (N, D) with D contiguous: a view where the strides allow it, for example for a slice of columns."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def tile(width: int, elements: int = 4096) -> tuple[int, int, int]:
    """(rows, columns, warps) of a tile that holds whole rows of ``width``, about ``elements`` numbers in all.

    About sixteen numbers a thread keep enough loads in flight to hide the memory's latency.
    """
    if width > LONGEST_ROW:
        raise ValueError(f"rows of {width} numbers do not fit the registers of one program; at most {LONGEST_ROW}")
    columns = triton.next_power_of_2(width)
    rows = max(1, elements // columns)
    return rows, columns, min(16, max(4, rows * columns // 512))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; a token few in the interpreter, where programs run one after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
