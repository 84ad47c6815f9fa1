"""How fast a model trains: our loop against ``transformers``' Llama in a plain loop, on the CPU.

    python benchmarks/train.py [--rounds 7] [--threads 1]

Both train the same shape from the same weights on the same batches with the same settings (AdamW fused, clipping), so
their losses must agree, and are printed. Ours is ``minideepseek.train.train`` itself, batches and metrics included.

The floor is arithmetic alone: the FLOPs of a token (causal half of attention) at the speed that matrix products of
this model's shapes reach here, forward and backward, in the data type.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import measure
import numpy as np
import torch

import minideepseek as mds
from minideepseek import ops
from minideepseek.accounting import training_flops_per_token
from minideepseek.data import Loader
from minideepseek.layers import GQA, SwiGLU
from minideepseek.train import TrainConfig, train
from minideepseek.train.optimizer import adamw
from minideepseek.train.threads import keep_memory

BATCH, TOKENS, STEPS, BATCHES = 16, 256, 2, 4
CFG = mds.ModelConfig(
    d_model=256,
    n_layers=6,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=64),
    ffn=SwiGLU(hidden=704),
    vocab_size=4096,
    max_seq_len=TOKENS,
    init_std=None,
)
SETTINGS = TrainConfig(
    steps=1_000_000, batch_size=BATCH, seq_len=TOKENS, lr=1e-3, warmup=0, schedule="constant", eval_every=0, threads=1
)


def tokens() -> np.ndarray:
    """A few batches' worth, drawn evenly: nothing to learn but the text itself, which takes long enough."""
    return np.random.default_rng(0).integers(0, CFG.vocab_size, BATCHES * BATCH * TOKENS + 1, dtype=np.uint16)


def ours(dtype: str, compile: bool) -> Callable[[], float]:
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
        noise = tokens()
        data = SimpleNamespace(corpus="noise", train=noise, valid=noise, tokenizer=SimpleNamespace(vocab_size=2))
        cfg = replace(SETTINGS, dtype=dtype, compile=compile, threads=torch.get_num_threads())
        train(CFG, data, cfg, on_step=on_step, progress=False)

    threading.Thread(target=run, daemon=True).start()

    def work() -> float:
        turn.release()
        done.acquire()
        return losses[-1]

    return work


def transformers(dtype: str, compile: bool, allocator: bool = False) -> Callable[[], float]:
    """The plain loop that its users write."""
    from transformers import AutoModelForCausalLM

    if allocator:
        keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        mds.Transformer(CFG, seed=SETTINGS.seed).save(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    forward = torch.compile(model) if compile else model
    optimizer = adamw(model, SETTINGS)
    batches = Loader(tokens(), batch_size=BATCH, seq_len=TOKENS, seed=SETTINGS.seed)
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


BASE, BEST = "transformers fp32", "transformers bf16 compiled"
CONTENDERS: dict[str, Callable[[], Callable[[], float]]] = {
    BASE: functools.partial(transformers, "fp32", False),
    "transformers fp32, our allocator": functools.partial(transformers, "fp32", False, allocator=True),
    "transformers bf16 autocast": functools.partial(transformers, "bf16", False),
    BEST: functools.partial(transformers, "bf16", True),
    "ours fp32": functools.partial(ours, "fp32", False),
    "ours bf16": functools.partial(ours, "bf16", False),
    "ours bf16 compiled": functools.partial(ours, "bf16", True),
}


def sampler(work: Callable[[], float]) -> Callable[[], measure.Sample]:
    def sample() -> measure.Sample:
        loss = 0.0

        def steps() -> None:
            nonlocal loss
            loss = work()

        return {"seconds": measure.cpu_seconds(steps) / STEPS, "loss": loss}

    return sample


def product_rate(dtype: torch.dtype) -> float:
    """FLOPs a second of this model's matrix products here: every shape, forward and backward, weighed by its work."""
    rows = BATCH * TOKENS
    shapes = [(CFG.d_model, 2 * CFG.d_model), (CFG.d_model, CFG.d_model)]  # queries, keys, values; output
    shapes += [(CFG.d_model, 2 * CFG.ffn.hidden), (CFG.ffn.hidden, CFG.d_model), (CFG.d_model, CFG.vocab_size)]
    seconds = flops = 0.0
    for width, height in shapes:
        x, w, g = (torch.randn(size, dtype=dtype) for size in ((rows, width), (height, width), (rows, height)))
        for a, b in ((x, w), (g, w.t()), (g.t(), x.t())):
            # Through ops, which knows the quickest library here; a plain product may take a slower one.
            product = functools.partial(ops.linear, a, b)
            product()
            seconds += min(measure.cpu_seconds(product, 3) for _ in range(5))
            flops += 2 * rows * width * height
    return flops / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(CONTENDERS[args.contender]()))
        return
    samples = measure.interleave(
        Path(__file__), [measure.Contender(name) for name in CONTENDERS], rounds=args.rounds, threads=args.threads
    )
    keep_memory()
    torch.set_num_threads(args.threads)
    rates = {"fp32": product_rate(torch.float32), "bf16": product_rate(torch.bfloat16)}
    flops = training_flops_per_token(CFG, TOKENS, causal=True)
    rows = []
    for name in CONTENDERS:
        step = measure.spread(samples, name, "seconds")
        speed = BATCH * TOKENS / step.median
        floor = rates["bf16" if "bf16" in name else "fp32"] / flops
        rows.append(
            [
                name,
                f"{speed:,.0f}",
                f"{measure.ratio(samples, BASE, name, 'seconds'):.2f}",
                f"{measure.ratio(samples, BEST, name, 'seconds'):.2f}",
                f"{floor:,.0f}",
                f"{100 * speed / floor:.0f} %",
                f"{samples[name][-1]['loss']:.4f}",
            ]
        )
    header = ["", "tokens/s", f"x {BASE}", f"x {BEST}", "floor tokens/s", "of the floor", "last loss"]
    text = (
        f"# Training, {args.threads} thread(s), CPU time, {args.rounds} rounds of {STEPS} steps\n\n"
        f"{CFG.n_layers} layers, width {CFG.d_model}, {BATCH} x {TOKENS} tokens a step, {flops / 1e6:.1f} MFLOP a "
        f"token. Matrix products reach {rates['fp32'] / 1e9:.0f} GFLOP/s in fp32, {rates['bf16'] / 1e9:.0f} in bf16. "
        f"Ratios are of speeds, median (least-greatest) of the rounds.\n\n{measure.table(header, rows)}"
    )
    found = {"config": str(CFG), "settings": str(SETTINGS), "samples": samples, "FLOP/s": rates, "FLOP/token": flops}
    measure.write_result("train", found, text)


if __name__ == "__main__":
    main()
