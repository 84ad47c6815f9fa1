"""A ring remembers the last tokens of each row, however they arrive."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.layers.ring import SPARE, Ring

KEPT = 5


def vectors(starts, n):
    """(B, n, 1): each token's own number, 100·row + position + 1."""
    rows = 100 * torch.arange(len(starts))[:, None]
    return (rows + torch.tensor(starts)[:, None] + torch.arange(n) + 1)[..., None].float()


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_rows_in_step(chunks):
    ring, seen = Ring.empty(torch.zeros(()), 2, KEPT, 1), 0
    for n in chunks:
        ring.write(vectors([seen, seen], n), seen)
        seen += n
        kept = min(seen, KEPT + SPARE)
        assert torch.equal(ring.last(kept, seen), vectors([seen - kept] * 2, kept))


@settings(max_examples=60, deadline=None)
@given(
    passes=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 29), st.integers(0, 29)), min_size=1, max_size=6),
)
def test_rows_at_different_places_with_padding(passes):
    ring, starts = Ring.empty(torch.zeros(()), 2, KEPT, 1), [0, 0]
    for n, *missing in passes:
        lengths = [max(1, n - short) for short in missing]
        new = vectors(starts, n)
        for row, length in enumerate(lengths):
            new[row, length:] = torch.nan  # padding leaves no trace
        ring.write(new, torch.tensor(starts), torch.tensor(lengths))
        starts = [start + length for start, length in zip(starts, lengths, strict=True)]
        found = ring.last(KEPT + SPARE, torch.tensor(starts))
        for row, seen in enumerate(starts):
            kept = min(seen, KEPT + SPARE)
            assert torch.equal(found[row, -kept:], vectors(starts, kept)[row] - kept)


def test_its_size_is_its_memory():
    ring = Ring.empty(torch.zeros((), dtype=torch.bfloat16), 3, KEPT, 7)
    assert ring.nbytes == 3 * Ring.size(KEPT) * 7 * 2
    assert ring.spare == SPARE
