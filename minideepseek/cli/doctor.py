"""``minideepseek doctor``: what this machine offers, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import minideepseek
from minideepseek.cli import parse
from minideepseek.data.cache import cache_folder
from minideepseek.train import explain_threads

PACKAGES = ("torch", "triton", "transformers", "jupyterlab", "ipywidgets", "matplotlib", "nbval")


def findings() -> Iterator[tuple[str, str, str]]:
    """Subject, what was found, and what to do about it (empty where all is well)."""
    yield "minideepseek", f"{minideepseek.__version__} on Python {platform.python_version()}", ""
    yield "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores", ""
    yield "threads", explain_threads(), ""
    yield "bfloat16", *_bfloat16()
    yield "GPU", *_gpu()
    for name in PACKAGES:
        yield name, *_package(name)
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    yield "C++ compiler", compiler or "none", "" if compiler else "install g++ or clang to use --compile"
    cache = cache_folder(None)
    yield "cache", *_room(cache)


def _bfloat16() -> tuple[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    amx = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    quick = amx or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    kind = f"{capability}{', with AMX' if amx else ''}"
    return (f"quick here ({kind})" if quick else f"not quicker than float32 here ({kind})"), ""


def _gpu() -> tuple[str, str]:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), ""
    if torch.backends.mps.is_available():
        return "Apple's (MPS); the lessons use the CPU", ""
    return "none; everything here runs on the CPU, kernels in Triton's interpreter", ""


def _package(name: str) -> tuple[str, str]:
    try:
        return importlib.metadata.version(name), ""
    except importlib.metadata.PackageNotFoundError:
        if name == "triton" and sys.platform != "linux":
            return "not available on this system; PyTorch forms are used", ""
        return "missing", 'pip install "minideepseek[course]"'


def _room(folder: Path) -> tuple[str, str]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    advice = "" if os.access(existing, os.W_OK) else "not writable: set MINIDEEPSEEK_CACHE to a folder that is"
    if free < 1:
        advice = "less than 1 GiB free: make room, or set MINIDEEPSEEK_CACHE to a roomier folder"
    return f"{folder} ({free:.0f} GiB free)", advice


def run() -> None:
    """Look at this machine: versions, processor, compiler, disk; say what to do where something is missing."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    rows = list(findings())
    for subject, found, advice in rows:
        table.add_row(subject, f"[yellow]{found}[/yellow]" if advice else found, advice)
    console = Console()
    console.print(table, highlight=False)
    missing = sum(1 for _, _, advice in rows if advice)
    console.print(f"\n{missing} thing{'s' if missing != 1 else ''} to look at" if missing else "\nall is well")


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="doctor")
