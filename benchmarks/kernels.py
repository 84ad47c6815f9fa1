"""How fast each operation is: ours against plain PyTorch, its compiler, its own fused form and liger-kernel.

    python benchmarks/kernels.py [--op rms_norm] [--dtype bf16] [--rounds 7] [--no-compile]

On a CPU the shapes are those of one layer of a V1 in miniature (16 x 256 tokens, width 256), on a GPU those of V1-67B.
``inference`` is a forward pass without gradients, ``training`` forward and backward. Each contender is a process of
its own, asked in turn.

The floor is what the machine allows: the bytes that must be read and written, at the speed of a copy of that size, or
the arithmetic, at the speed of one large matrix product in that data type, whichever takes longer. On a CPU a copy of
a few megabytes stays in the cache, so it is a floor for what stays there too.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

from minideepseek import ops
from minideepseek.ops import reference
from minideepseek.train.threads import keep_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one layer: tokens of a batch, widths, heads, vocabulary, experts."""

    batch: int
    tokens: int
    width: int
    hidden: int
    heads: int
    groups: int
    head: int
    vocab: int
    experts: int
    expert_hidden: int
    top_k: int


SHAPE = {
    "cpu": Shape(
        batch=16, tokens=256, width=256, hidden=704, heads=4, groups=2, head=64, vocab=4096,
        experts=16, expert_hidden=128, top_k=4,
    ),
    "cuda": Shape(
        batch=2, tokens=4096, width=8192, hidden=22016, heads=64, groups=8, head=128, vocab=102400,
        experts=64, expert_hidden=1408, top_k=6,
    ),
}[DEVICE]  # fmt: skip
MLA_WIDTHS, LATENT, CACHED = {"cpu": ((48, 32), (64, 16), 4096), "cuda": ((192, 128), (512, 64), 16384)}[DEVICE]


@dataclass(frozen=True)
class Problem:
    """What an operation is called with, and the least it must do.

    Attributes:
        inputs: tensors to differentiate, the first arguments.
        numbers: numbers read and written, in inference and in training.
        flops: floating-point operations, in inference and in training.
        rest: further arguments.
        options: keyword arguments.
        trained: whether its backward pass matters.
    """

    inputs: tuple[Tensor, ...]
    numbers: tuple[int, int]
    flops: tuple[int, int] = (0, 0)
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool = True


