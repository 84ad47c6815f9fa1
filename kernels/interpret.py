"""Make Triton's interpreter compute bfloat16 and 8-bit floats as a GPU does.

The interpreter (TRITON_INTERPRET=1) runs a kernel on NumPy arrays. NumPy knows neither bfloat16 nor 8-bit floats, so
it holds their bits in unsigned integers, and in Triton 3.6 to 3.9:

- bfloat16 arithmetic, ``tl.dot`` and ``tl.sum`` work on those integers: the results are garbage, silently;
- float32 becomes bfloat16 by cutting bits off, where a GPU rounds to nearest, ties to even;
- float32 becomes float8 with lost carries, wrong subnormals and no saturation; integers become bfloat16 bit by bit.

Here every such operation widens its operands to float32, computes, and rounds as the hardware does. The functions
replaced are private to Triton: ``make_faithful`` refuses to work on a Triton where one of them has gone, and
tests/kernels/test_interpret.py compares the arithmetic with PyTorch's, bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

#: Operations of the interpreter's builder that compute on values. Their result has the type of the last operand.
ARITHMETIC = ("binary_op", "unary_op", "ternary_op", "create_fma", "create_rsqrt", "create_erf", "create_dot")

_FLOATS = {
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
    tl.bfloat16: torch.bfloat16,
    tl.float16: torch.float16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AS_INTEGERS = (tl.bfloat16, tl.float8e4nv, tl.float8e5)  # what NumPy can only hold as bits


def make_faithful() -> None:
    """Patch the interpreter, once.

    Raises:
        RuntimeError: this Triton's interpreter is built otherwise than those this file knows.
    """
    builder = interpreter.InterpreterBuilder
    used = {
        builder: (*ARITHMETIC, "cast_impl", "create_fp_to_fp"),
        interpreter.ReduceOps: ("sum", "to_tensor"),
        interpreter: ("_convert_float", "_get_np_dtype", "TensorHandle"),
    }
    missing = [name for owner, names in used.items() for name in names if not hasattr(owner, name)]
    if missing:
        raise RuntimeError(
            f"Triton {triton.__version__} has no {', '.join(missing)} in its interpreter: kernels/interpret.py must "
            "learn the new names before bfloat16 results under TRITON_INTERPRET=1 mean anything"
        )
    if interpreter._convert_float is convert:
        return
    for name in ARITHMETIC:
        setattr(builder, name, _widened(getattr(builder, name)))
    builder.cast_impl = _cast(builder.cast_impl)
    interpreter.ReduceOps.sum = _sum(interpreter.ReduceOps.sum)
    interpreter._convert_float = convert


def convert(data: np.ndarray, source: tl.dtype, target: tl.dtype, rounding: Any = None) -> np.ndarray:
    """Bits of ``source`` floats -> bits of ``target`` floats, same shape, as unsigned integers.

    Rounds to nearest, ties to even; ``rounding`` may ask for truncation instead. What is too large for 8 bits becomes
    the largest finite value, as PTX's ``cvt.rn.satfinite`` does.
    """
    source, target = source.scalar, target.scalar
    if source not in _FLOATS or target not in _FLOATS:
        raise NotImplementedError(f"the interpreter cannot convert {source} to {target}")
    values = _to_torch(data, source)
    if rounding is not None and "RTZ" in str(rounding):
        values = _toward_zero(values, target)
    if target in (tl.float8e4nv, tl.float8e5):
        largest = torch.finfo(_FLOATS[target]).max
        values = values.float().clamp(-largest, largest)  # leaves NaN alone
    return _to_numpy(values.to(_FLOATS[target])).reshape(np.shape(data))


def _to_torch(data: np.ndarray, dtype: tl.dtype) -> torch.Tensor:
    bits = np.ascontiguousarray(data).reshape(-1)
    return torch.from_numpy(bits.view(f"i{bits.itemsize}").copy()).view(_FLOATS[dtype])


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.view(_BITS[values.element_size()]).numpy().view(f"u{values.element_size()}")


def _toward_zero(values: torch.Tensor, target: tl.dtype) -> torch.Tensor:
    nearest = values.to(_FLOATS[target]).to(values.dtype)
    return torch.where(nearest.abs() > values.abs(), _one_step_inward(nearest, target), nearest)


def _one_step_inward(values: torch.Tensor, target: tl.dtype) -> torch.Tensor:
    # A float's bits, sign aside, count its magnitudes upward: one less is the neighbour nearer to zero.
    narrow = values.to(_FLOATS[target])
    return (narrow.view(_BITS[narrow.element_size()]) - 1).view(_FLOATS[target]).to(values.dtype)


def _is_bf16(handle: Any) -> bool:
    return isinstance(handle, interpreter.TensorHandle) and handle.dtype.scalar == tl.bfloat16


def _widen(handle: Any) -> Any:
    if not _is_bf16(handle):
        return handle
    return interpreter.TensorHandle(convert(handle.data, tl.bfloat16, tl.float32).view(np.float32), tl.float32)


def _widened(compute: Callable[..., Any]) -> Callable[..., Any]:
    """``compute`` on float32 where operands are bfloat16, its result rounded back."""

    @functools.wraps(compute)
    def on_float32(self: Any, *operands: Any) -> Any:
        handles = [operand for operand in operands if isinstance(operand, interpreter.TensorHandle)]
        if not any(map(_is_bf16, handles)):
            return compute(self, *operands)
        result = compute(self, *map(_widen, operands))
        if result.data.dtype == np.bool_:  # a comparison
            return interpreter.TensorHandle(result.data, tl.int1)
        if not _is_bf16(handles[-1]):  # a product of bfloat16 summed in float32
            return result
        narrow = convert(result.data.astype(np.float32), tl.float32, tl.bfloat16)
        return interpreter.TensorHandle(narrow, tl.bfloat16)

    return on_float32


def _cast(cast: Callable[..., Any]) -> Callable[..., Any]:
    """``cast`` by way of float32 wherever one side is held as bits."""

    @functools.wraps(cast)
    def through_float32(self: Any, source: Any, target: tl.dtype) -> Any:
        of, to = source.dtype.scalar, target.scalar
        if of not in _AS_INTEGERS and to not in _AS_INTEGERS:
            return cast(self, source, target)
        truth = source.data.dtype == np.bool_  # a comparison carries the type of what it compared
        data = convert(source.data, of, tl.float32).view(np.float32) if of in _FLOATS and not truth else source.data
        if to in _FLOATS:
            data = convert(data.astype(np.float32), tl.float32, to).view(interpreter._get_np_dtype(to))
        else:
            data = data.astype(interpreter._get_np_dtype(to))
        return interpreter.TensorHandle(data, to)

    return through_float32


def _sum(add_up: Callable[..., Any]) -> Callable[..., Any]:
    """``tl.sum`` of bfloat16 in float32, rounded once. (A GPU rounds after every addition: kernels widen first.)"""

    @functools.wraps(add_up)
    def in_float32(self: Any, tensor: Any) -> Any:
        if not _is_bf16(tensor.handle):
            return add_up(self, tensor)
        total = np.sum(_widen(tensor.handle).data, axis=self.axis, keepdims=self.keep_dims, dtype=np.float32)
        return self.to_tensor(convert(np.asarray(total), tl.float32, tl.bfloat16)[()], tensor.dtype)

    return in_float32
