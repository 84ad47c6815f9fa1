"""How the ecosystem writes each architecture down: one file for each ``model_type`` of config.json.

A format is a module with ``MODEL_TYPE``, ``read(config) -> ModelConfig``, ``write(cfg) -> dict`` and
``tensors(cfg) -> list[Entry]``. An ``Entry`` names a tensor of ours and the tensors of theirs that, stacked by rows,
are the same numbers; reading and writing are both derived from it, so they cannot disagree.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from minideepseek.formats import llama
from minideepseek.formats.entry import Entry

#: model_type of config.json -> the module that knows it
FORMATS: Mapping[str, Any] = MappingProxyType({llama.MODEL_TYPE: llama})

__all__ = ["FORMATS", "Entry"]
