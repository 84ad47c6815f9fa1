"""Which code runs an operation: the Triton kernel of its name, or PyTorch."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from minideepseek.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

#: Operation -> the file under kernels/ that holds its Triton form.
KERNELS: dict[str, str] = {}

_TRITON = find_spec("triton") is not None  # looked for, not imported: that would cost every user a second
_forced: str | None = None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within the block every operation runs on ``"torch"`` or, where it has a kernel, on ``"triton"``.

    Left alone, an operation runs its kernel on CUDA tensors when Triton is installed, and PyTorch otherwise; under
    ``torch.compile`` it is PyTorch everywhere, because the compiler fuses it with what stands beside it.

    Raises:
        UserError: no such backend; or Triton has nothing to run on.
    """
    global _forced
    if name not in ("torch", "triton"):
        raise UserError(f"ops.backend({name!r}): choose 'torch' or 'triton'")
    if name == "triton":
        if not _TRITON:
            raise UserError("ops.backend('triton'): Triton is not installed; pip install triton (Linux only)")
        if not torch.cuda.is_available() and not interpreting():
            raise UserError(
                "ops.backend('triton'): no CUDA device here; start Python with TRITON_INTERPRET=1 to run the kernels "
                "in Triton's interpreter, slowly, on the CPU"
            )
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on any tensor. Read by Triton when it is first imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def kernel_in(module: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate an operation's PyTorch form: ``kernels/<module>.py`` has a function of the same name and signature."""

    def decorate(torch_form: Callable[P, R]) -> Callable[P, R]:
        name = torch_form.__name__
        KERNELS[name] = module

        @functools.wraps(torch_form)
        def choose(*args: P.args, **kwargs: P.kwargs) -> R:
            x = args[0] if args else next(iter(kwargs.values()))
            if on_triton(x):  # type: ignore[arg-type]
                return getattr(importlib.import_module(f"minideepseek.kernels.{module}"), name)(*args, **kwargs)
            return torch_form(*args, **kwargs)

        return choose

    return decorate


def on_triton(x: Tensor) -> bool:
    """Whether an operation on ``x`` runs its kernel.

    Raises:
        UserError: ``backend("triton")`` is in force, and kernels do not run on such a tensor.
    """
    if _forced == "triton":
        if x.dtype == torch.float64 or not (x.is_cuda or interpreting()):
            raise UserError(
                f"ops.backend('triton'): the kernels do not run on a {x.dtype} tensor on {x.device.type}; "
                "give them float32, bfloat16 or float16 on a CUDA device"
            )
        return True
    return (
        _forced is None
        and x.is_cuda
        and _TRITON
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.compiler.is_compiling()
    )


def on_cpu(x: Tensor) -> bool:
    """Whether the hand-made CPU forms apply to ``x``: they were measured there.

    Not where someone else rewrites the operation and must see its plain form: the compiler fuses it with its
    neighbours, and autocast chooses a type for each product, but not for its gradient.
    """
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will want to come back through a function of ``tensors``."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
