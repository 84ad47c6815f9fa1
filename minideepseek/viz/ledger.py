"""The table that ends a lesson: what was claimed, what we measured, and whether the two agree."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

#: verdict -> the sign before it, so that colour is not all there is
VERDICTS = {
    "exact": "=",  # an identity, asserted to rounding error
    "shown": "✓",  # an effect larger than the spread of the seeds
    "tie": "≈",  # inside the band of two standard deviations
    "contradicted": "✗",  # we measured the opposite
    "not at this size": "·",  # the effect needs a larger model or more data
    "not tested": "–",
}
_COLUMNS = ("claim", "source", "here", "verdict")
_COLOURS = {"exact": "#0f6f66", "shown": "#0f6f66", "contradicted": "#a3300c"}


@dataclass(frozen=True)
class Ledger:
    """Rows of (claim, source, measured here, verdict). A notebook shows a table, ``print`` plain lines."""

    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return "\n".join(
            f"{VERDICTS[verdict]} {verdict}: {claim} ({source}) -> {here}" for claim, source, here, verdict in self.rows
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _COLUMNS)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, self.rows))}</tbody></table>"


def ledger(table: str) -> Ledger:
    """The closing table of a lesson.

    >>> ledger(f'''
    ... RoPE scores depend on the distance alone | RoFormer, eq. 16 | error {error:.0e} | exact
    ... ''')

    Args:
        table: a line for each claim, its columns divided by ``|``: the claim, its source (paper and section), what a
            cell above measured (from its variable: an f-string), and the verdict, one of ``VERDICTS``.

    Raises:
        ValueError: a line without four columns, or a verdict that is not in ``VERDICTS``.
    """
    rows = tuple(tuple(cell.strip() for cell in line.split("|")) for line in table.strip().splitlines())
    for row in rows:
        if len(row) != len(_COLUMNS):
            raise ValueError(f"{row[0]!r}: {len(row)} columns; a line is {' | '.join(_COLUMNS)}")
        if row[-1] not in VERDICTS:
            raise ValueError(f"{row[0]!r}: the verdict is one of {', '.join(VERDICTS)}, not {row[-1]!r}")
    return Ledger(rows)


def _row(row: tuple[str, ...]) -> str:
    *texts, verdict = row
    cells = "".join(f"<td style='text-align:left;vertical-align:top'>{escape(text)}</td>" for text in texts)
    style = "text-align:left;vertical-align:top;white-space:nowrap;font-weight:600"
    colour = _COLOURS.get(verdict, "inherit")
    return f"<tr>{cells}<td style='{style};color:{colour}'>{VERDICTS[verdict]} {verdict}</td></tr>"
