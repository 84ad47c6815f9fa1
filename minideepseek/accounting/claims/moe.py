"""What is claimed of DeepSeekMoE."""

from __future__ import annotations

from minideepseek.accounting.claims.claim import Claim, activated, flops, total
from minideepseek.accounting.report import report
from minideepseek.accounting.tables import flops_table
from minideepseek.generations import generations


def moe_2b() -> list[Claim]:
    """Claims about the 2B."""
    found = report(generations["moe-2b"])
    return [
        total("moe-2b", 2.0, "DeepSeekMoE, table 1"),
        Claim(
            what="activated",
            printed=0.3,
            found=found.activated["everything"] / 1e9,
            unit="B",
            source="DeepSeekMoE, table 1",
            how="everything",
        ),
        flops("2B GShard, DeepSeekMoE"),
    ]


def moe_16b() -> list[Claim]:
    """Claims about the 16B."""
    return [
        total("moe-16b", 16.4, "DeepSeekMoE, table 3"),
        activated("moe-16b", "DeepSeekMoE, table 3"),
        flops("DeepSeekMoE 16B", "with the ideal inner width, 8/3 of the model's"),
        _share_of_compute("DeepSeekMoE 16B", "V1-7B", 40.5),
    ]


def moe_145b() -> list[Claim]:
    """Claims about the 145B."""
    found = report(generations["moe-145b"])
    return [
        total("moe-145b", 144.6, "DeepSeekMoE, table 6"),
        Claim(
            what="activated",
            printed=22.2,
            found=found.activated["everything"] / 1e9,
            unit="B",
            source="DeepSeekMoE, table 6",
            how="everything",
        ),
        flops("DeepSeekMoE 145B"),
        _share_of_compute("DeepSeekMoE 145B", "V1-67B", 28.5, "32.7 if the 67B were counted by its own shape"),
    ]


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
