"""Where prepared corpora are kept, and how one knows that they are whole.

A prepared corpus is a folder. It is built under another name beside its place and renamed when complete; a lock makes a
second process wait for the first one's work instead of repeating it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from minideepseek.files import atomic_directory, user_errors

META = "meta.json"
BLOCK, BLOCKS = 2**16, 64  # files up to 4 MiB are digested whole, larger ones in 64 blocks spread evenly


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """The folder for prepared corpora: the argument, else MINIDEEPSEEK_CACHE, else the platform's user cache."""
    folder = chosen or os.environ.get("MINIDEEPSEEK_CACHE")
    return Path(folder).expanduser() if folder else user_cache_path("minideepseek")


def cached(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The facts of the prepared folder; built first if it is missing or damaged.

    build: fills the empty folder that it is given and returns the facts to keep as meta.json.
    Raises UserError if the place cannot be written.
    """
    facts = read_facts(folder)
    if facts is not None:
        return facts
    with user_errors("keep prepared corpora (MINIDEEPSEEK_CACHE says where) in", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            facts = read_facts(folder)  # another process may have built it while we waited
            if facts is None:
                if folder.exists():
                    shutil.rmtree(folder)
                with atomic_directory(folder) as place:
                    facts = build(place)
                    files = {file.name: _describe(file) for file in sorted(place.iterdir())}
                    meta = json.dumps({**facts, "files": files}, ensure_ascii=False, indent=2)
                    (place / META).write_text(meta + "\n", encoding="utf-8")
    return facts


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What meta.json says, if every file that it names is there with its size and digest; else None."""
    try:
        facts = json.loads((folder / META).read_text(encoding="utf-8"))
        whole = all(_describe(folder / name) == kept for name, kept in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole else None


def _describe(file: Path) -> dict[str, Any]:
    """Size and digest. Large files are sampled, so that opening a corpus of 100 GB takes no longer than a small one."""
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as opened:
        for i in range(min(BLOCKS, -(-size // BLOCK))):
            opened.seek(i * BLOCK if size <= BLOCK * BLOCKS else i * (size - BLOCK) // (BLOCKS - 1))
            digest.update(opened.read(BLOCK))
    return {"bytes": size, "digest": digest.hexdigest()}
