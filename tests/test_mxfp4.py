"""Four bits: what they can hold, which way ties go, and that eight bits hold all of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.ops.mxfp4 import LEVELS, as_fp4, fp4_scales
from minideepseek.ops.quantise import as_fp8, hadamard

SIGNED = torch.tensor([*LEVELS, *(-level for level in LEVELS)], dtype=torch.float64)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def in_fp8_blocks(x):
    return as_fp8(x, block=(128, 128), power_of_two=True)


@pytest.mark.parametrize("exponent", [-120, -6, 0, 5, 100])
def test_what_four_bits_can_hold_stays(exponent):
    held = (SIGNED * 2.0**exponent).repeat(2)
    assert torch.equal(as_fp4(held), held)


def test_ties_go_to_the_even_code():
    between = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0])
    assert torch.equal(as_fp4(between), expected)
    assert torch.equal(as_fp4(-between), -expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=40))
def test_every_number_goes_to_the_nearest(numbers):
    x = torch.tensor([*numbers, 6.0], dtype=torch.float64)  # the peak makes the scale one
    found = as_fp4(x, block=len(x))
    nearest = (x[:, None] - SIGNED).abs().amin(-1)
    assert torch.equal((found - x).abs(), nearest)
    assert set(found.abs().tolist()) <= set(LEVELS)


def test_a_scale_is_the_least_power_of_two_that_brings_the_peak_to_six_or_below():
    x = torch.tensor([6.0, 6.1, 3.0, 1e-3, 0.0]).repeat_interleave(32)
    x[1::2] = 0
    assert fp4_scales(x).tolist() == [1.0, 2.0, 0.5, 2.0**-12, 2.0**-126]
    assert torch.equal(as_fp4(torch.zeros(64)), torch.zeros(64))


def test_each_block_of_32_has_a_scale_of_its_own_and_the_last_may_be_shorter():
    x = torch.cat([normal(3, 32), 1e4 * normal(3, 32, seed=1), 1e-5 * normal(3, 16, seed=2)], -1)
    found = as_fp4(x)
    parts = [as_fp4(part) for part in x.split([32, 32, 16], -1)]
    assert torch.equal(found, torch.cat(parts, -1))
    assert found.shape == x.shape
    assert ((found - x).norm(dim=-1) < 0.2 * x.norm(dim=-1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_type_stays_and_rounding_twice_is_rounding_once(dtype):
    x = normal(4, 96, dtype=dtype)
    found = as_fp4(x)
    assert found.dtype == dtype
    assert torch.equal(as_fp4(found), found)


def fp4_matrix(ratio: int, seed: int = 0) -> torch.Tensor:
    """256 x 256, all sixteen elements of FP4, whose scales within each 128 x 128 span 2^ratio."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(0, ratio + 1, (256, 8), generator=generator)
    exponents[::128, ::4], exponents[1::128, ::4] = 0, ratio
    elements = SIGNED[torch.randint(0, 16, (256, 8, 32), generator=generator)]
    elements[..., 0], elements[..., 1] = 6.0, 0.5  # both ends in every block
    return (elements * 2.0 ** exponents[..., None]).flatten(1)


@pytest.mark.parametrize("ratio", [0, 1, 7, 13, 14])
@pytest.mark.parametrize("power", [-8, 0, 9])
def test_eight_bits_hold_four_as_long_as_scales_differ_by_no_more_than_two_to_the_fourteen(ratio, power):
    x = fp4_matrix(ratio) * 2.0**power
    assert torch.equal(as_fp4(x), x)
    assert torch.equal(in_fp8_blocks(x), x)


@pytest.mark.parametrize("ratio", [15, 16, 20])
def test_beyond_that_the_smallest_are_lost(ratio):
    x = fp4_matrix(ratio)
    lost = in_fp8_blocks(x) != x
    assert lost.any()
    assert x[lost].abs().max() < 2.0 ** (ratio - 13)


def test_blocks_at_the_edge_may_be_smaller():
    x = as_fp4(normal(130, 200))
    assert torch.equal(in_fp8_blocks(x), x)


def test_turning_spares_products_an_outlier():
    """One channel of keys thirty times as large as the others: FP4 of what is rotated errs less."""
    q, k = normal(200, 128), normal(200, 128, seed=1)
    k[:, 7] *= 30
    exact = q @ k.T
    plain = (as_fp4(q) @ as_fp4(k).T - exact).norm() / exact.norm()
    turned = (as_fp4(hadamard(q)) @ as_fp4(hadamard(k)).T - exact).norm() / exact.norm()
    assert turned < 0.9 * plain
