"""Few queries over many keys, without gradients: the kernels' other way, split over the keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from minideepseek import ops
from minideepseek.kernels.attention import decode
from minideepseek.ops import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts as short as a tile, so that short caches are split too."""
    torch.manual_seed(0)
    monkeypatch.setattr(decode, "FEWEST_KEYS", 1)


def random(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype)


def hiding(kind: str, batch: int, heads: int, queries: int, keys: int) -> Tensor | None:
    if kind == "no mask":
        return None
    mask = torch.rand(batch if kind == "by head" else 1, heads if kind == "by head" else 1, queries, keys) > 0.3
    if kind == "blind":
        mask[..., 0, :] = False
    return mask.to(DEVICE)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["no mask", "by head", "blind"])
@pytest.mark.parametrize(
    ("batch", "heads", "groups", "queries", "keys", "width", "value"),
    [(1, 4, 2, 1, 200, 64, 64), (2, 6, 2, 3, 130, 24, 40), (1, 1, 1, 2, 2, 8, 8), (1, 20, 1, 1, 70, 48, 32)],
)
def test_few_queries_equal_the_definition(
    batch: int, heads: int, groups: int, queries: int, keys: int, width: int, value: int, kind: str, dtype: torch.dtype
) -> None:
    q = random(batch, heads, queries, width, dtype=dtype)
    k, v = random(batch, groups, keys, width, dtype=dtype), random(batch, groups, keys, value, dtype=dtype)
    how = {"causal": True, "mask": hiding(kind, batch, heads, queries, keys)}
    with ops.backend("triton"):
        found = ops.attention(q, k, v, **how)
    close_to(found, reference.attention(q.double(), k.double(), v.double(), **how), dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["no mask", "by head", "blind"])
@pytest.mark.parametrize(
    ("batch", "heads", "queries", "keys", "width", "value"),
    [(1, 16, 1, 200, 576, 512), (2, 5, 3, 70, 24, 16), (1, 2, 1, 5, 16, 16), (1, 3, 30, 40, 80, 48)],
)
def test_latents_are_read_as_keys_and_values(
    batch: int, heads: int, queries: int, keys: int, width: int, value: int, kind: str, dtype: torch.dtype
) -> None:
    q, cache = random(batch, heads, queries, width, dtype=dtype), random(batch, keys + 7, width, dtype=dtype)
    latents = cache[:, :keys]  # a cache has room for more
    how = {"causal": True, "mask": hiding(kind, batch, heads, queries, keys), "scale": 0.1}
    with ops.backend("triton"):
        found = ops.latent_attention(q, latents, value, **how)
    close_to(found, reference.latent_attention(q.double(), latents.double(), value, **how), dtype)


@torch.no_grad()
def test_parts_are_joined_in_the_same_order_every_time() -> None:
    q, k, v = random(1, 2, 1, 16), random(1, 1, 300, 16), random(1, 1, 300, 16)
    with ops.backend("triton"):
        first, second = (ops.attention(q, k, v, causal=True) for _ in range(2))
    assert torch.equal(first, second)


def close_to(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    error = (found.double() - exact).norm() / exact.norm().clamp(min=1e-30)
    assert error < (1e-6 if dtype == torch.float32 else 1e-2)
