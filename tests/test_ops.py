"""Every operation against its definition: values, gradients, and the shapes and dtypes users come with."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek import UserError, ops
from minideepseek.ops import attend, loss, matmul, reference
from minideepseek.ops.matmul import product

LAYOUTS = ["half_split", "adjacent"]
OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def angles(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    a = torch.randn(shape, dtype=dtype)
    return a.cos(), a.sin()


def gradients(f: Callable[..., object], inputs: tuple[Tensor, ...], weights: list[Tensor]) -> list[Tensor]:
    out = f(*inputs)
    outs = out if isinstance(out, tuple) else (out,)
    return [*outs, *torch.autograd.grad(outs, inputs, weights)]


def assert_same_as_reference(
    op: Callable[..., object], definition: Callable[..., object], inputs: tuple[Tensor, ...], tolerance: float = 1e-12
) -> None:
    """Outputs and gradients of ``op`` and ``definition`` agree, also without grad mode."""
    outs = definition(*inputs)
    weights = [torch.randn_like(o) for o in (outs if isinstance(outs, tuple) else (outs,))]
    for ours, theirs in zip(gradients(op, inputs, weights), gradients(definition, inputs, weights), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(op(*inputs), outs, atol=tolerance, rtol=tolerance)


CASES: dict[str, Callable[[], tuple[Callable[..., object], Callable[..., object], tuple[Tensor, ...]]]] = {
    "rms_norm": lambda: (ops.rms_norm, reference.rms_norm, (leaf(3, 5, 7), leaf(7))),
    "add_rms_norm": lambda: (ops.add_rms_norm, reference.add_rms_norm, (leaf(3, 7), leaf(3, 7), leaf(7))),
    "swiglu": lambda: (ops.swiglu, reference.swiglu, (leaf(3, 5, 14),)),
    "swiglu with a limit": lambda: (
        lambda x: ops.swiglu(x, 0.7),
        lambda x: reference.swiglu(x, 0.7),
        (leaf(3, 5, 14),),
    ),
    "linear": lambda: (ops.linear, F.linear, (leaf(3, 5, 7), leaf(4, 7))),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_its_definition(name: str) -> None:
    assert_same_as_reference(*CASES[name]())


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_derivative(name: str) -> None:
    op, _, inputs = CASES[name]()
    assert torch.autograd.gradcheck(op, inputs)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_is_a_batch(name: str) -> None:
    op, _, inputs = CASES[name]()
    empty = tuple(x[:0].detach().requires_grad_() if x.ndim > 1 and name != "linear" else x for x in inputs)
    if name == "linear":
        empty = (inputs[0][:0].detach().requires_grad_(), inputs[1])
    out = op(*empty)
    total = sum(o.sum() for o in (out if isinstance(out, tuple) else (out,)))
    for x, grad in zip(empty, torch.autograd.grad(total, empty), strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


# ---------------------------------------------------------------------------------------------------------- RMSNorm


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_rms_norm_in_bfloat16_is_that_of_llama(weight_dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs = LlamaRMSNorm(64, eps=1e-6).to(weight_dtype)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 1.5)
    x = torch.randn(50, 64).bfloat16()
    expected = theirs(x).to(torch.bfloat16)
    assert torch.equal(reference.rms_norm(x, theirs.weight), expected)
    # A last bit of the float32 statistics may tip a rounding, no more.
    ours = ops.rms_norm(x, theirs.weight)
    assert ours.dtype == torch.bfloat16
    assert (ours != expected).float().mean() < 0.01
    torch.testing.assert_close(ours, expected, atol=0, rtol=2**-7)


def test_rms_norm_gradients_in_bfloat16_are_as_close_to_the_truth_as_autograd() -> None:
    x, w, g = torch.randn(512, 64).bfloat16(), torch.rand(64).bfloat16() + 0.5, torch.randn(512, 64).bfloat16()

    def error(op: Callable[..., Tensor]) -> list[float]:
        found = torch.autograd.grad(op(a := x.clone().requires_grad_(), b := w.clone().requires_grad_()), (a, b), g)
        a, b = x.double().requires_grad_(), w.double().requires_grad_()
        truth = torch.autograd.grad(reference.rms_norm(a, b), (a, b), g.double())
        return [((f - t).norm() / t.norm()).item() for f, t in zip(found, truth, strict=True)]

    assert all(ours < 1.1 * theirs for ours, theirs in zip(error(ops.rms_norm), error(reference.rms_norm), strict=True))


def test_rms_norm_leaves_a_row_of_zeros_alone() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = ops.rms_norm(x, torch.ones(8))
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------------- RoPE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batched", [False, True])
def test_rope_matches_its_definition(layout: str, batched: bool) -> None:
    cos, sin = angles(2, 5, 4) if batched else angles(5, 4)
    x = leaf(2, 5, 3, 8)
    assert_same_as_reference(
        lambda x: ops.rope(x, cos, sin, layout), lambda x: reference.rope(x, cos, sin, layout), (x,)
    )
    assert torch.autograd.gradcheck(lambda x: ops.rope(x, cos, sin, layout), (x,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rope_of_a_slice_of_a_wider_projection(layout: str) -> None:
    cos, sin = angles(5, 4, dtype=torch.float32)
    wide = torch.randn(2, 5, 3, 13)
    assert torch.equal(ops.rope(wide[..., 2:10], cos, sin, layout), ops.rope(wide[..., 2:10].clone(), cos, sin, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(positions=st.tuples(st.integers(0, 500), st.integers(0, 500)), shift=st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_rope_makes_scores_depend_on_distance_alone(layout: str, positions: tuple[int, int], shift: int) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)
    frequencies = 0.1 ** torch.arange(4, dtype=torch.float64)

    def score(at_q: int, at_k: int) -> Tensor:
        turned = []
        for x, position in ((q, at_q), (k, at_k)):
            a = position * frequencies[None]
            turned.append(ops.rope(x, a.cos(), a.sin(), layout))
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(*positions), score(positions[0] + shift, positions[1] + shift))


def test_rope_layouts_are_one_rotation_of_differently_ordered_channels() -> None:
    cos, sin = angles(5, 4)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    order = torch.arange(8).view(2, 4).T.flatten()  # half-split channel of each adjacent one
    assert not torch.allclose(ops.rope(x, cos, sin, "adjacent"), ops.rope(x, cos, sin))
    torch.testing.assert_close(ops.rope(x[..., order], cos, sin, "adjacent"), ops.rope(x, cos, sin)[..., order])


def test_rope_computes_in_float32_whatever_comes_in() -> None:
    cos, sin = angles(300, 4, dtype=torch.float32)
    x = torch.randn(1, 300, 2, 8).bfloat16()
    assert torch.equal(ops.rope(x, cos, sin), ops.rope(x.float(), cos, sin).bfloat16())


@pytest.mark.parametrize(
    ("shape", "layout", "message"), [((8,), "pairs", "half_split"), ((7,), "half_split", "3.5 pairs")]
)
def test_rope_refuses(shape: tuple[int], layout: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.rope(torch.randn(1, 2, 1, *shape), *angles(2, 4), layout)


# ----------------------------------------------------------------------------------------------------------- SwiGLU


def test_swiglu_refuses_an_odd_width() -> None:
    with pytest.raises(ValueError, match="even"):
        ops.swiglu(torch.randn(2, 5))


def test_swiglu_in_bfloat16_gives_the_very_gradient_of_autograd() -> None:
    x, g = torch.randn(64, 32).bfloat16().requires_grad_(), torch.randn(64, 16).bfloat16()
    for limit in (None, 0.75):
        ours = torch.autograd.grad(ops.swiglu(x, limit), x, g)[0]
        assert torch.equal(ours, torch.autograd.grad(reference.swiglu(x, limit), x, g)[0])


# -------------------------------------------------------------------------------------------------------- attention


@st.composite
def attention_problems(draw: st.DrawFn) -> dict[str, object]:
    queries = draw(st.integers(1, 150))
    return {
        "batch": draw(st.integers(1, 2)),
        "groups": draw(st.sampled_from([1, 2])),
        "per_group": draw(st.sampled_from([1, 3])),
        "queries": queries,
        "keys": draw(st.integers(queries, 200)),
        "width": draw(st.sampled_from([4, 6])),
        "value_width": draw(st.sampled_from([3, 4, 6])),
        "causal": draw(st.booleans()),
        "mask": draw(st.sampled_from([None, "keys", "all", "with blind rows"])),
        "scale": draw(st.sampled_from([None, 0.3])),
    }


def make_mask(kind: str | None, batch: int, queries: int, keys: int) -> Tensor | None:
    if kind is None:
        return None
    if kind == "keys":
        mask = torch.rand(batch, 1, 1, keys) < 0.7
        mask[..., 0] = True
    else:
        mask = torch.rand(batch, 1, queries, keys) < 0.7
        mask[..., 0] = True
        if kind == "with blind rows":
            mask[:, :, ::3] = False
    return mask


@given(problem=attention_problems())
@settings(max_examples=40, deadline=None)
def test_attention_matches_its_definition(problem: dict) -> None:
    p = problem
    torch.manual_seed(0)
    q = leaf(p["batch"], p["groups"] * p["per_group"], p["queries"], p["width"])
    k = leaf(p["batch"], p["groups"], p["keys"], p["width"])
    v = leaf(p["batch"], p["groups"], p["keys"], p["value_width"])
    options = {
        "scale": p["scale"],
        "causal": p["causal"],
        "mask": make_mask(p["mask"], p["batch"], p["queries"], p["keys"]),
    }
    assert_same_as_reference(
        lambda *x: ops.attention(*x, **options), lambda *x: reference.attention(*x, **options), (q, k, v)
    )


@pytest.mark.parametrize("kind", [None, "keys", "all", "with blind rows"])
@pytest.mark.parametrize("queries", [1, 5, 7])
@pytest.mark.parametrize("causal", [False, True])
def test_the_library_form_of_attention_matches_the_definition(causal: bool, queries: int, kind: str | None) -> None:
    q, k, v = leaf(2, 4, queries, 6), leaf(2, 2, 7, 6), leaf(2, 2, 7, 4)
    mask = make_mask(kind, 2, queries, 7)
    hidden = None if mask is None else ~mask
    if hidden is not None and causal:
        hidden = hidden | attend._future(q, k)
    assert_same_as_reference(
        lambda q, k, v: attend._library(q, k, v, 0.4, causal and queries > 1, hidden),
        lambda q, k, v: reference.attention(q, k, v, scale=0.4, causal=causal, mask=mask),
        (q, k, v),
    )


def test_attention_gradient_is_the_derivative() -> None:
    q, k, v = leaf(1, 4, 3, 2), leaf(1, 2, 5, 2), leaf(1, 2, 5, 3)
    assert torch.autograd.gradcheck(lambda *x: ops.attention(*x, causal=True), (q, k, v))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_an_operation_that_the_compiler_can_trust(masked: bool) -> None:
    q, k, v = leaf(2, 2, 3, 70, 4), leaf(4, 80, 4), leaf(4, 80, 5)
    hidden = torch.rand(2, 1, 70, 80) < 0.3 if masked else None
    torch.library.opcheck(attend._attend, (q, k, v, 0.5, True, hidden), test_utils=OPCHECKS)


def test_attention_long_enough_for_the_library_matches_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = leaf(1, 4, 70, 8, dtype=torch.float32), leaf(1, 2, 90, 8), leaf(1, 2, 90, 6)
    k, v = k.detach().float().requires_grad_(), v.detach().float().requires_grad_()
    blocks = ops.attention(q, k, v, causal=True)
    monkeypatch.setattr(attend, "_too_long", lambda q, k: True)
    torch.testing.assert_close(ops.attention(q, k, v, causal=True), blocks, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (16, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 2, attend.FEW, attend.FEW + 1])
@pytest.mark.parametrize("keys", [50, 70])
def test_attention_of_few_queries_reads_a_cache_that_is_a_slice(
    dtype: torch.dtype, heads: tuple[int, int], queries: int, keys: int
) -> None:
    q = torch.randn(2, queries, heads[0], 16).to(dtype).transpose(1, 2)
    k, v = torch.randn(2, 2, heads[1], 96, 16).to(dtype)
    k, v = k[:, :, :keys], v[:, :, :keys]
    truth = reference.attention(q.double(), k.double(), v.double(), causal=True)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ops.attention(q, k, v, causal=True).double(), truth, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_takes_groups_with_large_keys_one_by_one(
    dtype: torch.dtype, queries: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend, "LARGE", 0)
    monkeypatch.setattr(attend, "MKL_IS_SLOW", True)
    q, cache = torch.randn(2, 8, queries, 24).to(dtype), torch.randn(2, 1, 200, 24).to(dtype)
    keys = cache[:, :, :150]
    assert attend._apart(q, keys, keys)
    mask = torch.rand(2, 1, queries, 150) < 0.7 if masked else None
    truth = reference.attention(q.double(), keys.double(), keys.double(), causal=True, mask=mask)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    found = ops.attention(q, keys, keys, causal=True, mask=mask)
    torch.testing.assert_close(found.double(), truth, atol=tolerance, rtol=tolerance)


def test_attention_in_bfloat16_stays_near_the_truth_over_many_blocks() -> None:
    q, k, v = (torch.randn(1, h, 600, 32).bfloat16().requires_grad_() for h in (4, 2, 2))
    g = torch.randn(1, 4, 600, 32).bfloat16()

    def error(op: Callable[..., Tensor]) -> list[float]:
        found = torch.autograd.grad(op(q, k, v, causal=True), (q, k, v), g)
        exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
        truth = torch.autograd.grad(reference.attention(*exact, causal=True), exact, g.double())
        return [((f - t).norm() / t.norm()).item() for f, t in zip(found, truth, strict=True)]

    for ours, theirs in zip(error(ops.attention), error(reference.attention), strict=True):
        assert ours < 1.5 * theirs


def test_attention_gives_zeros_to_a_query_that_sees_nothing() -> None:
    q, k, v = leaf(1, 2, 3, 4), leaf(1, 2, 3, 4), leaf(1, 2, 3, 4)
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    mask[:, :, 1] = False
    y = ops.attention(q, k, v, mask=mask)
    y.sum().backward()
    assert not y[:, :, 1].any()
    assert q.grad is not None
    assert not q.grad[:, :, 1].any()
    assert q.grad.isfinite().all()


def test_attention_of_an_empty_batch() -> None:
    q, k, v = leaf(0, 4, 3, 4), leaf(0, 2, 3, 4), leaf(0, 2, 3, 5)
    y = ops.attention(q, k, v, causal=True)
    assert y.shape == (0, 4, 3, 5)
    y.sum().backward()


@pytest.mark.parametrize(("heads", "queries", "message"), [(3, 2, "divide"), (4, 9, "see nothing")])
def test_attention_refuses(heads: int, queries: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.attention(torch.randn(1, heads, queries, 4), *torch.randn(2, 1, 2, 5, 4), causal=True)


# ---------------------------------------------------------------------------------------------- linear cross-entropy


def loss_problem(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    targets = torch.randint(0, 11, (rows,))
    targets[::4] = -100
    return leaf(rows, 6, dtype=dtype), leaf(11, 6, dtype=dtype), targets


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_rows", lambda weight: 3)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_linear_cross_entropy_matches_its_definition(rows: int) -> None:
    hidden, weight, targets = loss_problem(rows)
    targets[0] = 2
    assert_same_as_reference(
        lambda h, w: ops.linear_cross_entropy(h, w, targets),
        lambda h, w: reference.linear_cross_entropy(h, w, targets),
        (hidden, weight),
    )


@pytest.mark.usefixtures("small_chunks")
def test_linear_cross_entropy_gradient_is_the_derivative() -> None:
    hidden, weight, targets = loss_problem(7)
    assert torch.autograd.gradcheck(lambda h, w: ops.linear_cross_entropy(h, w, targets), (hidden, weight))


@pytest.mark.usefixtures("small_chunks")
def test_linear_cross_entropy_is_an_operation_that_the_compiler_can_trust() -> None:
    hidden, weight, targets = loss_problem(7)
    torch.library.opcheck(loss._with_gradients, (hidden, weight, targets, -100), test_utils=OPCHECKS)


def test_linear_cross_entropy_ignores_what_it_is_told_to() -> None:
    hidden, weight, targets = loss_problem(8)
    targets[:] = torch.tensor([3, 3, 5, 5, 1, 3, 2, 3])
    kept = targets != 3
    ops.linear_cross_entropy(hidden, weight, targets, ignore_index=3).backward()
    assert hidden.grad is not None
    assert not hidden.grad[~kept].any()
    torch.testing.assert_close(
        ops.linear_cross_entropy(hidden, weight, targets, ignore_index=3),
        F.cross_entropy(hidden[kept] @ weight.T, targets[kept]),
    )


@pytest.mark.parametrize("rows", [0, 4])
def test_linear_cross_entropy_of_nothing_is_nan_as_in_torch_and_pulls_nowhere(rows: int) -> None:
    hidden, weight, targets = loss_problem(rows)
    targets[:] = -100
    value = ops.linear_cross_entropy(hidden, weight, targets)
    assert math.isnan(value.item())
    value.backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_linear_cross_entropy_is_exact_where_a_probability_underflows() -> None:
    hidden = torch.tensor([[300.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    targets = torch.tensor([1, 0])
    assert_same_as_reference(
        lambda h, w: ops.linear_cross_entropy(h, w, targets),
        lambda h, w: reference.linear_cross_entropy(h, w, targets),
        (hidden, weight),
        1e-6,
    )


def test_linear_cross_entropy_in_bfloat16_takes_its_softmax_in_float32() -> None:
    hidden, weight, targets = loss_problem(500, torch.bfloat16)
    value = ops.linear_cross_entropy(hidden, weight, targets)
    assert value.dtype == torch.float32
    expected = F.cross_entropy((hidden @ weight.T).float(), targets)
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)


def test_linear_cross_entropy_in_bfloat16_keeps_the_gradient_of_a_certain_prediction() -> None:
    hidden = torch.tensor([[8.0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    ops.linear_cross_entropy(hidden, weight, torch.tensor([0])).backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad.item(), torch.sigmoid(torch.tensor(8.0)).item() - 1, rtol=0.01, atol=0)


@pytest.mark.parametrize("queries", [1, 6])
def test_latent_attention_matches_its_definition(queries: int) -> None:
    assert_same_as_reference(
        lambda q, latents: ops.latent_attention(q, latents, 5, causal=True),
        lambda q, latents: reference.latent_attention(q, latents, 5, causal=True),
        (leaf(2, 3, queries, 8), leaf(2, 6, 8)),
    )


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [0, 1, 3, 10])
def test_linear_log_probs_match_their_definition(rows: int) -> None:
    hidden, weight, targets = loss_problem(rows)
    targets[:2] = -100
    assert_same_as_reference(
        lambda h, w: ops.linear_log_probs(h, w, targets),
        lambda h, w: reference.linear_log_probs(h, w, targets),
        (hidden, weight),
    )


def test_linear_log_probs_average_to_the_cross_entropy() -> None:
    hidden, weight, targets = loss_problem(7)
    mean = ops.linear_log_probs(hidden, weight, targets).sum() / (targets != -100).sum()
    torch.testing.assert_close(-mean, ops.linear_cross_entropy(hidden, weight, targets))


# ------------------------------------------------------------------------------------------------------------ linear


@pytest.mark.parametrize("shape", [(1, 5, 7), (8, 5, 7), (64, 33, 17), (64, 17, 33), (0, 3, 4)])
def test_product_is_one_product_whichever_library_makes_it(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = torch.randn(m, k), torch.randn(n, k)
    torch.testing.assert_close(product(a, b), a @ b.T, atol=1e-5, rtol=1e-5)
    strided = torch.randn(k, m).T
    torch.testing.assert_close(product(strided, b), strided @ b.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("widths", [(48, 20), (20, 48)])
def test_a_weight_gradient_reads_no_rows_with_gaps(widths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    grad, x = (torch.randn(70, width + 3)[:, :width] for width in widths)
    seconds: list[Tensor] = []

    def recording(a: Tensor, b: Tensor) -> Tensor:
        seconds.append(b)
        return a @ b.T

    monkeypatch.setattr(matmul, "product", recording)
    monkeypatch.setattr(matmul, "MKL_IS_SLOW", True)
    assert torch.allclose(matmul.weight_gradient(grad, x), grad.T @ x, atol=1e-4)
    assert seconds[0].t().is_contiguous()


@pytest.mark.parametrize("frozen", [0, 1])
def test_linear_with_one_side_frozen(frozen: int) -> None:
    inputs = [torch.randn(9, 5), torch.randn(3, 5)]
    inputs[1 - frozen].requires_grad_()
    ops.linear(*inputs).sum().backward()
    assert inputs[frozen].grad is None
    assert inputs[1 - frozen].grad is not None


# ----------------------------------------------------------------------------------------------- where an op may run


def test_backend_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="'torch' or 'triton'"), ops.backend("tpu"):
        pass


def test_backend_triton_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="TRITON_INTERPRET=1"), ops.backend("triton"):
        pass


def test_meta_tensors_pass_through_every_op() -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", requires_grad=True)

    assert ops.rms_norm(empty(2, 8), empty(8)).shape == (2, 8)
    assert ops.rope(empty(1, 2, 3, 8), empty(2, 4), empty(2, 4)).shape == (1, 2, 3, 8)
    assert ops.swiglu(empty(2, 8)).shape == (2, 4)
    assert ops.linear(empty(2, 8), empty(4, 8)).shape == (2, 4)
    assert ops.attention(empty(1, 4, 3, 8), empty(1, 2, 3, 8), empty(1, 2, 3, 6), causal=True).shape == (1, 4, 3, 6)


ANGLE = torch.linspace(0, 9, 280).view(70, 4)
TARGETS = torch.arange(140) % 11


def small_model(x: Tensor, norm: Tensor, up: Tensor, head: Tensor) -> Tensor:
    """Every operation once, down to a loss."""
    h, x = ops.add_rms_norm(x, x, norm)
    heads = ops.rope(h.unflatten(-1, (4, 8)), ANGLE.cos(), ANGLE.sin()).transpose(1, 2)
    y = ops.attention(heads, heads[:, :2], heads[:, 2:], causal=True)
    h = ops.rms_norm(y.transpose(1, 2).flatten(2) + x, norm)
    return ops.linear_cross_entropy(ops.swiglu(ops.linear(h, up)).flatten(0, 1), head, TARGETS)


def small_model_gradients(run: Callable[..., Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    inputs = [leaf(*s, dtype=torch.float32) for s in ((2, 70, 32), (32,), (12, 32), (11, 6))]
    return list(torch.autograd.grad(run(*inputs), inputs))


@pytest.mark.slow
def test_every_op_traces_whole_under_the_compiler() -> None:
    compiled = small_model_gradients(torch.compile(small_model, fullgraph=True))
    for ours, theirs in zip(compiled, small_model_gradients(small_model), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_every_op_trains_under_autocast() -> None:
    def run(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return small_model(*inputs)

    for ours, exact in zip(small_model_gradients(run), small_model_gradients(small_model), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("interpreting", ["0", "1"])
def test_importing_needs_no_triton(interpreting: str) -> None:
    code = "import sys; sys.modules['triton'] = None; from minideepseek import kernels, ops; print(ops.backend)"
    environment = {**os.environ, "TRITON_INTERPRET": interpreting}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_importing_does_not_load_triton() -> None:
    code = "import sys; from minideepseek import kernels, ops; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TRITON_INTERPRET": "0"})


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 2, 300), (2, 4, 4, 40), (2, 2, 1, 513)])
def test_attention_head_by_head_is_attention(shape: tuple[int, int, int, int], causal: bool) -> None:
    batch, heads, groups, queries = shape
    keys = queries + 7  # a cache goes before
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, tokens, n, width, generator=generator).transpose(1, 2)  # with gaps, as a layer hands it over
        for n, tokens, width in ((heads, queries, 24), (groups, keys, 24), (groups, keys, 16))
    )
    found = attend._by_head(
        q.unflatten(1, (groups, heads // groups)), k.flatten(0, 1), v.flatten(0, 1), scale=0.3, causal=causal
    )
    torch.testing.assert_close(found, reference.attention(q, k, v, scale=0.3, causal=causal), atol=2e-6, rtol=1e-5)
