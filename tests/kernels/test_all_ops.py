"""Every operation that has a kernel: kernel against definition, forward and backward, in awkward shapes and places.

A new kernel adds its file under kernels/ and its inputs to ``INPUTS`` here; nothing else. The kernels run on the GPU
where there is one and in Triton's interpreter everywhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from minideepseek import UserError, ops
from minideepseek.ops import reference
from minideepseek.ops.backend import KERNELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]

#: Makes a random tensor of the dtype under test.
Make = Callable[..., Tensor]


class Inputs(NamedTuple):
    """What an operation is called with: tensors to differentiate, then the rest."""

    leaves: tuple[Tensor, ...]
    rest: tuple[object, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})


def rms_norm(make: Make, *shape: int) -> Inputs:
    return Inputs((make(*shape), make(shape[-1]) + 1), (1e-6,))


def add_rms_norm(make: Make, *shape: int) -> Inputs:
    return Inputs((make(*shape), make(*shape), make(shape[-1]) + 1), (1e-6,))


def rope(make: Make, batch: int, tokens: int, heads: int, width: int, layout: str, angle_rows: int | None) -> Inputs:
    rows = () if angle_rows is None else (angle_rows,)
    angles = torch.randn(*rows, tokens, width // 2, device=DEVICE) * 3
    return Inputs((make(batch, tokens, heads, width),), (angles.cos(), angles.sin(), layout))


def swiglu(make: Make, shape: tuple[int, ...], limit: float | None) -> Inputs:
    return Inputs((make(*shape),), (limit,))


def output_layer(make: Make, rows: int, width: int, vocab: int, ignored: int) -> Inputs:
    targets = torch.randint(0, vocab, (rows,), device=DEVICE)
    targets[:ignored] = -1
    return Inputs((make(rows, width), make(vocab, width)), (targets,), {"ignore_index": -1})


def attention(
    make: Make,
    batch: int,
    heads: int,
    groups: int,
    queries: int,
    keys: int,
    width: int,
    value: int,
    causal: bool,
    masked: tuple[int, ...] = (),
) -> Inputs:
    mask = torch.rand(masked, device=DEVICE) > 0.3 if masked else None
    if mask is not None and len(masked) == 4:
        mask[..., 0, :] = False  # a query that sees nothing
    q, k, v = make(batch, heads, queries, width), make(batch, groups, keys, width), make(batch, groups, keys, value)
    return Inputs((q, k, v), options={"causal": causal, "mask": mask})


def latent_attention(
    make: Make, batch: int, heads: int, queries: int, keys: int, width: int, value: int, causal: bool
) -> Inputs:
    return Inputs((make(batch, heads, queries, width), make(batch, keys, width)), (value,), {"causal": causal})


def experts(
    make: Make, tokens: int, width: int, hidden: int, n_experts: int, top_k: int, limit: float | None, busy: int
) -> Inputs:
    """The last experts, from ``busy`` on, are never chosen."""
    indices = torch.randint(0, busy, (tokens, top_k), device=DEVICE)
    gate_up, down = make(n_experts, 2 * hidden, width), make(n_experts, width, hidden)
    return Inputs((make(tokens, width), gate_up, down), (indices, torch.rand(tokens, top_k, device=DEVICE), limit))


def sinkhorn(make: Make, *shape: int, iterations: int = 3, eps: float = 1e-3) -> Inputs:
    return Inputs((make(*shape, shape[-1]),), (iterations, eps))


def read_streams(make: Make, shape: tuple[int, ...], alike: bool) -> Inputs:
    *tokens, n, _ = shape
    lead = () if alike else tokens
    return Inputs((make(*shape), make(*lead, n), make(*lead, n, n)))


def write_streams(make: Make, shape: tuple[int, ...], alike: bool) -> Inputs:
    *tokens, n, width = shape
    return Inputs((make(*shape), make(n) if alike else make(*tokens, n), make(*tokens, width)))


def index_scores(make: Make, batch: int, queries: int, heads: int, keys: int, width: int) -> Inputs:
    return Inputs((make(batch, queries, heads, width), make(batch, queries, heads), make(batch, keys, width)))


def rms_linear(make: Make, *shape: int, outputs: int = 5) -> Inputs:
    return Inputs((make(*shape), make(outputs, shape[-1])), (1e-6,))


def choose_experts(
    make: Make, tokens: int, n_experts: int, k: int, groups: int = 1, limit: int = 1, judged_by: int = 1
) -> Inputs:
    scores = make(tokens, n_experts).mul(4).round()  # many are equal
    return Inputs((scores,), (k,), {"groups": groups, "limit": limit, "judged_by": judged_by})


def random_shapes(seed: int, *limits: int, multiple: int = 1) -> list[tuple[int, ...]]:
    """Three shapes within ``limits``; the last size is a multiple of ``multiple``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [[int(torch.randint(1, n + 1, (), generator=generator)) for n in limits] for _ in range(3)]
    return [(*shape[:-1], shape[-1] * multiple) for shape in shapes]


