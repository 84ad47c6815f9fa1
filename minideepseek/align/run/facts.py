"""By what a run is recognised: what it learns from, in words that are short and the same in every process."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from types import FunctionType

import torch
from torch import nn

SHORT = 16  # things that are looked at one by one
BRIEF = 200  # characters that are shown as they are


def described(thing: object) -> str:
    """What a thing is: as text, or a long one's digest.

    Models are known by their weights, functions by their name and by what they enclose: a sum of rewards is another
    one with other weights. Where a thing lies in memory says nothing.
    """
    return _described(thing, ())


def fingerprint(module: nn.Module) -> str:
    """A digest of a module's weights and buffers, their names and their precision."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _described(thing: object, within: tuple[object, ...]) -> str:
    if isinstance(thing, nn.Module):
        return fingerprint(thing)
    deeper = (*within, thing)
    if isinstance(thing, FunctionType):
        inside = [_described(one, deeper) for one in _enclosed(thing) if not any(one is outer for outer in deeper)]
        name = thing.__qualname__.replace(".<locals>", "")
        return f"{name}({', '.join(inside)})" if inside else name
    if isinstance(thing, Mapping) and len(thing) <= SHORT:
        return _brief("{" + ", ".join(f"{key!r}: {_described(value, deeper)}" for key, value in thing.items()) + "}")
    if isinstance(thing, list | tuple) and len(thing) <= SHORT:
        return _brief("[" + ", ".join(_described(one, deeper) for one in thing) + "]")
    text = re.sub(" at 0x[0-9a-fA-F]+", "", repr(thing))
    return f"{len(thing)} ({_digest(text)})" if isinstance(thing, list | tuple) else _brief(text)


def _enclosed(function: FunctionType) -> Iterator[object]:
    """What a function encloses, but for lists: there functions note what they have seen."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing in it yet
            if not isinstance(cell.cell_contents, list):
                yield cell.cell_contents


def _brief(text: str) -> str:
    return text if len(text) <= BRIEF else f"{text[: BRIEF // 4]}... ({_digest(text)})"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
