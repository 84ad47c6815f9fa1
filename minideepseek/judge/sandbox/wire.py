"""Steps, results and checks as bytes, without pickle: what leaves a learner's process must not be able to act.

A message is a safetensors file: tensors as they are, everything else as JSON in its metadata. ``send`` and
``receive`` carry messages over a socket, ``write`` and ``messages`` through a pipe.

This file runs inside the sandbox too: of ours it imports ``steps`` only.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, BinaryIO

from safetensors.torch import load, save
from torch import Tensor

from minideepseek.judge.sandbox.steps import Failure, Ref, Result, Step

_OWN = (Ref, Step, Result, Failure)
MAX_STRUCTURE = 8 * 2**20  # bytes of JSON: a small file of brackets would otherwise fill the reader's memory


def dumps(value: Any, kinds: tuple[type, ...] = ()) -> bytes:
    """A tree of tensors, numbers, strings, None, containers, and dataclasses of ours, as bytes.

    Args:
        value: the tree.
        kinds: dataclasses allowed in it beside those of ``steps``.

    Raises:
        TypeError: something in the tree is none of these.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_encode(value, tensors, {kind.__name__ for kind in (*_OWN, *kinds)}))
    return save(tensors, {"structure": structure})


def loads(blob: bytes, kinds: tuple[type, ...] = ()) -> Any:
    """The inverse of ``dumps``.

    Raises:
        ValueError: the bytes are something else.
    """
    try:
        length = int.from_bytes(blob[:8], "little")
        if length > MAX_STRUCTURE:
            raise ValueError("too long")
        header = json.loads(blob[8 : 8 + length])
        known = {kind.__name__: kind for kind in (*_OWN, *kinds)}
        return _decode(json.loads(header["__metadata__"]["structure"]), load(blob), known)
    except Exception as error:
        raise ValueError(f"not a message of the judge ({type(error).__name__})") from None


def _encode(value: Any, tensors: dict[str, Tensor], known: set[str]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[str(key), _encode(item, tensors, known)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(item, tensors, known) for item in value]}
    if is_dataclass(value) and type(value).__name__ in known:
        members = {member.name: getattr(value, member.name) for member in fields(value)}
        return {"kind": type(value).__name__, "of": _encode(members, tensors, known)}
    raise TypeError(f"{type(value).__name__} is not data")


def _decode(value: Any, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    if "kind" in value:
        return known[value["kind"]](**_decode(value["of"], tensors, known))
    ((kind, content),) = value.items()
    if kind == "float":
        return float.fromhex(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors, known) for key, item in content}
    items = [_decode(item, tensors, known) for item in content]
    return tuple(items) if kind == "tuple" else items


def write(pipe: BinaryIO, message: bytes) -> None:
    """One message to a file or pipe, its length first."""
    pipe.write(struct.pack("Q", len(message)) + message)
    pipe.flush()


def messages(blob: bytes) -> Iterator[bytes]:
    """What ``write`` wrote, as far as it is whole."""
    at = 0
    while at + 8 <= len(blob):
        (length,) = struct.unpack("Q", blob[at : at + 8])
        at += 8 + length
        if at > len(blob):
            return
        yield blob[at - length : at]


def send(channel: socket.socket, message: bytes) -> None:
    """One message, its length first."""
    channel.sendall(struct.pack("Q", len(message)) + message)


def receive(channel: socket.socket) -> bytes | None:
    """The next message, or None when the other end has closed."""
    head = _exactly(channel, 8)
    return None if head is None else _exactly(channel, struct.unpack("Q", head)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        block = channel.recv(min(size - len(data), 2**20))
        if not block:
            return None
        data += block
    return bytes(data)
