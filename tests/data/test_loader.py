import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Loader, validation_batches
from minideepseek.data.loader import permute
from minideepseek.errors import UserError

TOKENS = np.arange(1000, dtype=np.uint16)  # a token's value is its place


def draw(loader: Loader, n: int) -> torch.Tensor:
    return torch.stack([next(loader) for _ in range(n)])


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 5))
def test_permute_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, key=(seed, epoch))) == list(range(n))


def test_permute_needs_no_more_than_the_places_asked_for() -> None:
    n = 10**12
    image = permute(np.arange(2000) + n - 2000, n, key=(1, 2))
    assert len(set(image.tolist())) == 2000
    assert 0 <= image.min() < n // 100
    assert n - n // 100 < image.max() < n


def test_permute_scatters_neighbours_and_changes_with_the_key() -> None:
    n = 10_000
    image = permute(np.arange(n), n, key=(0, 0))
    assert abs(np.corrcoef(image, np.arange(n))[0, 1]) < 0.05
    assert (image == permute(np.arange(n), n, key=(0, 1))).sum() < 10
    assert (image == permute(np.arange(n), n, key=(1, 0))).sum() < 10


def test_batches_are_int64_windows_with_one_token_more_for_the_targets() -> None:
    batch = next(Loader(TOKENS, batch_size=4, seq_len=9))
    assert batch.shape == (4, 10)
    assert batch.dtype == torch.int64
    assert (batch == batch[:, :1] + torch.arange(10)).all()
    assert (batch[:, 0] % 9 == 0).all()


@settings(max_examples=30, deadline=None)
@given(batch_size=st.integers(1, 50), seq_len=st.integers(1, 400), seed=st.integers(0, 100))
def test_an_epoch_reads_every_window_exactly_once(batch_size: int, seq_len: int, seed: int) -> None:
    loader = Loader(TOKENS, batch_size=batch_size, seq_len=seq_len, seed=seed)
    n = loader.n_windows
    starts = draw(loader, -(-2 * n // batch_size))[..., 0].flatten()
    every = torch.arange(n) * seq_len
    assert torch.equal(starts[:n].sort().values, every)
    assert torch.equal(starts[n : 2 * n].sort().values, every)


def test_an_epoch_predicts_every_token_once() -> None:
    loader = Loader(TOKENS, batch_size=1, seq_len=27)
    targets = draw(loader, loader.n_windows)[..., 1:].flatten().sort().values
    assert torch.equal(targets, torch.arange(1, 1000))


def test_epochs_come_in_different_orders() -> None:
    loader = Loader(TOKENS, batch_size=10, seq_len=9)
    first, second = draw(loader, 11), draw(loader, 11)
    assert not torch.equal(first, second)


def test_seed_decides_the_order() -> None:
    def batches(seed: int) -> torch.Tensor:
        return draw(Loader(TOKENS, batch_size=4, seq_len=9, seed=seed), 5)

    assert torch.equal(batches(3), batches(3))
    assert not torch.equal(batches(3), batches(4))


@pytest.mark.parametrize("steps", [0, 1, 17])
def test_resumed_loader_gives_the_next_batches(steps: int) -> None:
    loader = Loader(TOKENS, batch_size=7, seq_len=9, seed=5)
    draw(loader, steps) if steps else None
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = Loader(TOKENS, batch_size=7, seq_len=9, seed=5)
    resumed.load_state_dict(state)
    assert resumed.epoch == loader.epoch
    assert torch.equal(draw(loader, 40), draw(resumed, 40))


def test_ranks_together_read_what_one_process_reads() -> None:
    alone = Loader(TOKENS, batch_size=6, seq_len=9)
    ranks = [Loader(TOKENS, batch_size=2, seq_len=9, rank=rank, world_size=3) for rank in range(3)]
    for _ in range(30):
        assert torch.equal(next(alone), torch.cat([next(loader) for loader in ranks]))


def test_resume_with_another_batch_size_loses_and_repeats_nothing() -> None:
    loader = Loader(TOKENS, batch_size=8, seq_len=9)
    first = draw(loader, 5)[..., 0].flatten()
    wider = Loader(TOKENS, batch_size=71, seq_len=9)
    wider.load_state_dict(loader.state_dict())
    starts = torch.cat([first, next(wider)[:, 0]])
    assert torch.equal(starts.sort().values, torch.arange(111) * 9)


@pytest.mark.parametrize(
    "other", [Loader(TOKENS, batch_size=2, seq_len=8), Loader(TOKENS[:-1], batch_size=2, seq_len=9)]
)
def test_state_of_other_data_is_refused(other: Loader) -> None:
    with pytest.raises(UserError, match="cannot resume the data"):
        other.load_state_dict(Loader(TOKENS, batch_size=2, seq_len=9).state_dict())


def test_corpus_shorter_than_a_window_is_refused() -> None:
    assert Loader(TOKENS[:10], batch_size=1, seq_len=9).n_windows == 1
    with pytest.raises(UserError, match="9 tokens, fewer than one window"):
        Loader(TOKENS[:9], batch_size=1, seq_len=9)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"seq_len": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}])
def test_nonsense_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Loader(TOKENS, **{"batch_size": 1, "seq_len": 9, **bad})


def test_validation_batches_are_fixed_disjoint_and_spread() -> None:
    batches = validation_batches(TOKENS, batch_size=4, seq_len=10, n=5)
    assert [batch.shape for batch in batches] == [(4, 11)] * 5
    starts = torch.cat(batches)[:, 0]
    assert len(set(starts.tolist())) == 20
    assert starts.max() > 900
    again = validation_batches(TOKENS, batch_size=4, seq_len=10, n=5)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_validation_of_a_short_corpus_uses_all_of_it_once() -> None:
    batches = validation_batches(TOKENS[:61], batch_size=4, seq_len=10, n=100)
    assert [len(batch) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat(batches)[:, 1:].flatten(), torch.arange(1, 61))
