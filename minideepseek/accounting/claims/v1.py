"""What is claimed of V1."""

from __future__ import annotations

from minideepseek.accounting.claims.claim import Claim, flops, total
from minideepseek.accounting.report import report
from minideepseek.generations import generations


def v1_7b() -> list[Claim]:
    """Claims about the 7B."""
    return [total("v1-7b", 6.9, "V1, table 3"), flops("V1-7B")]


def v1_67b() -> list[Claim]:
    """Claims about the 67B."""
    true_shape = report(generations["v1-67b"], 4096).flops_per_token["full"] * 4096 / 1e12
    return [
        total("v1-67b", 67.4, "DeepSeekMoE, table 6"),
        flops("V1-67B", f"counted as if it had multi-head attention; by its own shape {true_shape:.0f}"),
    ]