NORM_SHAPES = [
    (64, 256),
    (1, 1),
    (1, 8),
    (3, 5, 7),
    (0, 7),
    (2, 0, 7),
    (1300, 3),
    (2, 4097),
    (129, 64),
    *random_shapes(1, 40, 300),
]
ROPE_SHAPES = [
    (2, 16, 4, 64),
    (1, 1, 1, 2),
    (2, 3, 5, 6),
    (0, 3, 2, 4),
    (3, 7, 1, 64),
    (1, 300, 4, 8),
    *random_shapes(2, 3, 20, 5, 40, multiple=2),
]

ATTENTION_SHAPES = [
    (1, 2, 1, 40, 40, 64, 64, True),
    (1, 1, 1, 1, 1, 1, 1, False),
    (1, 2, 2, 20, 33, 48, 32, True),
    (1, 1, 1, 17, 70, 192, 128, True),
    (1, 4, 2, 3, 9, 24, 40, True),
    (1, 1, 1, 130, 134, 16, 16, True),
    (2, 2, 1, 7, 35, 16, 8, False),
    (1, 2, 2, 19, 35, 8, 16, False, (1, 1, 19, 35)),
    (2, 2, 1, 18, 18, 16, 8, True, (2, 2, 18, 18)),
    (1, 2, 1, 5, 6, 8, 8, False, (6,)),
    (0, 2, 1, 3, 3, 8, 8, True),
    (1, 2, 1, 0, 3, 8, 8, True),
    (1, 1, 1, 3, 0, 8, 8, False),
]
OUTPUT_SHAPES = [(32, 64, 512, 5), (1, 1, 1, 0), (7, 5, 3, 2), (40, 3, 17, 1), (5, 16, 4097, 0), (2, 9, 8195, 1)]

STREAM_SHAPES = [
    ((2, 3, 4, 64), False),
    ((1, 1, 1), False),
    ((5, 3, 7), False),
    ((2, 2, 1100), True),
    ((3, 2, 4, 9), True),
    ((0, 4, 8), False),
]

