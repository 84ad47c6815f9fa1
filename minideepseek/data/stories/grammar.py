"""The stories' grammar: plots are prose with slots and alternatives, compiled once and filled in by draws.

    "{hero} [began to cry|felt very sad]. \"Have you seen my {toy}?\" {hero.he} asked."

{slot} is filled from the world and from the plot's tables, [a|b|c] becomes one of its alternatives, and a blank line
begins a paragraph. A table's row fills several slots at once: a trouble comes with the help that fits it, which is how
a story keeps its logic.
"""

import re
from dataclasses import dataclass

from minideepseek.data.stories.draw import Draw


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of which a story draws one; each row has a value for each slot. Values may use other slots."""

    slots: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(slots: str, *rows: str | tuple[str, ...]) -> Table:
    """`slots` are names separated by blanks; a row of a one-slot table may be a plain string."""
    names = tuple(slots.split())
    full = tuple((row,) if isinstance(row, str) else row for row in rows)
    if any(len(row) != len(names) for row in full):
        raise ValueError(f"each row must have {len(names)} values, for {slots}")
    return Table(names, full)


Template = tuple[tuple[str, ...], ...]


def template(prose: str, *, blank: str) -> Template:
    """Compile prose: a row of alternatives, most of them single. `blank` joins the lines of a paragraph."""
    paragraphs = re.split(r"\n\s*\n", prose.strip())
    text = "\n".join(re.sub(r"\s*\n\s*", blank, paragraph.strip()) for paragraph in paragraphs)
    return tuple(tuple(part.split("|")) if i % 2 else (part,) for i, part in enumerate(re.split(r"\[(.*?)\]", text)))


def fill(compiled: Template, draw: Draw, slots: dict[str, object]) -> str:
    """Choose among the alternatives and fill the slots, also those that a table's value brings in."""
    parts = [options[0] if len(options) == 1 else draw.pick(options) for options in compiled]
    text = "".join(parts).format_map(slots)
    return text.format_map(slots) if "{" in text else text


@dataclass(frozen=True, slots=True)
class Plot:
    """A story's course: its prose, and the tables that its slots are drawn from."""

    prose: Template
    tables: tuple[Table, ...]

    def tell(self, draw: Draw, slots: dict[str, object]) -> str:
        for chosen in self.tables:
            slots.update(zip(chosen.slots, draw.pick(chosen.rows), strict=True))
        return fill(self.prose, draw, slots)
