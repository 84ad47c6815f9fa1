"""How fast a whole model reads a prompt and writes text: ours against ``transformers``' generate, on the CPU.

    python benchmarks/decode.py [v1|v3|v4] [--rounds 7] [--threads 1]

Both run the same random weights (ours, saved and loaded by transformers), greedily, from prompts of 1024 tokens, one
alone and eight at once, in float32 and in bfloat16. Prefill is the time to the first new token, decode the median
time of a step after it, told by the tokens as they stream out.

Each also decodes through ``torch.compile``, ours as ``generate(compile=True)`` does, theirs with its forward pass
compiled: compiling is paid for in the round that is thrown away.

The floor of a decode step is the memory it must read once, weights and cache, at the speed of a large copy here.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import measure
import torch
from shapes import SHAPES

import minideepseek as mds

CONTEXT, STEPS, BATCHES = 1024, 32, (1, 8)
#: Continues prompts (B, T) by so many tokens and returns the CPU time at the start and at each new token.
Clock = Callable[[torch.Tensor, int], list[float]]


def ours(cfg: mds.ModelConfig, dtype: torch.dtype, compile: bool) -> Clock:
    model = mds.Transformer(cfg, seed=0).to(dtype).eval()

    def clock(ids: torch.Tensor, steps: int) -> list[float]:
        start = time.process_time()
        tokens = mds.stream(model, ids, max_new_tokens=steps, temperature=0.0, compile=compile)
        return [start, *(time.process_time() for _ in tokens)]

    return clock


def transformers(cfg: mds.ModelConfig, dtype: torch.dtype, compile: bool) -> Clock:
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class Times(list[float], BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            self.append(time.process_time())

        def end(self) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        mds.Transformer(cfg, seed=0).save(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    if compile:
        model.forward = torch.compile(model.forward)

    def clock(ids: torch.Tensor, steps: int) -> list[float]:
        times = Times()  # its first entry is the prompt
        model.generate(ids, max_new_tokens=steps, do_sample=False, use_cache=True, streamer=times)
        return list(times)

    return clock


CONTENDERS: dict[str, Callable[[mds.ModelConfig], Clock]] = {
    f"{maker.__name__} {name}{' compiled' * compile}": functools.partial(maker, dtype=dtype, compile=compile)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for compile in (False, True)
    for maker in (ours, transformers)
}
NOT_COMPILED = {"v4": ("ours fp32 compiled", "ours bf16 compiled")}  # its steps differ from place to place


def sampler(clock: Clock, vocab_size: int) -> Callable[[], measure.Sample]:
    prompts = {
        batch: torch.randint(0, vocab_size, (batch, CONTEXT), generator=torch.Generator().manual_seed(batch))
        for batch in BATCHES
    }

    def sample() -> measure.Sample:
        found = {}
        for batch, ids in prompts.items():
            start, *times = clock(ids, 1 + STEPS)
            found[f"prefill {batch}"] = times[0] - start
            found[f"decode {batch}"] = statistics.median(b - a for a, b in pairwise(times))
        return found

    return sample


def floor_seconds(cfg: mds.ModelConfig, batch: int, itemsize: int) -> float:
    """Seconds to read once what a step needs: every weight but the embedding table, and the cache."""
    found = mds.report(cfg)
    embedding = found.activated["everything"] - found.activated["without embedding"]
    # Each row chooses its own experts: of many rows' together all are read, of one row's only those.
    weights = found.activated["without embedding"] if batch == 1 else found.parameters - embedding
    cache = batch * (CONTEXT + STEPS / 2) * found.cache_elements_per_token
    return (weights + cache) * itemsize / measure.copy_bandwidth()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shape", nargs="?", choices=SHAPES, default="v1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cfg = SHAPES[args.shape]
    if args.contender:
        measure.serve(sampler(CONTENDERS[args.contender](cfg), cfg.vocab_size))
        return
    names = [name for name in CONTENDERS if name not in NOT_COMPILED.get(args.shape, ())]
    contenders = [measure.Contender(name, args=(args.shape,)) for name in names]
    samples = measure.interleave(Path(__file__), contenders, rounds=args.rounds, threads=args.threads)
    floors = {
        f"{batch} {name}": floor_seconds(cfg, batch, size)
        for batch in BATCHES
        for name, size in (("fp32", 4), ("bf16", 2))
    }
    rows = []
    for batch in BATCHES:
        for name in names:
            dtype = name.split()[1]
            base, best = f"transformers {dtype}", f"transformers {dtype} compiled"
            decode = measure.spread(samples, name, f"decode {batch}")
            prefill = measure.spread(samples, name, f"prefill {batch}")
            rows.append(
                [
                    f"{name}, batch {batch}",
                    f"{batch * CONTEXT / prefill.median:,.0f}",
                    f"{measure.ratio(samples, base, name, f'prefill {batch}'):.2f}",
                    f"{batch / decode.median:,.0f}",
                    f"{1e3 * decode.median:.2f}",
                    f"{measure.ratio(samples, base, name, f'decode {batch}'):.2f}",
                    f"{measure.ratio(samples, best, name, f'decode {batch}'):.2f}",
                    f"{1e3 * floors[f'{batch} {dtype}']:.2f}",
                ]
            )
    header = [
        "",
        "prefill tokens/s",
        "x transformers",
        "decode tokens/s",
        "ms/step",
        "x transformers",
        "x its compiled",
        "floor ms/step",
    ]
    text = (
        f"# Reading and writing, {args.shape.upper()}, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        f"{cfg.n_layers} layers, width {cfg.d_model}, context {CONTEXT}, {STEPS} steps, greedy. Ratios are of times, "
        f"transformers' of the same type to the row's, median (least-greatest) of the rounds.\n\n"
        f"{measure.table(header, rows)}"
    )
    measure.write_result(
        f"decode-{args.shape}", {"config": str(cfg), "samples": samples, "floor seconds/step": floors}, text
    )


if __name__ == "__main__":
    main()
