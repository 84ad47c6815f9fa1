"""Choices that depend on a key alone: the same key gives the same choices on every machine and Python version."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

DIGEST_BITS = 512
FRESH_BITS = 64  # below this the remaining number would favour the first options


class Draw:
    """A supply of unbiased choices, made from a hash of the key.

    Quicker than seeding a random generator for every story, and story 1,000,000 needs none of those before it.
    """

    __slots__ = ("_key", "_number")

    def __init__(self, *key: int | str) -> None:
        self._key = repr(key).encode()
        self._number = self._digest()

    def _digest(self) -> int:
        self._key = hashlib.blake2b(self._key).digest()
        return int.from_bytes(self._key, "little")

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        if self._number >> FRESH_BITS == 0:
            self._number = self._digest()
        self._number, choice = divmod(self._number, n)
        return choice

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two different ones of the options, in random order."""
        first = self.below(len(options))
        second = self.below(len(options) - 1)
        return options[first], options[second + (second >= first)]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All the options, in random order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in options]
