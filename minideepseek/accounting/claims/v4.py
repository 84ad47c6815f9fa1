"""What is claimed of V4."""

from __future__ import annotations

from minideepseek.accounting.claims.claim import Claim, activated, total
from minideepseek.accounting.counts import mtp_parameters, parameters
from minideepseek.accounting.efficiency import efficiency_table, served_bytes
from minideepseek.generations import generations
from minideepseek.layers.gqa import GQA

SOURCE = "V4 report"
TOKENS = 10**6


def v4_flash() -> list[Claim]:
    """Claims about V4-Flash."""
    return [total("v4-flash", 284, SOURCE), activated("v4-flash", SOURCE), *_against_v32("v4-flash", 7, 10)]


def v4_pro() -> list[Claim]:
    """Claims about V4-Pro."""
    cfg = generations["v4-pro"]
    whole = (parameters(cfg) + mtp_parameters(cfg)) / 1e12
    found = parameters(cfg) / 1e12
    how = f"{found:.3f}, and {whole:.3f} with multi-token prediction"
    return [
        Claim(what="parameters", printed=1.6, found=found, unit="T", source=SOURCE, how=how),
        activated("v4-pro", SOURCE),
        *_against_v32("v4-pro", 10, 27),
    ]


def _against_v32(name: str, cache: float, flops: float) -> list[Claim]:
    row = next(row for row in efficiency_table(TOKENS) if row.model == name)
    cfg = generations[name]
    grouped = GQA(n_heads=128, n_kv_heads=8, head_dim=128).cache_elements(TOKENS) * cfg.n_layers * 2
    return [
        Claim(
            what="cache of 10⁶ tokens, against V3.2",
            printed=cache,
            found=row.cache_share,
            unit="%",
            source=SOURCE,
            how=f"{row.cache_gb:.2f} GB: FP8 vectors, FP4 index keys",
        ),
        Claim(
            what="compute for a token there, against V3.2",
            printed=flops,
            found=row.flops_share,
            unit="%",
            source=SOURCE,
            how=f"{row.equivalent:.0f} GFLOPs in units of FP8: FP4 counts half, BF16 double; weights not published",
        ),
        Claim(
            what="cache, against GQA of 8 groups",
            printed=2,
            found=100 * served_bytes(cfg, TOKENS) / grouped,
            unit="%",
            source=SOURCE,
            how="heads of 128 channels in BF16, as many layers",
        ),
    ]
