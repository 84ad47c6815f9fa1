"""How fast a model trains: our loop against ``transformers``' model in a plain loop, on the CPU.

    python benchmarks/train.py [v1|v3|v4] [--rounds 7] [--threads 1]

The peer of V1 is Llama, those of V3 and V4 are DeepseekV3 and DeepseekV4 with their grouped products. Both train the
same shape from the same weights on the same batches with the same settings (AdamW fused, clipping), so their losses
must agree, and are printed.
Ours is ``minideepseek.train.train`` itself, batches and metrics included.

The floor is arithmetic alone: the FLOPs of a token (causal half of attention) at the speed that matrix products of
this model's shapes reach here, forward and backward, in the data type. Memory is the peak of the process beyond what
it held when everything was imported.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np
import torch
from shapes import SHAPES

import minideepseek as mds
from minideepseek import ops
from minideepseek.accounting import training_flops_per_token
from minideepseek.data import Loader
from minideepseek.layers import MoE
from minideepseek.train import TrainConfig, train
from minideepseek.train.optimizer import adamw
from minideepseek.train.threads import keep_memory

BATCH, TOKENS, STEPS, BATCHES = 16, 256, 2, 4
SETTINGS = TrainConfig(
    steps=1_000_000, batch_size=BATCH, seq_len=TOKENS, lr=1e-3, warmup=0, schedule="constant", eval_every=0, threads=1
)


def tokens(vocab_size: int) -> np.ndarray:
    """A few batches' worth, drawn evenly: nothing to learn but the text itself, which takes long enough."""
    return np.random.default_rng(0).integers(0, vocab_size, BATCHES * BATCH * TOKENS + 1, dtype=np.uint16)


def ours(model: mds.ModelConfig, dtype: str, compile: bool) -> Callable[[], float]:
    """``train`` itself, in a thread of its own that waits after every STEPS steps."""
    turn, done = threading.Semaphore(0), threading.Semaphore(0)
    losses: list[float] = []

    def on_step(record: dict[str, float]) -> None:
        losses.append(record["loss"])
        if record["step"] % STEPS == 0:
            done.release()
            turn.acquire()

    def run() -> None:
        turn.acquire()
        noise = tokens(model.vocab_size)
        data = SimpleNamespace(corpus="noise", train=noise, valid=noise, tokenizer=SimpleNamespace(vocab_size=2))
        cfg = replace(SETTINGS, dtype=dtype, compile=compile, threads=torch.get_num_threads())
        train(model, data, cfg, on_step=on_step, progress=False)

    threading.Thread(target=run, daemon=True).start()

    def work() -> float:
        turn.release()
        done.acquire()
        return losses[-1]

    return work


def transformers(cfg: mds.ModelConfig, dtype: str, compile: bool, allocator: bool = False) -> Callable[[], float]:
    """The plain loop that its users write."""
    from transformers import AutoModelForCausalLM

    if allocator:
        keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        mds.Transformer(cfg, seed=SETTINGS.seed).save(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    forward = torch.compile(model) if compile else model
    optimizer = adamw(model, SETTINGS)
    batches = Loader(tokens(cfg.vocab_size), batch_size=BATCH, seq_len=TOKENS, seed=SETTINGS.seed)
    cast = torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()

    def work() -> float:
        for _ in range(STEPS):
            ids = next(batches)
            with cast:
                # As many positions as ours has; the labels are the next tokens, already shifted.
                loss = forward(
                    ids[:, :-1], shift_labels=ids[:, 1:].contiguous(), labels=ids[:, :-1], use_cache=False
                ).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip)
            optimizer.step()
            value = loss.item()
        return value

    return work


BEST = "transformers bf16 compiled, our allocator"
BASES = "transformers fp32", "transformers bf16 autocast", BEST
CONTENDERS: dict[str, Callable[[mds.ModelConfig], Callable[[], float]]] = {
    "transformers fp32": functools.partial(transformers, dtype="fp32", compile=False),
    "transformers fp32, our allocator": functools.partial(transformers, dtype="fp32", compile=False, allocator=True),
    "transformers bf16 autocast": functools.partial(transformers, dtype="bf16", compile=False),
    "transformers bf16 compiled": functools.partial(transformers, dtype="bf16", compile=True),
    BEST: functools.partial(transformers, dtype="bf16", compile=True, allocator=True),
    "ours fp32": functools.partial(ours, dtype="fp32", compile=False),
    "ours bf16": functools.partial(ours, dtype="bf16", compile=False),
    "ours bf16 compiled": functools.partial(ours, dtype="bf16", compile=True),
}


