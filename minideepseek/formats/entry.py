"""One line of the table that maps our tensors to a checkpoint's, and careful reading of config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from minideepseek.errors import UserError
from minideepseek.model import ModelConfig


@dataclass(frozen=True)
class Entry:
    """A tensor of ours and the tensors of theirs it is made of, stacked by rows.

    Attributes:
        ours: name in ``Transformer.state_dict()``.
        theirs: names in the checkpoint, top rows first.
        rows: how many rows each of them has; only needed where there are several.
        copy: a second copy of a tensor that stands elsewhere in the checkpoint: written, and passed over when read.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    copy: bool = False


def require(config: Mapping[str, Any], key: str, kind: type = int) -> Any:
    """``config[key]``, which must be there and of the kind expected; a whole number will do for a float.

    Raises:
        UserError: the field is missing or is something else.
    """
    value = config.get(key)
    if value is None:
        raise UserError(f"the field {key!r} is missing; restore or re-download the file")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{key} is {value!r}, where {kind.__name__} is expected")
    return value


def assemble(config: Mapping[str, Any], layers: Callable[[], Mapping[str, Any]]) -> ModelConfig:
    """A model of ``layers()``, its ``attention`` and ``ffn``, with the fields that every architecture names alike.

    Raises:
        UserError: a field is missing, of another type or contradicts another.
    """
    try:
        return ModelConfig(
            d_model=require(config, "hidden_size"),
            n_layers=require(config, "num_hidden_layers"),
            vocab_size=require(config, "vocab_size"),
            max_seq_len=require(config, "max_position_embeddings"),
            norm_eps=require(config, "rms_norm_eps", float),
            init_std=require(config, "initializer_range", float) if "initializer_range" in config else None,
            **layers(),
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the fields do not make a model: {error}") from None


def refuse_unless(config: Mapping[str, Any], key: str, allowed: Any) -> None:
    """Refuse a checkpoint that asks for something this architecture of ours does not do.

    Raises:
        UserError: the field is there and is not ``allowed``.
    """
    value = config.get(key)
    if value is not None and value != allowed:
        only = "models without it are" if allowed is None else f"only {allowed!r} is"
        raise UserError(f"{key} is {value!r}, but {only} supported: the logits would be wrong")
