"""The interpreter's bfloat16 and 8-bit arithmetic is PyTorch's, bit by bit: what every other kernel test rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("kernels run on the GPU here", allow_module_level=True)

import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from minideepseek.kernels import interpret  # noqa: E402

N = 4096


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_kernels_are_interpreted_here() -> None:
    assert isinstance(_binary, interpreter.InterpretedFunction), "triton was imported before TRITON_INTERPRET was set"


@pytest.mark.parametrize("name", ["create_fma", "create_dot", "binary_op", "cast_impl"])
def test_a_triton_that_moved_its_internals_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(interpreter.InterpreterBuilder, name)
    with pytest.raises(RuntimeError, match=name):
        interpret.make_faithful()


def test_patching_twice_is_patching_once() -> None:
    before = interpreter.InterpreterBuilder.binary_op
    interpret.make_faithful()
    assert interpreter.InterpreterBuilder.binary_op is before


@triton.jit
def _binary(a_ptr, b_ptr, out_ptr, OP: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(a_ptr + i), tl.load(b_ptr + i)
    if OP == "add":
        c = a + b
    elif OP == "sub":
        c = a - b
    elif OP == "mul":
        c = a * b
    elif OP == "max":
        c = tl.maximum(a, b)
    elif OP == "less":
        c = (a < b).to(a.dtype)
    elif OP == "where":
        c = tl.where(a > 0, a, b)
    elif OP == "fma":
        c = tl.fma(a, b, a)
    elif OP == "abs":
        c = tl.abs(a)
    elif OP == "negative":
        c = -a
    elif OP == "clamp":
        c = tl.clamp(a, -0.5, 0.5)
    tl.store(out_ptr + i, c.to(out_ptr.dtype.element_ty))


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "max": torch.maximum,
    "less": lambda a, b: (a < b).bfloat16(),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "fma": lambda a, b: (a.float() * b.float() + a.float()).bfloat16(),
    "abs": lambda a, b: a.abs(),
    "negative": lambda a, b: -a,
    "clamp": lambda a, b: a.clamp(-0.5, 0.5),
}


@pytest.mark.parametrize("name", BINARY)
def test_bfloat16_arithmetic(name: str) -> None:
    a, b = torch.randn(2, N).bfloat16()
    out = torch.empty_like(a)
    _binary[(1,)](a, b, out, OP=name, N=N)
    assert torch.equal(out, BINARY[name](a, b))


@triton.jit
def _convert(x_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.load(x_ptr + i).to(out_ptr.dtype.element_ty))


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    _convert[(1,)](x, out, N=x.numel())
    return out


def bits(x: Tensor) -> Tensor:
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float16),
        (torch.float32, torch.float16),
        (torch.float32, torch.float8_e4m3fn),
        (torch.bfloat16, torch.float8_e4m3fn),
        (torch.float32, torch.float8_e5m2),
    ],
    ids=str,
)
def test_conversion_rounds_to_nearest_even(source: torch.dtype, target: torch.dtype) -> None:
    # Magnitudes down to where the targets' subnormals end, ties included: bfloat16 values lie between two float8.
    x = (torch.randn(N).bfloat16().float() * 2.0 ** torch.randint(-12, 7, (N,))).clamp(-440, 440).to(source)
    assert torch.equal(bits(converted(x, target)), bits(x.to(target)))


def test_every_bfloat16_becomes_its_float32() -> None:
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert torch.equal(bits(converted(x, torch.float32)), bits(x.float()))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_every_float8_becomes_its_float32(dtype: torch.dtype) -> None:
    x = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    found, expected = converted(x, torch.float32), x.float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0)], ids=str)
def test_float8_saturates(dtype: torch.dtype, largest: float) -> None:
    x = torch.tensor([449.0, 1e9, torch.inf, torch.nan, -1e9, 60000.0, 0.0, -0.0])
    found = converted(x, dtype).float()
    assert found[3].isnan()
    torch.testing.assert_close(found.nan_to_num(0), x.clamp(-largest, largest).to(dtype).float().nan_to_num(0))


def test_integers_become_bfloat16_by_value() -> None:
    x = torch.arange(-512, 512, dtype=torch.int32)
    assert torch.equal(converted(x, torch.bfloat16), x.bfloat16())
    assert torch.equal(converted(x.bfloat16(), torch.int32), x.bfloat16().int())


def test_rounding_toward_zero_when_asked() -> None:
    x = torch.randn(N)
    cut = (x.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
    found = interpret.convert(x.numpy(), tl.float32, tl.bfloat16, "RTZ")
    assert np.array_equal(found, cut.view(torch.int16).numpy().view(np.uint16))


@triton.jit
def _matmul(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    product = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), out_dtype=tl.float32)
    tl.store(out_ptr + at, product.to(out_ptr.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16], ids=str)
def test_dot_sums_in_float32(dtype: torch.dtype, out: torch.dtype) -> None:
    a, b = torch.randn(2, 32, 32).to(dtype)
    found = torch.empty(32, 32, dtype=out)
    _matmul[(1,)](a, b, found, N=32)
    expected = (a.double() @ b.double()).float()
    torch.testing.assert_close(found.float(), expected, rtol=1e-5 if out == torch.float32 else 2**-8, atol=1e-5)


@triton.jit
def _reduce(x_ptr, out_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    tl.store(out_ptr, tl.sum(x))
    tl.store(out_ptr + 1, tl.max(x))
    tl.store(out_ptr + 2, tl.min(x))


def test_reductions_of_bfloat16() -> None:
    x = torch.randn(N).bfloat16()
    out = torch.empty(3)
    _reduce[(1,)](x, out, N=N)
    expected = torch.stack([x.float().sum().bfloat16().float(), x.float().max(), x.float().min()])
    torch.testing.assert_close(out, expected, rtol=2**-7, atol=0)
    assert torch.equal(out[1:], expected[1:])


@triton.jit
def _row_sums(x_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.sum(tl.load(x_ptr + i[:, None] * N + i[None, :]), axis=1))


def test_row_sums_of_bfloat16() -> None:
    x = torch.randn(32, 32).bfloat16()
    out = torch.empty(32)
    _row_sums[(1,)](x, out, N=32)
    torch.testing.assert_close(out, x.float().sum(1), rtol=2**-8, atol=1e-5)


@triton.jit
def _unary(x_ptr, out_ptr, N: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, N))
    tl.store(out_ptr + tl.arange(0, N), tl.sigmoid(x.to(tl.float32)).to(tl.bfloat16))


def test_a_function_of_bfloat16_by_way_of_float32() -> None:
    x = torch.randn(N).bfloat16()
    out = torch.empty_like(x)
    _unary[(1,)](x, out, N=N)
    torch.testing.assert_close(out, x.sigmoid(), rtol=2**-7, atol=0)
