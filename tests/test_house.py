"""The plan of the house, kept: who may import whom, how large a room may grow, and a word at every door."""

import ast
import graphlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "minideepseek"

# From the ground up. A module imports from its own floor or from below, never from above.
FLOORS = [
    {"errors"},
    {"files", "compiling", "kernels", "data"},
    {"ops"},
    {"context"},
    {"layers"},
    {"model"},
    {"generations"},
    {"accounting", "checkpoint", "formats", "generate"},
    {"train", "parallel"},
    {"align"},
    {PACKAGE, "__main__", "cli", "judge", "lessons", "viz"},  # PACKAGE itself only opens the doors of the others
]

# Some rooms stand apart, whatever their floor: this is all they may import from the package.
APART = {
    "kernels": set(),
    "data": {"errors", "files"},
    "judge": {"errors", "files"},
}

# An import that goes up, and why it has to.
UPWARD = {
    (
        "model",
        "checkpoint",
    ): "Transformer.save is promised by the public API; it imports when called, and only hands over",
}

# A file passes 300 lines, a folder ten files: which second idea moved in? Here are the cases where the answer was none.
LONG_FILES: dict[str, str] = {}
FULL_FOLDERS = {
    "minideepseek/data": "each file is one step of the path from text to batches",
    "minideepseek/formats": "each file is one model_type of config.json, or what several of them share",
    "minideepseek/layers": "each file is one idea of the papers; all of them together are the family",
    "minideepseek/ops": "each file is one hot operation; the kernel of the same name lies in kernels/",
    "minideepseek/train": "each file is one habit of the loop (resume, metrics, schedule ...) or of scaling laws",
    "minideepseek/viz": "each file is one kind of picture",
}


def sources() -> dict[str, Path]:
    """Every module of the package by its import name; the folder kernels/ is ``minideepseek.kernels``."""
    found = {}
    for folder, prefix in ((ROOT / PACKAGE, PACKAGE), (ROOT / "kernels", f"{PACKAGE}.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((prefix, *(part for part in parts if part != "__init__")))] = path
    return found


SOURCES = sources()
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def imports(module: str, *, when_read: bool = False) -> Iterator[str]:
    """What ``module`` imports, of the package and of others; ``when_read``: only what it cannot be read without."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    nodes = TREES[module].body if when_read else ast.walk(TREES[module])
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from package import module` is an import of the module
                yield f"{start}.{alias.name}" if f"{start}.{alias.name}" in SOURCES else start


def room(module: str) -> str:
    """The file or folder directly inside the package that a module belongs to."""
    return PACKAGE if module == PACKAGE else module.split(".")[1]


def our_imports() -> Iterator[tuple[str, str, str]]:
    for module in SOURCES:
        for imported in imports(module):
            if imported.split(".")[0] == PACKAGE and room(imported) != room(module):
                yield module, room(module), room(imported)


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in SOURCES} <= set().union(*FLOORS)


def test_imports_never_go_up() -> None:
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    up = {(module, target) for module, start, target in our_imports() if floor[target] > floor[start]}
    assert {f"{module} imports {target}" for module, target in up if (room(module), target) not in UPWARD} == set()
    assert {(room(module), target) for module, target in up} == set(UPWARD), "an exception that nothing needs any more"


@pytest.mark.parametrize("name", APART)
def test_a_room_apart_imports_only_what_it_may(name: str) -> None:
    assert {target for _, start, target in our_imports() if start == name} <= APART[name]


def test_no_module_needs_itself_to_be_read() -> None:
    needs = defaultdict(set)
    for module in SOURCES:
        # `import a.b` reads a/__init__ too, but a module inside a is allowed to be half-way there: as Python does it
        needs[module] |= {name for name in imports(module, when_read=True) if name in SOURCES} - {module, PACKAGE}
    list(graphlib.TopologicalSorter(needs).static_order())  # raises CycleError, with the circle


def test_kernels_is_never_imported_by_its_bare_name() -> None:
    # On PyPI that name belongs to another package, which transformers looks for.
    guilty = [module for module in SOURCES if any(name.split(".")[0] == "kernels" for name in imports(module))]
    assert guilty == []


def test_kernels_import_no_other_library_than_triton_and_torch() -> None:
    allowed = {"torch", "triton", "numpy", PACKAGE} | sys.stdlib_module_names  # the interpreter computes in numpy
    for module in SOURCES:
        if room(module) == "kernels":
            assert {name.split(".")[0] for name in imports(module)} <= allowed, module


def test_a_file_holds_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES.values()}
    assert {path: length for path, length in lengths.items() if length > 300 and path not in LONG_FILES} == {}
    assert {path for path in LONG_FILES if lengths.get(path, 0) <= 300} == set(), "no longer an exception"


def test_a_folder_holds_ten_files() -> None:
    files = defaultdict(list)
    for path in SOURCES.values():
        if path.name != "__init__.py":
            files[path.parent.relative_to(ROOT).as_posix()].append(path.name)
    full = {folder for folder, names in files.items() if len(names) > 10}
    assert {folder: sorted(files[folder]) for folder in full - set(FULL_FOLDERS)} == {}
    assert set(FULL_FOLDERS) - full == set(), "no longer an exception"


def test_every_public_name_says_what_it_is() -> None:
    silent = [
        f"{module}:{node.lineno} {node.name}"
        for module, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not _is_overload(node)
    ]
    assert silent == []


def test_every_file_opens_with_what_it_is_for() -> None:
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def _is_overload(node: ast.AST) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in getattr(node, "decorator_list", []))
