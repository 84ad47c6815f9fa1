"""Numbers that the reports print about each model, each beside the same number recomputed."""

from __future__ import annotations

from collections.abc import Callable

from minideepseek.accounting.claims.claim import Claim
from minideepseek.accounting.claims.moe import moe_2b, moe_16b, moe_145b
from minideepseek.accounting.claims.v1 import v1_7b, v1_67b
from minideepseek.accounting.claims.v2 import v2, v2_lite
from minideepseek.accounting.claims.v3 import v3, v32
from minideepseek.accounting.claims.v4 import v4_flash, v4_pro

CLAIMS: dict[str, Callable[[], list[Claim]]] = {
    "v1-7b": v1_7b,
    "v1-67b": v1_67b,
    "moe-2b": moe_2b,
    "moe-16b": moe_16b,
    "moe-145b": moe_145b,
    "v2": v2,
    "v2-lite": v2_lite,
    "v3": v3,
    "v3.2": v32,
    "v4-flash": v4_flash,
    "v4-pro": v4_pro,
}


def claims(name: str) -> list[Claim]:
    """What the reports say about a generation; empty where they say nothing (the minis are ours)."""
    make = CLAIMS.get(name)
    return make() if make is not None else []


__all__ = ["Claim", "claims"]
