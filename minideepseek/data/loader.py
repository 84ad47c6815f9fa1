"""Batches from a long row of tokens: shuffled, never repeating within an epoch, resumable from a handful of numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from minideepseek.errors import UserError


class Loader:
    """Endless batches of windows, each window once an epoch, in an order that the seed decides.

    Window i is tokens[i * seq_len : (i + 1) * seq_len + 1]: windows share one token, the last one's target being the
    next one's first input, so an epoch predicts every token once. `next(loader)` gives int64 ids of shape
    (batch_size, seq_len + 1); the model shifts inside.

    The order is computed, not stored: a permutation of windows per epoch costs no memory, however large the corpus.
    Ranks take turns: with 2 ranks of 8 rows, a step reads what 1 rank of 16 rows reads, in the same order; so a run may
    go on with another batch size or number of processes, and no window is lost or seen twice.

    tokens: (N,) integers, typically a memory-mapped file. Raises UserError if they do not fill one window.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or seq_len < 1:
            raise ValueError(f"batch_size={batch_size} and seq_len={seq_len} must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is not one of {world_size}: ranks count from 0")
        self.tokens = tokens
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.n_windows = count_windows(tokens, seq_len)
        self.seen = 0  # windows read so far by all ranks together

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        turn = self.seen + self.rank * self.batch_size + np.arange(self.batch_size)
        self.seen += self.batch_size * self.world_size
        return gather(self.tokens, self.windows(turn), self.seq_len)

    def windows(self, turns: np.ndarray) -> np.ndarray:
        """Which window is read at each turn; turns count from 0 across epochs and ranks."""
        epochs, places = np.divmod(turns, self.n_windows)
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = permute(places[here], self.n_windows, key=(self.seed, int(epoch)))
        return chosen

    @property
    def epoch(self) -> float:
        """How often the whole corpus has been read, fractions included."""
        return self.seen / self.n_windows

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the next batches after `load_state_dict` are those that would have come."""
        return {"seen": self.seen, "seed": self.seed, "seq_len": self.seq_len, "n_tokens": len(self.tokens)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. Raises UserError if it belongs to another corpus, length or seed."""
        for name, mine in self.state_dict().items():
            if name != "seen" and state.get(name) != mine:
                raise UserError(
                    f"cannot resume the data: the checkpoint was made with {name}={state.get(name)}, this run has "
                    f"{name}={mine}; use the same data, sequence length and seed, or start a new run"
                )
        self.seen = int(state["seen"])


def validation_batches(tokens: np.ndarray, *, batch_size: int, seq_len: int, n: int) -> list[torch.Tensor]:
    """Up to `n` batches for measuring: always the same windows, spread evenly over the tokens, none twice.

    int64 ids of shape (batch_size, seq_len + 1) each; a short corpus gives fewer batches, the last of them smaller.
    """
    windows = count_windows(tokens, seq_len)
    wanted = min(n * batch_size, windows)
    chosen = np.arange(wanted) * windows // wanted
    return [gather(tokens, chosen[i : i + batch_size], seq_len) for i in range(0, wanted, batch_size)]


def count_windows(tokens: np.ndarray, seq_len: int) -> int:
    """How many windows of seq_len + 1 tokens, overlapping by one, there are. Raises UserError if none."""
    windows = (len(tokens) - 1) // seq_len
    if windows < 1:
        raise UserError(
            f"the corpus has {len(tokens)} tokens, fewer than one window of {seq_len} + 1; "
            "give more text or a smaller sequence length"
        )
    return windows


def gather(tokens: np.ndarray, windows: np.ndarray, seq_len: int) -> torch.Tensor:
    """The windows' tokens, int64 (len(windows), seq_len + 1), in one indexing operation."""
    index = windows[:, None] * seq_len + np.arange(seq_len + 1)
    return torch.from_numpy(tokens[index].astype(np.int64))


def permute(places: np.ndarray, n: int, *, key: tuple[int, int]) -> np.ndarray:
    """Where a pseudo-random permutation of 0..n-1 sends each place; a different permutation for each key.

    A Feistel network permutes the numbers of 2k bits, k just large enough to hold n; who lands outside 0..n-1 walks on
    until inside, which keeps it a permutation (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002). Constant memory, and fewer than four steps on average.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    rounds = np.random.SeedSequence([k % 2**64 for k in key]).generate_state(6, np.uint64)

    def step(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for constant in rounds:
            left, right = right, left ^ (_mix(right + constant) & mask)
        return (left << half) | right

    out = step(places.astype(np.uint64))
    while (outside := out >= n).any():
        out[outside] = step(out[outside])
    return out.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatter each 64-bit number over all 64 bits (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
