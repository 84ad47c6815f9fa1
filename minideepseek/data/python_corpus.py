"""Real text that is on every machine: the running Python's standard library and its documentation topics.

Some 13 MB of code and prose, written by many hands over thirty years. It changes with the Python version: compare
runs on one machine, not losses across machines.
"""

import io
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from minideepseek.data.document import Corpus, Document, fingerprint, text_hash
from minideepseek.errors import UserError

# Tests repeat themselves; codec tables are tables; vendored wheels and build settings are not the library's own text.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "turtledemo", "lib2to3", "encodings", "pydoc_data"}
SKIPPED_FOLDERS |= {"site-packages", "dist-packages", "_bundled", "lib-dynload", "__pycache__", "__phello__"}
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


def python_corpus() -> Corpus:
    """The interpreter's own `.py` files and documentation topics, in an order that mixes the two.

    Raises UserError where the interpreter came without its sources (a frozen or zipped one).
    """
    files = _library_files()
    topics = _topics()
    if not files:
        raise UserError(
            f"the Python at {sys.executable} has no standard-library sources on disk; use --data stories or file:PATH"
        )
    order = sorted([*files, *topics], key=lambda name: (text_hash(name), name))

    def read() -> Iterator[Document]:
        for name in order:
            text = topics[name] if name in topics else _source(files[name])
            if text.strip():
                yield Document(text=text, source=f"python/{name}")

    sizes = {name: path.stat().st_size for name, path in files.items()}
    return Corpus(
        name="python",
        fingerprint=fingerprint("python", sys.version, sorted(sizes.items()), sorted(topics.items())),
        read=read,
        size_hint=sum(sizes.values()) + sum(len(text.encode()) for text in topics.values()),
    )


def _library_files() -> dict[str, Path]:
    """The standard library's source files by their name in it. A virtual environment leads to its base's."""
    root = sysconfig.get_paths()["stdlib"]
    found = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _is_noise(name)]  # what is cut here is not walked through
        for name in names:
            if name.endswith(".py") and not _is_noise(name):
                path = Path(folder, name)
                found[path.relative_to(root).as_posix()] = path
    return found


def _is_noise(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith(SKIPPED_PREFIXES)


def _topics() -> dict[str, str]:
    """The language reference as `help("if")` shows it, where the distribution ships it."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return {f"topics/{name}": text for name, text in topics.items()}


def _source(path: Path) -> str:
    """The file's text by its own coding line; empty if it breaks its word or cannot be read."""
    try:
        with path.open("rb") as file:
            encoding, _ = tokenize.detect_encoding(file.readline)
            file.seek(0)
            return io.TextIOWrapper(file, encoding=encoding).read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return ""
