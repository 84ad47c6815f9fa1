"""Numbers that the reports print about each model, each beside the same number recomputed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minideepseek.accounting.counts import mtp_activated, mtp_parameters, stored_parameters
from minideepseek.accounting.report import report
from minideepseek.accounting.tables import (
    activated_table,
    cache_saving,
    cache_table,
    cost_table,
    equivalent_groups,
    flops_table,
)
from minideepseek.generations import generations
from minideepseek.layers.mla import MLA

# Reported, not computable: H800 hours to train on 10¹² tokens (V2 report, section 3.2.3; V3 report, section 1).
HOURS_PER_TRILLION = {"v1-67b": 300_600, "v2": 172_800, "v3": 180_000}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A printed number and ours.

    Attributes:
        what: it is.
        printed: by the source, to its last digit.
        found: recomputed.
        unit: of both.
        source: where it is printed.
        how: our number comes about, where that is not plain; or why the two differ.
    """

    what: str
    printed: float
    found: float
    unit: str
    source: str
    how: str = ""


def claims(name: str) -> list[Claim]:
    """What the reports say about a generation; empty where they say nothing (the minis are ours)."""
    make = CLAIMS.get(name)
    return make() if make is not None else []


def _total(name: str, printed: float, source: str) -> Claim:
    found = report(generations[name]).parameters / 1e9
    return Claim(what="parameters", printed=printed, found=found, unit="B", source=source)


def _activated(name: str, source: str, how: str = "") -> Claim:
    row = next(row for row in activated_table() if row.model == name)
    how = how or row.convention.replace("_", " ")
    return Claim(
        what="activated", printed=row.printed, found=getattr(row, row.convention), unit="B", source=source, how=how
    )


def _flops(model: str, how: str = "") -> Claim:
    row = next(row for row in flops_table() if row.model == model)
    return Claim(
        what=f"training on {row.seq_len} tokens",
        printed=row.printed,
        found=row.tflops,
        unit="TFLOPs",
        source="DeepSeekMoE, tables 1 to 6",
        how=how,
    )


def _share_of_compute(part: str, whole: str, printed: float, how: str = "") -> Claim:
    found = {row.model: row.tflops for row in flops_table()}
    return Claim(
        what=f"compute, against {whole}",
        printed=printed,
        found=100 * found[part] / found[whole],
        unit="%",
        source="DeepSeekMoE, abstract",
        how=how,
    )


def _v1_7b() -> list[Claim]:
    return [_total("v1-7b", 6.9, "V1, table 3"), _flops("V1-7B")]


def _v1_67b() -> list[Claim]:
    true_shape = report(generations["v1-67b"], 4096).flops_per_token["full"] * 4096 / 1e12
    return [
        _total("v1-67b", 67.4, "DeepSeekMoE, table 6"),
        _flops("V1-67B", f"counted as if it had multi-head attention; by its own shape {true_shape:.0f}"),
    ]


def _moe_2b() -> list[Claim]:
    found = report(generations["moe-2b"])
    return [
        _total("moe-2b", 2.0, "DeepSeekMoE, table 1"),
        Claim(
            what="activated",
            printed=0.3,
            found=found.activated["everything"] / 1e9,
            unit="B",
            source="DeepSeekMoE, table 1",
            how="everything",
        ),
        _flops("2B GShard, DeepSeekMoE"),
    ]


def _moe_16b() -> list[Claim]:
    return [
        _total("moe-16b", 16.4, "DeepSeekMoE, table 3"),
        _activated("moe-16b", "DeepSeekMoE, table 3"),
        _flops("DeepSeekMoE 16B", "with the ideal inner width, 8/3 of the model's"),
        _share_of_compute("DeepSeekMoE 16B", "V1-7B", 40.5),
    ]


def _moe_145b() -> list[Claim]:
    found = report(generations["moe-145b"])
    return [
        _total("moe-145b", 144.6, "DeepSeekMoE, table 6"),
        Claim(
            what="activated",
            printed=22.2,
            found=found.activated["everything"] / 1e9,
            unit="B",
            source="DeepSeekMoE, table 6",
            how="everything",
        ),
        _flops("DeepSeekMoE 145B"),
        _share_of_compute("DeepSeekMoE 145B", "V1-67B", 28.5, "32.7 if the 67B were counted by its own shape"),
    ]


def _cache(name: str, printed: float, source: str) -> Claim:
    row = next(row for row in cache_table() if row.model == name)
    return Claim(what="cache a token, bf16", printed=printed, found=row.kilobytes, unit="kB", source=source)


def _groups(name: str) -> Claim:
    attention = generations[name].attention
    assert isinstance(attention, MLA)
    return Claim(
        what="cache, as much as GQA with",
        printed=2.25,
        found=equivalent_groups(attention),
        unit="groups",
        source="V2, table 1",
        how="(d_c + d_r) / 2·d_h",
    )


