"""Tensors by name, in the safetensors files of a directory: one file, or several with an index."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.files import user_errors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: patterns of all names that ``write_weights`` may use
NAMES = (SINGLE, INDEX, "model-*-of-*.safetensors")


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file.

    Raises:
        OSError: what the system said; safetensors hides it in the text of an error of its own.
    """
    try:
        save_file(dict(tensors), file, {"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise OSError(0, str(error)) from error
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors writes for the owner alone, whatever the umask


def write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> None:
    """Write ``tensors`` to files of at most ``max_bytes`` (or of one tensor that is larger), as transformers does.

    Raises:
        OSError: the disk is full, or the like.
    """
    shards: list[dict[str, Tensor]] = [{}]
    room = max_bytes
    for name, tensor in tensors:
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        write_tensors(directory / SINGLE, shards[0])
        return
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(directory / file, shard)
        where |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    (directory / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n"
    )


def read_weights(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the directory with its name, file by file.

    Raises:
        UserError: there are no weights, or a file is missing, truncated or otherwise damaged.
    """
    for file in _files(directory):
        with user_errors("read", file):
            file.stat()  # safetensors reports a missing file without the error's number
        try:
            with user_errors("read", file), safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 -- not a dict
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{file} is damaged or truncated ({error}); restore or re-download it") from None


def _files(directory: Path) -> list[Path]:
    """The one file or, without it, those of the index: the order in which transformers looks."""
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.exists():
        raise UserError(f"{directory} holds neither {SINGLE} nor {INDEX}; are the weights still downloading?")
    with user_errors("read", index):
        text = index.read_bytes()
    try:
        names = set(json.loads(text)["weight_map"].values())
        return [directory / name for name in sorted(names)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is not a valid index of weights; restore or re-download it") from None
