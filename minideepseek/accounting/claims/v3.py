"""What is claimed of V3 and V3.2."""

from __future__ import annotations

from minideepseek.accounting.claims.claim import HOURS_PER_TRILLION, Claim, activated, flops_per_token, groups, total
from minideepseek.accounting.counts import mtp_activated, mtp_parameters, stored_parameters
from minideepseek.accounting.tables import cache_table, cost_table
from minideepseek.generations import generations


def v3() -> list[Claim]:
    """Claims about V3."""
    cfg, cost, per_trillion = generations["v3"], cost_table()[-1], HOURS_PER_TRILLION["v3"]
    days = per_trillion / 2048 / 24
    pretraining = cost_table()[0].gpu_hours
    return [
        total("v3", 671, "V3, abstract"),
        activated("v3", "V3, abstract"),
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
        groups("v3"),
        _cache("v3", 70.272, "Zhao et al., arXiv 2505.09343, table 1"),
        flops_per_token("v3", 250),
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


def v32() -> list[Claim]:
    """Claims about V3.2."""
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


def _cache(name: str, printed: float, source: str) -> Claim:
    row = next(row for row in cache_table() if row.model == name)
    return Claim(what="cache a token, bf16", printed=printed, found=row.kilobytes, unit="kB", source=source)
