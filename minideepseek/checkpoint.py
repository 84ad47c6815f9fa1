"""Save and load in the ecosystem's own format: config.json, safetensors (sharded or not), tokenizer files.

``transformers.AutoModelForCausalLM.from_pretrained`` reads what ``save`` writes, and ``load`` reads what
``save_pretrained`` writes, with the same logits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minideepseek.errors import UserError
from minideepseek.files import atomic_directory, user_errors
from minideepseek.formats import FORMATS, Entry
from minideepseek.model import ModelConfig, Transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


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
        path: made if it does not exist; files of an earlier save are replaced, others left alone.
        tokenizer: written beside the weights, its special ids into config.json.
        max_shard_bytes: weights beyond this size are split over several files with an index.

    Raises:
        UserError: no format can express this config, or the place cannot be written.
    """
    config = write_config(model.cfg)
    state = model.state_dict()
    config["dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    if tokenizer is not None:
        config |= {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    entries = FORMATS[config["model_type"]].tensors(model.cfg)
    with atomic_directory(path) as stage:
        _write_shards(stage, list(_export(entries, state)), max_shard_bytes)
        if tokenizer is not None:
            tokenizer.save(stage)
        (stage / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _remove_stale_shards(Path(path))


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
            architecture that is not of this family, weights truncated, missing or of another shape.
    """
    directory = _locate(path)
    cfg = read_config(directory)
    model_type = _config(directory)["model_type"]
    with torch.device("meta"):
        model = Transformer(cfg)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    files = _tensor_files(directory)
    state: dict[str, Tensor] = {}
    for entry in FORMATS[model_type].tensors(cfg):
        tensor = torch.cat([_read(directory, files, name) for name in entry.theirs])
        if tensor.shape != expected[entry.ours]:
            raise UserError(
                f"{directory}: {', '.join(entry.theirs)} has shape {tuple(tensor.shape)}, but config.json asks for "
                f"{tuple(expected[entry.ours])}; weights and config are of different models"
            )
        state[entry.ours] = tensor.to(device=device, dtype=dtype)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(True)


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The fields of config.json for a config.

    Raises:
        UserError: no known format can say everything about it.
    """
    for fmt in FORMATS.values():
        if fmt.fits(cfg):
            return fmt.write(cfg)
    raise UserError(
        f"no checkpoint format can express this model: {cfg.attention} with {cfg.ffn}; "
        f"the formats known are {', '.join(FORMATS)}"
    )


def read_config(path: str | Path) -> ModelConfig:
    """The config of a saved model, without its weights."""
    config = _config(Path(path))
    return FORMATS[config["model_type"]].read(config)


def _config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    with user_errors("read", file):
        text = file.read_text(encoding="utf-8")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); restore or re-download it") from None
    if not isinstance(config, dict) or config.get("model_type") not in FORMATS:
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise UserError(f"{file} has model_type {kind!r}; supported are {', '.join(map(repr, FORMATS))}")
    return config


def _locate(path: str | Path) -> Path:
    """The directory itself, or a downloaded copy of a hub repository."""
    directory = Path(path)
    if directory.is_dir():
        return directory
    name = str(path)
    if directory.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"no checkpoint at {path}: give a folder with config.json and *.safetensors, or a hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no folder {path}, and the hub could not be asked for a model of that name ({reason}); "
            f"check the path, or the connection"
        ) from None


def _export(entries: list[Entry], state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for entry in entries:
        tensor = state[entry.ours].detach()
        parts = tensor.split(list(entry.rows)) if entry.rows else (tensor,)
        for name, part in zip(entry.theirs, parts, strict=True):
            yield name, part.contiguous()


def _write_shards(stage: Path, tensors: list[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    try:
        if len(shards) == 1:
            save_file(shards[0], stage / WEIGHTS, {"format": "pt"})
            return
        where: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, stage / file, {"format": "pt"})
            where |= dict.fromkeys(shard, file)
    except SafetensorError as error:  # a full disk arrives here as text, not as an OSError
        raise OSError(getattr(error, "errno", None) or 0, f"{error}") from error
    total = sum(tensor.nbytes for _, tensor in tensors)
    (stage / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n")


def _remove_stale_shards(directory: Path) -> None:
    """A save over an earlier one of another size must not leave weights that a reader would prefer."""
    index = directory / INDEX
    single = directory / WEIGHTS
    if index.exists() and single.exists():
        (index if single.stat().st_mtime_ns >= index.stat().st_mtime_ns else single).unlink()
    keep = {WEIGHTS}
    if index.exists():
        keep |= set(json.loads(index.read_text())["weight_map"].values())
    for file in directory.glob("model*.safetensors"):
        if file.name not in keep:
            file.unlink()


def _tensor_files(directory: Path) -> dict[str, str]:
    """Tensor name -> the file it is in."""
    index = directory / INDEX
    if index.exists():
        try:
            return dict(json.loads(index.read_text())["weight_map"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{index} is not a valid index of shards; restore or re-download it") from None
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UserError(f"{directory} holds config.json but no *.safetensors; are the weights still downloading?")
    names: dict[str, str] = {}
    for file in files:
        with _opened(file) as weights:
            names |= dict.fromkeys(weights.keys(), file.name)
    return names


def _opened(file: Path) -> Any:
    try:
        with user_errors("read", file):
            return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or truncated ({error}); restore or re-download it") from None


def _read(directory: Path, files: dict[str, str], name: str) -> Tensor:
    if name not in files:
        # Tied checkpoints store one matrix for both ends; ours are always two.
        if name == "lm_head.weight" and _config(directory).get("tie_word_embeddings"):
            name = "model.embed_tokens.weight"
        if name not in files:
            raise UserError(f"{directory}: tensor {name} is missing from the weights; the checkpoint is not complete")
    with _opened(directory / files[name]) as weights:
        return weights.get_tensor(name)
