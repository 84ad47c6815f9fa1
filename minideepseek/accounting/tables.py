"""The papers' tables, recomputed: lists of dataclasses, which a data frame takes as they are.

``pandas.DataFrame(cache_table())`` has a column for each field. Models of others stand here by their shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minideepseek.accounting.counts import (
    cache_elements,
    embedding_parameters,
    idle_parameters,
    parameters,
    sequence_flops,
)
from minideepseek.generations import generations
from minideepseek.layers.gqa import GQA
from minideepseek.layers.mla import MLA


@dataclass(frozen=True, kw_only=True)
class ActivatedRow:
    """Parameters that one token touches, under three conventions, in B; and what the paper prints.

    convention: the one that gives the printed number. The family is not of one mind about it.
    """

    model: str
    everything: float
    without_embedding: float
    without_embedding_and_head: float
    printed: float
    convention: str


def activated_table() -> list[ActivatedRow]:
    """DeepSeekMoE table 7 (16B), V2 section 1 and appendix B, V3 abstract, V4 report."""
    printed = {
        "moe-16b": (2.8, "everything"),
        "v2": (21.0, "without_embedding"),
        "v2-lite": (2.4, "without_embedding"),
        "v3": (37.0, "without_embedding"),
        "v4-flash": (13.0, "without_embedding"),
        "v4-pro": (49.0, "without_embedding"),
    }
    rows = []
    for name, (number, convention) in printed.items():
        cfg = generations[name]
        touched, embedding = parameters(cfg) - idle_parameters(cfg), embedding_parameters(cfg)
        counts = [round((touched - n * embedding) / 1e9, 3) for n in range(3)]
        rows.append(
            ActivatedRow(
                model=name,
                everything=counts[0],
                without_embedding=counts[1],
                without_embedding_and_head=counts[2],
                printed=number,
                convention=convention,
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class CacheRow:
    """Key/value cache of a model: numbers and bfloat16 kilobytes (of 1000) a token, GiB for 128K tokens."""

    model: str
    attention: str
    elements: int
    kilobytes: float
    gib_128k: float


def _cache_row(model: str, attention: str, elements: int) -> CacheRow:
    return CacheRow(
        model=model,
        attention=attention,
        elements=elements,
        kilobytes=2 * elements / 1000,
        gib_128k=2 * elements * 128 * 1024 / 2**30,
    )


def cache_table() -> list[CacheRow]:
    """The family, what it would be with other attention, its peers, and the models of V2's table 9."""

    def gqa(heads: int, groups: int, layers: int) -> int:
        return layers * GQA(n_heads=heads, n_kv_heads=groups, head_dim=128).cache_elements(1)

    def own(name: str) -> int:
        return cache_elements(generations[name], 1)

    return [
        _cache_row("v1-7b", "MHA", own("v1-7b")),
        _cache_row("v1-67b", "GQA, 8 groups", own("v1-67b")),
        _cache_row("v1-67b", "if it were MHA", gqa(64, 64, 95)),
        _cache_row("moe-16b", "MHA", own("moe-16b")),
        _cache_row("v2-lite", "MLA", own("v2-lite")),
        _cache_row("v2", "MLA", own("v2")),
        _cache_row("v2", "if it were MHA", gqa(128, 128, 60)),
        _cache_row("v2", "if it were GQA, 8 groups", gqa(128, 8, 60)),
        _cache_row("v2", "if it were MQA", gqa(128, 1, 60)),
        _cache_row("v3", "MLA", own("v3")),
        _cache_row("Qwen2.5-72B", "GQA, 8 groups", gqa(64, 8, 80)),
        _cache_row("LLaMA-3.1-405B", "GQA, 8 groups", gqa(128, 8, 126)),
        _cache_row("small MoE of V2's ablation", "MHA", gqa(16, 16, 27)),
        _cache_row("small MoE of V2's ablation", "MLA", own("v2-lite")),  # 27 layers of the same latent
        _cache_row("large MoE of V2's ablation", "MHA", gqa(56, 56, 60)),  # 56 heads give the 860.2K printed
        _cache_row("large MoE of V2's ablation", "MLA", own("v2")),
    ]


