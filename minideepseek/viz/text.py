"""Text as pictures: how it is cut into tokens, what its parts are for, what a filter said about it.

HTML, not matplotlib: a browser has a font for every script. Colours stand in the elements themselves, and each piece
is a ``code`` element, so the cuts stay visible where a website throws styles away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from minideepseek.data.document import Document
from minideepseek.data.quality import Signal
from minideepseek.viz.style import INK, MUTED, PAPER, RULE, VERMILION

__all__ = ["Page", "cards", "cuts", "parts", "verdicts"]

#: grounds for dark letters: the house colours, thinned; neighbours in this order differ most
TINTS = ("#cfe6f5", "#fbe3b5", "#c4e7e2", "#f4cfc2", "#e3d3ee", "#dfe4ec")
_PIECE = (
    f"color:{INK};padding:2px 1px;margin:0 1px 0 0;border:0;border-radius:3px;white-space:pre-wrap;"
    "font:13px/1.9 ui-monospace,Menlo,Consolas,monospace;-webkit-box-decoration-break:clone;box-decoration-break:clone"
)
_SHEET = f"background:{PAPER};color:{INK};padding:6px 10px;border-radius:6px;font-size:13px;line-height:1.5"
_LEFT = "text-align:left;vertical-align:top"
_LABEL = f"{_LEFT};padding:3px 9px;color:{MUTED};white-space:nowrap;font-size:13px;line-height:1.9"
_NUMBER = "text-align:right;padding:3px 9px"


class Page(str):
    """A piece of HTML that a notebook shows where it is the value of a cell."""

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", self).split())[:200]  # what a reader has who does not see the page


def cuts(rows: Mapping[str, Sequence[str | bytes]], *, note: str = "") -> Page:
    """Each row a text in pieces, every piece on a ground of its own.

    Line breaks show as ↵, blanks that stand alone as ·, bytes that are only part of a character as small hexadecimal
    numbers.

    Args:
        rows: label -> the pieces, which put together give the text: strings, or bytes of UTF-8. A string such as
            ``\\xe4\\xb8`` (``Tokenizer.tokens`` writes half a character so) counts as bytes.
        note: a line of small print below.
    """
    body = "".join(
        f"<tr style='background:none'><td style='{_LABEL}'>{escape(label)}</td><td style='{_LEFT};padding:3px 9px'>"
        f"{''.join(_piece(piece, TINTS[i % 5]) for i, piece in enumerate(pieces))}</td></tr>"
        for label, pieces in rows.items()
    )
    return _sheet(f"<table style='border:0;margin:0'><tbody>{body}</tbody></table>{_note(note)}")


def parts(pieces: Sequence[tuple[str, str]], *, note: str = "") -> Page:
    """A text whose stretches have roles; equal roles share a ground, and a legend names them.

    Args:
        pieces: (role, text) in order of appearance.
        note: a line of small print below.
    """
    ground = {role: TINTS[i % len(TINTS)] for i, role in enumerate(dict.fromkeys(role for role, _ in pieces))}
    legend = " ".join(_piece(f" {role} ", tint) for role, tint in ground.items())
    text = "".join(_piece(text, ground[role]) for role, text in pieces)
    return _sheet(f"<div style='margin-bottom:6px'>{legend}</div><div>{text}</div>{_note(note)}")


def cards(documents: Iterable[Document], *, characters: int = 420) -> Page:
    """Documents side by side, each under its source, cut off after so many characters."""
    drawn = "".join(
        f"<td style='{_LEFT};border:1px solid {RULE};padding:8px 10px;width:33%'>"
        f"<b>{escape(document.source)}</b><br><span style='white-space:pre-wrap;overflow-wrap:anywhere'>"
        f"{escape(document.text[:characters].rstrip())}{' …' if len(document.text) > characters else ''}</span></td>"
        for document in documents
    )
    return _sheet(f"<table style='border:0;margin:0;table-layout:fixed;width:100%'><tr>{drawn}</tr></table>")


def verdicts(judged: Mapping[str, Sequence[Signal]]) -> Page:
    """What each quality signal measured on each text; values outside their range stand out.

    Args:
        judged: label -> the signals of one text, in the same order for every text.
    """
    names = [signal.name for signal in next(iter(judged.values()))]
    head = "".join(f"<th style='{_NUMBER}'>{escape(name)}</th>" for name in ("", *names))
    body = "".join(
        f"<tr><td style='{_LABEL}'>{escape(label)}</td>{''.join(map(_signal, signals))}</tr>"
        for label, signals in judged.items()
    )
    return _sheet(f"<table style='margin:0'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _signal(signal: Signal) -> str:
    if signal.ok:
        return f"<td style='{_NUMBER}'>{signal.value:.3g}</td>"
    style = f"{_NUMBER};color:{PAPER};background:{VERMILION};font-weight:600"
    return f"<td style='{style}' title='{escape(signal.objection)}'>✗ {signal.value:.3g}</td>"


def _piece(piece: str | bytes, tint: str) -> str:
    text, is_bytes = _readable(piece)
    if is_bytes:
        return f"<code style='{_PIECE};background:{tint};font-size:10px;color:{VERMILION}'>{text}</code>"
    if text.isspace():
        text = text.replace(" ", "·")
    shown = escape(text).replace("\t", "⇥").replace("\r", "␍")
    # A line break inside an inline element ends the line after the sign that stands for it.
    return f"<code style='{_PIECE};background:{tint}'>{shown.replace(chr(10), '↵<br>')}</code>"


def _readable(piece: str | bytes) -> tuple[str, bool]:
    """The piece as text, or as hexadecimal bytes if it is no whole number of characters."""
    if isinstance(piece, bytes):
        try:
            return piece.decode(), False
        except UnicodeDecodeError:
            return piece.hex(" "), True
    if re.fullmatch(r"(\\x[0-9a-f]{2})+", piece):
        return piece.replace("\\x", " ").strip(), True
    return piece, False


def _note(note: str) -> str:
    return f"<div style='color:{MUTED};margin-top:6px'>{escape(note)}</div>" if note else ""


def _sheet(content: str) -> Page:
    return Page(f"<div style='{_SHEET}'>{content}</div>")
