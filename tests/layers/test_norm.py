"""RMSNorm: closed form, order of rounding, gradients."""

import pytest
import torch

from minideepseek.layers import RMSNorm


def norm(dim: int, dtype: torch.dtype = torch.float64, eps: float = 1e-6) -> RMSNorm:
    module = RMSNorm(dim, eps).to(dtype)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 2.0, dim))
    return module


def rows(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_equals_the_formula(eps: float) -> None:
    module, x = norm(7, eps=eps), rows(2, 3, 7)
    expected = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * module.weight
    torch.testing.assert_close(module(x), expected, atol=1e-12, rtol=0)


def test_scale_of_the_input_does_not_matter() -> None:
    module, x = norm(16, eps=0.0), rows(4, 16)
    torch.testing.assert_close(module(x), module(1000 * x))


def test_row_of_zeros_stays_zero() -> None:
    assert torch.equal(norm(5)(torch.zeros(2, 5, dtype=torch.float64)), torch.zeros(2, 5, dtype=torch.float64))


def test_bfloat16_is_rounded_before_the_gain_multiplies() -> None:
    """The order of Llama's code, in which the checkpoints were trained."""
    module, x = norm(64, torch.bfloat16), rows(50, 64, dtype=torch.bfloat16)
    normal = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(module(x), normal.bfloat16() * module.weight)
    assert not torch.equal(module(x), (normal * module.weight.float()).bfloat16())


def test_add_is_the_norm_of_the_sum_and_the_sum() -> None:
    module, x, residual = norm(8), rows(3, 8), rows(2, 3, 8)[1]
    y, total = module.add(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(y, module(x + residual))


def test_gradients_are_right() -> None:
    module, x = norm(5), rows(2, 3, 5).requires_grad_()
    residual = rows(2, 3, 5).flip(0).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, module.weight))
    assert torch.autograd.gradcheck(lambda x, r, *_: module.add(x, r), (x, residual, module.weight))
