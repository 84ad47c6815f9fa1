"""The one projection: a matrix product, as a module that tools for ``nn.Linear`` recognise."""

import torch
from torch import nn

from minideepseek.layers.linear import Linear


def test_is_a_product_without_a_bias() -> None:
    module = Linear(5, 7)
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x), x @ module.weight.T)
    assert isinstance(module, nn.Linear)
    assert [name for name, _ in module.named_parameters()] == ["weight"]


def test_gradients_are_right() -> None:
    module = Linear(4, 6).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.weight))


def test_single_rows_and_many_give_the_same() -> None:
    module = Linear(300, 1000)
    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(module(x), torch.cat([module(row[None]) for row in x]), atol=1e-5, rtol=1e-5)