def _v2() -> list[Claim]:
    elements = [report(generations[name]).cache_elements_per_token for name in ("v1-67b", "v2")]
    saving = cache_saving(*elements, new_bits=6)
    hours = HOURS_PER_TRILLION["v1-67b"], HOURS_PER_TRILLION["v2"]
    return [
        _total("v2", 236, "V2, abstract"),
        _activated("v2", "V2, abstract", "without embedding, table and all 21.4"),
        _groups("v2"),
        Claim(
            what="cache saved against V1-67B",
            printed=93.3,
            found=100 * saving.together,
            unit="%",
            source="V2, abstract",
            how=f"{100 * saving.elements:.1f} % fewer numbers, and 6 bits for each instead of 16",
        ),
        Claim(
            what="training saved against V1-67B",
            printed=42.5,
            found=100 * (1 - hours[1] / hours[0]),
            unit="%",
            source="V2, section 3.2.3",
            how=f"{hours[1] / 1e3} K instead of {hours[0] / 1e3} K H800 hours for 10¹² tokens, as reported",
        ),
        _flops_per_token("v2", 155),
    ]


def _v2_lite() -> list[Claim]:
    return [_total("v2-lite", 15.7, "V2, appendix B"), _activated("v2-lite", "V2, appendix B"), _groups("v2-lite")]


def _flops_per_token(name: str, printed: float) -> Claim:
    return Claim(
        what="training on one token of 4096",
        printed=printed,
        found=report(generations[name], 4096).flops_per_token["causal"] / 1e9,
        unit="GFLOPs",
        source="Zhao et al., arXiv 2505.09343, table 2",
        how="six for each parameter but the embedding's, and the visible half of the scores",
    )


def _v3() -> list[Claim]:
    cfg, cost, per_trillion = generations["v3"], cost_table()[-1], HOURS_PER_TRILLION["v3"]
    days = per_trillion / 2048 / 24
    pretraining = cost_table()[0].gpu_hours
    return [
        _total("v3", 671, "V3, abstract"),
        _activated("v3", "V3, abstract"),
        Claim(
            what="multi-token prediction, on top",
            printed=11.5,
            found=mtp_parameters(cfg) / 1e9,
            unit="B",
            source="released weights, README",
            how="the printed number leaves out the projection",
        ),
        Claim(
            what="activated there, with embedding and head",
            printed=2.4,
            found=mtp_activated(cfg) / 1e9,
            unit="B",
            source="released weights, README",
            how="the printed number leaves out the projection",
        ),
        Claim(
            what="numbers in the released files",
            printed=685,
            found=stored_parameters(cfg) / 1e9,
            unit="B",
            source="released weights, README",
            how="with a second copy of embedding and head; 684.5 before rounding up",
        ),
        _groups("v3"),
        _cache("v3", 70.272, "Zhao et al., arXiv 2505.09343, table 1"),
        _flops_per_token("v3", 250),
        Claim(
            what="all of the training",
            printed=2.788,
            found=cost.gpu_hours / 1e6,
            unit="M H800 hours",
            source="V3, table 1",
            how="2664 K pre-training, 119 K longer contexts, 5 K after it, as reported",
        ),
        Claim(
            what="its price at 2 $ an hour",
            printed=5.576,
            found=cost.dollars / 1e6,
            unit="M $",
            source="V3, table 1",
            how="without research and trials before",
        ),
        Claim(
            what="10¹² tokens on 2048 GPUs",
            printed=3.7,
            found=days,
            unit="days",
            source="V3, section 1",
            how=f"{per_trillion / 1e3:.0f} K hours, as reported",
        ),
        Claim(
            what="pre-training on 14.8·10¹² tokens",
            printed=2664,
            found=14.8 * per_trillion / 1e3,
            unit="K H800 hours",
            source="V3, table 1",
            how=f"{pretraining / 2048 / 24:.0f} days: the report says less than two months",
        ),
    ]


def _v32() -> list[Claim]:
    cfg = generations["v3.2"]

    def tokens(stage: str, printed: float, steps: int, sequences: int) -> Claim:
        return Claim(
            what=f"tokens of the {stage}",
            printed=printed,
            found=steps * sequences * cfg.max_seq_len / 1e9,
            unit="B",
            source="V3.2, section 2.1.1",
            how=f"{steps} steps of {sequences} sequences of 128K tokens",
        )

    return [tokens("dense warm-up", 2.1, 1000, 16), tokens("sparse training", 943.7, 15_000, 480)]


CLAIMS: dict[str, Callable[[], list[Claim]]] = {
    "v1-7b": _v1_7b,
    "v1-67b": _v1_67b,
    "moe-2b": _moe_2b,
    "moe-16b": _moe_16b,
    "moe-145b": _moe_145b,
    "v2": _v2,
    "v2-lite": _v2_lite,
    "v3": _v3,
    "v3.2": _v32,
}
