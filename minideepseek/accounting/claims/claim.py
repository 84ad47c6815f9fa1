"""A number that a report prints beside the same number recomputed, and the claims that several models share."""

from __future__ import annotations

from dataclasses import dataclass

from minideepseek.accounting.report import report
from minideepseek.accounting.tables import activated_table, equivalent_groups, flops_table
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


def total(name: str, printed: float, source: str) -> Claim:
    """Parameters of the main model."""
    found = report(generations[name]).parameters / 1e9
    return Claim(what="parameters", printed=printed, found=found, unit="B", source=source)


def activated(name: str, source: str, how: str = "") -> Claim:
    """Parameters that one token touches, by the convention that the report uses."""
    row = next(row for row in activated_table() if row.model == name)
    how = how or row.convention.replace("_", " ")
    return Claim(
        what="activated", printed=row.printed, found=getattr(row, row.convention), unit="B", source=source, how=how
    )


def flops(model: str, how: str = "") -> Claim:
    """Training on one sequence, as DeepSeekMoE's tables count it."""
    row = next(row for row in flops_table() if row.model == model)
    return Claim(
        what=f"training on {row.seq_len} tokens",
        printed=row.printed,
        found=row.tflops,
        unit="TFLOPs",
        source="DeepSeekMoE, tables 1 to 6",
        how=how,
    )


def flops_per_token(name: str, printed: float) -> Claim:
    """Training on one token."""
    return Claim(
        what="training on one token of 4096",
        printed=printed,
        found=report(generations[name], 4096).flops_per_token["causal"] / 1e9,
        unit="GFLOPs",
        source="Zhao et al., arXiv 2505.09343, table 2",
        how="six for each parameter but the embedding's, and the visible half of the scores",
    )


def groups(name: str) -> Claim:
    """How many groups of GQA would cache as much."""
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
