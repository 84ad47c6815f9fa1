"""Low precision, simulated: a rotation that keeps products, scales of blocks, and rounding to what the bits can say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.ops.quantise import (
    E4M3_LARGEST,
    as_fp8,
    block_scales,
    hadamard,
    straight_through,
    up_to_power_of_two,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("n", [1, 2, 8, 128])
def test_the_rotation_keeps_products_and_undoes_itself(n):
    q, k = normal(3, n), normal(5, n, seed=1)
    torch.testing.assert_close(hadamard(q) @ hadamard(k).T, q @ k.T)
    torch.testing.assert_close(hadamard(hadamard(q)), q)


def test_the_rotation_is_sylvesters_matrix():
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    torch.testing.assert_close(hadamard(torch.eye(4)), signs / 2)


def test_the_rotation_spreads_an_outlier_evenly():
    spike = torch.zeros(64)
    spike[5] = 8.0
    assert torch.equal(hadamard(spike).abs(), torch.ones(64))


@pytest.mark.parametrize("n", [3, 12, 96])
def test_other_widths_are_refused(n):
    with pytest.raises(ValueError, match=f"{n} channels: their number must be a power of two"):
        hadamard(torch.ones(n))


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_scale_is_rounded_up_to_the_next_power_of_two(x):
    found = up_to_power_of_two(torch.tensor([x])).item()
    assert math.frexp(found)[0] == 0.5
    assert found / 2 < x <= found


def test_a_power_of_two_stays():
    powers = 2.0 ** torch.arange(-126, 127)
    assert torch.equal(up_to_power_of_two(powers), powers)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_each_block_is_scaled_by_its_own_peak(power_of_two):
    x = torch.tensor([[1.0, -4.0, 0.5, 2.0, 0.0, 0.0]])
    found = block_scales(x, block=2, largest=448.0, power_of_two=power_of_two)
    expected = torch.tensor([[4.0, 2.0, 1e-4]]) / 448
    assert torch.allclose(found, up_to_power_of_two(expected) if power_of_two else expected)


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="6 numbers do not divide into blocks of 4"):
        block_scales(torch.ones(6), block=4, largest=1.0)


def test_what_fp8_can_hold_stays():
    held = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    held = held[held.isfinite()]
    assert held.max() == E4M3_LARGEST
    assert torch.equal(as_fp8(held, block=held.numel()), held)
    assert torch.equal(as_fp8(held * 2.0**-5, block=held.numel(), power_of_two=True), held * 2.0**-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_rounding_to_fp8_errs_by_a_sixteenth_at_most(power_of_two, dtype):
    x = normal(4, 256, dtype=dtype)
    found = as_fp8(x, power_of_two=power_of_two)
    error = (found.double() - x.double()).abs()
    # Three bits behind the leading one; below the smallest normal number, 2^-6, steps of 2^-9 (of twice the scale).
    peak = x.double().unflatten(-1, (-1, 128)).abs().amax(-1, keepdim=True).expand(-1, -1, 128).flatten(-2)
    assert found.dtype == dtype
    assert bool((error <= x.double().abs() * (2**-4 + 2**-8) + 2 * peak / 448 * 2**-10).all())
    assert error.max() > 0


def test_blocks_of_zeros_stay_zero():
    assert torch.equal(as_fp8(torch.zeros(2, 128)), torch.zeros(2, 128))


def test_the_gradient_passes_straight_through():
    x = normal(2, 128).requires_grad_()
    y = straight_through(x, as_fp8(x))
    assert torch.equal(y, as_fp8(x))
    weight = normal(2, 128, seed=1)
    y.backward(weight)
    assert torch.equal(x.grad, weight)
