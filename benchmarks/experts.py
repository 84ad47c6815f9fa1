"""What a mixture of experts costs: one layer, forward and backward, however many experts there are, on the CPU.

    python benchmarks/experts.py [--rounds 7] [--threads 1]

4096 tokens of width 256, 4 experts of width 128 each, chosen evenly at random, in float32 and bfloat16, for 16, 32 and
64 experts: the same arithmetic each time. Three forms: ``minideepseek.ops.experts``; the loop over a stacked parameter
that ``transformers`` calls eager; its grouped products. The peers run as their users run them, and once more with the
memory allocator set as our training loop sets it. "moving" draws another routing each time, as training does, "fixed"
repeats one: the difference is what it costs a form to meet numbers of rows that it has not seen.

The floor is arithmetic alone, at the speed of one expert's products with an even share of the tokens.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from torch import Tensor

from minideepseek import ops
from minideepseek.train.threads import keep_memory

TOKENS, WIDTH, HIDDEN, CHOSEN, EXPERTS, REPEATS = 4096, 256, 128, 4, (16, 32, 64), 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: (tokens, gate and up, down, chosen experts, their weights) -> output
Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def peer(implementation: str, n_experts: int) -> Form:
    """The experts' module of transformers' DeepseekV3, given our parameters."""
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

    config = DeepseekV3Config(hidden_size=WIDTH, moe_intermediate_size=HIDDEN, n_routed_experts=n_experts)
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = DeepseekV3Experts(config)

    def form(x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        module.gate_up_proj, module.down_proj = gate_up, down
        return module(x, chosen, weights)

    return form


FORMS: dict[str, Callable[[int], Form]] = {
    "ours": lambda n_experts: ops.experts,
    "transformers eager": functools.partial(peer, "eager"),
    "transformers grouped_mm": functools.partial(peer, "grouped_mm"),
}
CONTENDERS = ["ours", *(f"{name}{setting}" for name in list(FORMS)[1:] for setting in ("", ", our allocator"))]


def routing(n_experts: int, generator: torch.Generator) -> Tensor:
    """Experts of each token, (TOKENS, CHOSEN), drawn evenly without repetition."""
    return torch.rand(TOKENS, n_experts, generator=generator).topk(CHOSEN).indices


def sampler(name: str) -> Callable[[], measure.Sample]:
    form, _, allocator = name.partition(", ")
    if form == "ours" or allocator:
        keep_memory()
    generator = torch.Generator().manual_seed(0)
    works: dict[str, Callable[[], None]] = {}
    for dtype_name, dtype in DTYPES.items():
        draw = functools.partial(torch.randn, generator=generator)
        x = draw(TOKENS, WIDTH).to(dtype).requires_grad_()
        weights = torch.rand(TOKENS, CHOSEN, generator=generator).to(dtype).requires_grad_()
        grad = draw(TOKENS, WIDTH).to(dtype)
        for n in EXPERTS:
            gate_up = torch.nn.Parameter((0.05 * draw(n, 2 * HIDDEN, WIDTH)).to(dtype))
            down = torch.nn.Parameter((0.05 * draw(n, WIDTH, HIDDEN)).to(dtype))
            run, fixed = FORMS[form](n), routing(n, generator)

            def work(n=n, x=x, w=weights, g=grad, gate_up=gate_up, down=down, run=run, chosen=None) -> None:
                chosen = routing(n, generator) if chosen is None else chosen
                run(x, gate_up, down, chosen, w).backward(g)
                for tensor in (x, w, gate_up, down):
                    tensor.grad = None

            works[f"{dtype_name} {n} moving"] = work
            works[f"{dtype_name} {n} fixed"] = functools.partial(work, chosen=fixed)
    return lambda: {case: measure.cpu_seconds(work, REPEATS) for case, work in works.items()}


def floor_seconds(dtype: torch.dtype) -> float:
    """Seconds for the products alone, forward and backward, each expert's as large as an even share makes it."""
    rows = TOKENS * CHOSEN // EXPERTS[0]
    seconds = 0.0
    for height, width in ((2 * HIDDEN, WIDTH), (WIDTH, HIDDEN)):
        x, w, g = (torch.randn(size, dtype=dtype) for size in ((rows, width), (height, width), (rows, height)))
        for a, b in ((x, w), (g, w.t()), (g.t(), x.t())):
            product = functools.partial(ops.linear, a, b)
            product()
            seconds += min(measure.cpu_seconds(product, 5) for _ in range(5))
    return EXPERTS[0] * seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(args.contender))
        return
    samples = measure.interleave(
        Path(__file__), [measure.Contender(name) for name in CONTENDERS], rounds=args.rounds, threads=args.threads
    )
    torch.set_num_threads(args.threads)
    floors = {name: floor_seconds(dtype) for name, dtype in DTYPES.items()}
    rows = []
    for dtype in DTYPES:
        for n in EXPERTS:
            for how in ("fixed", "moving"):
                case = f"{dtype} {n} {how}"
                ours = measure.spread(samples, "ours", case, scale=1e3)
                doubled = "" if n == EXPERTS[0] else f"{growth(samples, dtype, n, how):.2f}"
                rows.append(
                    [
                        f"{dtype}, {n} experts, {how}",
                        f"{ours.median:.1f}",
                        *(f"{measure.ratio(samples, name, 'ours', case):.2f}" for name in CONTENDERS[1:]),
                        doubled,
                        f"{1e3 * floors[dtype]:.1f}",
                    ]
                )
    header = ["", "ours, ms", *(f"{name}, times ours" for name in CONTENDERS[1:]), "x half the experts", "floor, ms"]
    text = (
        f"# A mixture of experts, forward and backward, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        f"{TOKENS} tokens of width {WIDTH}, {CHOSEN} experts of width {HIDDEN} for each. Ratios are of times, median "
        f"(least-greatest) of the rounds.\n\n{measure.table(header, rows)}"
    )
    measure.write_result("experts", {"samples": samples, "floor seconds": floors}, text)


def growth(samples: dict[str, list[measure.Sample]], dtype: str, n: int, how: str) -> measure.Spread:
    """How many times as long ours takes with twice the experts."""
    return measure.Spread.of(s[f"{dtype} {n} {how}"] / s[f"{dtype} {n // 2} {how}"] for s in samples["ours"])


if __name__ == "__main__":
    main()
