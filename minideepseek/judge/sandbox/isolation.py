"""Confine the process that runs a student's code: what it may see, touch, start and use up.

On Linux, without any rights of its own, by what the kernel offers every process: namespaces (it sees no other process,
no network), Landlock (it reads the Python installation without the answers, and writes one scratch folder), seccomp
(it starts no process, signals none, opens no socket) and resource limits. What one of them closes another one closes
too, because not every machine has all: containers often forbid namespaces. Each is asked for and reported:
``separate`` and ``confine`` return what is in force, so that a report can say so where a system has less (macOS has
the resource limits only).

This file runs inside the sandbox too: it imports nothing of ours.
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
    """What the process that runs one task of one submission may use.

    Attributes:
        cpu_s: seconds of processor time.
        wall_s: seconds on the clock; generous, so that a busy machine fails nobody.
        memory: bytes of address space beyond what Python and torch already occupy.
        file: bytes of the largest file it may write, and of its scratch folder where that can be limited.
    """

    cpu_s: int = 10
    wall_s: float = 30.0
    memory: int = 2 * 2**30
    file: int = 64 * 2**20


#: protection -> what it means for a submission
PROTECTIONS = {
    "processes": "sees and signals no other process",
    "fork": "starts no process",
    "network": "has no network",
    "files": "reads the Python installation without the answers, writes its scratch folder",
    "disk": "has a scratch folder of limited size",
}

_NEW_NS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
#: rights over files by the version of Landlock that knows them: 13 at first, then refer, truncate, ioctl on devices
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP, _SIGNALS_AND_ABSTRACT_SOCKETS = 0b11, 0b11

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def separate(scratch: Path, size: int) -> list[str]:
    """Enter namespaces of our own; the *next* child we fork is process 1 of a world without others, and without net.

    There, ``scratch`` is a folder in memory of at most ``size`` bytes that ends with its last process.
    Returns the protections that took effect.
    """
    if _libc is None:
        return []
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_USER | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_NS) != 0:
        return []
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    with contextlib.suppress(OSError):
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    limited = (
        _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0
        and _libc.mount(b"none", bytes(scratch), b"tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size}".encode()) == 0
    )
    return ["processes", "network", *(["disk"] if limited else [])]


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that forked it ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def limit(limits: Limits) -> None:
    """Set the resource limits, on top of what this process already uses."""
    wanted = {
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_AS": _address_space() + limits.memory,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 256,
    }
    for name, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def confine(listable: Iterable[Path], readable: Iterable[Path], writable: Path) -> list[str]:
    """Give up, for good, every right but a few: files, processes, signals, sockets, capabilities.

    Args:
        listable: folders whose names may be seen, with all that is beneath: an import looks around before it reads.
        readable: files and folders that may be read.
        writable: the folder that may be written.

    Returns the protections that took effect.
    """
    if _libc is None or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    done = []
    if _landlock(listable, readable, writable):
        done.append("files")
    _libc.capset(struct.pack("=II", 0x20080522, 0), struct.pack("=6I", *(0,) * 6))
    if _filter_calls():
        done += ["fork", "processes", "network"]
    return done


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS: no /proc; its address-space limit is not enforced either
        return 4 * 2**30


def without(root: Path, hidden: set[Path]) -> list[Path]:
    """``root``, or as many pieces of it as it takes to leave out what is hidden; all paths without links."""
    if root in hidden or not root.exists():
        return []
    if not any(path.is_relative_to(root) for path in hidden):
        return [root]
    children = (child.resolve() for child in root.iterdir())  # a virtual environment's lib64 is a link to its lib
    return [piece for child in children if not root.is_relative_to(child) for piece in without(child, hidden)]


def _landlock(listable: Iterable[Path], readable: Iterable[Path], writable: Path) -> bool:
    assert _libc is not None
    version = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    governed = sum(rights for since, rights in _FILE_RIGHTS.items() if version >= since)
    attributes = [governed]
    attributes += [_TCP] * (version >= 4) + [_SIGNALS_AND_ABSTRACT_SOCKETS] * (version >= 6)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, struct.pack(f"{len(attributes)}Q", *attributes), 8 * len(attributes), 0)
    if ruleset < 0:
        return False
    rules = [(path, _READ_DIR) for path in listable] + [(path, _READ_FILE | _EXECUTE) for path in readable]
    rules += [(Path(os.devnull), _READ_FILE | _WRITE_FILE), (writable, governed)]
    for path, rights in rules:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not path.is_dir():
                rights &= ~_READ_DIR
            if rights:
                _libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
            os.close(descriptor)
    done = _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """Numbers of system calls on one architecture."""

    audit: int
    clone: int
    clone3: int
    #: kill, tgkill, prlimit64: towards oneself only
    personal: tuple[int, ...]
    #: fork, vfork, ptrace, process_vm_readv and _writev, bpf, io_uring_setup, socket, tkill, rt_sigqueueinfo,
    #: rt_tgsigqueueinfo, pidfd_send_signal, pidfd_open, mount, umount2, unshare, setns, userfaultfd
    denied: tuple[int, ...]


_CALLS = {
    "x86_64": _Calls(
        audit=0xC000003E,
        clone=56,
        clone3=435,
        personal=(62, 234, 302),
        denied=(57, 58, 101, 310, 311, 321, 425, 41, 200, 129, 297, 424, 434, 165, 166, 272, 308, 323),
    ),
    "aarch64": _Calls(
        audit=0xC00000B7,
        clone=220,
        clone3=435,
        personal=(129, 131, 261),
        denied=(117, 270, 271, 280, 425, 198, 130, 138, 240, 424, 434, 40, 39, 97, 268, 282),
    ),
}


def _filter_calls() -> bool:
    """A seccomp filter: clone only for threads, signals only to oneself, no fork, ptrace, sockets, mounts."""
    assert _libc is not None
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return False
    allow, eperm, enosys = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
    load, equal, has, end = 0x20, 0x15, 0x45, 0x06
    number, architecture, argument = 0, 4, 16
    code = [(load, 0, 0, architecture), (equal, 1, 0, calls.audit), (end, 0, 0, eperm), (load, 0, 0, number)]
    code += [(has, 0, 1, 0x40000000), (end, 0, 0, eperm)]  # x86's second set of the same calls
    for call in calls.denied:
        code += [(equal, 0, 1, call), (end, 0, 0, eperm)]
    for call in calls.personal:  # 0 is oneself too, or one's own group
        code += [(equal, 0, 5, call), (load, 0, 0, argument), (equal, 2, 0, 0), (equal, 1, 0, os.getpid())]
        code += [(end, 0, 0, eperm), (end, 0, 0, allow)]
    # glibc falls back to clone, whose flags a filter can read, when clone3 does not exist
    code += [(equal, 0, 1, calls.clone3), (end, 0, 0, enosys)]
    thread = 0x00010000
    code += [(equal, 0, 3, calls.clone), (load, 0, 0, argument), (has, 1, 0, thread), (end, 0, 0, eperm)]
    code += [(end, 0, 0, allow)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)
