"""In which order things are learnt from, and how far one has come: what a checkpoint must know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Shuffled(Iterator[list[int]]):
    """Endless draws of ``size`` of the numbers below ``n``, every number once before any comes again."""

    def __init__(self, n: int, size: int, seed: int) -> None:
        self.n, self.size = n, size
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting: list[int] = []

    def __next__(self) -> list[int]:
        while len(self.waiting) < self.size:
            self.waiting += torch.randperm(self.n, generator=self.generator).tolist()
        drawn, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """What the next draws depend on."""
        return {"generator": self.generator.get_state(), "waiting": torch.tensor(self.waiting, dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on drawing as the one did that this is the state of."""
        self.generator.set_state(state["generator"])
        self.waiting = state["waiting"].tolist()


class Cycle(Iterator[T]):
    """Things in their order, again and again."""

    def __init__(self, things: Sequence[T]) -> None:
        self.things, self.taken = things, 0

    def __next__(self) -> T:
        thing = self.things[self.taken % len(self.things)]
        self.taken += 1
        return thing

    def state_dict(self) -> dict[str, Any]:
        """What comes next."""
        return {"taken": torch.tensor(self.taken)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on where the one was that this is the state of."""
        self.taken = int(state["taken"])
