"""How a source states its checks: steps, an oracle, known mistakes; the expected numbers come out of running them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from minideepseek.judge.rules import Equals, Form, Part, Rule
from minideepseek.judge.sandbox.steps import Result, Step, run
from minideepseek.judge.task import Check, Layer

PUBLIC_SALT = "public"
Names = Mapping[str, Any]
Item = TypeVar("Item")


class Draw:
    """Random inputs, fixed by a salt and a task: learners get one draw, instructors another.

    Attributes:
        hidden: these checks go to an instructor: draw more cases than learners get.
    """

    def __init__(self, salt: str, task: str) -> None:
        digest = hashlib.blake2b(f"{salt}\0{task}".encode(), digest_size=7).digest()
        self.hidden = salt != PUBLIC_SALT
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers of standard deviation ``scale``."""
        return (torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers from ``low`` up to, not including, ``high``: int64."""
        return torch.randint(low, high, shape, generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """One whole number from ``low`` up to, not including, ``high``: sizes and positions."""
        return int(self.integers(low, high, 1))

    def choice(self, items: Sequence[Item]) -> Item:
        """One of them."""
        return items[self.integer(0, len(items))]

    def rounds(self, public: int) -> range:
        """To draw several cases: ``public`` of them for learners, twice as many for instructors."""
        return range(2 * public if self.hidden else public)


def call(
    target: str,
    *args: Any,
    keep: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    grad: bool = False,
    **kwargs: Any,
) -> Step:
    """A ``Step`` written like the call it makes; ``keep``, ``state`` and ``grad`` are the step's."""
    return Step(target=target, args=args, kwargs=kwargs, keep=keep, state=state, grad=grad)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A check before the oracle has been asked; ``rules`` None: the oracle's numbers are the rule."""

    name: str
    layer: Layer
    points: float
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...] | None
    rtol: float | None = None
    atol: float | None = None


