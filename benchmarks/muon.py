"""What Muon costs: the orthogonalisation and the whole step, batched over equal shapes against one matrix at a time.

    python benchmarks/muon.py [--rounds 5] [--threads 1]

The matrices are those of three models: V1's and V3's parts of ``shapes.py``, and v3-mini as the course trains it.
"ours" is ``minideepseek.train.muon``; "loop" the same iterations, one matrix after the other; "torch" is
``torch.optim.Muon``, given each matrix as a parameter of its own and as many iterations as ours, ten. (Its iterations
all have the same coefficients, which do not settle at one, and its products are bfloat16 whatever the weights are.)
"""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from shapes import SHAPES
from torch import Tensor, nn

import minideepseek as mds
from minideepseek.train.muon import COEFFICIENTS, Muon, orthogonalise, stacked_rows
from minideepseek.train.threads import keep_memory

MODELS = {**SHAPES, "v3-mini": mds.generations["v3-mini"]}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CONTENDERS = ("ours", "loop", "torch")


def matrices(name: str) -> Counter[tuple[int, int]]:
    """Shapes of the matrices of a model, and how many there are of each; embedding and head are none."""
    with torch.device("meta"):
        model = mds.Transformer(MODELS[name])
    found: Counter[tuple[int, int]] = Counter()
    for parameter, rows in stacked_rows(model).items():
        if parameter is not model.embed.weight and parameter is not model.head.weight:
            for height in rows:
                found[height, parameter.shape[-1]] += parameter[..., 0, 0].numel()
    return found


def one_by_one(x: Tensor) -> Tensor:
    """``orthogonalise`` one matrix after the other, with the same fused products."""
    found = []
    for matrix in x:
        tall = matrix.shape[0] > matrix.shape[1]
        y = matrix.T if tall else matrix
        y = y / (y.norm() + 1e-7)
        for a, b, c in COEFFICIENTS:
            gram = y @ y.T
            y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
        found.append(y.T if tall else y)
    return torch.stack(found)


def sampler(name: str) -> Callable[[], measure.Sample]:
    keep_memory()
    if name == "loop":
        import minideepseek.train.muon as module

        module.orthogonalise = one_by_one
    works: dict[str, Callable[[], object]] = {}
    for model in MODELS:
        generator = torch.Generator().manual_seed(0)
        stacks = [torch.randn(n, *shape, generator=generator) for shape, n in matrices(model).items()]
        weights = [nn.Parameter(torch.zeros_like(stack)) for stack in stacks]
        for weight, stack in zip(weights, stacks, strict=True):
            weight.grad = stack
        for dtype_name, dtype in DTYPES.items():
            if name != "torch":
                form = one_by_one if name == "loop" else orthogonalise
                rounded = [stack.to(dtype) for stack in stacks]
                works[f"{model} {dtype_name} orthogonalise"] = functools.partial(
                    lambda form, stacks: [form(stack) for stack in stacks], form, rounded
                )
                optimizer = Muon({w: (w.shape[1],) for w in weights}, lr=1e-3, dtype=dtype)
                works[f"{model} {dtype_name} step"] = optimizer.step
        if name == "torch":
            single = [nn.Parameter(matrix.detach().clone()) for weight in weights for matrix in weight]
            for parameter, grad in zip(single, [grad for stack in stacks for grad in stack], strict=True):
                parameter.grad = grad.clone()
            settings = {"lr": 1e-3, "ns_steps": len(COEFFICIENTS), "adjust_lr_fn": "match_rms_adamw"}
            works[f"{model} bf16 step"] = torch.optim.Muon(single, **settings).step
    return lambda: {case: measure.cpu_seconds(work) for case, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(args.contender))
        return
    samples = measure.interleave(
        Path(__file__), [measure.Contender(name) for name in CONTENDERS], rounds=args.rounds, threads=args.threads
    )
    rows = []
    for model in MODELS:
        for dtype in DTYPES:
            for what in ("orthogonalise", "step"):
                case = f"{model} {dtype} {what}"
                peer = case in samples["torch"][0]
                rows.append(
                    [
                        f"{model}, {dtype}, {what}",
                        f"{measure.spread(samples, 'ours', case, scale=1e3).median:.1f}",
                        f"{measure.ratio(samples, 'loop', 'ours', case):.2f}",
                        f"{measure.ratio(samples, 'torch', 'ours', case):.2f}" if peer else "",
                    ]
                )
    held = {
        model: ", ".join(f"{n} of {height} x {width}" for (height, width), n in matrices(model).most_common())
        for model in MODELS
    }
    text = (
        f"# Muon, ten iterations, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        "Ratios are of times, median (least-greatest) of the rounds.\n\n"
        + measure.table(["", "ours, ms", "loop, times ours", "torch.optim.Muon, times ours"], rows)
        + "\n\n"
        + "\n".join(f"* {model}: {shapes}" for model, shapes in held.items())
    )
    measure.write_result("muon", {"samples": samples}, text)


if __name__ == "__main__":
    main()
