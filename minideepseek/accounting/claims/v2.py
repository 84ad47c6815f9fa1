"""What is claimed of V2."""

from __future__ import annotations

from minideepseek.accounting.claims.claim import HOURS_PER_TRILLION, Claim, activated, flops_per_token, groups, total
from minideepseek.accounting.report import report
from minideepseek.accounting.tables import cache_saving
from minideepseek.generations import generations


def v2() -> list[Claim]:
    """Claims about V2."""
    elements = [report(generations[name]).cache_elements_per_token for name in ("v1-67b", "v2")]
    saving = cache_saving(*elements, new_bits=6)
    hours = HOURS_PER_TRILLION["v1-67b"], HOURS_PER_TRILLION["v2"]
    return [
        total("v2", 236, "V2, abstract"),
        activated("v2", "V2, abstract", "without embedding, table and all 21.4"),
        groups("v2"),
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
        flops_per_token("v2", 155),
    ]


def v2_lite() -> list[Claim]:
    """Claims about V2-Lite."""
    return [total("v2-lite", 15.7, "V2, appendix B"), activated("v2-lite", "V2, appendix B"), groups("v2-lite")]
