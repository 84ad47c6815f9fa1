"""Compile every kernel for a Hopper GPU, on any machine, and print what they are made of.

The interpreter knows nothing of Triton's types and layouts; the compiler does, and needs no GPU: it is told of one.
Run without TRITON_INTERPRET. Prints a JSON object: operation -> list of its launches, forward and backward, each with
the kernel's name and the widest load and store among its PTX instructions, in bytes.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import torch
import triton
from test_all_ops import INPUTS
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from minideepseek.ops.backend import KERNELS

launches: list[dict[str, object]] = []


def compile_instead(self: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
    """Stands in for a launch: what the launcher would specialise on (ones, multiples of 16) is taken from the call."""
    values = dict(zip(self.arg_names, args, strict=False))
    values |= {name: options.pop(name) for name in list(options) if name in self.arg_names}
    fixed = {p.name for p in self.params if p.is_constexpr} | {
        n for n, v in values.items() if type(v) is int and v == 1
    }
    types = {name: "constexpr" if name in fixed else mangle_type(values[name]) for name in self.arg_names}
    aligned = {}
    for position, name in enumerate(self.arg_names):
        value = values[name].data_ptr() if isinstance(values[name], torch.Tensor) else values[name]
        if name not in fixed and isinstance(value, int) and value % 16 == 0:
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(self, types, constexprs={name: values[name] for name in fixed}, attrs=aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    found = {"kernel": self.__name__}
    for kind in ("ld", "st"):
        sizes = re.findall(rf"\b{kind}\.global\S*?(?:\.v(\d))?\.b(\d+)", ptx)
        found[kind] = max(int(many or 1) * int(bits) // 8 for many, bits in sizes)
    launches.append(found)


def main() -> None:
    JITFunction.run = compile_instead
    found = {}
    for name, (build, shapes) in INPUTS.items():
        launches.clear()
        inputs, rest = build(lambda *size: torch.randn(size, dtype=torch.bfloat16).requires_grad_(), *shapes[0])
        out = getattr(importlib.import_module(f"minideepseek.kernels.{KERNELS[name]}"), name)(*inputs, *rest)
        outs = out if isinstance(out, tuple) else (out,)
        torch.autograd.backward(outs, outs)
        found[name] = launches.copy()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
