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
