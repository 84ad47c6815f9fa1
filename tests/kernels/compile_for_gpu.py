"""Compile every kernel for a Hopper GPU, on any machine, and print what they are made of.

The interpreter knows nothing of Triton's types and layouts; the compiler does, and needs no GPU: it is told of one.
Run without TRITON_INTERPRET. Prints a JSON object: operation -> list of its launches, forward and backward, each with

    kernel                       its name
    load, store                  the widest access to global memory among its PTX instructions, in bytes
    multiplies                   whether it has matrix products
    tensor_cores                 the instruction they became: wgmma, Hopper's own, or mma.sync, for fewer than 64 rows
    registers, spilled           of a thread; bytes of them that did not fit and went to memory
    shared                       bytes of shared memory of a program

To see one operation's: python tests/kernels/compile_for_gpu.py attention
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from test_all_ops import INPUTS, Inputs, Make
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from minideepseek.kernels import launch
from minideepseek.ops.backend import KERNELS

#: Operation -> the arguments to build its inputs with, where the first of the walking test's are too small to show what
#: a model's would become.
SIZES: dict[str, list[tuple]] = {
    "attention": [
        (1, 4, 2, 512, 512, 128, 128, True),
        (1, 2, 2, 512, 512, 192, 128, True),
        (1, 8, 1, 1, 2048, 128, 128, True),
    ],
    "fp8_linear": [()],
    "index_scores": [(1, 512, 64, 512, 128)],
    "choose_experts": [(4096, 256, 8, 8, 4, 2)],
    "rms_linear": [(64, 4096)],
    "sinkhorn": [(4096, 4)],
    "read_streams": [((64, 4, 7168), False)],
    "write_streams": [((64, 4, 7168), False)],
    "experts": [(2048, 512, 256, 4, 2, None, 4)],
    "latent_attention": [(1, heads, 1, 2048, 576, 512, True) for heads in (16, 128)],
}


def fp8_linear(make: Make) -> Inputs:
    """Not an operation of its own, but what ``linear`` becomes."""
    e4m3 = torch.float8_e4m3fn
    return Inputs((make(512, 1024), make(512, 1024)), (e4m3, e4m3, False))


BUILD = {name: build for name, (build, _) in INPUTS.items()} | {"fp8_linear": fp8_linear}
FILES = KERNELS | {"fp8_linear": "fp8"}
WITHOUT_GRADIENT = ("latent_attention", "choose_experts")  # the first would run another operation's kernels
MULTIPROCESSORS = 132  # of an H100 or H200
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

WORDS = r"\b{}\.global\S*?(?:\.v(\d))?\.b(\d+)"
COPIES = r"cp\.async\S*\.shared\S*\.global\S* .*?, 0x(\w+)"  # to shared memory; they name their bytes

launches: list[dict[str, object]] = []
launcher = JITFunction.run


class Hopper:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compile_instead(self: JITFunction, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
    """Stands in for a launch: all that Triton does for one, short of it."""
    compiled = launcher(self, *args, grid=grid, warmup=True, **options)
    ptx, ttgir = compiled.asm["ptx"], compiled.asm["ttgir"]
    launches.append(
        {
            "kernel": self.__name__,
            "load": max(widths(ptx, "ld") + [int(size, 16) for size in re.findall(COPIES, ptx)]),
            "store": max(widths(ptx, "st")),
            "multiplies": "dot" in ttgir,
            "tensor_cores": next((name for name in ("wgmma", "mma.sync") if name in ptx), ""),
            **resources(compiled.asm["cubin"]),
            "shared": compiled.metadata.shared,
        }
    )


def widths(ptx: str, access: str) -> list[int]:
    """Bytes that each instruction moves for a thread."""
    return [int(many or 1) * int(bits) // 8 for many, bits in re.findall(WORDS.format(access), ptx)]


def resources(cubin: bytes) -> dict[str, int]:
    """What the assembler gave a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"]}


def main(names: list[str]) -> None:
    driver.set_active(Hopper())
    JITFunction.run = compile_instead
    launch.multiprocessors = lambda device: MULTIPROCESSORS
    found = {}
    for name in names or FILES:
        kernel = getattr(importlib.import_module(f"minideepseek.kernels.{FILES[name]}"), name)
        launches.clear()
        for shape in SIZES.get(name) or INPUTS[name][1][:1]:
            leaves, rest, options = BUILD[name](
                lambda *size: torch.randn(size, dtype=torch.bfloat16).requires_grad_(), *shape
            )
            with torch.no_grad():
                kernel(*leaves, *rest, **options)
            if name in WITHOUT_GRADIENT:
                continue
            out = kernel(*leaves, *rest, **options)
            outs = out if isinstance(out, tuple) else (out,)
            torch.autograd.backward(outs, outs)
        found[name] = list({json.dumps(launched): launched for launched in launches}.values())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