def problem(name: str, dtype: torch.dtype) -> Problem:
    """The inputs of operation ``name``; its floor counts what the files under kernels/ count."""
    s, make = SHAPE, functools.partial(_make, dtype)
    n, m = s.batch * s.tokens * s.width, s.batch * s.tokens
    if name == "rms_norm":
        return Problem((make(s.batch, s.tokens, s.width), make(s.width)), (2 * n, 5 * n))
    if name == "add_rms_norm":
        return Problem((*(make(s.batch, s.tokens, s.width) for _ in range(2)), make(s.width)), (4 * n, 8 * n))
    if name == "rope":
        angles = torch.rand(s.tokens, s.head // 2, device=DEVICE)
        x = make(s.batch, s.tokens, s.heads + s.groups, s.head)
        return Problem((x,), (2 * x.numel(), 4 * x.numel()), rest=(angles.cos(), angles.sin()))
    if name == "swiglu":
        return Problem((make(s.batch, s.tokens, 2 * s.hidden),), (3 * m * s.hidden, 8 * m * s.hidden))
    if name == "linear":
        flops = 2 * m * s.width * 2 * s.hidden
        moved = m * s.width + 2 * s.hidden * s.width + 2 * m * s.hidden
        return Problem((make(m, s.width), make(2 * s.hidden, s.width)), (moved, 3 * moved), (flops, 3 * flops))
    if name == "attention":
        q = make(s.batch, s.heads, s.tokens, s.head)
        k, v = (make(s.batch, s.groups, s.tokens, s.head) for _ in range(2))
        flops = 2 * s.batch * s.heads * s.tokens**2 * s.head  # two products, half of each seen
        moved = 2 * q.numel() + 2 * k.numel()
        return Problem((q, k, v), (moved, 3 * moved), (flops, 7 * flops // 2), options={"causal": True})
    if name == "attention_mla":
        width, value = MLA_WIDTHS
        q, k = (make(s.batch, 2 * s.heads, s.tokens, width) for _ in range(2))
        v = make(s.batch, 2 * s.heads, s.tokens, value)
        pairs = s.batch * 2 * s.heads * s.tokens**2 // 2
        moved = 2 * (q.numel() + v.numel())
        flops = 2 * pairs * (width + value), 2 * pairs * (4 * width + 3 * value)
        return Problem((q, k, v), (moved, 3 * moved), flops, options={"causal": True})
    if name == "attention_decode":
        q, k, v = (make(s.batch, h, t, s.head) for h, t in ((s.heads, 1), (s.groups, CACHED), (s.groups, CACHED)))
        numbers, flops = 2 * k.numel(), 4 * s.batch * s.heads * CACHED * s.head
        return Problem((q, k, v), (numbers, 0), (flops, 0), options={"causal": True}, trained=False)
    if name == "latent_attention":
        latent, turned = LATENT
        q, latents = make(s.batch, 2 * s.heads, 1, latent + turned), make(s.batch, CACHED, latent + turned)
        flops = 2 * s.batch * 2 * s.heads * CACHED * (2 * latent + turned)
        return Problem((q, latents), (latents.numel(), 0), (flops, 0), (latent,), {"causal": True}, trained=False)
    if name == "linear_cross_entropy":
        flops = 2 * m * s.width * s.vocab
        targets = torch.randint(0, s.vocab, (m,), device=DEVICE)
        moved = (m + s.vocab) * s.width
        return Problem((make(m, s.width), make(s.vocab, s.width)), (moved, 2 * moved), (flops, 3 * flops), (targets,))
    if name == "linear_log_probs":
        flops = 2 * m * s.width * s.vocab
        targets = torch.randint(0, s.vocab, (m,), device=DEVICE)
        moved = (m + s.vocab) * s.width
        return Problem((make(m, s.width), make(s.vocab, s.width)), (moved, 3 * moved), (flops, 4 * flops), (targets,))
    if name == "experts":
        weights = make(s.experts, 2 * s.expert_hidden, s.width), make(s.experts, s.width, s.expert_hidden)
        scores, indices = torch.rand(m, s.experts, device=DEVICE).topk(s.top_k)
        flops = 6 * m * s.top_k * s.width * s.expert_hidden
        moved = 2 * n + sum(w.numel() for w in weights)
        return Problem(
            (make(m, s.width), *weights), (moved, 3 * moved), (flops, 3 * flops), (indices, scores.to(dtype))
        )
    raise KeyError(name)


def _make(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).mul_(0.1).requires_grad_()


#: Cases named after something else than the operation.
OPERATION = {"attention_mla": "attention", "attention_decode": "attention"}

OPS = (
    "rms_norm",
    "add_rms_norm",
    "rope",
    "swiglu",
    "linear",
    "attention",
    "attention_mla",
    "attention_decode",
    "latent_attention",
    "linear_cross_entropy",
    "linear_log_probs",
    "experts",
)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


#: What PyTorch itself offers for the operation.
LIBRARY: dict[str, Callable[..., Tensor]] = {
    "rms_norm": lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-6),
    "attention": _fused_attention,
    "attention_mla": _fused_attention,
    "linear": F.linear,
}
if hasattr(F, "linear_cross_entropy"):  # new in PyTorch 2.13
    LIBRARY["linear_cross_entropy"] = F.linear_cross_entropy


#: liger-kernel's form, given its module of functions.
LIGER: dict[str, Callable[..., Any]] = {
    "rms_norm": lambda liger, x, weight: liger.liger_rms_norm(x, weight, 1e-6, in_place=False),
    "swiglu": lambda liger, gate_up: liger.liger_swiglu(*gate_up.chunk(2, -1)),
    "linear_cross_entropy": lambda liger, *args: liger.liger_fused_linear_cross_entropy(*args),
}


def form(name: str, who: str) -> Callable[..., Any]:
    """The operation as ``who`` computes it."""
    if who == "definition":
        return getattr(reference, OPERATION.get(name, name))
    if who == "compiled":
        return torch.compile(getattr(ops, OPERATION.get(name, name)))
    if who == "library":
        return LIBRARY[name]
    if who == "liger":
        from liger_kernel.transformers import functional

        return functools.partial(LIGER[name], functional)
    return getattr(ops, OPERATION.get(name, name))


def contenders(name: str, compile: bool) -> list[str]:
    """Who takes part for operation ``name`` here; the first is what the others are compared with."""
    found = ["library" if name == "linear" else "definition", "ours"]
    if DEVICE == "cuda":
        found.append("ours, torch")
    if name in LIBRARY and name != "linear":
        found.append("library")
    if compile and name != "experts":  # the number of rows of an expert changes with every batch
        found.append("compiled")
    if DEVICE == "cuda" and importlib.util.find_spec("liger_kernel") and name in LIGER:
        found.append("liger")
    return found


def seconds(work: Callable[[], object], spend: float = 0.1) -> float:
    """Seconds for one call of ``work``: CPU time of this process, or time on the GPU with a cold cache."""
    work()
    once = measure.cpu_seconds(work)
    repeats = max(1, int(spend / max(once, 1e-6)))
    if DEVICE == "cpu":
        return measure.cpu_seconds(work, repeats)
    flush, times = torch.empty(2**28, dtype=torch.uint8, device=DEVICE), []
    for _ in range(min(repeats, 20)):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def sampler(name: str, who: str, dtype: str) -> Callable[[], measure.Sample]:
    keep_memory()
    torch.manual_seed(0)
    given = problem(name, DTYPES[dtype])
    op = form(name, who)

    def call() -> tuple[Tensor, ...]:
        out = op(*given.inputs, *given.rest, **given.options)
        return out if isinstance(out, tuple) else (out,)

    outs = [torch.randn_like(out) for out in call()]

    def sample() -> measure.Sample:
        with ops.backend("torch") if who == "ours, torch" else torch.enable_grad():
            found = {}
            if given.trained:
                found["training"] = seconds(lambda: torch.autograd.grad(call(), given.inputs, outs))
            with torch.no_grad():
                found["inference"] = seconds(call)
        return found

    return sample


def floor(name: str, dtype: str, product_flops: float) -> dict[str, float]:
    """Seconds that the operation cannot go below here."""
    given, itemsize = problem(name, DTYPES[dtype]), DTYPES[dtype].itemsize
    found = {}
    for place, kind in enumerate(("inference", "training") if given.trained else ("inference",)):
        nbytes = given.numbers[place] * itemsize
        found[kind] = max(nbytes / _copy_bandwidth(nbytes // 2), given.flops[place] / product_flops)
    return found


def _copy_bandwidth(nbytes: int) -> float:
    if DEVICE == "cpu":
        return measure.copy_bandwidth(nbytes)
    source = torch.ones(nbytes, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * nbytes / seconds(lambda: target.copy_(source))


def product_flops(dtype: str) -> float:
    """FLOPs a second of one product as large as the layer's, by the quicker of PyTorch's and our form."""
    given = problem("linear", DTYPES[dtype])
    with torch.no_grad():
        return given.flops[0] / min(seconds(lambda op=op: op(*given.inputs)) for op in (F.linear, ops.linear))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=OPS, action="append", help="only this operation; may be repeated")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="only this data type; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each contender")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each contender")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out; it takes a while to start")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        return measure.serve(sampler(*args.contender.split("/")))
    torch.set_num_threads(args.threads)
    keep_memory()
    dtypes = args.dtype or list(DTYPES)
    speed = {dtype: product_flops(dtype) for dtype in dtypes}
    rows, samples, floors = [], {}, {}
    for name in args.op or OPS:
        for dtype in dtypes:
            who = contenders(name, not args.no_compile)
            names = {w: f"{name}/{w}/{dtype}" for w in who}
            found = measure.interleave(
                Path(__file__), [measure.Contender(n) for n in names.values()], rounds=args.rounds, threads=args.threads
            )
            samples |= found
            least = floors[f"{name}/{dtype}"] = floor(name, dtype, speed[dtype])
            for w in who:
                row = [f"{name} {dtype}: {w}"]
                for kind in ("training", "inference"):
                    if kind not in least:
                        row += ["-"] * 3
                        continue
                    took = measure.spread(found, names[w], kind, 1e3)
                    times = measure.ratio(found, names[who[0]], names[w], kind)
                    row += [f"{took:.2f}", f"{times:.2f}", f"{100 * 1e3 * least[kind] / took.median:.0f} %"]
                rows.append(row)
    header = ["operation", "training ms", "x first", "of floor", "inference ms", "x first", "of floor"]
    clock = f"{args.threads} thread(s), CPU time" if DEVICE == "cpu" else "GPU time, cold cache"
    text = (
        f"# Operations, {clock}, {args.rounds} rounds\n\n{SHAPE}\n\nTraining is forward and backward. `x first`: how "
        f"many times as fast as the first row of the operation; median (least-greatest) of the rounds.\n\n"
        f"{measure.table(header, rows)}"
    )
    result = {"shape": str(SHAPE), "samples": samples, "floor seconds": floors, "product FLOP/s": speed}
    name = f"kernels-{DEVICE}" if not args.op else f"kernels-{'-'.join(args.op)}-{DEVICE}"
    measure.write_result(name, result, text)
    return None


if __name__ == "__main__":
    main()
