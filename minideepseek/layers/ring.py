"""The last tokens' vectors and no others: memory of a fixed size for texts of any length.

A token's vector lies in the slot of its position modulo the number of slots, so that the newest overwrites the oldest.
Order within the ring does not matter to attention, because a vector already carries its position.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPARE = 8  # slots beyond what is needed: so many tokens may be taken back, as speculative decoding does


class Ring:
    """Slots (B, R, width) for the last R tokens of each row."""

    def __init__(self, slots: Tensor) -> None:
        self.slots = slots

    @staticmethod
    def size(n: int) -> int:
        """Slots for ``n`` tokens and those that may be taken back."""
        return n + SPARE

    @classmethod
    def empty(cls, like: Tensor, batch_size: int, n: int, width: int) -> Ring:
        """A ring for the last ``n`` tokens, of the type and on the device of ``like``."""
        return cls(like.new_zeros(batch_size, cls.size(n), width))

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self.slots.nbytes

    @property
    def spare(self) -> int:
        """How many tokens may be taken back."""
        return SPARE

    def last(self, n: int, seen: int | Tensor) -> Tensor:
        """The vectors (B, n, width) of the ``n`` tokens before position ``seen``, oldest first.

        What would stand before the beginning of the text is anything finite. It may be a view of the ring.

        Args:
            n: how many.
            seen: tokens that came before; (B,) where the rows differ.
        """
        size = self.slots.shape[1]
        if isinstance(seen, Tensor):
            rows = torch.arange(len(seen), device=seen.device)[:, None]
            back = torch.arange(-n, 0, device=seen.device)
            return self.slots[rows, (seen[:, None] + back) % size]
        first = (seen - n) % size
        behind = self.slots[:, first : first + n]
        return behind if first + n <= size else torch.cat([behind, self.slots[:, : first + n - size]], 1)

    def write(self, vectors: Tensor, seen: int | Tensor, lengths: Tensor | None = None) -> None:
        """Remember what came after position ``seen``.

        Args:
            vectors: (B, T, width).
            seen: tokens that came before; (B,) where the rows differ.
            lengths: (B,) how many of the T are tokens; the rest is padding, and leaves no trace.
        """
        batch, tokens, _ = vectors.shape
        size = self.slots.shape[1]
        if lengths is None and not isinstance(seen, Tensor):
            vectors = vectors[:, -size:]
            n, first = vectors.shape[1], (seen + tokens - vectors.shape[1]) % size
            self.slots[:, first : first + n] = vectors[:, : size - first]
            self.slots[:, : max(first + n - size, 0)] = vectors[:, size - first :]
            return
        last = torch.arange(-min(tokens, size), 0, device=vectors.device)
        columns = (tokens if lengths is None else lengths[:, None]) + last.expand(batch, -1)
        rows = torch.arange(batch, device=vectors.device)[:, None]
        slots = (columns + (seen[:, None] if isinstance(seen, Tensor) else seen)) % size
        # A row with fewer tokens than slots reaches back before its first: what lies there stays.
        new = vectors[rows, columns.clamp(min=0)]
        self.slots[rows, slots] = torch.where((columns >= 0)[..., None], new, self.slots[rows, slots])
