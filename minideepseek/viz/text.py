"""Text as pictures: how it is cut into tokens, what its parts are for, what a filter said of it, what comes next.

HTML, not matplotlib: a browser has a font for every script. Colours stand in the elements themselves, and each piece
is a ``code`` element, so the cuts stay visible where a website throws styles away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import torch
from numpy.typing import ArrayLike

from minideepseek.data.document import Document
from minideepseek.data.quality import Signal
from minideepseek.generate import filter_logits
from minideepseek.viz.style import INK, MUTED, NAVY, PAPER, RULE, VERMILION

__all__ = ["Page", "cards", "cuts", "next_tokens", "parts", "verdicts"]

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


def next_tokens(
    pieces: Sequence[str], logits: ArrayLike, *, temperature: float = 1.0, top_p: float = 1.0, rows: int = 12
) -> Page:
    """The likeliest next tokens, each with its probability as a bar; what ``top_p`` cuts off is struck out.

    Args:
        pieces: (V,) the tokens as text.
        logits: (V,) scores of the model.
        temperature: divides the scores; 0 leaves only the likeliest.
        top_p: keeps the smallest set of likeliest tokens with this probability together.
        rows: how many tokens to show.
    """
    scores = torch.as_tensor(logits, dtype=torch.float64)
    # As in ``generate``: the likeliest at zero, so that nothing overflows, and an almost-zero takes it alone.
    plain = ((scores - scores.max()) / max(temperature, 1e-6)).softmax(-1)
    allowed = torch.isfinite(filter_logits(plain.log(), top_p=top_p)) & (plain > 1e-9)
    drawn = torch.where(allowed, plain, 0.0)
    drawn = drawn / drawn.sum()
    order = plain.argsort(descending=True, stable=True)[:rows].tolist()
    body = "".join(_bar(pieces[i], float(plain[i]), float(drawn[i]), bool(allowed[i])) for i in order)
    bits = float(torch.special.entr(drawn).sum()) / math.log(2)
    note = (
        f"{int(allowed.sum()):,} of {len(scores):,} tokens can be drawn; the choice is worth {bits:.2f} bits. "
        f"The {rows} shown hold {float(drawn[order].sum()):.1%}."
    )
    return _sheet(f"<table style='border:0;margin:0;width:100%'><tbody>{body}</tbody></table>{_note(note)}")


def _bar(piece: str, before: float, probability: float, allowed: bool) -> str:
    strike = "" if allowed else f";text-decoration:line-through;color:{MUTED}"
    ghost = f"<div style='background:{RULE};width:{100 * before:.2f}%;height:17px'></div>"
    bar = f"<div style='background:{NAVY};width:{100 * probability:.2f}%;height:17px'></div>"
    return (
        f"<tr style='background:none'>"
        f"<td style='{_LEFT};padding:1px 9px;width:9em{strike}'>{_piece(piece, TINTS[0])}</td>"
        f"<td style='padding:1px 0'>{bar if allowed else ghost}</td>"
        f"<td style='{_NUMBER};width:5em{strike}'>{probability if allowed else before:.1%}</td></tr>"
    )


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
