"""Training checkpoints: everything a run needs to go on as if nothing had happened.

``OUT/checkpoints/step-000500/`` is a complete model directory (config.json, weights in fp32, tokenizer) with three
more files: ``trainer.safetensors`` (what the optimiser remembers, the random state), ``trainer.json`` (settings, place
in the data, versions) and ``SHA256SUMS``, which tells a whole checkpoint from a damaged one; ``sha256sum -c`` reads
it too. A checkpoint appears under its name only when all of it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minideepseek import checkpoint
from minideepseek.errors import UserError
from minideepseek.files import atomic_directory, user_errors
from minideepseek.formats.weights import write_tensors
from minideepseek.model import Transformer
from minideepseek.train import optimizer as optim
from minideepseek.train.source import Tokenizing

FOLDER, FACTS, TENSORS, SUMS = "checkpoints", "trainer.json", "trainer.safetensors", "SHA256SUMS"
KEPT = "kept/"


def path_of(out: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` updates is kept."""
    return out / FOLDER / f"step-{step:06d}"


def step_of(path: Path) -> int | None:
    """The inverse of ``path_of``; None for any other name."""
    match = re.fullmatch(r"step-(\d+)", path.name)
    return int(match[1]) if match else None


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run by step, oldest first, whether whole or damaged."""
    folder = out / FOLDER
    found = {path: step_of(path) for path in folder.iterdir()} if folder.is_dir() else {}
    return sorted((path for path, step in found.items() if step is not None), key=lambda path: found[path] or 0)


def save_state(
    path: Path,
    model: Transformer,
    tokenizer: Tokenizing | None,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    kept: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write a checkpoint: all of it, or nothing.

    Args:
        path: of the directory.
        model: the fp32 weights.
        tokenizer: saved beside them, if there is one.
        optimizer: of ``model``'s parameters.
        facts: whatever else the run needs, for trainer.json.
        kept: tensors that the run needs, besides.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    tensors = optim.export_state(optimizer, model) | _random_state(model.embed.weight.device)
    tensors |= {f"{KEPT}{name}": tensor.contiguous() for name, tensor in kept.items()}
    with atomic_directory(path) as stage:
        checkpoint.save(model, stage, tokenizer=tokenizer)
        write_tensors(stage / TENSORS, tensors)
        (stage / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        files = sorted(file for file in stage.iterdir() if file.is_file())
        (stage / SUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in files))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every file is as it was written."""
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        sums = {name: digest for digest, name in lines}
        for name in (FACTS, TENSORS, *sums):
            if name not in sums:
                return f"{SUMS} does not list {name}"
            if not (path / name).is_file():
                return f"{name} is missing"
            if _sha256(path / name) != sums[name]:
                return f"{name} is damaged or truncated"
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except ValueError:
        return f"{SUMS} is damaged"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def newest(out: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run; None if there is none at all.

    A damaged one is named to ``warn``, in one line, and put aside as ``damaged-step-...``.

    Raises:
        UserError: there are checkpoints, and not one of them is whole.
    """
    found = checkpoints(out)
    damaged: dict[Path, str] = {}
    for path in reversed(found):
        reason = damage(path)
        if reason is None:
            break
        damaged[path] = reason
    else:
        if found:
            raise UserError(
                f"no checkpoint under {out / FOLDER} is whole ({found[-1].name}: {damaged[found[-1]]}); "
                "restore one, or start again without resume in another folder"
            )
        return None
    for bad, reason in damaged.items():
        aside = bad.with_name(f"damaged-{bad.name}")
        warn(f"checkpoint {bad} cannot be used: {reason}; put aside as {aside.name}, going on from {path.name}")
        with user_errors("put aside", bad):
            shutil.rmtree(aside, ignore_errors=True)
            bad.replace(aside)
    return path


def read_facts(path: Path) -> dict[str, Any]:
    """trainer.json of a whole checkpoint.

    Raises:
        UserError: there is none, or it is not ours.
    """
    with user_errors("read", path / FACTS):
        text = (path / FACTS).read_text()
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path / FACTS} is not valid JSON ({error}); use an earlier checkpoint") from None
    if not isinstance(facts, dict) or "step" not in facts:
        raise UserError(f"{path / FACTS} is not a training checkpoint's; give a folder named step-...")
    return facts


def load_state(path: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put weights, optimiser and random state back as they were saved, bit for bit, into the memory of ``model``.

    Returns:
        What else was ``kept``.

    Raises:
        UserError: the checkpoint is of a model of another shape, or cannot be read.
    """
    theirs, ours = checkpoint.write_config(checkpoint.read_config(path)), checkpoint.write_config(model.cfg)
    keys = {**ours, **theirs}
    different = [
        f"{key} {theirs.get(key)} instead of {ours.get(key)}" for key in keys if theirs.get(key) != ours.get(key)
    ]
    if different:
        raise UserError(f"{path} is of another model: {', '.join(different)}; name the model that it was made with")
    saved = checkpoint.load(path).state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(saved[name])
    try:
        with safe_open(path / TENSORS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path / TENSORS} is damaged ({error}); use an earlier checkpoint") from None
    _set_random_state(tensors, model.embed.weight.device)
    own = {name: t for name, t in tensors.items() if not name.startswith(("random/", KEPT))}
    optim.import_state(optimizer, model, own)
    return {name.removeprefix(KEPT): t for name, t in tensors.items() if name.startswith(KEPT)}


def prune(out: Path, *, keep: int, always: int) -> None:
    """Remove all but the ``keep`` newest checkpoints and the one after ``always`` updates."""
    for path in checkpoints(out)[:-keep]:
        if step_of(path) != always:
            # Out of sight first: a kill half-way must not leave a checkpoint that looks whole and is not.
            doomed = path.with_name(f".{path.name}.part")
            shutil.rmtree(doomed, ignore_errors=True)
            path.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what a killed run left unfinished."""
    for path in (*out.glob(".*.part"), *(out / FOLDER).glob(".*.part")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(tensors: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["random/cpu"].clone())
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"].clone(), device)
