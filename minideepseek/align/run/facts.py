"""By what a run is recognised: what it learns from, in words that are short and the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import FunctionType

import torch
from torch import nn

SHORT = 16  # things that are looked at one by one
BRIEF = 200  # characters that are shown as they are


def described(thing: object) -> str:
    """What a thing is: as text, or a long one's digest.

    Models are known by their weights, functions by their name and by what they enclose: a sum of rewards is another
    one with other weights. What says no more of itself than where it lies in memory is known by its type alone.
    """
    if isinstance(thing, nn.Module):
        return fingerprint(thing)
    if isinstance(thing, FunctionType):
        inside = [cell.cell_contents for cell in thing.__closure__ or ()]
        name = thing.__qualname__.replace(".<locals>", "")
        return f"{name}({', '.join(map(described, inside))})" if inside else name
    if isinstance(thing, Mapping) and len(thing) <= SHORT:
        return _brief("{" + ", ".join(f"{key!r}: {described(value)}" for key, value in thing.items()) + "}")
    if isinstance(thing, list | tuple) and len(thing) <= SHORT:
        return _brief("[" + ", ".join(map(described, thing)) + "]")
    text = repr(thing)
    if " at 0x" in text and not isinstance(thing, list | tuple):
        return type(thing).__qualname__
    return f"{len(thing)} ({_digest(text)})" if isinstance(thing, list | tuple) else _brief(text)


def fingerprint(module: nn.Module) -> str:
    """A digest of a module's weights and buffers, their names and their precision."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _brief(text: str) -> str:
    return text if len(text) <= BRIEF else f"{text[: BRIEF // 4]}... ({_digest(text)})"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
