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
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from problems import DEVICE, DTYPES, OPERATION, OPS, SHAPE, problem
from torch import Tensor

from minideepseek import ops
from minideepseek.ops import reference
from minideepseek.ops.fp8 import Scheme, fp8_linear
from minideepseek.train.threads import keep_memory


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


#: What PyTorch itself offers for the operation.
LIBRARY: dict[str, Callable[..., Tensor]] = {
    "rms_norm": lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-6),
    "attention": _fused_attention,
    "attention_mla": _fused_attention,
    "linear": F.linear,
    "linear_fp8": F.linear,  # what eight bits must be quicker than
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
    if name == "linear_fp8":
        return functools.partial(fp8_linear, scheme=Scheme())
    return getattr(ops, OPERATION.get(name, name))


def contenders(name: str, compile: bool) -> list[str]:
    """Who takes part for operation ``name`` here; the first is what the others are compared with."""
    found = ["library" if name in ("linear", "linear_fp8") else "definition", "ours"]
    if DEVICE == "cuda":
        found.append("ours, torch")
    if name in LIBRARY and found[0] != "library":
        found.append("library")
    # The number of an expert's rows changes with every batch; what is simulated nobody wants compiled.
    if compile and name not in ("experts", "linear_fp8"):
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
