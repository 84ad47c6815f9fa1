"""Products in eight bits: the formula with rounded factors, three times over; and who takes part."""

from dataclasses import replace

import pytest
import torch

import minideepseek as mds
from minideepseek import ops
from minideepseek.layers import MLA, MTP, MoE, SwiGLU, TopK
from minideepseek.layers.linear import Linear
from minideepseek.model import Transformer
from minideepseek.ops import products, reference
from minideepseek.ops.fp8 import BLOCK_GRADIENTS, HYBRID, PER_TENSOR, Scheme, fp8_experts, fp8_linear
from minideepseek.ops.quantise import E4M3, E5M2, as_fp8

SMALL = Scheme(activations=(1, 8), weights=(8, 8), gradients=(1, 8))
SCHEMES = {
    "v3": Scheme(),
    "small tiles": SMALL,
    "powers of two": replace(SMALL, power_of_two=True),
    "per tensor": PER_TENSOR,
    "hybrid": HYBRID,
    "blocks of gradients": BLOCK_GRADIENTS,
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(x, weight, grad, scheme):
    """The three products, each with the factors that V3 would have in it."""

    def r(x, block, form=E4M3):
        return as_fp8(x, block=block, form=form, power_of_two=scheme.power_of_two, least_peak=1e-30)

    def turned(block):
        return None if block is None else block[::-1]

    kept, matrix = r(x, scheme.activations), r(weight, scheme.weights)
    dx = r(grad, scheme.gradients, scheme.backward) @ matrix
    dweight = r(grad, turned(scheme.gradients), scheme.backward).T @ r(kept, turned(scheme.activations))
    return kept @ matrix.T, dx, dweight


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(16, 8, 24), (13, 11, 9), (1, 130, 200)])
def test_all_three_products_have_rounded_factors(name, tokens, d_in, d_out):
    x, weight, grad = normal(tokens, d_in), normal(d_out, d_in, seed=1), normal(tokens, d_out, seed=2)
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = fp8_linear(*leaves, SCHEMES[name])
    found = [y, *torch.autograd.grad(y, leaves, grad)]
    for ours, theirs in zip(found, by_hand(x, weight, grad, SCHEMES[name]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_by_default_a_tile_or_a_block_of_128_shares_a_scale():
    """V3 report, section 3.3.2: what an outlier spoils is as large as what shares its scale."""
    clean, spoilt = normal(256, 384), normal(256, 384)
    spoilt[0, 0] = 1e6

    def touched(round_):
        rows, columns = (round_(clean) != round_(spoilt)).nonzero().amax(0).tolist()
        return rows + 1, columns + 1

    scheme = Scheme()
    assert touched(scheme.weight) == (128, 128)
    for one in (scheme.activation, scheme.gradient):
        assert touched(one) == (1, 128)
        assert touched(lambda x, one=one: one(x, over_tokens=True)) == (128, 1)


def test_gradients_of_a_mean_over_many_tokens_are_not_lost():
    grad, scheme = normal(4, 128), Scheme()
    torch.testing.assert_close(scheme.gradient(grad * 2**-60), scheme.gradient(grad) * 2**-60, rtol=0, atol=0)


def test_rows_of_a_batch_are_tokens_like_any_other():
    x, weight = normal(2, 3, 8).requires_grad_(), normal(5, 8, seed=1).requires_grad_()
    y, flat = fp8_linear(x, weight, SMALL), fp8_linear(x.flatten(0, 1), weight, SMALL)
    assert torch.equal(y.flatten(0, 1), flat)
    grads = [torch.autograd.grad(out.square().sum(), (x, weight)) for out in (y, flat)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_taken_in_float32_whatever_comes_in(dtype):
    x, weight = (normal(4, 4096, dtype=dtype).requires_grad_(), normal(3, 4096, seed=1, dtype=dtype).requires_grad_())
    y = fp8_linear(x, weight, Scheme())
    assert y.dtype == dtype
    exact, *_ = by_hand(x.detach().double(), weight.detach().double(), normal(4, 3), Scheme())
    torch.testing.assert_close(y.double(), exact, rtol=2**-8 if dtype == torch.bfloat16 else 1e-4, atol=1e-3)
    y.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == dtype


def mixture(seed=0):
    x, indices = normal(20, 16, seed=seed), torch.randint(0, 4, (20, 2), generator=torch.Generator().manual_seed(seed))
    indices[:, 1] = (indices[:, 0] + 1 + indices[:, 1] % 3) % 5  # five experts, each token goes to two of them
    return [x, normal(6, 24, 16, seed=1) / 4, normal(6, 16, 12, seed=2) / 4, indices, normal(20, 2, seed=3).abs()]


@pytest.mark.parametrize("limit", [None, 1.0])
def test_an_experts_products_are_those_of_its_own_tokens(limit):
    """Two experts to a token, and a sixth that nobody asks: a loop over experts, each a SwiGLU of rounded products."""
    inputs = mixture()
    for i in (0, 1, 2, 4):
        inputs[i].requires_grad_()
    x, gate_up, down, indices, weights = inputs
    expected = torch.zeros_like(x)
    for expert in range(5):
        token, choice = (indices == expert).nonzero(as_tuple=True)
        hidden = reference.swiglu(fp8_linear(x[token], gate_up[expert], SMALL), limit)
        y = fp8_linear(hidden, down[expert], SMALL)
        expected = expected.index_add(0, token, y * weights[token, choice, None])
    found = fp8_experts(*inputs, limit, SMALL)
    torch.testing.assert_close(found, expected)
    leaves, grad = (x, gate_up, down, weights), normal(20, 16, seed=9)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_process_without_tokens_has_nothing_to_round():
    x, gate_up, down, indices, weights = mixture()
    gate_up.requires_grad_()
    y = fp8_experts(x[:0], gate_up, down, indices[:0], weights[:0], None, SMALL)
    assert y.shape == (0, 16)
    y.sum().backward()
    assert torch.equal(gate_up.grad, torch.zeros_like(gate_up))


def test_experts_in_eight_bits_are_close_to_exact_ones_and_not_equal():
    inputs = mixture()
    exact, found = reference.experts(*inputs), fp8_experts(*inputs, None, SMALL)
    assert 0.005 < (found - exact).norm() / exact.norm() < 0.08


def test_gradients_come_as_the_forward_pass_went_and_the_block_ends_where_it_ends():
    layer, x = Linear(16, 8).double(), normal(4, 16)
    with ops.products_in(SMALL):
        y = layer(x)
        with ops.products_in(None):
            assert torch.equal(layer(x), x @ layer.weight.T)
        assert torch.equal(layer(x), y)
    assert torch.equal(layer(x), x @ layer.weight.T)
    assert torch.equal(y, fp8_linear(x, layer.weight, SMALL))
    y.backward(normal(4, 8, seed=1))
    torch.testing.assert_close(layer.weight.grad, by_hand(x, layer.weight.detach(), normal(4, 8, seed=1), SMALL)[2])


def test_an_exception_does_not_leave_eight_bits_behind():
    with pytest.raises(RuntimeError, match="oops"), ops.products_in(SMALL):
        raise RuntimeError("oops")
    assert products._scheme is None


CFG = mds.ModelConfig(
    d_model=32,
    n_layers=2,
    vocab_size=32,
    attention=MLA(n_heads=2, d_latent=16, d_rope=4, d_nope=8, d_value=8, d_query_latent=16),
    ffn=(SwiGLU(hidden=32), MoE(n_experts=4, hidden=16, n_shared=1, router=TopK(k=2, affinity="sigmoid"))),
    mtp=MTP(),
    init_std=None,
)


def test_matrices_of_the_blocks_are_multiplied_in_eight_bits_and_nothing_else(monkeypatch):
    """What V3 leaves whole (report, section 3.3.1): embedding, head, router, norms; and the matrix that joins, as
    released."""
    model = Transformer(CFG, seed=0)
    seen: set[str] = set()
    names = {p.data_ptr(): name for name, p in model.named_parameters()}

    def linear(x, weight, scheme):
        seen.add(names[weight.data_ptr()])
        return fp8_linear(x, weight, scheme)

    def experts(x, gate_up, down, *rest):
        seen.update({names[gate_up.data_ptr()], names[down.data_ptr()]})
        return fp8_experts(x, gate_up, down, *rest)

    monkeypatch.setattr(products, "fp8_linear", linear)
    monkeypatch.setattr(products, "fp8_experts", experts)
    with ops.products_in(SMALL):
        model.loss(torch.arange(12).view(2, 6)).total.backward()
        model(torch.arange(12).view(2, 6))
    whole = {name for name, p in model.named_parameters() if p.ndim > 1} - seen
    assert {name.removesuffix(".weight") for name in whole} == {
        "embed",
        "head",
        "blocks.1.ffn.router",
        "mtp.0.join",
        "mtp.0.block.ffn.router",
    }
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in mds.generations if name.endswith("-mini")])
def test_every_generation_can_be_trained_so(name):
    model = Transformer(replace(mds.generations[name], vocab_size=64), seed=0)
    ids = torch.randint(0, 64, (2, 33), generator=torch.Generator().manual_seed(0))
    exact = model.loss(ids).total.item()
    with ops.products_in(Scheme()):
        loss = model.loss(ids).total
    loss.backward()
    assert loss.item() != exact
    assert loss.item() == pytest.approx(exact, rel=2e-3)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_scale_for_nothing_is_refused():
    with pytest.raises(ValueError, match=r"weights=\(0, 128\)"):
        Scheme(weights=(0, 128))
    with pytest.raises(ValueError, match="activations=128"):
        Scheme(activations=128)


def test_hybrid_gives_gradients_more_range_and_fewer_digits():
    assert (HYBRID.forward, HYBRID.backward) == (E4M3, E5M2)
    grad = normal(64, 64) * 2.0 ** torch.randint(-18, 1, (64, 64), generator=torch.Generator().manual_seed(1))
    lost = {scheme: (scheme.gradient(grad) == 0).sum() for scheme in (PER_TENSOR, HYBRID)}
    assert lost[PER_TENSOR] > 10 * lost[HYBRID]
    large = grad.abs() > 0.1
    error = {s: ((s.gradient(grad) - grad) / grad)[large].abs().mean() for s in (PER_TENSOR, HYBRID)}
    assert 1.8 < error[HYBRID] / error[PER_TENSOR] < 2.2
