"""An answer that a reader opens: folded away until it is wanted, and computed by the cell that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Answer:
    """A notebook shows a line to click on, ``print`` the text."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"Answer {self.name}: {self.text}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{escape(part)}</p>" for part in self.text.split("\n\n"))
        return f"<details><summary><b>Answer {escape(self.name)}</b></summary>{paragraphs}</details>"


def answer(name: str, *paragraphs: str) -> Answer:
    """Fold ``paragraphs`` away under "Answer ``name``". Numbers in them come from the cell: f-strings, not claims.

    A cell that only answers also hides its code: ``# %% jupyter={"source_hidden": true}``.
    """
    return Answer(name, "\n\n".join(paragraphs))
