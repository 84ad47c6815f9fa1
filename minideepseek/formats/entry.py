"""One line of the table that maps our tensors to a checkpoint's, and careful reading of config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minideepseek.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A tensor of ours and the tensors of theirs it is made of, stacked by rows.

    Attributes:
        ours: name in ``Transformer.state_dict()``.
        theirs: names in the checkpoint, top rows first.
        rows: how many rows each of them has; only needed where there are several.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()


def require(config: Mapping[str, Any], key: str, kind: type = int) -> Any:
    """``config[key]``, which must be there and of the kind expected.

    Raises:
        UserError: the field is missing or is something else.
    """
    if config.get(key) is None:
        raise UserError(f"config.json has no field {key!r}, which model_type {config.get('model_type')!r} needs")
    value = config[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise UserError(f"config.json has {key}={value!r}, where {kind.__name__} is expected")
    return value


def refuse_unless(config: Mapping[str, Any], key: str, allowed: Any, default: Any) -> None:
    """Refuse a checkpoint that asks for something this architecture of ours does not do."""
    value = config.get(key, default)
    if value != allowed:
        raise UserError(f"config.json has {key}={value!r}; only {allowed!r} is supported, the logits would be wrong")
