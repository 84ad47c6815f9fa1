"""The kernels of FP8 products against their simulation: the same codes, and so the same numbers but for their sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from minideepseek import ops
from minideepseek.kernels.fp8 import codes
from minideepseek.kernels.fp8 import fp8_linear as kernel
from minideepseek.ops.fp8 import LEAST_PEAK, PER_TENSOR, Scheme, fp8_linear
from minideepseek.ops.quantise import E4M3, E5M2, Format, as_fp8

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(5, 130, 140), (1, 1, 1), (130, 16, 20), (70, 256, 8)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def spread(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of many magnitudes, in places that share no scale and in places that do."""
    return (torch.randn(size, device=DEVICE) * torch.exp(3 * torch.randn(size, device=DEVICE))).to(dtype)


def decoded(found: codes.Codes, block: int) -> Tensor:
    """(R, C filled up) in float32."""
    scales = found.scales.t().repeat_interleave(block, 0)[: len(found.codes)]
    return found.codes.float() * scales.repeat_interleave(128, 1)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("form", [E4M3, E5M2])
@pytest.mark.parametrize("shape", [(5, 130), (1, 1), (200, 70)])
def test_codes_are_those_of_the_definition(shape: tuple[int, int], form: Format, power_of_two: bool) -> None:
    x, (n, width) = spread(*shape), shape
    how = {"form": form, "power_of_two": power_of_two, "least_peak": LEAST_PEAK}
    rows = codes.along_rows(x, form.dtype, power_of_two)
    once = as_fp8(x, block=(1, 128), **how)
    assert torch.equal(decoded(rows, 1)[:, :width], once)
    assert torch.equal(
        decoded(codes.along_columns(x, width, form.dtype, power_of_two), 1)[:, :n].t(), as_fp8(x, block=(128, 1), **how)
    )
    twice = codes.along_columns(rows, width, form.dtype, power_of_two)
    assert torch.equal(decoded(twice, 1)[:, :n].t(), as_fp8(once, block=(128, 1), **how))
    matrix, turned = codes.in_blocks(x, form.dtype, power_of_two)
    square = as_fp8(x, block=(128, 128), **how)
    assert torch.equal(decoded(matrix, 128)[:, :width], square)
    assert torch.equal(decoded(turned, 128)[:, :n].t(), square)
    for found, real in ((rows, width), (matrix, width), (twice, n), (turned, n)):
        assert not found.codes.float()[:, real:].any(), "filled up with zeros"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(backward=E5M2, power_of_two=True)], ids=["V3", "E5M2 back"])
@pytest.mark.parametrize(("n", "width", "height"), SHAPES)
def test_a_layer_and_its_gradients_are_those_of_the_simulation(
    n: int, width: int, height: int, scheme: Scheme, dtype: torch.dtype
) -> None:
    x, weight = spread(n, width, dtype=dtype).requires_grad_(), spread(height, width, dtype=dtype).requires_grad_()
    types = scheme.forward.dtype, scheme.backward.dtype, scheme.power_of_two
    found = kernel(x, weight, *types)
    with ops.backend("torch"):
        expected = fp8_linear(x, weight, scheme)
    grad = spread(n, height, dtype=dtype)
    for ours, theirs in zip(
        [found, *torch.autograd.grad(found, (x, weight), grad)],
        [expected, *torch.autograd.grad(expected, (x, weight), grad)],
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        assert error < (1e-6 if dtype == torch.float32 else 4e-3)


def test_a_layer_in_tiles_runs_the_kernel_and_others_their_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = spread(3, 4), spread(2, 4)
    monkeypatch.setattr("minideepseek.kernels.fp8.fp8_linear", lambda *args: "the kernel")
    with ops.backend("triton"), ops.products_in(Scheme()):
        assert ops.linear(x, weight) == "the kernel"
        with ops.products_in(PER_TENSOR):
            assert isinstance(ops.linear(x, weight), Tensor)
    assert isinstance(fp8_linear(x, weight, Scheme()), Tensor) or DEVICE == "cuda"


def test_of_nothing_comes_nothing() -> None:
    x, weight = torch.zeros(0, 8, device=DEVICE, requires_grad=True), spread(4, 8).requires_grad_()
    y = kernel(x, weight, E4M3.dtype, E4M3.dtype, False)
    assert y.shape == (0, 4)
    assert not torch.autograd.grad(y.sum(), weight)[0].any()
