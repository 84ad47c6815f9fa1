"""What absorption is worth: one layer of latent attention, one decode step, at growing contexts, on the CPU.

    python benchmarks/latent.py [--rounds 7] [--threads 1]

V2-Lite's layer (16 heads of 128 + 64 channels, values of 128, a latent of 512, width 2048) in float32 and bfloat16, one
row and eight. Absorbed, it attends to the cached latents themselves; expanded, it makes all heads' keys and values of
them at every step, as ``transformers``' DeepseekV2Attention does too.

The floor of a step is the memory it must read once, weights and cache, at the speed of a large copy here.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path

import measure
import torch

from minideepseek.context import Cache, Context
from minideepseek.generations import generations
from minideepseek.layers import MLA
from minideepseek.layers.mla import Form

CFG = generations["v2-lite"]
SHAPE = CFG.layers[0][0]
assert isinstance(SHAPE, MLA)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = [
    (dtype, batch, context)
    for dtype, batch, contexts in (
        ("fp32", 1, (1024, 4096, 16384)),
        ("fp32", 8, (1024, 4096)),
        ("bf16", 1, (1024, 4096, 16384)),
        ("bf16", 8, (1024, 4096)),
    )
    for context in contexts
]


#: One decode step over that many cached tokens.
Step = Callable[[], torch.Tensor]


def ours(form: Form, dtype: torch.dtype, batch: int, context: int) -> Step:
    """Our layer, attending to the latents or to what it expands of them."""
    module = SHAPE.build(CFG.d_model, 0)
    initialise(module, dtype)
    latents = module.new_cache(batch, context)
    latents.latents.normal_()
    cache = Cache([latents], batch, length=context - 1)
    x, ids = torch.randn(batch, 1, CFG.d_model, dtype=dtype), torch.zeros(batch, 1, dtype=torch.int64)
    positions = torch.tensor([context - 1])
    columns = cache.columns(positions)

    def step() -> torch.Tensor:
        ctx = Context(positions=positions, ids=ids, cache=cache, columns=columns)
        query, new = module.project(x, ctx)
        return module.attend(query, latents.write(new, positions, columns), None, form)

    return step


def transformers(dtype: torch.dtype, batch: int, context: int) -> Step:
    """Its DeepseekV2Attention, which caches latents too, with the cache that generate uses."""
    from transformers import DeepseekV2Config, DynamicCache
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding

    config = DeepseekV2Config(
        hidden_size=CFG.d_model,
        num_attention_heads=SHAPE.n_heads,
        num_key_value_heads=SHAPE.n_heads,
        num_hidden_layers=1,
        q_lora_rank=None,
        kv_lora_rank=SHAPE.d_latent,
        qk_rope_head_dim=SHAPE.d_rope,
        qk_nope_head_dim=SHAPE.d_nope,
        v_head_dim=SHAPE.d_value,
        max_position_embeddings=max(context for _, _, context in CASES),
        attn_implementation="sdpa",
    )
    module = DeepseekV2Attention(config, 0).eval()
    initialise(module, dtype)
    cache = DynamicCache(config=config)
    cache.update(
        torch.randn(batch, 1, context - 1, SHAPE.d_latent, dtype=dtype),
        torch.randn(batch, 1, context - 1, SHAPE.d_rope, dtype=dtype),
        0,
    )
    x = torch.randn(batch, 1, CFG.d_model, dtype=dtype)
    angles = DeepseekV2RotaryEmbedding(config)(x, torch.full((batch, 1), context - 1))

    def step() -> torch.Tensor:
        y, *_ = module(x, None, cache, angles)
        cache.crop(-1)
        return y

    return step


def initialise(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Small random weights, no gradients."""
    module.to(dtype).requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(0, 0.02)


BUILDERS: dict[str, Callable[[torch.dtype, int, int], Step]] = {
    "ours, absorbed": functools.partial(ours, "absorbed"),
    "ours, expanded": functools.partial(ours, "expanded"),
    "transformers": transformers,
}


def sampler(build: Callable[[torch.dtype, int, int], Step], quick: bool) -> Callable[[], measure.Sample]:
    def sample() -> measure.Sample:
        found = {}
        for dtype, batch, context in CASES:
            torch.manual_seed(0)
            with torch.inference_mode():
                step = build(DTYPES[dtype], batch, context)
                step()
                repeats = max(2, 65536 // (batch * context)) if quick else 2
                found[f"{dtype} {batch} {context}"] = measure.cpu_seconds(step, repeats)
        return found

    return sample


def floor_seconds(dtype: torch.dtype, batch: int, context: int) -> float:
    """Seconds to read every weight and the cache once."""
    numbers = SHAPE.n_params(CFG.d_model) + batch * SHAPE.cache_elements(context)
    return numbers * dtype.itemsize / measure.copy_bandwidth()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        measure.serve(sampler(BUILDERS[args.contender], quick=args.contender == "ours, absorbed"))
        return
    samples = measure.interleave(
        Path(__file__), [measure.Contender(name) for name in BUILDERS], rounds=args.rounds, threads=args.threads
    )
    rows, slopes = [], {}
    for dtype, batch, context in CASES:
        case, before = f"{dtype} {batch} {context}", f"{dtype} {batch} {context // 4}"
        if before in samples["transformers"][0]:
            growth = measure.Spread.of(s[case] / s[before] for s in samples["ours, absorbed"])
            slopes[case] = math.log(growth.median, 4)
        rows.append(
            [
                f"{dtype}, {batch} row{'s' * (batch > 1)}, {context} tokens",
                *(f"{measure.spread(samples, name, case, scale=1e3).median:.2f}" for name in BUILDERS),
                *(
                    f"{measure.ratio(samples, name, 'ours, absorbed', case):.1f}"
                    for name in ("ours, expanded", "transformers")
                ),
                f"{slopes[case]:.2f}" if case in slopes else "",
                f"{1e3 * floor_seconds(DTYPES[dtype], batch, context):.2f}",
            ]
        )
    header = [
        "",
        *(f"{name}, ms" for name in BUILDERS),
        "expanded / absorbed",
        "transformers / absorbed",
        "slope",
        "floor, ms",
    ]
    text = (
        f"# A decode step of latent attention, {args.threads} thread(s), CPU time, {args.rounds} rounds\n\n"
        "One layer of V2-Lite. Ratios are of times, median (least-greatest) of the rounds. The slope is the exponent "
        f"of the absorbed step's time from a context a quarter as long.\n\n{measure.table(header, rows)}"
    )
    measure.write_result("latent", {"samples": samples, "slopes": slopes}, text)


if __name__ == "__main__":
    main()
