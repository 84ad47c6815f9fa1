"""Scripts of cells (the percent format that jupytext reads and writes), taken apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TITLE, _KIND, _PAIRS = r"[^\[\]={}\"]*?", r"\[(?:markdown|md)\]", r"\w+=.*"
_MARKER = re.compile(rf"^# %%[ \t]*{_TITLE}(?P<markdown>{_KIND})?[ \t]*(?P<pairs>(?:{_PAIRS})?)$")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a script.

    Attributes:
        markdown: prose, with the comment signs taken off; else code.
        source: its text.
        metadata: the ``key=value`` pairs of its marker line.
        line: of the script, where the marker stands.
    """

    markdown: bool
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def tags(self) -> list[str]:
        """Its tags; none if they are not a list."""
        tags = self.metadata.get("tags", [])
        return tags if isinstance(tags, list) else []


def split(text: str) -> Iterator[Cell]:
    """The cells of a script, in order; what stands before the first marker is a code cell without metadata."""
    start, header = 0, None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = _MARKER.match(line)
        if found:
            yield from _cell(header, lines, start)
            start, header, lines = number, found, []
        else:
            lines.append(line)
    yield from _cell(header, lines, start)


def _cell(header: re.Match[str] | None, lines: list[str], line: int) -> Iterator[Cell]:
    markdown = bool(header and header["markdown"])
    if markdown:
        lines = [re.sub(r"^# ?", "", text) for text in lines]
    source = "\n".join(lines).strip("\n")
    if source or header:
        yield Cell(markdown=markdown, source=source, metadata=_pairs(header["pairs"] if header else ""), line=line)


def _pairs(text: str) -> dict[str, Any]:
    """``a=1 b="x y" c=["z"]``; ends quietly at what is not of this form: scripts come from anybody."""
    found: dict[str, Any] = {}
    decoder = json.JSONDecoder()
    while key := re.match(r"\s*(\w+)=", text):
        try:
            value, end = decoder.raw_decode(text, key.end())
        except (ValueError, RecursionError):
            break
        found[key[1]], text = value, text[end:]
    return found
