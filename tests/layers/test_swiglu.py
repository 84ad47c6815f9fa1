"""SwiGLU: closed form, gradients, size."""

import pytest
import torch

from minideepseek import ops
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


def test_a_limit_caps_the_gate_from_above_and_the_other_factor_on_both_sides() -> None:
    gate_up = torch.tensor([[-50.0, 3.0, 50.0, 2.0, -9.0, 9.0]], dtype=torch.float64)
    gate, up = gate_up[:, :3].clamp(max=4.0), torch.tensor([[2.0, -4.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(ops.swiglu(gate_up, 4.0), gate * gate.sigmoid() * up, atol=1e-12, rtol=0)


def test_gradients_with_a_limit_are_right_and_end_where_it_holds() -> None:
    module = SwiGLU(hidden=6, limit=0.5).build(d_model=4, layer=0).double()
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    raw = module.gate_up(x)
    assert bool((raw[..., :6] > 0.5).any()) and bool((raw[..., 6:].abs() > 0.5).any())  # noqa: PT018
    assert torch.autograd.gradcheck(lambda x, *_: module(x, CTX), (x.requires_grad_(), *module.parameters()))
    beyond = torch.tensor([[9.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.swiglu(beyond, 2.0).sum(), beyond)
    assert grad[0, 0] == 0 < grad[0, 1]


def test_a_limit_must_be_one() -> None:
    with pytest.raises(ValueError, match="limit=0"):
        SwiGLU(hidden=3, limit=0)
