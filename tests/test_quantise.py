"""Low precision, simulated: a rotation that keeps products, scales of blocks, and rounding to what the bits can say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.ops.quantise import (
    E4M3,
    E5M2,
    E5M6,
    as_fp8,
    block_scales,
    hadamard,
    held,
    in_blocks,
    rounded,
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
    found = block_scales(in_blocks(x, 2), largest=448.0, power_of_two=power_of_two).flatten()
    expected = torch.tensor([4.0, 2.0, 1e-4]) / 448
    assert torch.allclose(found, up_to_power_of_two(expected) if power_of_two else expected)


@pytest.mark.parametrize("form", [E4M3, E5M2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_by_arithmetic_is_what_a_processors_conversion_does(form, dtype):
    x = normal(4000, dtype=dtype) * 2.0 ** torch.randint(-20, 10, (4000,), generator=torch.Generator().manual_seed(1))
    x = x.float().to(dtype)  # which is where conversions start from
    exact = held(form).to(dtype)
    ties = (exact[1:] + exact[:-1]) / 2
    for numbers in (x, exact, -exact, ties, -ties, torch.tensor([1e6, -1e6], dtype=dtype)):
        assert torch.equal(rounded(numbers, form._replace(dtype=None)), rounded(numbers, form))
    assert torch.equal(rounded(exact, form), exact)


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_all_numbers_of_a_format_are_those_that_its_codes_stand_for(form):
    codes = torch.arange(128, dtype=torch.uint8).view(form.dtype).double()
    assert torch.equal(held(form), codes[codes.isfinite()])


def test_what_e4m3_reaches():
    numbers = held(E4M3)
    assert (numbers[1].item(), numbers[8].item(), numbers[-1].item()) == (2**-9, 2**-6, 448)
    assert len(held(E5M6)) == 31 * 64
    assert torch.equal(rounded(held(E5M6), E5M6), held(E5M6))


def test_twelve_bits_leave_a_128th_and_reach_as_far_as_e5m2():
    x = normal(4000)
    error = ((rounded(x, E5M6) - x) / x).abs().max()
    assert 0.9 * 2**-7 < error <= 2**-7
    assert rounded(torch.tensor([1e6, 2.0**-20, 2.0**-22]), E5M6).tolist() == [65024.0, 2.0**-20, 0.0]


# Largest relative error: half of the last bit. Mean: over a uniform mantissa in [1, 2), ln 2 / 2 of that.
@pytest.mark.parametrize(("form", "bits"), [(E4M3, 3), (E5M2, 2), (E5M6, 6)])
@pytest.mark.parametrize("block", [128, (128, 128), None])
def test_more_digits_and_not_more_scales_make_normal_numbers_exact(form, bits, block):
    x = normal(256, 256)
    error = (as_fp8(x, block=block, form=form) - x).abs() / x.abs()
    normal_numbers = x.abs() > x.abs().max() / 448 * 2**-6  # above E4M3's last normal number, whatever the block
    assert error[normal_numbers].max() <= 2.0 ** -(bits + 1)
    assert 0.3 < error[normal_numbers].mean() / 2.0 ** -(bits + 1) < 0.4


def test_what_fp8_can_hold_stays():
    exact = held(E4M3).float()
    assert torch.equal(as_fp8(exact, block=exact.numel()), exact)
    assert torch.equal(as_fp8(exact * 2.0**-5, block=exact.numel(), power_of_two=True), exact * 2.0**-5)


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


def cut(x, rows, columns):
    """x (R, C) as a list of its blocks, row by row, the last ones smaller."""
    return [part for band in x.split(rows, 0) for part in band.split(columns, 1)]


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (4, 4), (3, 5), (100, 100)])
def test_every_block_is_rounded_by_itself_also_at_the_edges(block, power_of_two):
    x = normal(10, 11) * 2.0 ** torch.randint(-8, 8, (10, 1), generator=torch.Generator().manual_seed(2))
    found = cut(as_fp8(x, block=block, power_of_two=power_of_two), *block)
    for part, own in zip(found, cut(x, *block), strict=True):
        assert torch.equal(part, as_fp8(own, block=None, power_of_two=power_of_two))


@pytest.mark.parametrize("block", [8, (4, 8), None])
def test_nothing_is_rounded_to_nothing(block):
    assert as_fp8(torch.empty(0, 8), block=block).shape == (0, 8)


def test_stacked_matrices_are_rounded_one_by_one_and_vectors_as_rows():
    x = normal(3, 5, 6)
    assert torch.equal(as_fp8(x, block=(2, 4)), torch.stack([as_fp8(one, block=(2, 4)) for one in x]))
    assert torch.equal(as_fp8(x[0, 0], block=4), as_fp8(x[0], block=4)[0])
    assert torch.equal(as_fp8(x, block=None), as_fp8(x.flatten(), block=90).view_as(x))


def test_numbers_as_small_as_gradients_survive_if_no_peak_is_assumed():
    x = normal(4, 128) * 1e-9
    assert ((as_fp8(x) - x).norm() / x.norm()) > 0.1
    assert ((as_fp8(x, least_peak=1e-30) - x).norm() / x.norm()) < 0.03


def test_turning_tiles_loses_nothing_where_scales_are_powers_of_two():
    """V3 keeps activations in tiles of 1 x 128 and needs them in tiles of 128 x 1 (report, section 3.3.3)."""
    x = normal(128, 128, dtype=torch.float32)
    for power_of_two in (True, False):
        kept = as_fp8(x, block=(1, 128), power_of_two=power_of_two)
        turned = as_fp8(kept, block=(128, 1), power_of_two=power_of_two)
        changed = (turned != kept) & (kept.abs() > kept.abs().max() / 448 * 2**-5)  # still normal after turning
        assert changed.any() != power_of_two


def test_an_outlier_spoils_what_it_shares_a_scale_with():
    """Cells of 1e5 among normal numbers: E4M3 spans five orders of magnitude, so smaller outliers do no harm."""
    x = normal(512, 512)
    cells = torch.randperm(512 * 512, generator=torch.Generator().manual_seed(1))[:4]
    planted = x.clone().view(-1).index_fill_(0, cells, 1e5).view_as(x)
    others = (planted == x).double()

    def error(x, block):
        return (((as_fp8(x, block=block) - x) * others).norm() / (x * others).norm()).item()

    tensor, blocks, tiles = (error(planted, block) for block in (None, (128, 128), (1, 128)))
    assert tensor > 0.1
    assert tensor > 1.5 * blocks > 3 * tiles
    assert tiles < 1.1 * error(x, (1, 128))
    assert error(x, None) == pytest.approx(error(x, (1, 128)), rel=0.05)


def test_the_gradient_passes_straight_through():
    x = normal(2, 128).requires_grad_()
    y = straight_through(x, as_fp8(x))
    assert torch.equal(y, as_fp8(x))
    weight = normal(2, 128, seed=1)
    y.backward(weight)
    assert torch.equal(x.grad, weight)
