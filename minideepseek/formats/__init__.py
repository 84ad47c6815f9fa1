"""How the ecosystem writes each architecture down: one file for each ``model_type`` of config.json.

A format is a module with

- ``MODEL_TYPE``, and ``IGNORED``: endings of tensor names that may lie in a checkpoint and mean nothing to us;
- ``obstacle(cfg) -> str | None``: why the format cannot say everything about a config, or None if it can;
- ``write(cfg) -> dict`` and ``read(config) -> ModelConfig``: the fields of config.json;
- ``tensors(cfg) -> list[Entry]``: an ``Entry`` names a tensor of ours and the tensors of theirs that, stacked by rows,
  are the same numbers. Reading and writing are both derived from it, so they cannot disagree;
- where tensors go by several names, ``released(name, tensor)``: the same under the names that ``tensors`` has.

What training needs beyond the fields of a format is one object more in config.json (``training``).
"""

from collections.abc import Mapping
from types import MappingProxyType, ModuleType

from minideepseek.formats import deepseek_moe, deepseek_v2, deepseek_v3, deepseek_v4, deepseek_v32, llama
from minideepseek.formats.entry import Entry

#: model_type of config.json -> the module that knows it
FORMATS: Mapping[str, ModuleType] = MappingProxyType(
    {form.MODEL_TYPE: form for form in (llama, deepseek_moe, deepseek_v2, deepseek_v3, deepseek_v32, deepseek_v4)}
)

__all__ = ["FORMATS", "Entry"]