#: Operation -> what builds its inputs, and the arguments to build them with; first of all a shape that a model has.
INPUTS: dict[str, tuple[Callable[..., Inputs], list[tuple]]] = {
    "rms_norm": (rms_norm, NORM_SHAPES),
    "add_rms_norm": (add_rms_norm, NORM_SHAPES),
    "rope": (
        rope,
        [
            (*shape, layout, rows)
            for shape in ROPE_SHAPES
            for layout in ("half_split", "adjacent")
            for rows in (None, shape[0])
        ],
    ),
    "swiglu": (
        swiglu,
        [
            (shape, limit)
            for shape in (
                *[(64, 512), (1, 2), (3, 5, 14), (0, 6), (1030, 6), (2, 2100)],
                *random_shapes(3, 40, 150, multiple=2),
            )
            for limit in (None, 0.5)
        ],
    ),
    "attention": (attention, ATTENTION_SHAPES),
    "latent_attention": (
        latent_attention,
        [(1, 4, 1, 40, 80, 64, True), (2, 2, 3, 9, 24, 20, True), (1, 1, 2, 3, 1, 1, False), (0, 1, 1, 3, 8, 4, True)],
    ),
    "experts": (
        experts,
        [
            (40, 64, 32, 4, 2, None, 4),
            (1, 1, 1, 1, 1, None, 1),
            (7, 9, 5, 6, 3, 0.5, 2),
            (140, 20, 40, 2, 1, None, 1),
            (3, 70, 20, 3, 2, 0.5, 3),
            (0, 4, 4, 2, 2, None, 2),
        ],
    ),
    "sinkhorn": (sinkhorn, [(40, 4), (1, 1), (2, 3, 3), (70, 2), (0, 4)]),
    "read_streams": (read_streams, STREAM_SHAPES),
    "write_streams": (write_streams, STREAM_SHAPES),
    "index_scores": (
        index_scores,
        [(1, 40, 2, 40, 64), (1, 1, 1, 1, 1), (2, 5, 3, 70, 24), (1, 130, 2, 9, 8), (2, 3, 5, 4, 16), (1, 0, 2, 5, 8)],
    ),
    "rms_linear": (rms_linear, [(40, 256), (1, 1), (2, 3, 70), (100, 9), (3, 0, 8), (2, 1025)]),
    "choose_experts": (
        choose_experts,
        [
            (70, 64, 6, 8, 3, 2),
            (1, 1, 1),
            (9, 7, 7),
            (5, 20, 4, 4, 1),
            (6, 15, 5, 3, 3, 5),
            (3, 12, 2, 6, 5),
            (0, 4, 2),
        ],
    ),
    "linear_cross_entropy": (output_layer, OUTPUT_SHAPES),
    "linear_log_probs": (output_layer, [*OUTPUT_SHAPES, (0, 4, 6, 0), (3, 4, 6, 3)]),
}


# Where in memory an input may lie. What surrounds it is NaN: one number read from there spoils the result.


def alone(x: Tensor) -> Tensor:
    flat = x.new_full((x.numel() + 256,), torch.nan)
    return flat[128 : 128 + x.numel()].view(x.shape).copy_(x)


def columns_of_a_wider_tensor(x: Tensor) -> Tensor:
    if not x.ndim:
        return alone(x)
    wide = x.new_full((*x.shape[:-1], x.shape[-1] + 9), torch.nan)
    return wide[..., 4 : 4 + x.shape[-1]].copy_(x)


def transposed(x: Tensor) -> Tensor:
    return alone(x.mT.contiguous()).mT if x.ndim > 1 else alone(x)


PLACES = [alone, columns_of_a_wider_tensor, transposed]


CASES = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name, (_, shapes) in INPUTS.items()
    for shape in shapes
]


class Canaries:
    """Stands in for ``torch.empty``: what is allocated starts as NaN, and is fenced by numbers nobody may touch."""

    FENCE = 64

    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.allocate = torch.empty

    def empty(self, *size: object, **options: object) -> Tensor:
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)  # type: ignore[arg-type]
        buffer = self.allocate(shape.numel() + 2 * self.FENCE, **options)  # type: ignore[call-overload]
        buffer[: self.FENCE] = buffer[buffer.numel() - self.FENCE :] = 7
        inside = buffer[self.FENCE : buffer.numel() - self.FENCE]
        inside.fill_(torch.nan if buffer.is_floating_point() else -1)
        self.buffers.append(buffer)
        return inside.view(shape)

    def empty_like(self, x: Tensor) -> Tensor:
        return self.empty(x.shape, dtype=x.dtype, device=x.device)

    def assert_untouched(self) -> None:
        assert self.buffers, "the kernel allocated nothing through torch.empty: its stores are not watched"
        for buffer in self.buffers:
            assert (buffer[: self.FENCE] == 7).all(), "stored before the beginning of a tensor"
            assert (buffer[buffer.numel() - self.FENCE :] == 7).all(), "stored past the end of a tensor"


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> Canaries:
    found = Canaries()
    monkeypatch.setattr(torch, "empty", found.empty)
    monkeypatch.setattr(torch, "empty_like", found.empty_like)
    return found


