"""SwiGLU: closed form, gradients, size."""

import torch

from minideepseek.context import Context
from minideepseek.layers import SwiGLU

CTX = Context(positions=torch.arange(3), ids=torch.zeros(2, 3, dtype=torch.int64))


def test_equals_the_formula() -> None:
    module = SwiGLU(hidden=7).build(d_model=5, layer=0).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gate, up = module.gate_up.weight[:7], module.gate_up.weight[7:]
    a, b = x @ gate.T, x @ up.T
    torch.testing.assert_close(module(x, CTX), (a / (1 + (-a).exp()) * b) @ module.down.weight.T, atol=1e-12, rtol=0)


def test_gradients_are_right() -> None:
    module = SwiGLU(hidden=6).build(d_model=4, layer=0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: module(x, CTX), (x, *module.parameters()))


def test_parameters_are_counted() -> None:
    cfg = SwiGLU(hidden=7)
    assert sum(p.numel() for p in cfg.build(d_model=5, layer=0).parameters()) == cfg.n_params(5) == 105
