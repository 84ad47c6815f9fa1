"""A text of 131,072 tokens through v4-mini on the CPU: what a token costs to read and to write, and what is kept.

    python benchmarks/long_decode.py [--context 131072] [--threads 1]    # -> results/long_decode.md

Some minutes of one core. The text is read in pieces of 4096 tokens; at each length that is a power of four 64 tokens
are then written one by one, and timed. At the end the last 64 tokens are read once more, in one piece, by a copy of the
cache: what was written from memory must be what is read.

Beside it v3-mini, which keeps a latent for each token and reads them all. Reading such a text would cost it hours, but
a step's time does not depend on what a cache holds: its caches are filled with noise.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time
from typing import Any

import measure
import torch
from tqdm import tqdm

import minideepseek as mds
from minideepseek.accounting import cache_elements
from minideepseek.context import Cache
from minideepseek.train.threads import prepare_cpu

PIECE, STEPS = 4096, 64


def lengths(context: int) -> list[int]:
    """1024, 4096, 16384, ... and ``context``, where decoding is measured."""
    found = [1024 * 4**k for k in range(10) if 1024 * 4**k < context]
    return [*found, context]


def write(model: mds.Transformer, cache: Cache, ids: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """CPU seconds for each of the tokens (1, T), written one by one, and the last logits of each."""
    seconds, logits = [], []
    for token in ids.split(1, 1):
        start = time.process_time()
        logits.append(model(token, cache=cache))
        seconds.append(time.process_time() - start)
    return seconds, torch.cat(logits, 1)


def announced(model: mds.Transformer, length: int) -> int:
    """Bytes that the formula gives for one text in float32."""
    return 4 * cache_elements(model.cfg, length)


def read_and_write(context: int) -> tuple[list[dict[str, Any]], float]:
    """What v4-mini does at each length; and the largest difference of logits between written and read, relative."""
    model = mds.Transformer(mds.generations["v4-mini"], seed=0).eval()
    ids = torch.randint(0, model.cfg.vocab_size, (1, context + STEPS), generator=torch.Generator().manual_seed(0))
    cache, found = model.new_cache(1, context + STEPS), []
    held = cache.nbytes
    assert held == announced(model, context + STEPS)
    write(model, model.new_cache(1, 8), ids[:, :8])  # whatever is done once only
    bar = tqdm(total=context, unit="token", desc="reading")
    for length in lengths(context):
        seconds, tokens = 0.0, 0
        while cache.length < length:
            piece = ids[:, cache.length : min(cache.length + PIECE, length)]
            start = time.process_time()
            model.hidden(piece, model.context(piece, cache=cache))
            seconds, tokens = time.process_time() - start, piece.shape[1]
            bar.update(tokens)
        before = copy.deepcopy(cache)
        steps, written = write(model, cache, ids[:, length : length + STEPS])
        found.append(
            {
                "length": length,
                "read ms/token": 1e3 * seconds / tokens,
                "write ms/token": 1e3 * statistics.median(steps),
                "formula bytes": announced(model, length),
                "resident MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        if length < context:
            cache = before
        else:
            again = model(ids[:, length : length + STEPS], cache=before)
    assert cache.nbytes == held, "a cache with room for everything does not grow"
    return found, ((written - again).abs().max() / again.abs().max()).item()


def noise(context: int) -> list[dict[str, Any]]:
    """What writing costs v3-mini at each length."""
    model, found = mds.Transformer(mds.generations["v3-mini"], seed=0).eval(), []
    ids = torch.randint(0, model.cfg.vocab_size, (1, STEPS), generator=torch.Generator().manual_seed(0))
    for length in lengths(context):
        cache = model.new_cache(1, length + STEPS)
        layers: Any = cache.layers
        for layer in layers:
            layer.latents.normal_()
        cache.length = length
        seconds = statistics.median(write(model, cache, ids)[0])
        found.append({"length": length, "write ms/token": 1e3 * seconds, "formula bytes": announced(model, length)})
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--context", type=int, default=131_072)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    prepare_cpu()
    torch.set_num_threads(args.threads)
    v4, apart = read_and_write(args.context)
    v3 = noise(args.context)
    rows = [
        [
            f"{ours['length']:,}",
            f"{ours['read ms/token']:.2f}",
            f"{ours['write ms/token']:.2f}",
            f"{theirs['write ms/token']:.2f}",
            f"{ours['formula bytes'] / 2**20:.2f}",
            f"{theirs['formula bytes'] / 2**20:.2f}",
        ]
        for ours, theirs in zip(v4, v3, strict=True)
    ]
    header = ["tokens", "v4-mini reads, ms/token", "writes", "v3-mini writes", "v4-mini keeps, MiB", "v3-mini keeps"]
    text = (
        f"# Long texts on the CPU, {args.threads} thread(s), CPU time\n\n"
        f"A token read is one of the last piece of {PIECE} before that length; a token written is the median of "
        f"{STEPS}. What is kept is what the formula gives, and what was allocated; float32. At {args.context:,} tokens "
        f"the logits of {STEPS} tokens written one by one differ from those read in one piece by {apart:.1e} of the "
        f"largest. v3-mini's caches were filled with noise.\n\n{measure.table(header, rows)}"
    )
    measure.write_result("long_decode", {"v4-mini": v4, "v3-mini": v3, "written apart from read": apart}, text)


if __name__ == "__main__":
    main()
