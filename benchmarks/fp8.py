"""What eight bits cost: in a number, in a long sum, and in the gradient of a whole model, by how scales are shared.

    python benchmarks/fp8.py

Three tables, two minutes of one core, no GPU: everything is simulated, so no table is about speed.

1. Relative error of rounded normal numbers, without and with outliers (those numbers' own errors left out).
2. Largest error of a product summed in Hopper's registers, over the mean size of its elements (V3 report, section
   3.3.2).
3. One batch's gradient of a briefly trained V3-mini, all three products of every layer in FP8, against float32: the
   median over matrices of |difference| / |gradient|, and the change of the loss. Tiles are of 32, as the model is
   narrow. A rounded token may go to other experts, which is no small difference; so the second column holds the choices
   as float32 made them. Then, choices held, the same model with an outlier planted behind every norm: one channel's
   gain times 2^15, and the weights that read the channel divided by as much. The function is the same to the last bit;
   its numbers are such as large models grow (Sun et al., arXiv 2402.17762).
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import measure
import torch
from torch import Tensor, nn

import minideepseek as mds
from minideepseek import ops
from minideepseek.context import Routes
from minideepseek.data import prepare
from minideepseek.data.loader import Loader
from minideepseek.ops.fp8 import HYBRID, PER_TENSOR, Scheme
from minideepseek.ops.quantise import E4M3, E5M2, E5M6, as_fp8, rounded
from minideepseek.ops.registers import register_product
from minideepseek.train import TrainConfig, train

OUTLIER = 2.0**15
STEPS, SEEDS = 60, range(3)
TILE = 32
SMALL = Scheme(activations=(1, TILE), weights=(TILE, TILE), gradients=(1, TILE))
SCHEMES: dict[str, Scheme | None] = {
    "tiles and blocks (V3)": SMALL,
    "the same, scales 2^n": replace(SMALL, power_of_two=True),
    "gradients in blocks": replace(SMALL, gradients=(TILE, TILE)),
    "one scale a tensor": PER_TENSOR,
    "one scale a tensor, gradients E5M2": HYBRID,
}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers() -> list[dict[str, Any]]:
    """Table 1."""
    clean, found = draw(1024, 1024, seed=0), []
    cells = torch.randperm(clean.numel(), generator=torch.Generator().manual_seed(1))[:16]
    for outlier in (0.0, 1e3, 1e4, 1e5):
        x = clean if not outlier else clean.clone().view(-1).index_fill_(0, cells, outlier).view_as(clean)
        others = x == clean
        for form, name in ((E4M3, "E4M3"), (E5M2, "E5M2"), (E5M6, "E5M6")):
            for block in ((1, 128), (128, 128), None):
                error = (as_fp8(x, block=block, form=form) - x)[others].norm() / x[others].norm()
                found.append({"format": name, "block": block, "outlier": outlier, "error": error.item()})
    return found


def sums() -> list[dict[str, Any]]:
    """Table 2."""
    found = []
    for k in (512, 4096, 16384):
        for promote in (None, 512, 128):
            for seed in SEEDS:
                a, b = (rounded(draw(48, k, seed=2 * seed + i) * E4M3.largest / 6, E4M3) for i in range(2))
                exact = a @ b.T
                error = (register_product(a, b, promote=promote) - exact).abs().max() / exact.abs().mean()
                found.append({"K": k, "promote": promote, "seed": seed, "error": error.item()})
    return found


def readers(model: mds.Transformer) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Every norm's gain, and the matrices that read what it gives, channel by channel."""
    for block in model.blocks:
        attention, ffn = block.attention, block.ffn
        yield block.attention_norm.weight, [attention.down.weight]
        yield attention.query_norm.weight, [attention.query_up.weight]
        yield attention.latent_norm.weight, [attention.latent_up.weight]
        if hasattr(ffn, "router"):
            yield block.ffn_norm.weight, [ffn.router.weight, ffn.gate_up, ffn.shared.gate_up.weight]
        else:
            yield block.ffn_norm.weight, [ffn.gate_up.weight]


@torch.no_grad()
def planted(model: mds.Transformer) -> tuple[mds.Transformer, dict[str, Tensor]]:
    """The same function with outliers, and what each parameter's gradient must be multiplied by to compare."""
    model = copy.deepcopy(model)
    factors = {id(p): torch.ones_like(p) for p in model.parameters()}
    for n, (gain, matrices) in enumerate(readers(model)):
        channel = (7 * n + 3) % len(gain)
        gain[channel] *= OUTLIER
        factors[id(gain)][channel] *= OUTLIER
        for matrix in matrices:
            matrix[..., channel] /= OUTLIER
            factors[id(matrix)][..., channel] /= OUTLIER
    return model, {name: factors[id(p)] for name, p in model.named_parameters()}


