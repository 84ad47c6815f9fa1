"""What travels beside the hidden state: who may see whom, what layers report, where a decode stands."""

from types import SimpleNamespace

import pytest
import torch

from minideepseek.context import Cache, Context


def context(**fields: object) -> Context:
    return Context(**{"positions": torch.arange(3), "ids": torch.zeros(2, 3, dtype=torch.int64), **fields})


def cache(length: int = 0) -> Cache:
    return Cache([SimpleNamespace(nbytes=10), SimpleNamespace(nbytes=32)], batch_size=2, length=length)


def test_plain_order_needs_no_mask() -> None:
    assert context().visible(3) is None
    assert context(cache=cache(4)).visible(7) is None


def test_without_a_cache_order_alone_is_causal_whatever_the_positions() -> None:
    assert context(positions=torch.tensor([[7, 8, 9], [0, 0, 0]])).visible(3) is None


def test_with_a_cache_a_row_sees_the_columns_up_to_its_own_position() -> None:
    mask = context(positions=torch.tensor([[0, 1], [3, 4]]), cache=cache(5)).visible(6)
    assert mask.shape == (2, 1, 2, 6)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert mask[1, 0].int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]


def test_a_token_sees_its_own_document_up_to_itself() -> None:
    mask = context(segments=torch.tensor([[0, 0, 1], [4, 4, 4]])).visible(3)
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_what_layers_share_is_made_once() -> None:
    ctx, calls = context(), []

    def make() -> int:
        calls.append(1)
        return 7

    assert [ctx.once("table", make) for _ in range(3)] == [7, 7, 7]
    assert ctx.once("other", lambda: 8) == 8
    assert len(calls) == 1


def test_losses_of_one_name_add_up() -> None:
    ctx = context()
    ctx.add_loss("balance", torch.tensor(1.0))
    ctx.add_loss("balance", torch.tensor(2.0))
    ctx.add_loss("other", torch.tensor(5.0))
    assert {name: value.item() for name, value in ctx.losses.items()} == {"balance": 3.0, "other": 5.0}


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (torch.arange(3), (4, 7)),
        (torch.tensor([[0, 1], [1, 2]]), (4, 4)),
        (torch.tensor([[1], [6]]), (4, 7)),
    ],
)
def test_columns_in_use_never_shrink(positions: torch.Tensor, expected: tuple[int, int]) -> None:
    assert cache(4).columns(positions) == expected


def test_cache_bytes_are_those_of_its_layers() -> None:
    assert cache().nbytes == 42


def forgetful(rows: int = 2) -> Cache:
    return Cache([SimpleNamespace(nbytes=1), SimpleNamespace(nbytes=1, spare=3)], batch_size=rows)


def test_a_cache_that_forgets_takes_back_what_it_has_to_spare_and_no_more() -> None:
    found = forgetful()
    found.admit(torch.arange(10))
    found.admit(torch.arange(7, 9))  # three back
    with pytest.raises(
        ValueError, match="row 0 of the cache goes on at position 6, but has read 10 tokens and can take"
    ):
        found.admit(torch.arange(6, 8))
    found.admit(torch.arange(4))  # from the beginning
    assert found.reached == [4, 4]


def test_rows_reach_as_far_as_their_own_tokens() -> None:
    found = forgetful()
    found.admit(torch.arange(10), lengths=torch.tensor([2, 10]))  # the first row is mostly padding
    assert found.reached == [2, 10]
    found.admit(torch.tensor([[2], [10]]))
    with pytest.raises(ValueError, match="row 1"):
        found.admit(torch.tensor([[3], [7]]))


def test_a_cache_that_does_not_forget_takes_back_anything() -> None:
    found = cache()
    found.admit(torch.arange(10))
    found.admit(torch.arange(1, 2))
    assert found.spare is None


@pytest.mark.parametrize(
    ("positions", "cached", "expected"),
    [
        (torch.arange(5, 8), True, 5),
        (torch.tensor([[5, 6], [0, 1]]), True, [5, 0]),
        (torch.tensor([[0, 0, 1]]), True, [-1]),  # what stands before the beginning stands at position 0
        (torch.tensor([[5, 6], [0, 1]]), False, 0),
    ],
)
def test_a_pass_starts_behind_what_the_cache_has_read(positions: torch.Tensor, cached: bool, expected: object) -> None:
    ids = torch.zeros(positions.shape[-2:] if positions.ndim == 2 else (1, *positions.shape), dtype=torch.int64)
    ctx = Context(
        positions=positions, ids=ids, cache=cache(5) if cached else None, columns=(5, 8) if cached else (0, 0)
    )
    found = ctx.starts()
    assert (found.tolist() if isinstance(found, torch.Tensor) else found) == expected