def sampler(build: Callable[[], Callable[[], float]]) -> Callable[[], measure.Sample]:
    before = peak_memory()
    work = build()

    def sample() -> measure.Sample:
        loss = 0.0

        def steps() -> None:
            nonlocal loss
            loss = work()

        return {"seconds": measure.cpu_seconds(steps) / STEPS, "loss": loss, "MiB": peak_memory() - before}

    return sample


def peak_memory() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def product_rate(cfg: mds.ModelConfig, dtype: torch.dtype) -> float:
    """FLOPs a second of this model's matrix products here: every shape, forward and backward, weighed by its work."""
    with torch.device("meta"):
        model = mds.Transformer(cfg)
    matrices = Counter(
        shape
        for name, p in model.named_parameters()
        if (shape := tuple(p.shape)) and p.ndim > 1 and "embed" not in name
    )
    activated = {  # a matrix of experts is as many matrices, each for its share of the tokens
        (ffn.n_experts, *shape): ffn.router.k / ffn.n_experts
        for _, ffn in cfg.layers
        if isinstance(ffn, MoE)
        for shape in ((2 * ffn.hidden, cfg.d_model), (cfg.d_model, ffn.hidden))
    }
    seconds = flops = 0.0
    for shape, times in matrices.items():
        height, width = shape[-2:]
        rows = round(BATCH * TOKENS * activated.get(shape, 1))
        times *= shape[0] if len(shape) > 2 else 1
        x, w, g = (torch.randn(size, dtype=dtype) for size in ((rows, width), (height, width), (rows, height)))
        for a, b in ((x, w), (g, w.t()), (g.t(), x.t())):
            # Through ops, which knows the quickest library here; a plain product may take a slower one.
            product = functools.partial(ops.linear, a, b)
            product()
            seconds += times * min(measure.cpu_seconds(product, 3) for _ in range(5))
            flops += times * 2 * rows * width * height
    return flops / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shape", nargs="?", choices=SHAPES, default="v1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cfg = replace(SHAPES[args.shape], max_seq_len=TOKENS)
    if args.contender:
        measure.serve(sampler(functools.partial(CONTENDERS[args.contender], cfg)))
        return
    contenders = [measure.Contender(name, args=(args.shape,)) for name in CONTENDERS]
    samples = measure.interleave(Path(__file__), contenders, rounds=args.rounds, threads=args.threads)
    keep_memory()
    torch.set_num_threads(args.threads)
    rates = {"fp32": product_rate(cfg, torch.float32), "bf16": product_rate(cfg, torch.bfloat16)}
    flops = training_flops_per_token(cfg, TOKENS, causal=True)
    rows = []
    for name in CONTENDERS:
        step = measure.spread(samples, name, "seconds")
        speed = BATCH * TOKENS / step.median
        floor = rates["bf16" if "bf16" in name else "fp32"] / flops
        rows.append(
            [
                name,
                f"{speed:,.0f}",
                *(f"{measure.ratio(samples, base, name, 'seconds'):.2f}" for base in BASES),
                f"{floor:,.0f}",
                f"{100 * speed / floor:.0f} %",
                f"{samples[name][-1]['MiB']:,.0f}",
                f"{samples[name][-1]['loss']:.4f}",
            ]
        )
    header = ["", "tokens/s", *(f"x {base}" for base in BASES), "floor tokens/s", "of the floor", "MiB", "last loss"]
    text = (
        f"# Training {args.shape.upper()}, {args.threads} thread(s), CPU time, {args.rounds} rounds of {STEPS}\n\n"
        f"{cfg.n_layers} layers, width {cfg.d_model}, {BATCH} x {TOKENS} tokens a step, {flops / 1e6:.1f} MFLOP a "
        f"token. Matrix products reach {rates['fp32'] / 1e9:.0f} GFLOP/s in fp32, {rates['bf16'] / 1e9:.0f} in bf16. "
        f"Ratios are of speeds, median (least-greatest) of the rounds. MiB: the process's peak, beyond its imports."
        f"\n\n{measure.table(header, rows)}"
    )
    found = {"config": str(cfg), "settings": str(SETTINGS), "samples": samples, "FLOP/s": rates, "FLOP/token": flops}
    measure.write_result(f"train-{args.shape}", found, text)


if __name__ == "__main__":
    main()
