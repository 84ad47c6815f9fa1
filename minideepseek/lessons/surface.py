"""Which part of the package a lesson stands on: the public names it uses, with their signatures.

A lesson's outputs are stale when that part changes, and only then. Hashing the package's source would make every
lesson stale at every refactoring; hashing nothing would let a renamed parameter go unseen until a reader meets it.
"""

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

PACKAGE = "minideepseek"

Form = list[str] | str
"""How a name looks from outside: the parameters of something callable, or the value of a constant."""


def uses(code: Iterable[str]) -> dict[str, Form]:
    """What a lesson's code cells use of the package: ``"module:attribute"`` -> its form, sorted by name.

    Raises ``AttributeError`` or ``ImportError``, naming it, for something the package does not have.
    """
    tree = ast.parse("\n".join(code))
    return {name: _form(_resolve(name)) for name in sorted(_names(tree))}


def changed(before: dict[str, Form], now: dict[str, Form]) -> list[str]:
    """The names whose form is no longer the one the outputs were made with.

    A parameter added with a default changes no existing call, so it does not count.
    """
    return [name for name, form in now.items() if name not in before or not _fits(before[name], form)]


def _fits(before: Form, now: Form) -> bool:
    if isinstance(before, str) or isinstance(now, str):
        return before == now
    added = [parameter for parameter in now if parameter not in before]
    return [p for p in now if p in before] == before and all("=" in p or p.startswith("*") for p in added)


def _names(tree: ast.Module) -> set[str]:
    bound: dict[str, str] = {}  # a name in the lesson -> what it stands for, as "module:attribute"
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    bound[alias.asname or PACKAGE] = f"{alias.name if alias.asname else PACKAGE}:"
                    found.add(f"{alias.name}:")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                bound[alias.asname or alias.name] = f"{node.module}:{alias.name}"
                found.add(f"{node.module}:{alias.name}")
    return found | set(_chains(tree, bound))


def _chains(node: ast.AST, bound: dict[str, str]) -> Iterator[str]:
    """Every longest ``name.attribute["key"].attribute`` that starts at a bound name."""
    chain = _chain(node, bound)
    if chain is not None:
        yield chain
        return
    for child in ast.iter_child_nodes(node):
        yield from _chains(child, bound)


def _chain(node: ast.AST, bound: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return bound.get(node.id)
    if isinstance(node, ast.Attribute):
        start = _chain(node.value, bound)
        return None if start is None else f"{start}{'' if start.endswith(':') else '.'}{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        start = _chain(node.value, bound)
        return None if start is None else f"{start}[{node.slice.value}]"
    return None


def _resolve(name: str) -> Any:
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for attribute, key in re.findall(r"(\w+)|\[([^]]*)\]", path):
        if key:
            thing = thing[key]
            continue
        try:
            thing = getattr(thing, attribute)
        except AttributeError:
            if not inspect.ismodule(thing):
                raise
            thing = importlib.import_module(f"{thing.__name__}.{attribute}")
    return thing


def _form(thing: Any) -> Form:
    if callable(thing):
        try:
            # Without annotations: their text differs between Python versions, and they change no result.
            parameters = inspect.signature(thing).parameters.values()
            return [_parameter(p) for p in parameters]
        except (TypeError, ValueError):  # some builtins have no signature
            return type(thing).__name__
    return _value(thing)


def _parameter(parameter: inspect.Parameter) -> str:
    plain = parameter.replace(annotation=inspect.Parameter.empty)
    if dataclasses.is_dataclass(plain.default) or isinstance(plain.default, tuple):
        return f"{plain.replace(default=inspect.Parameter.empty)}={_value(plain.default)}"
    return _steady(str(plain))


def _value(thing: Any) -> str:
    if dataclasses.is_dataclass(thing):
        # Fields at their default are left out: a new one with a default leaves an old configuration as it was.
        given = [f for f in dataclasses.fields(thing) if f.init and not _is_default(f, getattr(thing, f.name))]
        return f"{type(thing).__name__}({', '.join(f'{f.name}={_value(getattr(thing, f.name))}' for f in given)})"
    if isinstance(thing, tuple):
        return f"({', '.join(map(_value, thing))})"
    if isinstance(thing, int | float | str | bytes | bool | None):
        return _steady(repr(thing))
    return type(thing).__name__


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)


def _steady(text: str) -> str:
    return re.sub(r"\b0x[0-9a-fA-F]+", "0x…", text)
