"""The one projection: a matrix product, as a module that tools for ``nn.Linear`` recognise."""

import pytest
import torch
from torch import nn

from minideepseek.layers.linear import Linear
from minideepseek.ops import matmul


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


@pytest.mark.parametrize("library", ["this machine's", "oneDNN"])
@pytest.mark.parametrize("width", [300, 1100])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3,), (2, 2), (8,), (5, 8)])
def test_few_rows_and_many_are_the_same_product(
    library: str, width: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which form of the product is the quickest depends on the number of rows; what it is does not."""
    if library == "oneDNN":
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this PyTorch has no oneDNN")
        monkeypatch.setattr(matmul, "MKL_IS_SLOW", True)
    for d_out in (96, 100):
        module = Linear(width, d_out)
        x = torch.randn(*shape, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            y = module(x)
        torch.testing.assert_close(y.double(), x.double() @ module.weight.double().T, atol=1e-5, rtol=1e-5)
        assert y.is_contiguous()
