"""Files that are either whole or not there: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from minideepseek.errors import UserError


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk: a rename may only follow what is really there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot flush a directory; the rename is still atomic
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def user_errors(action: str, path: str | Path) -> Iterator[None]:
    """Turn what the operating system says (no space, no permission, no such place) into one line for the user."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space or choose another place",
            errno.EDQUOT: "free some space or choose another place",
            errno.EACCES: "check the permissions or choose another place",
            errno.EPERM: "check the permissions or choose another place",
            errno.EROFS: "choose a place that can be written",
            errno.ENOENT: "check the path",
            errno.ENOTDIR: "a part of the path is a file",
            errno.EISDIR: "give a file, not a folder",
        }.get(error.errno or 0, "check the path and the disk")
        raise UserError(f"cannot {action} {path}: {error.strerror or error}; {advice}") from error


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a fresh directory; when the block ends well its files appear at ``path``, all or none.

    Where ``path`` is new (or empty) the directory is renamed as a whole. Where it holds files already they are
    replaced one by one, in the order they were written, and other files in it are left alone.

    Raises:
        UserError: the place cannot be written or the disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    with user_errors("write", path):
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write {path}: a file of this name is in the way; choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield stage
            written = sorted((p for p in stage.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
            for file in written:
                sync(file)
            stage.chmod(0o777 & ~_umask())  # mkdtemp makes private folders; a checkpoint is an ordinary one
            if not path.exists() or not any(path.iterdir()):
                sync(stage)
                stage.replace(path)
            else:
                for file in written:
                    target = path / file.relative_to(stage)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file.replace(target)
                sync(path)
            sync(path.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
