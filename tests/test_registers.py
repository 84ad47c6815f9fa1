"""Sums kept in too few bits, as Hopper's tensor cores keep them, and what promotion saves."""

import pytest
import torch

from minideepseek.ops.quantise import E4M3, rounded
from minideepseek.ops.registers import AT_ONCE, BITS, cut_off, register_product


def numbers_of_fp8(*shape: int, seed: int) -> torch.Tensor:
    """Normal numbers scaled into E4M3's range, as a tile of activations would be."""
    return rounded(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 448 / 6, E4M3)


def worst(k: int, promote: int | None, seed: int) -> float:
    """The largest error of a product over the mean size of its elements: those are near zero now and then."""
    a, b = numbers_of_fp8(48, k, seed=2 * seed), numbers_of_fp8(48, k, seed=2 * seed + 1)
    exact = a.double() @ b.double().T
    return ((register_product(a, b, promote=promote) - exact).abs().max() / exact.abs().mean()).item()


@pytest.mark.parametrize("seed", range(3))
def test_two_percent_at_a_length_of_4096_and_a_thirtieth_of_it_with_promotion(seed):
    """V3 report, section 3.3.2: "nearly 2%" for K = 4096."""
    plain, promoted = worst(4096, None, seed), worst(4096, 128, seed)
    assert 0.012 < plain < 0.022
    assert 0.0004 < promoted < 0.0008
    assert plain > 20 * promoted


def test_errors_grow_with_the_length_and_with_promotion_they_do_not():
    plain, promoted = ([worst(k, promote, 0) for k in (512, 2048, 8192)] for promote in (None, 128))
    assert plain[1] > 2.5 * plain[0]
    assert plain[2] > 2.5 * plain[1]
    assert max(promoted) < 1.5 * min(promoted)


def test_what_is_below_the_last_bit_of_the_register_never_arrives():
    """A register at 2^19 keeps multiples of 64: 32 ones are nothing to it, however often they come."""
    a, b = torch.ones(1, 640), torch.ones(1, 640)
    a[0, 0] = 2.0**19
    assert register_product(a, b).item() == 2**19
    assert register_product(a, b, promote=128).item() == 2**19 + 640 - 128
    assert register_product(a, b, bits=53).item() == 2**19 + 639


def test_products_added_in_one_go_are_cut_off_where_the_largest_of_them_is():
    a, b = torch.ones(1, AT_ONCE), torch.ones(1, AT_ONCE)
    a[0, 0] = 2.0**BITS  # keeps multiples of 2: each one is lost, where their sum would not be
    assert register_product(a, b).item() == 2**BITS


def test_cutting_off_rounds_towards_zero():
    x = numbers_of_fp8(1, 4096, seed=0).abs()
    exact = (x.double() @ x.double().T).item()
    assert 0 < register_product(x, x).item() < exact
    assert register_product(-x, x).item() == -register_product(x, x).item()


def test_leading_bits_stay():
    x = torch.tensor([16383.0, 16384.0, 16385.0, -32769.0, 0.75])
    assert cut_off(x, BITS, like=x).tolist() == [16383.0, 16384.0, 16384.0, -32768.0, 0.75]
    assert cut_off(x, BITS, like=x[3:4]).tolist() == [16380.0, 16384.0, 16384.0, -32768.0, 0.0]


@pytest.mark.parametrize("promote", [0, 16, AT_ONCE + 1])
def test_promotion_in_the_middle_of_an_addition_is_refused(promote):
    with pytest.raises(ValueError, match=f"promote={promote}: .* give a multiple"):
        register_product(torch.ones(1, 64), torch.ones(1, 64), promote=promote)