def contract(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Draft:
    """A check of form: inputs left alone, gradients that arrive; that shapes and dtypes are the solution's is added."""
    return Draft(name=name, layer="contract", points=points, steps=tuple(steps), rules=tuple(rules))


def value(
    name: str,
    points: float,
    steps: Sequence[Step],
    rules: Sequence[Rule] | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> Draft:
    """A check of numbers: every step's value, and the gradients it asks for, must be the oracle's.

    Args:
        name: the property.
        points: its worth.
        steps: calls; gradients are taken against a random cotangent.
        rules: what must hold instead, where right answers are many: ``Between`` for a prediction.
        rtol: relative tolerance; by dtype if None.
        atol: absolute tolerance relative to the largest value; by dtype if None.
    """
    wanted = None if rules is None else tuple(rules)
    return Draft(name=name, layer="value", points=points, steps=tuple(steps), rules=wanted, rtol=rtol, atol=atol)


def invariant(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Draft:
    """A check of a law between the learner's own results."""
    return Draft(name=name, layer="invariant", points=points, steps=tuple(steps), rules=tuple(rules))


def outcome(name: str, points: float, steps: Sequence[Step], rules: Sequence[Rule]) -> Draft:
    """A check of what a few seconds of training reach."""
    return Draft(name=name, layer="outcome", points=points, steps=tuple(steps), rules=tuple(rules))


Make = Callable[[Draw], Iterable[Draft]]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a source says about the judging of a task; the arguments of ``checks``."""

    make: Make
    hints: tuple[str, ...]
    oracle: Any
    mistakes: Mapping[str, Any]
    alternatives: tuple[Any, ...]


#: task id -> its statement; a source fills it while it is executed (see ``collected``)
_statements: dict[str, Statement] = {}


def checks(
    task: str,
    *,
    hints: Sequence[str],
    oracle: Any = None,
    mistakes: Mapping[str, Any] | None = None,
    alternatives: Sequence[Any] = (),
) -> Callable[[Make], Make]:
    """Declare the checks of a task: decorates a generator that draws inputs from a ``Draw`` and yields checks.

    Wherever an answer is meant, give what the task's one name stands for, or a dict of several names.

    Args:
        task: its id.
        hints: three steps of help.
        oracle: an independent right answer. It is given every floating-point tensor in float64; what it returns is
            rounded to the dtype that the solution returns.
        mistakes: what to say about a mistake -> the answer of somebody who makes it. Each must fail a check, and be
            told what is said here.
        alternatives: other right answers, which must pass everything.
    """

    def declare(make: Make) -> Make:
        _statements[task] = Statement(
            make=make,
            hints=tuple(hints),
            oracle=oracle,
            mistakes=dict(mistakes or {}),
            alternatives=tuple(alternatives),
        )
        return make

    return declare


def collected() -> dict[str, Statement]:
    """The statements declared since the last call, which empties the list."""
    found = dict(_statements)
    _statements.clear()
    return found


def finish(statement: Statement, draw: Draw, solution: Names, given: Callable[[Any], Names]) -> list[Check]:
    """Run the oracle and the mistakes, and write down what they return.

    Args:
        statement: of the task.
        draw: where the inputs come from.
        solution: names as the solution defines them.
        given: an answer (what the one name stands for, or a dict) -> all names that a run of it needs.

    Raises:
        ValueError: the solution or the oracle fails, or there is no oracle for a value.
    """
    oracle = None if statement.oracle is None else given(statement.oracle)
    mistakes = {says: given(answer) for says, answer in statement.mistakes.items()}
    return [_finish(draft, draw, solution, oracle, mistakes) for draft in statement.make(draw)]


def _finish(draft: Draft, draw: Draw, solution: Names, oracle: Names | None, mistakes: Mapping[str, Names]) -> Check:
    steps = _with_cotangents(draft, draw, solution)
    rules = draft.rules
    if rules is None:
        if oracle is None:
            raise ValueError(f"{draft.name!r} compares values, and the task has no oracle")
        rules = tuple(_equals(draft, steps, solution, oracle, mistakes))
    elif draft.layer == "contract":
        rules = (*_forms(_results(solution, steps, f"the solution, in {draft.name!r},")), *rules)
    return Check(name=draft.name, layer=draft.layer, points=draft.points, steps=steps, rules=rules)


def _with_cotangents(draft: Draft, draw: Draw, solution: Names) -> tuple[Step, ...]:
    """Steps whose gradients are taken in a random direction: the sum of a softmax, say, has none."""
    if not any(step.grad for step in draft.steps):
        return draft.steps
    results = _results(solution, draft.steps, f"the solution, in {draft.name!r},")
    return tuple(
        replace(step, cotangent=draw.normal(*result.value.shape, dtype=result.value.dtype)) if step.grad else step
        for step, result in zip(draft.steps, results, strict=True)
    )


def _forms(results: Sequence[Result]) -> Iterable[Form]:
    for step, result in enumerate(results):
        pairs: list[tuple[tuple[int, ...], Tensor]] = [((), result.value)] if isinstance(result.value, Tensor) else []
        if isinstance(result.value, list | tuple):
            pairs = [((i,), item) for i, item in enumerate(result.value) if isinstance(item, Tensor)]
        for path, tensor in pairs:
            yield Form(part=Part(step=step, path=path), shape=tuple(tensor.shape), dtype=str(tensor.dtype)[6:])


def _equals(
    draft: Draft, steps: Sequence[Step], solution: Names, oracle: Names, mistakes: Mapping[str, Names]
) -> Iterable[Equals]:
    reference = _results(solution, steps, f"the solution, in {draft.name!r},")
    right = _results(oracle, _doubled(steps), f"the oracle, in {draft.name!r},")
    wrong = {says: run(names, steps)[0] for says, names in mistakes.items()}
    for index, result in enumerate(right):
        named: set[str] = set()
        for path in _paths(result):
            part = Part(step=index, path=path)
            expected = _rounded(_found(part, right), _found(part, reference))
            rule = Equals(part=part, expected=expected, rtol=draft.rtol, atol=draft.atol)
            if rule.verdict(reference) is not None:
                raise ValueError(f"in {draft.name!r} the oracle and the solution differ: {rule.verdict(reference)}")
            found = ((says, _found(part, results)) for says, results in wrong.items() if says not in named)
            # a mistake that makes no difference to this value must not be named for it
            telling = tuple((says, it) for says, it in found if it is not None and _differs(rule, it))
            named |= {says for says, _ in telling}  # once a value has told a mistake, its gradients need not
            yield replace(rule, mutants=telling)


def _results(names: Names, steps: Sequence[Step], who: str) -> list[Result]:
    results, _ = run(names, steps)
    for result in results:
        if result.failure is not None:
            raise ValueError(f"{who} fails: {result.failure.kind}: {result.failure.message}")
    return results


def _paths(result: Result) -> list[tuple[int | str, ...]]:
    grads: list[tuple[int | str, ...]] = [("grads", name) for name, grad in result.grads.items() if grad is not None]
    return [(), *grads] if result.value is not None else grads


def _doubled(tree: Any) -> Any:
    """Steps, or whatever is in them, with every floating-point tensor in float64."""
    if isinstance(tree, Tensor):
        return tree.double() if tree.is_floating_point() else tree
    if isinstance(tree, Step):
        return replace(
            tree,
            args=_doubled(tree.args),
            kwargs=_doubled(tree.kwargs),
            state=_doubled(tree.state),
            cotangent=_doubled(tree.cotangent),
        )
    if isinstance(tree, Mapping):
        return {key: _doubled(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_doubled(item) for item in tree)
    return tree


def _rounded(tree: Any, like: Any) -> Any:
    """The oracle's numbers in the dtypes of the solution's."""
    if isinstance(tree, Tensor) and isinstance(like, Tensor):
        return tree.to(like.dtype)
    if isinstance(tree, Mapping) and isinstance(like, Mapping):
        return {key: _rounded(item, like.get(key)) for key, item in tree.items()}
    if isinstance(tree, list | tuple) and isinstance(like, list | tuple):
        return type(tree)(_rounded(item, other) for item, other in zip(tree, like, strict=True))
    return tree


def _found(part: Part, results: Sequence[Result]) -> Any:
    try:
        return part.of(results)
    except (IndexError, KeyError, TypeError):  # the mistake raises before it gets here
        return None


def _differs(rule: Equals, found: Any) -> bool:
    return replace(rule, part=Part()).verdict([Result(value=found)]) is not None
