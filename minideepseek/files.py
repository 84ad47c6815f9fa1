"""Files that are either whole or not there: written beside, flushed to disk, then put in place in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from minideepseek.errors import UserError


@contextlib.contextmanager
def user_errors(action: str, path: str | Path) -> Iterator[None]:
    """Turn what the operating system says (no space, no permission, no such place) into one line for the user."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space or choose another place",
            errno.EDQUOT: "free some space or choose another place",
            errno.EFBIG: "raise the limit on the size of files or choose another place",
            errno.EACCES: "check the permissions or choose another place",
            errno.EPERM: "check the permissions or choose another place",
            errno.EROFS: "choose a place that can be written",
            errno.ENOENT: "check the path",
            errno.ENOTDIR: "a part of the path is a file",
            errno.EEXIST: "a part of the path is a file",
            errno.EISDIR: "give a file, not a folder",
            errno.EBUSY: "choose a folder inside it",
        }.get(error.errno or 0, "check the path and the disk")
        reason = " ".join((error.strerror or str(error)).split())
        raise UserError(f"cannot {action} {path}: {reason}; {advice}") from error


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file to; when the block ends well that file replaces ``path`` in one step.

    Raises:
        UserError: the place cannot be written or the disk is full; ``path`` is then as it was.
    """
    with user_errors("write", path):
        path = Path(path).resolve()  # through a link, to the file itself
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = _stage(path)
        try:
            yield stage
            sync(stage)
            stage.replace(path)
            sync(path.parent)
        finally:
            stage.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, replaces: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a fresh directory; when the block ends well its files appear at ``path``, all in one step.

    Where ``path`` is new or empty, the directory is renamed to it. Where it holds files, the new directory is given
    those as well (each under a second name, not copied, so that a log that is being written stays that log), except
    what the block has written itself and what ``replaces`` names; then the two directories change places. Nobody
    ever sees some old files among new ones, and a process killed at any moment leaves ``path`` whole, old or new.

    Args:
        path: made if it does not exist, with its parents.
        replaces: patterns of file names in ``path`` that the new files stand for, whether or not the block writes
            files of these names: parts of an earlier save that would otherwise stay behind.

    Raises:
        UserError: the place cannot be written, the disk is full, or ``path`` holds the working directory (which would
            be pulled from under the process); ``path`` is then as it was.
    """
    with user_errors("write", path):
        given, path = path, Path(path).resolve()
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write {given}: a file of this name is in the way; choose another folder")
        replace = path.is_dir() and any(path.iterdir())
        if replace and Path.cwd().is_relative_to(path):
            raise UserError(f"cannot write {given}: the working directory is in it; choose a folder inside it instead")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = _stage(path)
        stage.mkdir()
        try:
            yield stage
            for entry in [*stage.rglob("*"), stage]:
                sync(entry)
            if replace:
                _carry_over(path, stage, set(replaces))
                _change_places(stage, path)
            else:
                stage.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk: a rename may only follow what is really there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot flush a directory; the rename is still atomic
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stage(path: Path) -> Path:
    """A name beside ``path`` that nobody uses; what killed processes left there for the same ``path`` is removed."""
    start = f".{path.name}."
    for left in path.parent.iterdir():
        owner = left.name.removeprefix(start).split(".")[0]
        if left.name.startswith(start) and left.suffix == ".part" and owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
            with contextlib.suppress(OSError):
                left.unlink()
    return path.with_name(f"{start}{os.getpid()}.{uuid.uuid4().hex[:8]}.part")


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere asking is not harmless
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _carry_over(old: Path, new: Path, replaced: set[str]) -> None:
    """Give ``new`` what ``old`` has and it has not, but for the files in ``old`` itself that are ``replaced``."""

    def unwanted(folder: str, names: list[str]) -> set[str]:
        here = Path(folder).relative_to(old)
        has = {name for name in names if os.path.lexists(new / here / name) and not (new / here / name).is_dir()}
        stale = {name for name in names for pattern in replaced if here == Path() and Path(name).match(pattern)}
        return has | stale

    def same_file(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # a file system without links
            shutil.copy2(source, target)

    shutil.copytree(old, new, symlinks=True, ignore=unwanted, copy_function=same_file, dirs_exist_ok=True)


def _change_places(new: Path, old: Path) -> None:
    """``new`` becomes ``old`` and the other way round."""
    if _exchange(new, old):
        return
    # A file system that cannot do it in one step. A process killed between the first two leaves the old directory
    # whole, under the other name.
    aside = new.with_suffix(".old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step. False where the system or the file system has no such step; Python has no call."""
    try:
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return libc.renamex_np(os.fsencode(a), os.fsencode(b), 2) == 0  # RENAME_SWAP
        return libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) == 0  # AT_FDCWD, RENAME_EXCHANGE
    except (AttributeError, TypeError):  # no such call, or no such library
        return False
