"""What a check does with a learner's work: call it, keep what it made, call that; nothing is judged here.

A check is a list of ``Step``. Running them turns inputs into results, and results are only data; whoever compares
them with what is right can stand in another process, which the learner's code never enters. The same steps run in the
learner's notebook, where nobody needs protection from oneself.

This file runs inside the sandbox too: it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MAX_PRINTED = 10_000  # characters of a learner's own output that are worth carrying
SEED = 0  # answers that draw random numbers draw the same ones each time

#: file names under which learners' code is compiled: by the sandbox, by Jupyter, by IPython
_LEARNERS = re.compile(r"<answer|[/\\]ipykernel_|<ipython-input|<stdin>")


@dataclass(frozen=True)
class Ref:
    """Stands in the arguments for what an earlier step kept."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One use of the learner's work.

    Attributes:
        target: a name of the answer (``rms_norm``), or of something kept and what to take of it (``$layer.forward``).
            What is not callable is the result itself.
        args: tensors, numbers, strings, None, ``Ref``, and lists, tuples or dicts of them.
        kwargs: the same by name.
        keep: remember the result under this name, for ``Ref`` and ``$name``.
        state: tensors to load into the module that the target makes, so that its weights are known.
        grad: also return gradients: of every floating-point tensor among the inputs and of every parameter of the
            module called, for the loss sum(output · cotangent).
        cotangent: (shape of the output); ones if None.
    """

    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    keep: str | None = None
    state: Mapping[str, Tensor] | None = None
    grad: bool = False
    cotangent: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An exception of the learner's code.

    Attributes:
        kind: its class.
        message: what it says, in one line.
        line: the line of the learner's cell it came from, counted from 1; None if there is none.
        text: that line.
        file: the name of the cell, ``<answer>``.
    """

    kind: str
    message: str
    line: int | None = None
    text: str = ""
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a step.

    Attributes:
        value: the output, as data (tensors detached); None where there is none, or where something was kept that is
            not data.
        grads: ``args.0``, ``kwargs.x``, ``parameters.weight`` ... -> gradient, None where none arrived.
        changed: inputs that the call altered in place.
        failure: the learner's own exception, or None.
    """

    value: Any = None
    grads: Mapping[str, Tensor | None] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    failure: Failure | None = None


def run(names: Mapping[str, Any], steps: Sequence[Step]) -> tuple[list[Result], str]:
    """Run the steps one after the other; after the first error the rest is not tried.

    Args:
        names: what the learner's work defined.
        steps: what to do with it.

    Returns:
        One result for each step that ran, and what the learner's code printed.
    """
    kept: dict[str, Any] = {}
    results: list[Result] = []
    printed = _Beginning()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for step in steps:
            try:
                results.append(_run(names, kept, step))
            except (Exception, SystemExit) as error:
                results.append(Result(failure=describe(error)))
                break
    return results, printed.getvalue()


class _Beginning(io.StringIO):
    """Keeps the beginning of what is written."""

    def write(self, text: str) -> int:
        super().write(text[: max(MAX_PRINTED - self.tell(), 0)])
        return len(text)


def describe(error: BaseException) -> Failure:
    """An exception as data, with the line of the learner's code it came from."""
    message = " ".join(str(error).split())[:500]
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        message = "a notebook never calls exit()"
    if isinstance(error, SyntaxError):
        text = (error.text or "").strip()
        return Failure(kind=kind, message=error.msg, line=error.lineno, text=text, file=error.filename or "")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _LEARNERS.search(frame.filename)]
    if not own:
        return Failure(kind=kind, message=message)
    last = own[-1]
    return Failure(kind=kind, message=message, line=last.lineno, text=last.line or "", file=last.filename)


def _run(names: Mapping[str, Any], kept: dict[str, Any], step: Step) -> Result:
    target = _find(names, kept, step.target)
    inputs: dict[str, Tensor] = {}
    args = [_fill(arg, kept, f"args.{i}", inputs, step.grad) for i, arg in enumerate(step.args)]
    kwargs = {name: _fill(arg, kept, f"kwargs.{name}", inputs, step.grad) for name, arg in step.kwargs.items()}
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    if target is None:  # a variable that waits for a number
        raise NotImplementedError
    output = target(*args, **kwargs) if callable(target) else target
    if step.state is not None:
        output.load_state_dict({name: tensor.clone() for name, tensor in step.state.items()})
    if step.keep is not None:
        kept[step.keep] = output
    grads: dict[str, Tensor | None] = {}
    if step.grad:
        loss = _loss(output, step.cotangent)
        owner = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
        leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
        if isinstance(owner, torch.nn.Module):
            leaves |= {f"parameters.{name}": parameter for name, parameter in owner.named_parameters()}
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        grads = {name: None if grad is None else grad.detach() for name, grad in zip(leaves, found, strict=True)}
    changed = tuple(name for name, tensor in inputs.items() if not _same(tensor.detach(), before[name]))
    return Result(value=_data(output), grads=grads, changed=changed)


def _find(names: Mapping[str, Any], kept: Mapping[str, Any], target: str) -> Any:
    head, *path = target.split(".")
    where = kept if head.startswith("$") else names
    name = head.removeprefix("$")
    if name not in where:
        raise NameError(f"the answer does not define {name!r}")
    found = where[name]
    for attribute in path:
        found = getattr(found, attribute)
    return found


def _fill(arg: Any, kept: Mapping[str, Any], name: str, inputs: dict[str, Tensor], grad: bool) -> Any:
    """A fresh copy of an argument, so that one step cannot spoil another's input."""
    if isinstance(arg, Ref):
        return kept[arg.name]
    if isinstance(arg, Tensor):
        copy = arg.detach().clone()
        if grad and copy.is_floating_point():
            copy.requires_grad_()
        inputs[name] = copy
        return copy
    if isinstance(arg, Mapping):
        return {key: _fill(value, kept, f"{name}.{key}", inputs, grad) for key, value in arg.items()}
    if isinstance(arg, list | tuple):
        return type(arg)(_fill(value, kept, f"{name}.{i}", inputs, grad) for i, value in enumerate(arg))
    return arg


def _loss(output: Any, cotangent: Tensor | None) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"a tensor was expected, the answer returned {type(output).__name__}")
    if not output.requires_grad:
        raise RuntimeError("no gradient can flow through the answer: was the input detached, or converted to numbers?")
    return output.sum() if cotangent is None else (output * cotangent).sum()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _data(value: Any) -> Any:
    """The part of a value that can travel: tensors, numbers, strings, and containers of them."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided and not value.is_complex() and value.device.type != "meta":
            return value.detach().as_subclass(Tensor).cpu().clone()
        return f"a tensor of {value.dtype}, {value.layout}, {value.device}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_data(item) for item in value) if type(value) in (list, tuple) else [_data(i) for i in value]
    return None
