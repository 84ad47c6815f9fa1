"""Residual streams: the plain residual is their simplest case, and the manifold keeps products of mixes in bounds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minideepseek import accounting
from minideepseek.errors import UserError
from minideepseek.layers import GQA, Birkhoff, HyperConnections, Residual, SwiGLU
from minideepseek.layers.hyper import Ends, Links, Mixing, composite_gain
from minideepseek.layers.norm import RMSNorm
from minideepseek.model import ModelConfig, Transformer

EXACT = Birkhoff(eps=0.0)
PLAIN = ModelConfig(
    d_model=16,
    n_layers=3,
    attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
    ffn=SwiGLU(hidden=24),
    vocab_size=32,
    max_seq_len=16,
    norm_eps=0.0,
    init_std=None,
)
IDS = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
SPECS = [
    HyperConnections(streams=streams, dynamic=dynamic, manifold=manifold)
    for streams in (1, 2, 4)
    for dynamic in (False, True)
    for manifold in (None, Birkhoff())
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(module: nn.Module, by: float = 1.0) -> nn.Module:
    """Every parameter moved away from where it starts."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter += by * draw(*parameter.shape, seed=i).to(parameter.dtype)
    return module


# --- the manifold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "tolerance"), [(0.5, 3e-6), (1.0, 3e-5), (1.5, 1e-2)])
def test_projected_matrices_are_doubly_stochastic(spread: float, tolerance: float) -> None:
    """Columns, the last to be normalised, up to eps; rows as far as twenty iterations come."""
    found = Birkhoff().project(spread * draw(500, 4, 4))
    assert (found >= 0).all()
    assert (found.sum(-2) - 1).abs().max() < 2e-6
    assert (found.sum(-1) - 1).abs().max() < tolerance
    assert torch.linalg.matrix_norm(found, 2).max() < 1 + tolerance


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_without_eps_they_are_so_to_the_last_digits(n: int, seed: int) -> None:
    found = Birkhoff(iterations=200, eps=0.0).project(draw(3, n, n, seed=seed))
    for dim in (-1, -2):
        torch.testing.assert_close(found.sum(dim), torch.ones(3, n, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_doubly_stochastic_matrix_is_its_own_projection() -> None:
    once = Birkhoff(iterations=200, eps=0.0).project(draw(5, 4, 4))
    torch.testing.assert_close(EXACT.project(once.log()), once, rtol=0, atol=1e-9)


def test_more_iterations_come_closer() -> None:
    logits = 4 * draw(50, 4, 4)
    errors = [(Birkhoff(iterations=n, eps=0.0).project(logits).sum(-1) - 1).abs().max() for n in (1, 5, 20, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def mixes(spec: HyperConnections, depth: int, by: float) -> list[Tensor]:
    """The mixing matrices of many sub-layers whose parameters have wandered from their start."""
    x = draw(2, 3, spec.streams, 8)
    links = [shaken(Mixing(spec, 8, 1e-6, turn).double(), by) for turn in range(depth)]
    return [link(x)[2] for link in links]


@pytest.mark.parametrize("depth", [8, 32, 128])
def test_the_gain_of_depth_is_one_on_the_manifold_and_exponential_elsewhere(depth: int) -> None:
    """Both with every parameter moved by 0.1 or so, from starts that are alike."""
    free, bound = (mixes(HyperConnections(manifold=manifold), depth, by=0.1) for manifold in (None, Birkhoff()))
    missed = max((mix.sum(dim) - 1).abs().max() for mix in bound for dim in (-1, -2))
    assert missed < 1e-4, "how far the matrices are from the manifold"
    assert composite_gain(bound).max() < (1 + missed) ** depth
    assert composite_gain(free).min() > 1.1**depth


def test_composite_gain_is_the_norm_of_the_product() -> None:
    chain = [draw(4, 4, seed=i) for i in range(3)]
    product = chain[2] @ chain[1] @ chain[0]
    expected = max(torch.linalg.matrix_norm(product, p).item() for p in (1, torch.inf))
    assert composite_gain(chain).item() == pytest.approx(expected)


# --- a sub-layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_block_is_the_formula_written_out(spec: HyperConnections) -> None:
    """X' = M^T X + c F(a X), token by token and stream by stream."""
    n, d = spec.streams, 6
    links = shaken(Links(spec, d, 1e-6, 1).double(), 0.3)
    norm = shaken(RMSNorm(d).double())
    x = draw(2, 3, n, d)
    h, kept = links.enter(x)  # type: ignore[operator]
    normed, kept = links.between(h.sin(), kept, norm)  # type: ignore[operator]
    found = links.leave(normed.cos(), kept)  # type: ignore[operator]
    for b in range(2):
        for t in range(3):
            streams = x[b, t]
            for name, function in (("attention", torch.sin), ("ffn", lambda h: norm(h).cos())):
                read, write, mix = numbers(spec, links.get_submodule(name), streams)
                y = function(sum(read[j] * streams[j] for j in range(n)))
                streams = torch.stack([write[k] * y + sum(mix[j, k] * streams[j] for j in range(n)) for k in range(n)])
            torch.testing.assert_close(found[b, t], streams, rtol=1e-9, atol=1e-9)


def numbers(spec: HyperConnections, maps: nn.Module, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, parameters = spec.streams, dict(maps.named_parameters())
    raw = parameters["base"].clone()
    if spec.dynamic:
        flat = streams.flatten()
        dynamic = parameters["weight"] @ (flat / (flat.square().mean() + 1e-6).sqrt())
        gates = parameters["gate"].repeat_interleave(torch.tensor([n, n, n * n]))
        raw = raw + gates * (dynamic.tanh() if spec.manifold is None else dynamic)
    read, write, mix = raw[:n], raw[n : 2 * n], raw[2 * n :].view(n, n)
    if spec.manifold is None:
        return read, write, mix
    return read.sigmoid() + 1e-6, 2 * write.sigmoid(), spec.manifold.project(mix)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_are_right(spec: HyperConnections) -> None:
    if spec.manifold is not None:  # as correct with three, and the numbers are larger
        spec = replace(spec, manifold=Birkhoff(iterations=3))
    links, ends = shaken(Links(spec, 3, 1e-6, 0).double(), 0.3), shaken(Ends(spec, 3, 1e-6).double(), 0.3)
    norm = RMSNorm(3).double()
    parameters = [*links.parameters(), *ends.parameters()]

    def run(x: Tensor, *_: Tensor) -> Tensor:
        h, kept = links.enter(x)  # type: ignore[operator]
        h, kept = links.between(h.sin(), kept, norm)  # type: ignore[operator]
        return ends.collapse(links.leave(h.cos(), kept))  # type: ignore[operator]

    x = draw(1, 2, spec.streams, 3).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_streams_keep_their_type_and_maps_are_never_rounded_to_it(dtype: torch.dtype) -> None:
    spec = HyperConnections()
    links = Links(spec, 8, 1e-6, 0).to(dtype)
    x = draw(1, 2, 4, 8).to(dtype)
    h, kept = links.enter(x)
    assert h.dtype == links.leave(h, kept).dtype == Ends(spec, 8, 1e-6).to(dtype).collapse(x).dtype == dtype
    assert all(part.dtype == torch.promote_types(dtype, torch.float32) for part in links.attention(x))


# --- a model ----------------------------------------------------------------------------------------------------------


def twin(model: Transformer, residual: HyperConnections) -> Transformer:
    """A model of the same weights with other residual connections."""
    other = Transformer(replace(model.cfg, residual=residual), seed=1).double()
    missing = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing.unexpected_keys
    return other


def test_one_static_stream_is_the_plain_residual_exactly() -> None:
    plain = Transformer(replace(PLAIN, norm_eps=1e-6), seed=0).double()
    other = twin(plain, HyperConnections(streams=1, dynamic=False, manifold=None))
    expected, found = plain.loss(IDS), other.loss(IDS)
    assert torch.equal(found.total, expected.total)
    expected.total.backward()
    found.total.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(other.get_parameter(name).grad, parameter.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("manifold", [None, EXACT])
def test_at_the_start_any_number_of_static_streams_is_the_plain_residual(streams: int, manifold: Birkhoff) -> None:
    """Streams are all alike then, and a norm does not see by how much a sub-layer's input is scaled."""
    plain = Transformer(PLAIN, seed=0).double()
    other = twin(plain, HyperConnections(streams=streams, dynamic=False, manifold=manifold))
    torch.testing.assert_close(other(IDS), plain(IDS), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.streams > 1], ids=str)
def test_streams_come_to_differ(spec: HyperConnections) -> None:
    model = Transformer(replace(PLAIN, residual=spec, norm_eps=1e-6), seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(IDS).total.backward()
        optimizer.step()
    streams: list[Tensor] = []
    model.blocks[-1].register_forward_hook(lambda _module, _inputs, out: streams.append(out))
    model(IDS)
    assert streams[0].shape == (2, 9, spec.streams, 16)
    assert streams[0].var(dim=-2).max() > 1e-8


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_decoding_with_a_cache_is_the_full_pass(spec: HyperConnections) -> None:
    model = shaken(Transformer(replace(PLAIN, residual=spec, norm_eps=1e-6), seed=0).double(), 0.1).eval()
    assert isinstance(model, Transformer)
    with torch.inference_mode():
        cache = model.new_cache(2, 4)
        pieces = [model(piece, cache=cache) for piece in IDS.split([4, 1, 1, 3], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(IDS))


@pytest.mark.parametrize("spec", [Residual(), *SPECS], ids=str)
def test_parameters_are_counted(spec: Residual | HyperConnections) -> None:
    cfg = replace(PLAIN, residual=spec)
    with torch.device("meta"):
        model = Transformer(cfg)
    assert accounting.parameters(cfg) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("d_model", "n_layers", "millions"), [(4096, 43, 34), (7168, 61, 84)], ids=["v4-flash", "v4-pro"]
)
def test_v4_spends_millions_on_mixing(d_model: int, n_layers: int, millions: int) -> None:
    assert round(HyperConnections().n_params(d_model, n_layers) / 1e6) == millions


def test_flops_are_those_of_the_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    spec = HyperConnections(streams=3)
    links, ends = Links(spec, 10, 1e-6, 0), Ends(spec, 10, 1e-6)
    x = torch.randn(1, 1, 3, 10)
    with FlopCounterMode(display=False) as counter:
        h, kept = links.enter(x)
        h, kept = links.between(h, kept, RMSNorm(10))
        ends.collapse(links.leave(h, kept))
    # c · F(...) and its addition, of both sub-layers, and the final weighing are no products to the counter
    writing, weighing = 2 * 2 * 3 * 10, 2 * 3 * 10
    assert spec.flops(10, 1) == counter.get_total_flops() + writing + weighing


def test_the_plain_residual_costs_nothing() -> None:
    model = Transformer(PLAIN, seed=0)
    assert not [name for name in model.state_dict() if "residual" in name or "ends" in name]
    assert accounting.training_flops_per_token(PLAIN, 16) < accounting.training_flops_per_token(
        replace(PLAIN, residual=HyperConnections()), 16
    )


def test_muon_takes_each_map_by_itself_and_leaves_biases_and_gates_to_adamw() -> None:
    from minideepseek.train.muon import stacked_rows

    model = Transformer(replace(PLAIN, residual=HyperConnections()), seed=0)
    rows = stacked_rows(model)
    assert rows[model.get_parameter("blocks.0.residual.ffn.weight")] == (4, 4, 16)
    assert not {model.get_parameter(f"blocks.0.residual.ffn.{name}") for name in ("base", "gate")} & set(rows)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for wrong in ({"streams": 0}, {"manifold": {}}):
        with pytest.raises((ValueError, TypeError)):
            HyperConnections(**{"manifold": Birkhoff(iterations=0)} if "manifold" in wrong else wrong)
    with pytest.raises(UserError, match="no checkpoint format can express this model"):
        Transformer(replace(PLAIN, residual=HyperConnections(), norm_eps=1e-6), seed=0).save(str(tmp_path / "model"))