def equivalent_groups(attention: MLA) -> float:
    """How many groups a GQA with heads of d_nope channels would have at the same cache: (d_c + d_r) / (2·d_h).

    2.25 for V2 and V3 (V2 report, section 2.1.4, table 1).
    """
    return attention.cache_elements(1) / (2 * attention.d_nope)


@dataclass(frozen=True, kw_only=True)
class CacheSaving:
    """How much smaller one cache is than another: by fewer numbers, by fewer bits for each, and by both.

    Attributes:
        elements: share saved by caching fewer numbers.
        bits: share saved by storing each in fewer bits.
        together: share of the bytes saved.
    """

    elements: float
    bits: float
    together: float


def cache_saving(old: float, new: float, *, old_bits: float = 16, new_bits: float = 16) -> CacheSaving:
    """The saving from ``old`` numbers of ``old_bits`` to ``new`` of ``new_bits``.

    V2's "93.3 %" against the 67B (abstract) is 82.2 % fewer numbers, latents instead of grouped heads, times the 6 bits
    a number in which V2 is served (section 3.2.3) instead of 16. The report does not spell the product out.
    """
    return CacheSaving(
        elements=1 - new / old, bits=1 - new_bits / old_bits, together=1 - new * new_bits / (old * old_bits)
    )


@dataclass(frozen=True, kw_only=True)
class FlopsRow:
    """Training FLOPs of one sequence in T, as the DeepSeekMoE report counts (``sequence_flops``), and as it prints."""

    model: str
    seq_len: int
    tflops: float
    printed: float


def flops_table() -> list[FlopsRow]:
    """The "FLOPs per 2K tokens" of DeepSeekMoE's table 1 and "per 4K tokens" of its tables 3 to 6."""
    ideal = 8 / 3
    shapes: Sequence[tuple[str, int, int, int, float, int, float]] = [
        # model, seq_len, D, L, inner width that a token passes, vocabulary, printed
        ("2B dense, Hash, Switch", 2048, 1280, 9, ideal * 1280, 8192, 2.9),
        ("2B GShard, DeepSeekMoE", 2048, 1280, 9, 2 * ideal * 1280, 8192, 4.3),
        ("2B GShard x1.5", 2048, 1280, 9, 3 * ideal * 1280, 8192, 5.8),
        ("2B dense x16", 2048, 1280, 9, 16 * ideal * 1280, 8192, 24.6),
        ("LLaMA2-7B", 4096, 4096, 32, ideal * 4096, 32_000, 187.9),
        ("V1-7B", 4096, 4096, 30, ideal * 4096, 102_400, 183.5),
        ("V1-67B", 4096, 8192, 95, ideal * 8192, 102_400, 2057.5),
        ("DeepSeekMoE 16B", 4096, 2048, 28, 2 * ideal * 2048, 102_400, 74.4),
        ("GShard 137B", 4096, 4096, 62, 2 * 10_944, 102_400, 572.7),
        ("DeepSeekMoE 145B", 4096, 4096, 62, 16 * 1408, 102_400, 585.6),
        ("DeepSeekMoE 142B, half activated", 4096, 4096, 62, 8 * 1408, 102_400, 374.6),
    ]
    return [
        FlopsRow(model=model, seq_len=s, tflops=sequence_flops(d, layers, inner, vocab, s) / 1e12, printed=printed)
        for model, s, d, layers, inner, vocab, printed in shapes
    ]


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One phase of V3's training in H800 hours, and their price."""

    phase: str
    gpu_hours: float
    dollars: float


def cost_table(price: float = 2.0) -> list[CostRow]:
    """V3 report, table 1: hours as reported, at ``price`` dollars an hour. Research before it is not counted."""
    hours = {"pre-training": 2_664_000, "context extension": 119_000, "post-training": 5_000}
    hours["total"] = sum(hours.values())
    return [CostRow(phase=phase, gpu_hours=n, dollars=price * n) for phase, n in hours.items()]
