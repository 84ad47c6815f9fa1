"""What training needs to know and released fields cannot say: further balance losses, capacities, schedules, stages.

It goes into config.json as one object under the name of this package, which transformers keeps and ignores, and only
what the other fields leave unsaid: a config of which they say everything has no such object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Literal, TypeGuard, get_args, get_origin, get_type_hints

from minideepseek.errors import UserError
from minideepseek.layers.balance import CommunicationBalance, DeviceBalance, ExpertBalance, LossFree
from minideepseek.layers.capacity import Capacity
from minideepseek.layers.compressed import CSA
from minideepseek.layers.dsa import DSA
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.moe import MoE
from minideepseek.layers.mtp import MTP
from minideepseek.layers.router import TopK
from minideepseek.model import ModelConfig

KEY = "minideepseek"
LOSSES = {kind.__name__: kind for kind in (ExpertBalance, DeviceBalance, CommunicationBalance)}
PARTS = {"loss_free": LossFree, "capacity": Capacity}  # of a mixture, each there or None


def write(cfg: ModelConfig, told: ModelConfig) -> dict[str, Any]:
    """What ``cfg`` says and ``told``, which was read back from the released fields, does not."""
    found: dict[str, Any] = {}
    mine, yours = _mixture(cfg), _mixture(told)
    if mine is not None and yours is not None:
        if mine.balance != yours.balance:
            found["balance"] = [{"kind": type(loss).__name__, **vars(loss)} for loss in mine.balance]
        for name in PARTS:
            part = getattr(mine, name)
            if part != getattr(yours, name):
                found[name] = None if part is None else dict(vars(part))
    for name, ours, theirs in (
        ("experts_rounding", _expert_rounding(cfg), _expert_rounding(told)),
        ("index_rounding", _index_rounding(cfg), _index_rounding(told)),
    ):
        if ours != theirs:
            found[name] = None if ours is None else {"kind": type(ours).__name__, **vars(ours)}
    if _stage(cfg) != _stage(told):
        found["stage"] = _stage(cfg)
    if cfg.mtp != told.mtp and cfg.mtp is not None:
        found["mtp"] = {name: value for name, value in vars(cfg.mtp).items() if name != "attention"}
    return found


def read(config: Mapping[str, Any], told: ModelConfig) -> ModelConfig:
    """``told``, completed by the object in config.json, if there is one.

    Raises:
        UserError: the object is not one that ``write`` wrote, or belongs to another model.
    """
    found = config.get(KEY)
    if found is None:
        return told
    try:
        return _completed(
            told, _object(found, {"balance", "mtp", "stage", "experts_rounding", "index_rounding", *PARTS})
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the object {KEY!r} is not one that was saved with this model: {error}") from None


def _completed(told: ModelConfig, found: Mapping[str, Any]) -> ModelConfig:
    changes: dict[str, Any] = {}
    if "balance" in found:
        if not isinstance(found["balance"], list):
            raise TypeError(f"balance is {found['balance']!r}, where a list is expected")
        changes["balance"] = tuple(_of_kind(item, LOSSES) for item in found["balance"])
    for name, kind in PARTS.items():
        if name in found:
            changes[name] = None if found[name] is None else _build(kind, found[name])
    if changes:
        if _mixture(told) is None:
            raise ValueError(f"it has {', '.join(changes)} for experts, and the model has none")
        ffn = tuple(replace(ffn, **changes) if _chooses(ffn) else ffn for _, ffn in told.layers)
        told = replace(told, ffn=ffn)
    if "experts_rounding" in found:
        rounding = _of_kind(found["experts_rounding"], {"FP4": FP4})
        ffn = tuple(replace(ffn, rounding=rounding) if isinstance(ffn, MoE) else ffn for _, ffn in told.layers)
        told = replace(told, ffn=ffn)
    if "index_rounding" in found:
        rounding = _of_kind(found["index_rounding"], {"FP4": FP4, "FP8": FP8})
        rounded = (
            replace(a, indexer=replace(a.indexer, rounding=rounding)) if isinstance(a, DSA | CSA) else a
            for a, _ in told.layers
        )
        told = replace(told, attention=tuple(rounded))
    if "stage" in found:
        if _stage(told) is None:
            raise ValueError("it has a stage, and the model no indexers")
        staged = (replace(a, stage=found["stage"]) if isinstance(a, DSA | CSA) else a for a, _ in told.layers)
        told = replace(told, attention=tuple(staged))
    if "mtp" in found:
        mtp = _build(MTP, found["mtp"])
        if told.mtp is None or mtp.depth != told.mtp.depth:
            raise ValueError(f"mtp has depth={mtp.depth}, and the model {told.mtp.depth if told.mtp else 0}")
        told = replace(told, mtp=replace(mtp, attention=told.mtp.attention))
    return told


def _stage(cfg: ModelConfig) -> str | None:
    return next((attention.stage for attention, _ in cfg.layers if isinstance(attention, DSA | CSA)), None)


def _expert_rounding(cfg: ModelConfig) -> FP4 | None:
    return next((ffn.rounding for _, ffn in cfg.layers if isinstance(ffn, MoE)), None)


def _index_rounding(cfg: ModelConfig) -> FP4 | FP8 | None:
    return next((a.indexer.rounding for a, _ in cfg.layers if isinstance(a, DSA | CSA)), None)


def _mixture(cfg: ModelConfig) -> MoE | None:
    return next((ffn for _, ffn in cfg.layers if _chooses(ffn)), None)


def _chooses(ffn: object) -> TypeGuard[MoE]:
    """Whether it is a mixture that chooses its experts: one that looks them up has nothing to balance."""
    return isinstance(ffn, MoE) and isinstance(ffn.router, TopK)


def _of_kind(item: object, kinds: Mapping[str, type]) -> Any:
    """An instance of the dataclass that ``item`` names, or None where it is None."""
    if item is None:
        return None
    kind = item.get("kind") if isinstance(item, Mapping) else None
    if not isinstance(item, Mapping) or not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"it holds {item!r}; a kind of {', '.join(kinds)} is expected")
    return _build(kinds[kind], {key: value for key, value in item.items() if key != "kind"})


def _object(value: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not value.keys() <= keys:
        raise TypeError(f"{value!r} is not an object of {', '.join(sorted(keys))}")
    return value


def _build(kind: type, value: object) -> Any:
    """An instance of a dataclass from its fields, each of the type it is declared to have."""
    hints = get_type_hints(kind)
    given = _object(value, {field.name for field in fields(kind)})
    for name, item in given.items():
        if not _fits(item, hints[name]):
            raise TypeError(f"{name} of {kind.__name__} is {item!r}")
    return kind(**given)


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) is hint or (hint is float and type(value) is int)
