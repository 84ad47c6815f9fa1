"""What sparse attention is worth: one layer, one decode step, dense and sparse, at growing contexts, on the CPU.

    python benchmarks/sparse.py [--rounds 7] [--threads 1]

V2-Lite's attention (16 heads of 128 + 64 channels, values of 128, a latent of 512, width 2048), its queries made of a
latent of 512, beside the same with an indexer of 8 heads of 128 that picks 2048 tokens. Both absorbed, from a cache, in
bfloat16 and float32. Two things are timed:

* the layer: with all projections, the indexer's among them. What a model feels.
* attention alone: of rotated, absorbed queries and the cache, for the sparse layer scores, choice and fetching
  included. What grows with the context.

``transformers``' DeepseekV32Attention, at contexts where it takes less than a second, masks what was not chosen and
attends to all keys and values, which it expands anew at each step. All three run with our allocator setting
(``train.threads.keep_memory``): what is timed is arithmetic and reading, not the zeroing of fresh pages.

The floor of either is the memory that it must read once, at the speed of a large copy here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
import torch

from minideepseek import ops
from minideepseek.context import Cache, Context
from minideepseek.generations import generations
from minideepseek.layers import DSA, MLA, Indexer
from minideepseek.layers.dsa import fetch
from minideepseek.train.threads import keep_memory

CFG = generations["v2-lite"]
LITE = CFG.layers[0][0]
assert isinstance(LITE, MLA)
DENSE = replace(LITE, d_query_latent=512)
SPARSE = DSA(mla=DENSE, indexer=Indexer(n_heads=8, head_dim=128, top_k=2048))
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CONTEXTS = (4096, 16384, 65536)
CASES = [(dtype, 1, context) for dtype in DTYPES for context in CONTEXTS] + [("bf16", 4, 16384), ("fp32", 4, 16384)]
PEER_CASES = [case for case in CASES if case[1] == 1 and case[2] < 65536]
PARTS = ("layer", "attention alone")


#: What one decode step over that many cached tokens calls, part by part.
Steps = dict[str, Callable[[], torch.Tensor]]


def _ready(module: torch.nn.Module, dtype: torch.dtype, batch: int, context: int) -> Callable[[], Context]:
    module.to(dtype).requires_grad_(False).eval()
    for parameter in module.parameters():
        parameter.normal_(0, 0.02)
    layer = module.new_cache(batch, context)  # type: ignore[operator]
    cache = Cache([layer], batch, length=context - 1)
    ids, positions = torch.zeros(batch, 1, dtype=torch.int64), torch.tensor([context - 1])
    columns = cache.columns(positions)
    return lambda: Context(positions=positions, ids=ids, cache=cache, columns=columns)


def dense(dtype: torch.dtype, batch: int, context: int) -> Steps:
    """Our latent attention, absorbed."""
    module = DENSE.build(CFG.d_model, 0)
    ctx = _ready(module, dtype, batch, context)
    latents = ctx().cache.layers[0].latents.normal_()  # type: ignore[union-attr]
    x = torch.randn(batch, 1, CFG.d_model, dtype=dtype)
    query = torch.randn(batch, DENSE.n_heads, 1, DENSE.cache_elements(1), dtype=dtype)
    keys = latents[:, None]
    return {
        "layer": lambda: module(x, ctx()),
        "attention alone": lambda: ops.attention(query, keys, keys, scale=DENSE.scale, causal=True),
    }


def sparse(dtype: torch.dtype, batch: int, context: int) -> Steps:
    """Our sparse attention, gathered."""
    module = SPARSE.build(CFG.d_model, 0)
    ctx = _ready(module, dtype, batch, context)
    cached = ctx().cache.layers[0]  # type: ignore[union-attr]
    latents, keys = cached.latents.latents.normal_(), cached.keys.latents.normal_()  # type: ignore[attr-defined]
    x = torch.randn(batch, 1, CFG.d_model, dtype=dtype)
    query = torch.randn(batch, DENSE.n_heads, 1, DENSE.cache_elements(1), dtype=dtype)
    question, _ = module.indexer(x, torch.randn(batch, 1, module.mla.widths[0], dtype=dtype), ctx())

    def alone() -> torch.Tensor:
        own = fetch(latents, module.indexer.pick(question, keys, None).places)
        return ops.attention(query, own, own, scale=DENSE.scale, causal=True)

    return {"layer": lambda: module(x, ctx()), "attention alone": alone}


def transformers(dtype: torch.dtype, batch: int, context: int) -> Steps:
    """Its DeepseekV32Attention, with the cache that generate uses."""
    from transformers import DeepseekV32Config, DynamicCache
    from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Attention, DeepseekV32RotaryEmbedding

    config = DeepseekV32Config(
        hidden_size=CFG.d_model,
        num_attention_heads=DENSE.n_heads,
        num_key_value_heads=DENSE.n_heads,
        num_hidden_layers=1,
        q_lora_rank=DENSE.d_query_latent,
        kv_lora_rank=DENSE.d_latent,
        qk_rope_head_dim=DENSE.d_rope,
        qk_nope_head_dim=DENSE.d_nope,
        v_head_dim=DENSE.d_value,
        index_n_heads=SPARSE.indexer.n_heads,
        index_head_dim=SPARSE.indexer.head_dim,
        index_topk=SPARSE.indexer.top_k,
        max_position_embeddings=max(CONTEXTS),
        attn_implementation="sdpa",
    )
    module = DeepseekV32Attention(config, 0).to(dtype).requires_grad_(False).eval()
    for parameter in module.parameters():
        parameter.normal_(0, 0.02)
    cache = DynamicCache(config=config)
    before = context - 1
    latents = torch.randn(batch, 1, before, DENSE.d_latent, dtype=dtype)
    cache.update(latents, torch.randn(batch, 1, before, DENSE.d_rope, dtype=dtype), 0)
    cache.update_indexer(torch.randn(batch, before, SPARSE.indexer.head_dim, dtype=dtype), 0)
    x = torch.randn(batch, 1, CFG.d_model, dtype=dtype)
    angles = DeepseekV32RotaryEmbedding(config)(x, torch.full((batch, 1), before))
    everything = torch.ones(batch, 1, 1, context, dtype=torch.bool)

    def step() -> torch.Tensor:
        y, *_ = module(x, angles, everything, cache)
        cache.crop(-1)
        layer = cache.layers[0]
        layer.indexer_keys = layer.indexer_keys[:, :before]
        return y

    return {"layer": step}


BUILDERS = {"dense": (dense, CASES), "sparse": (sparse, CASES), "transformers": (transformers, PEER_CASES)}


def sampler(name: str) -> Callable[[], measure.Sample]:
    build, cases = BUILDERS[name]

    def sample() -> measure.Sample:
        found = {}
        for dtype, batch, context in cases:
            torch.manual_seed(0)
            with torch.inference_mode():
                steps = build(DTYPES[dtype], batch, context)
                repeats = 1 if name == "transformers" else max(3, 131072 // (batch * context))
                for part, step in steps.items():
                    step()
                    found[f"{part} {dtype} {batch} {context}"] = measure.cpu_seconds(step, repeats)
        return found

    return sample


def floor_bytes(name: str, part: str, dtype: torch.dtype, batch: int, context: int) -> int:
    """What a step must read once: all latents, or all index keys and the chosen latents; and the layer's weights."""
    layer = DENSE if name == "dense" else SPARSE
    read = context if name == "dense" else SPARSE.indexer.top_k
    numbers = batch * DENSE.cache_elements(read)
    if name == "sparse":
        numbers += batch * context * SPARSE.indexer.head_dim
    if part == "layer":
        numbers += layer.n_params(CFG.d_model)
    return numbers * dtype.itemsize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        keep_memory()
        measure.serve(sampler(args.contender))
        return
    samples = measure.interleave(
        Path(__file__), [measure.Contender(name) for name in BUILDERS], rounds=args.rounds, threads=args.threads
    )
    bandwidth = measure.copy_bandwidth()
    tables, slopes = [], {}
    for part in PARTS:
        rows = []
        for dtype, batch, context in CASES:
            case = f"{part} {dtype} {batch} {context}"
            floors = [floor_bytes(name, part, DTYPES[dtype], batch, context) for name in ("dense", "sparse")]
            peer = case in samples["transformers"][0]
            rows.append(
                [
                    f"{dtype}, {batch} row{'s' * (batch > 1)}, {context} tokens",
                    *(f"{measure.spread(samples, name, case, scale=1e3).median:.2f}" for name in ("dense", "sparse")),
                    f"{measure.ratio(samples, 'dense', 'sparse', case):.1f}",
                    f"{floors[0] / floors[1]:.1f}",
                    *(f"{1e3 * floor / bandwidth:.2f}" for floor in floors),
                    f"{measure.ratio(samples, 'transformers', 'sparse', case):.0f}" if peer else "",
                ]
            )
        header = ["", "dense, ms", "sparse, ms", "dense / sparse", "the same of floors"]
        header += ["floor of dense, ms", "floor of sparse, ms", "transformers / sparse"]
        columns = slice(None) if part == "layer" else slice(-1)
        tables.append(
            f"## {part.capitalize()}\n\n{measure.table(header[columns], [row[columns] for row in rows])}\n\n"
            + "".join(_slope(samples, part, dtype, slopes) for dtype in DTYPES)
        )
    text = (
        f"# A decode step of sparse attention, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        "One layer of V2-Lite's attention; sparse: 2048 tokens chosen by an indexer of 8 heads of 128. Ratios are of "
        "times, median (least-greatest) of the rounds. The slope is the exponent with which the time of a step grows "
        f"from {CONTEXTS[0]} to {CONTEXTS[-1]} tokens, one row.\n\n" + "\n".join(tables)
    )
    measure.write_result("sparse", {"samples": samples, "slopes": slopes}, text.rstrip())


def _slope(samples: dict[str, list[measure.Sample]], part: str, dtype: str, slopes: dict[str, float]) -> str:
    found = []
    for name in ("dense", "sparse"):
        first, last = (f"{part} {dtype} 1 {context}" for context in (CONTEXTS[0], CONTEXTS[-1]))
        growth = measure.Spread.of(sample[last] / sample[first] for sample in samples[name])
        slopes[f"{name} {part} {dtype}"] = math.log(growth.median, CONTEXTS[-1] / CONTEXTS[0])
        found.append(f"{name} {slopes[f'{name} {part} {dtype}']:.2f}")
    return f"Slope in {dtype}: {', '.join(found)}.\n"


if __name__ == "__main__":
    main()