def run(op: Callable[..., object], inputs: Inputs, seed: int, place: Callable) -> list[Tensor]:
    """Outputs, then gradients of a random weighting of them."""
    leaves = [place(x).detach().requires_grad_() for x in inputs.leaves]
    out = op(*leaves, *inputs.rest, **inputs.options)
    outs = out if isinstance(out, tuple) else (out,)
    if not any(o.requires_grad for o in outs):  # a choice has no gradient
        return list(outs)
    generator = torch.Generator().manual_seed(seed)
    weights = [place(torch.randn(o.shape, generator=generator).to(o.dtype).to(o.device)) for o in outs]
    return [*outs, *torch.autograd.grad(outs, leaves, weights)]


def distance(x: Tensor, truth: Tensor) -> float:
    """Relative, in the Euclidean norm: one wrong number among a million is visible."""
    return ((x.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item() if truth.numel() else 0.0


def check(name: str, shape: tuple, dtype: torch.dtype, place: Callable[[Tensor], Tensor], canaries: Canaries) -> None:
    """The kernel is as near to the truth (the definition in float64) as the definition is in ``dtype``."""
    torch.manual_seed(0)
    build, _ = INPUTS[name]
    inputs = build(lambda *size: torch.randn(size, device=DEVICE).to(dtype), *shape)
    definition = getattr(reference, name)
    with ops.backend("triton"):
        found = run(getattr(ops, name), inputs, 1, place)
    if all(x.numel() for x in inputs.leaves):
        canaries.assert_untouched()
    defined = run(definition, inputs, 1, alone)
    truth = run(definition, inputs._replace(leaves=tuple(x.double() for x in inputs.leaves)), 1, alone)
    slack = max(1e-6, torch.finfo(dtype).eps / 2)  # a tensor of few numbers may be unlucky in its roundings
    for number, (ours, theirs, exact) in enumerate(zip(found, defined, truth, strict=True)):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if not ours.is_floating_point():
            assert torch.equal(ours, exact), f"result {number}"
            continue
        assert ours.isfinite().all(), f"result {number} holds what was never stored, or was read from outside"
        assert distance(ours, exact) <= 1.5 * distance(theirs, exact) + slack, f"result {number}"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "shape"), CASES)
def test_kernel_matches_its_definition(
    name: str, shape: tuple, dtype: torch.dtype, place: Callable[[Tensor], Tensor], canaries: Canaries
) -> None:
    check(name, shape, dtype, place, canaries)


@pytest.mark.parametrize("name", INPUTS)
def test_kernel_matches_its_definition_in_float16(name: str, canaries: Canaries) -> None:
    check(name, INPUTS[name][1][0], torch.float16, alone, canaries)


def test_every_kernel_has_inputs_here_and_a_definition() -> None:
    assert set(KERNELS) == set(INPUTS)
    for name, module in KERNELS.items():
        kernel = getattr(__import__(f"minideepseek.kernels.{module}", fromlist=[name]), name)
        assert inspect.signature(kernel) == inspect.signature(getattr(ops, name))
        assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(ops, name))


@pytest.mark.parametrize("name", INPUTS)
def test_the_backend_decides_who_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shapes = INPUTS[name]
    leaves, rest, options = build(lambda *size: torch.randn(size, device=DEVICE), *shapes[0])
    module = __import__(f"minideepseek.kernels.{KERNELS[name]}", fromlist=[name])
    monkeypatch.setattr(module, name, lambda *args, **kwargs: "the kernel")
    op = getattr(ops, name)
    with ops.backend("triton"):
        assert op(*leaves, *rest, **options) == "the kernel"
        with ops.backend("torch"):
            assert op(*leaves, *rest, **options) != "the kernel"
        assert op(*leaves, *rest, **options) == "the kernel"
    assert (op(*leaves, *rest, **options) == "the kernel") is (DEVICE == "cuda")


def test_float64_is_refused_by_kernels_in_one_line() -> None:
    with ops.backend("triton"), pytest.raises(UserError, match="float64"):
        ops.swiglu(torch.randn(2, 4, dtype=torch.float64, device=DEVICE))


def test_a_row_too_long_for_one_program_is_refused() -> None:
    with ops.backend("triton"), pytest.raises(ValueError, match="65537"):
        ops.rms_norm(torch.ones(1, 65537, device=DEVICE), torch.ones(65537, device=DEVICE))
