"""What travels beside the hidden state through one forward pass.

Every layer takes ``(x, ctx)``. What a layer needs to know about the tokens (positions, ids, segments), what it
keeps between calls (caches) and what it reports (losses, metrics) goes through the context, so the signature of a
layer never grows with the next idea.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class LayerCache(Protocol):
    """What one attention layer keeps between calls. Each attention's file defines its own.

    One that keeps only the last tokens also says how many may be taken back, as ``spare``.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, whether filled yet or not."""
        ...


@dataclass(slots=True)
class Cache:
    """The state of a decode: one entry a layer, and how many tokens have been seen.

    A token's position is its column: a token written again at the same position replaces the earlier one. Rows of
    different lengths therefore share a cache without padding tricks (see ``Context.positions``), and setting
    ``length`` back takes the last tokens back.

    Attributes:
        layers: one entry a layer.
        batch_size: rows.
        length: columns in use, which is where the next pass goes on unless it is given positions.
        reached: of each row, how many tokens it had at its longest; empty unless a layer forgets.
    """

    layers: list[LayerCache]
    batch_size: int
    length: int = 0
    reached: list[int] = field(default_factory=list)

    def columns(self, positions: Tensor) -> tuple[int, int]:
        """First and one-past-last column that tokens at ``positions``, (T,) or (B, T), bring into use."""
        if positions.ndim == 1:
            return self.length, self.length + positions.shape[0]
        return self.length, max(self.length, int(positions.max()) + 1)

    @property
    def spare(self) -> int | None:
        """How many tokens may be taken back; None if any number, because no layer forgets."""
        spare = [layer.spare for layer in self.layers if hasattr(layer, "spare")]
        return min(spare) if spare else None

    def admit(self, positions: Tensor, lengths: Tensor | None = None) -> None:
        """Refuse a pass over tokens at ``positions``, (T,) or (B, T), that would read what a layer has forgotten.

        Args:
            positions: of the pass.
            lengths: (B,) how many of each row's are tokens; None means all.

        Raises:
            ValueError: more tokens were taken back than a layer keeps to spare.
        """
        spare = self.spare
        if spare is None:
            return
        tokens = positions.shape[-1]
        ends = [end + 1 for end in positions[..., -1:].flatten().tolist()]
        starts = [end - tokens for end in ends] * (self.batch_size if positions.ndim == 1 else 1)
        real = [tokens] * self.batch_size if lengths is None else lengths.tolist()
        reached = self.reached or [0] * self.batch_size
        for row, (start, before) in enumerate(zip(starts, reached, strict=True)):
            if 0 < start < before - spare:
                raise ValueError(
                    f"row {row} of the cache goes on at position {start}, but has read {before} tokens and can take "
                    f"back {spare}: a layer keeps no more than its window; read the text again into a new cache"
                )
        self.reached = [
            max(before, start + n) if start > 0 else start + n  # from the beginning nothing earlier is needed
            for before, start, n in zip(reached, starts, real, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers, whether filled yet or not: what ``accounting`` predicts."""
        return sum(layer.nbytes for layer in self.layers)


class Routes:
    """Which experts the routers of a pass chose, in the order of the pass: noted, or taken over from an earlier one.

    Attributes:
        chosen: (N, K) int64 of each router that chooses.
        given: whether routers are to take these instead of choosing.
    """

    def __init__(self, given: Sequence[Tensor] | None = None) -> None:
        self.chosen = [] if given is None else list(given)
        self.given = given is not None
        self._taken = 0

    def note(self, experts: Tensor) -> None:
        """One more router has chosen ``experts`` (N, K)."""
        self.chosen.append(experts)

    def take(self, n_tokens: int) -> Tensor:
        """What the next router is to choose for its ``n_tokens`` tokens.

        Raises:
            ValueError: these are the choices of another pass.
        """
        found = self.chosen[self._taken] if self._taken < len(self.chosen) else None
        if found is None or len(found) != n_tokens:
            raise ValueError(
                f"router {self._taken} of this pass has {n_tokens} tokens, but the choices given are of another pass: "
                f"{[tuple(one.shape) for one in self.chosen]}"
            )
        self._taken += 1
        return found


@dataclass(slots=True)
class Context:
    """Made once for a forward pass and handed down to every layer.

    Attributes:
        positions: (T,) int64 when all rows stand at the same place, or (B, T) when each row has its own.
        ids: (B, T) int64 token ids.
        segments: (B, T) int64 document numbers of a packed batch; a token sees only its own document.
        cache: the decode state, or None for a pass without one.
        columns: columns of the cache in use before and after this pass.
        lengths: (B,) int64 how many of each row's tokens are tokens; the rest, on its right, is padding. Only caches
            that forget ask: elsewhere what padding writes is overwritten before anyone may look. None: all.
        routes: where routers note what they choose, or what they are to choose; None leaves them alone.
        losses: what layers added to the objective, already weighted.
        metrics: what layers report without training on it.
    """

    positions: Tensor
    ids: Tensor
    segments: Tensor | None = None
    cache: Cache | None = None
    columns: tuple[int, int] = (0, 0)
    lengths: Tensor | None = None
    routes: Routes | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    _memo: dict[Hashable, Any] = field(default_factory=dict)

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add ``value`` (a scalar, already weighted) to the loss called ``name``."""
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return ``make()``, computed the first time any layer asks for ``key`` in this pass."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def starts(self) -> int | Tensor:
        """How many tokens of the cache's text came before this pass: a number, or (B,) where the rows differ."""
        if self.cache is None or self.positions.ndim == 1:
            return self.columns[0]
        # From the end: what would stand before the beginning of a text stands at position 0 (``generate.speculate``).
        return self.positions[:, -1] - (self.positions.shape[1] - 1)

    def visible(self, n_keys: int) -> Tensor | None:
        """Which keys each query may see, or None where plain causal order says it all.

        Returns a bool mask (B, 1, T, n_keys), True = visible. Key column j holds the token at position j (with a
        cache) or the j-th token of this pass (without one, whatever positions were given). Plain causal order means:
        the last query stands at the last key, every row alike, one document a row.
        """
        if self.segments is None and (self.cache is None or self.positions.ndim == 1):
            return None
        mask = self._memo.get("visible")
        if mask is None or mask.shape[-1] != n_keys:  # with its size for a key it would be compiled anew at each step
            mask = self._memo["visible"] = self._visible(n_keys)
        return mask

    def _visible(self, n_keys: int) -> Tensor:
        if self.segments is not None:
            # Packed rows: order within the row, not the (possibly restarting) position, decides what came before.
            order = torch.arange(n_keys, device=self.positions.device)
            same = self.segments[:, :, None] == self.segments[:, None, :]
            return (same & (order[None, :, None] >= order[None, None, :]))[:, None]
        columns = torch.arange(n_keys, device=self.positions.device)
        return (columns <= self.positions[:, :, None])[:, None]
