"""Save and load in the ecosystem's own format: config.json, safetensors (sharded or not), tokenizer files.

``transformers.AutoModelForCausalLM.from_pretrained`` reads what ``save`` writes, and ``load`` reads what
``save_pretrained`` writes, with the same logits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.files import atomic_directory, user_errors
from minideepseek.formats import FORMATS, fp8, training
from minideepseek.formats.weights import NAMES, read_weights, write_weights
from minideepseek.layers.hashed import HashRouter
from minideepseek.model import ModelConfig, Transformer

CONFIG = "config.json"
WHOLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHOLE_NUMBERS = (torch.int64, torch.int32)


class SavesItself(Protocol):
    """What ``save`` needs of a tokenizer."""

    @property
    def bos_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    def save(self, directory: str | os.PathLike[str]) -> None: ...


def save(
    model: Transformer,
    path: str | Path,
    *,
    tokenizer: SavesItself | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model to the directory ``path``: all of it or, if anything fails, nothing.

    Args:
        model: of any generation; tensors keep their dtype.
        path: made if it does not exist. A checkpoint that is there already is replaced in one step, and stays whole
            until then; other files are left alone.
        tokenizer: written beside the weights, its special ids into config.json.
        max_shard_bytes: weights beyond this size are split over several files with an index.

    Raises:
        UserError: no format can express this config, or the place cannot be written.
    """
    config = write_config(model.cfg)
    config["dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    # Without a tokenizer nothing is known to end a text; left out, readers would assume the ids of some other model.
    config["bos_token_id"] = None if tokenizer is None else tokenizer.bos_id
    config["eos_token_id"] = None if tokenizer is None else tokenizer.eos_id
    with atomic_directory(path, replaces=[*NAMES, CONFIG]) as stage:
        write_weights(stage, _export(model, FORMATS[config["model_type"]]), max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save(stage)
        (stage / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a model from a directory, or from the hub by its id when online.

    Args:
        path: directory with config.json and *.safetensors, or ``"owner/name"``.
        device: where the weights go.
        dtype: convert to this type; None keeps what is stored.

    Returns:
        A ``Transformer`` in eval mode.

    Raises:
        UserError: no such directory or hub id, fields missing in config.json or contradicting each other, an
            architecture that is not of this family, weights truncated, missing, unknown or of another shape.
    """
    directory = _locate(path)
    config = _config(directory)
    form = FORMATS[config["model_type"]]
    cfg = _in(directory, form, config)
    with torch.device("meta"):
        model = Transformer(cfg)
    state, absent = _import(directory, form, model, _tensors(directory, config, dtype), device, dtype)
    if config.get("tie_word_embeddings"):  # one matrix is stored for both ends; ours are always two
        for here, there in (("embed.weight", "head.weight"), ("head.weight", "embed.weight")):
            if here not in state and there in state:
                state[here] = state[there].clone()
    if cfg.mtp is not None and not any(name.startswith("mtp.") for name in state):
        # transformers keeps the field that announces these modules and drops their weights
        with torch.device("meta"):
            model = Transformer(replace(cfg, mtp=None))
        absent = {name: mine for name, mine in absent.items() if not mine.startswith("mtp.")}
    missing = [name for name, mine in absent.items() if mine not in state]
    if missing:
        raise UserError(
            f"{directory} has no tensor {missing[0]}{_and_more(missing)}, which its config.json asks for; "
            f"the checkpoint is not complete"
        )
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        if isinstance(module, HashRouter) and not module.fits():
            raise UserError(f"{directory}: a table sends tokens to experts that are not there; its files are damaged")
    for module in model.modules():  # what no checkpoint holds: counts of a step of training, which begin at zero
        for name, buffer in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set:
                setattr(module, name, torch.zeros_like(buffer, device=device))
    return model.eval()


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The fields of config.json for a config.

    Raises:
        UserError: no known format can say everything about it.
    """
    reasons = []
    for name, form in FORMATS.items():
        obstacle = form.obstacle(cfg)
        if obstacle is None:
            fields = form.write(cfg)
            rest = training.write(cfg, form.read(fields))
            fields |= {training.KEY: rest} if rest else {}
            if training.read(fields, form.read(fields)) == cfg:
                return fields
            obstacle = "its fields have no word for a part of it"
        reasons.append(f"{name}: {obstacle}")
    raise UserError(f"no checkpoint format can express this model ({'; '.join(reasons)})")


def read_config(path: str | Path) -> ModelConfig:
    """The config of a saved model, without its weights.

    Raises:
        UserError: as ``load``.
    """
    directory = _locate(path)
    config = _config(directory)
    return _in(directory, FORMATS[config["model_type"]], config)


def _in(directory: Path, form: ModuleType, config: dict[str, Any]) -> ModelConfig:
    try:
        return training.read(config, form.read(config))
    except UserError as error:
        raise UserError(f"{directory / CONFIG}: {error}") from None


def _tensors(directory: Path, config: dict[str, Any], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors, whole; those in FP8 in ``dtype``, or the one that config.json names."""
    tensors, block = _named(read_weights(directory), FORMATS[config["model_type"]]), fp8.block_size(config)
    if block is None:
        return tensors
    named = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    whole = dtype or (named if isinstance(named, torch.dtype) and named.is_floating_point else torch.bfloat16)
    return fp8.dequantised(tensors, block, whole)


def _named(tensors: Iterator[tuple[str, Tensor]], form: ModuleType) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names that their format knows them by."""
    if not hasattr(form, "released"):
        return tensors
    return (found for name, tensor in tensors for found in form.released(name, tensor))


def _config(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG
    with user_errors("read", file):
        text = file.read_bytes()
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); restore or re-download it") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in FORMATS:
        raise UserError(f"{file}: model_type is {kind!r}; supported are {', '.join(map(repr, FORMATS))}")
    return config


def _locate(path: str | Path) -> Path:
    """The directory itself, or a downloaded copy of a hub repository."""
    directory, name = Path(path), str(path)
    with user_errors("read", path):
        if directory.is_dir():
            return directory
        there = directory.exists()
    if there or name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise UserError(f"no checkpoint at {path}: give a folder with config.json and *.safetensors, or a hub id")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f'no folder {path}; to look for it on the hub, install: pip install "minideepseek[hub]"'
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are of these kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"no folder {path}, and no model of that name could be had from the hub ({reason}); "
            f"check the path, or the connection"
        ) from None


def _export(model: Transformer, form: ModuleType) -> Iterator[tuple[str, Tensor]]:
    state = model.state_dict()
    seen: set[int] = set()
    for entry in form.tensors(model.cfg):
        tensor = state[entry.ours].detach()
        if tensor.data_ptr() in seen:  # tied by the user; safetensors wants each to have memory of its own
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        # Experts are stacked on one more axis; their rows lie one after the other all the same.
        parts = tensor.flatten(0, -2).split(list(entry.rows)) if entry.rows else (tensor,)
        for name, part in zip(entry.theirs, parts, strict=True):
            yield name, part.contiguous()


def _import(
    directory: Path,
    form: ModuleType,
    model: Transformer,
    tensors: Iterator[tuple[str, Tensor]],
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Our tensors, made of those in the directory; and what is absent there: their name -> our name.

    A tensor of ours is returned only when all its parts were there.
    """
    ours = model.state_dict()
    places: dict[str, tuple[str, int, int]] = {}  # their name -> our name, first row, one past the last
    entries = form.tensors(model.cfg)
    copies = {name: entry.ours for entry in entries if entry.copy for name in entry.theirs}
    kept = {name for name, _ in model.named_buffers()}  # corrections of routers are fine numbers: never rounded
    for entry in (entry for entry in entries if not entry.copy):
        start = 0
        for name, rows in zip(entry.theirs, entry.rows or (len(ours[entry.ours]),), strict=True):
            places[name] = (entry.ours, start, start + rows)
            start += rows
    state: dict[str, Tensor] = {}
    unknown, second = [], {}
    for name, tensor in tensors:
        if name in copies:
            second[name] = tensor
            continue
        if name not in places:
            if not name.endswith(form.IGNORED):
                unknown.append(name)
            continue
        mine, start, end = places.pop(name)
        shape = (end - start, *ours[mine].shape[-1:]) if ours[mine].ndim > 1 else (end - start,)
        counts = not ours[mine].is_floating_point()  # a table of experts, whole numbers of any width
        if tensor.shape != shape or tensor.dtype not in (WHOLE_NUMBERS if counts else WHOLE):
            raise UserError(
                f"{directory}: tensor {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, but config.json asks "
                f"for {'whole' if counts else 'floating-point'} numbers of shape {shape}; weights and config are of "
                f"different models"
            )
        if mine not in state:
            kind = ours[mine].dtype if counts else tensor.dtype if mine in kept else dtype or tensor.dtype
            state[mine] = torch.empty(ours[mine].shape, dtype=kind, device=device)
        rows = state[mine].flatten(0, -2) if tensor.ndim > 1 else state[mine]
        rows[start:end] = tensor
    for mine, _, _ in places.values():
        state.pop(mine, None)
    for name, tensor in second.items():
        mine = copies[name]
        if mine in state and not state[mine].is_meta and not torch.equal(tensor.to(state[mine]), state[mine]):
            raise UserError(
                f"{directory}: tensor {name} differs from that of the model itself, which it should be a copy of; "
                f"the modules that look ahead share embedding and head"
            )
    if unknown:
        raise UserError(
            f"{directory}: tensor {unknown[0]}{_and_more(unknown)} has no place in the model that config.json "
            f"describes; weights and config are of different models"
        )
    return state, {name: mine for name, (mine, _, _) in places.items()}


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
