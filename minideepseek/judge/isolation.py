"""Confine the process that runs a student's code: what it may see, touch, start and use up.

On Linux, without any rights of its own, by what the kernel offers every process: namespaces (it sees no other process,
no network), Landlock (it reads the Python installation and writes one scratch folder, nothing else), seccomp (it
starts no process) and resource limits. Each is asked for and reported: ``confine`` returns what is in force, so that
a report can say so where a system has less (macOS has the resource limits only).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one task of one submission may use.

    Attributes:
        wall_s: seconds on the clock.
        cpu_s: seconds of processor time.
        memory: bytes of address space beyond what Python and torch already occupy.
        file: bytes of the largest file it may write, its answer included.
    """

    wall_s: float = 20.0
    cpu_s: int = 10
    memory: int = 2 * 2**30
    file: int = 64 * 2**20


CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_RDONLY, _MS_REC, _MS_PRIVATE = 1, 16384, 1 << 18
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
#: rights that a ruleset of Landlock's first version can govern: execute, write, read, list, remove, make of each kind
_ALL_V1 = (1 << 13) - 1
_REFER, _TRUNCATE = 1 << 13, 1 << 14

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def separate(hidden: Iterable[Path]) -> list[str]:
    """Enter namespaces of our own; the *next* child we fork is process 1 of a world without others, and without net.

    Folders in ``hidden`` (solutions, an installed package that is the answer) are covered by empty ones.
    Returns the protections that took effect.
    """
    if _libc is None:
        return []
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS) != 0:
        return []
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    with contextlib.suppress(OSError):
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    covered = _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
    for folder in hidden:
        covered = covered and _libc.mount(b"none", bytes(folder), b"tmpfs", _MS_RDONLY, b"size=4k") == 0
    return ["processes", "network", *(["hidden"] if covered else [])]


def limit(limits: Limits) -> None:
    """Set the resource limits, on top of what this process already uses."""
    used = _address_space()
    wanted = {
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_AS": used + limits.memory,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 256,
    }
    for name, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def confine(readable: Iterable[Path], writable: Path) -> list[str]:
    """Give up, for good, every file but those beneath ``readable`` and ``writable``, and the making of processes.

    Returns the protections that took effect.
    """
    if _libc is None or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    done = []
    if _landlock(readable, writable):
        done.append("files")
    if _no_processes():
        done.append("fork")
    return done


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS: no /proc; its address-space limit is not enforced either
        return 4 * 2**30


def _landlock(readable: Iterable[Path], writable: Path) -> bool:
    assert _libc is not None
    version = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    governed = _ALL_V1 | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, struct.pack("Q", governed), 8, 0)
    if ruleset < 0:
        return False
    rules = [(path, _READ_FILE | _READ_DIR | _EXECUTE) for path in readable] + [(writable, governed)]
    for path, rights in rules:
        if not path.exists():
            continue
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not path.is_dir():
            rights &= _READ_FILE | _EXECUTE | (1 << 1) | _TRUNCATE & governed
        _libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
        os.close(descriptor)
    done = _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


#: architecture -> its audit number, clone, what is denied (fork, vfork, ptrace, process_vm_*, bpf, io_uring), clone3
_CALLS = {
    "x86_64": (0xC000003E, 56, (57, 58, 101, 310, 311, 321, 425), 435),
    "aarch64": (0xC00000B7, 220, (117, 270, 271, 280, 425), 435),
}


def _no_processes() -> bool:
    """A seccomp filter: clone only for threads; no fork, ptrace, bpf, io_uring."""
    assert _libc is not None
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    arch, clone, denied, clone3 = known
    allow, eperm, enosys = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
    load, jeq, jset, ret = 0x20, 0x15, 0x45, 0x06
    code = [(load, 0, 0, 4), (jeq, 1, 0, arch), (ret, 0, 0, eperm), (load, 0, 0, 0)]
    for number in denied:
        code += [(jeq, 0, 1, number), (ret, 0, 0, eperm)]
    # glibc falls back to clone, whose flags a filter can read, when clone3 does not exist
    code += [(jeq, 0, 1, clone3), (ret, 0, 0, enosys)]
    code += [(jeq, 0, 3, clone), (load, 0, 0, 16), (jset, 1, 0, 0x00010000), (ret, 0, 0, eperm), (ret, 0, 0, allow)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    return _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0