def gradient(model: nn.Module, ids: Tensor, scheme: Scheme | None, routes: Routes) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one batch."""
    model.zero_grad()
    with ops.products_in(scheme):
        loss = model.loss(ids, routes=routes).total
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.ndim > 1}


def steps(seed: int, data: Any) -> list[dict[str, Any]]:
    """Table 3, of one seed."""
    settings = TrainConfig(steps=STEPS, seed=seed, dtype="fp32", threads=1, eval_every=0, device="cpu")
    plain = train(mds.generations["v3-mini"], data, settings, progress=False).model.train()
    ids = next(Loader(data.train, batch_size=8, seq_len=128, seed=seed + 100))
    with_outliers, factors = planted(plain)
    choices = Routes()
    exact_loss, exact = gradient(plain, ids, None, choices)
    arms = {"float32": None, "bf16": None, **SCHEMES}
    found = []
    for how, model in (("free", plain), ("held", plain), ("outliers", with_outliers)):
        for arm, scheme in arms.items():
            own = copy.deepcopy(model).bfloat16() if arm == "bf16" else model
            loss, grads = gradient(own, ids, scheme, Routes() if how == "free" else Routes(choices.chosen))
            if how == "outliers":
                grads = {name: grad * factors[name] for name, grad in grads.items()}
            errors = [((grads[name].float() - g).norm() / g.norm()).item() for name, g in exact.items()]
            row = {"seed": seed, "how": how, "arm": arm, "error": statistics.median(errors)}
            found.append(row | {"loss": loss / exact_loss - 1})
    return found


def percent(rows: list[dict[str, Any]], quantity: str = "error", digits: int = 2) -> str:
    return f"{measure.Spread.of(100 * row[quantity] for row in rows):.{digits}f}"


def table_of_numbers(rows: list[dict[str, Any]]) -> str:
    lines: dict[str, list[str]] = {}
    for row in rows:
        block = "tensor" if row["block"] is None else " x ".join(map(str, row["block"]))
        lines.setdefault(f"{row['format']}, {block}", []).append(f"{100 * row['error']:.2f}")
    outliers = dict.fromkeys(row["outlier"] for row in rows)
    header = ["scale for each", *(f"{outlier:.0e}" if outlier else "none" for outlier in outliers)]
    return measure.table(header, [[name, *errors] for name, errors in lines.items()])


def table_of_sums(rows: list[dict[str, Any]]) -> str:
    lengths, promotions = (list(dict.fromkeys(row[key] for row in rows)) for key in ("K", "promote"))
    lines = [
        [
            f"promoted every {promote}" if promote else "never promoted",
            *(percent([row for row in rows if (row["K"], row["promote"]) == (k, promote)]) for k in lengths),
        ]
        for promote in promotions
    ]
    return measure.table(["", *(f"K = {k}" for k in lengths)], lines)


def table_of_gradients(rows: list[dict[str, Any]]) -> str:
    def of(arm: str, how: str) -> list[dict[str, Any]]:
        return [row for row in rows if (row["arm"], row["how"]) == (arm, how)]

    lines = [
        [
            arm,
            *(percent(of(arm, how)) for how in ("free", "held", "outliers")),
            *(percent(of(arm, how), "loss", 3) for how in ("held", "outliers")),
        ]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    ]
    header = ["", "gradient's error", "choices held", "and outliers", "loss, choices held", "and outliers"]
    return measure.table(header, lines)


def main() -> None:
    torch.set_num_threads(1)
    one, two = numbers(), sums()
    data = prepare("stories")
    three = [row for seed in SEEDS for row in steps(seed, data)]
    spread = f"in percent ({len(SEEDS)} seeds: median, least and greatest)"
    parts = [
        "# What eight bits cost",
        "Relative error of 2^20 normal numbers, in percent; 16 of them replaced by outliers of this size",
        table_of_numbers(one),
        f"Largest error of a product in 14-bit registers over its elements' mean size, {spread}",
        table_of_sums(two),
        f"One gradient of V3-mini after {STEPS} steps, all products in FP8, tiles of {TILE}, {spread}",
        table_of_gradients(three),
    ]
    measure.write_result("fp8", {"numbers": one, "sums": two, "gradients": three}, "\n\n".join(parts))


if __name__ == "__main__":
    main()
