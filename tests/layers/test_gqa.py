"""Grouped-query attention and its cache: a decode is the same function as the full pass, cut differently."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek import ModelConfig, Transformer
from minideepseek.accounting import cache_elements_per_token
from minideepseek.context import Context
from minideepseek.layers import GQA, RoPE, SwiGLU, YaRN

HEADS = [(4, 4), (4, 2), (4, 1), (1, 1), (6, 3)]


def build(n_heads: int = 4, n_kv_heads: int = 2, head_dim: int = 6, dtype: torch.dtype = torch.float64) -> Transformer:
    attention = GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim)
    cfg = ModelConfig(d_model=16, n_layers=2, attention=attention, ffn=SwiGLU(hidden=20), vocab_size=37, init_std=0.3)
    return Transformer(cfg, seed=0).to(dtype)


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, 37, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.fixture
def uninitialised_memory_is_nan() -> Iterator[None]:
    """What ``torch.empty`` returns may be anything; here it is the worst."""
    torch.set_deterministic_debug_mode("warn")
    assert torch.empty(3).isnan().all()
    yield
    torch.set_deterministic_debug_mode("default")


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), HEADS)
@pytest.mark.parametrize("dim", [None, 4])
def test_equals_the_formula_one_query_at_a_time(n_heads: int, n_kv_heads: int, dim: int | None) -> None:
    cfg = GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=6, rope=RoPE(theta=50.0, dim=dim))
    attention = cfg.build(d_model=10, layer=0).double()
    x = torch.randn(1, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ctx = Context(positions=torch.arange(7), ids=torch.zeros(1, 7, dtype=torch.int64))

    def turn(vector: Tensor, position: int) -> Tensor:
        rotated = dim or 6
        out = vector.clone()
        for i in range(rotated // 2):
            angle = position * 50.0 ** (-2 * i / rotated)
            a, b = vector[i], vector[i + rotated // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + rotated // 2] = a * math.sin(angle) + b * math.cos(angle)
        return out

    q, k, v = (x[0] @ attention.qkv.weight.T).split([6 * n_heads, 6 * n_kv_heads, 6 * n_kv_heads], -1)
    rows = []
    for t in range(7):
        heads = []
        for head in range(n_heads):
            group = head // (n_heads // n_kv_heads)
            query = turn(q[t, 6 * head : 6 * head + 6], t)
            keys = [turn(k[j, 6 * group : 6 * group + 6], j) for j in range(t + 1)]
            weights = torch.stack([query @ key / math.sqrt(6) for key in keys]).softmax(0)
            heads.append(sum(w * v[j, 6 * group : 6 * group + 6] for j, w in enumerate(weights)))
        rows.append(torch.cat(heads) @ attention.out.weight.T)
    torch.testing.assert_close(attention(x, ctx)[0], torch.stack(rows), atol=1e-12, rtol=0)


@given(
    heads=st.sampled_from(HEADS),
    cuts=st.lists(st.integers(1, 23), max_size=6, unique=True).map(sorted),
    room=st.sampled_from([1, 7, 24, 40]),
)
@settings(max_examples=25, deadline=None)
def test_decode_in_chunks_equals_the_full_pass(heads: tuple[int, int], cuts: list[int], room: int) -> None:
    """Chunks of any size, also through growth of a cache that was made too small."""
    model, ids = build(*heads), tokens(2, 24)
    cache = model.new_cache(2, room)
    with torch.inference_mode():
        parts = [model(ids[:, a:b], cache=cache) for a, b in pairwise([0, *cuts, 24])]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=1e-10, rtol=0)
    assert cache.length == 24


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4), steps=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_rows_of_different_lengths_share_a_cache(lengths: list[int], steps: int) -> None:
    model = build()
    texts = tokens(len(lengths), max(lengths) + steps)
    ends = torch.tensor(lengths)
    cache = model.new_cache(len(lengths), 2)
    with torch.inference_mode():
        prompt = texts[:, : max(lengths)].clone()
        prompt[torch.arange(max(lengths)) >= ends[:, None]] = 0  # padding on the right
        model(prompt, cache=cache)
        for step in range(steps):
            positions = (ends + step)[:, None]
            logits = model(texts.gather(1, positions), cache=cache, positions=positions)
            for row, length in enumerate(lengths):
                alone = model(texts[row : row + 1, : length + step + 1])[:, -1]
                torch.testing.assert_close(logits[row], alone, atol=1e-10, rtol=0)


@pytest.mark.usefixtures("uninitialised_memory_is_nan")
def test_columns_that_were_never_written_do_not_leak() -> None:
    model, ids = build(), tokens(2, 8)
    cache = model.new_cache(2, 3)
    with torch.inference_mode():
        model(ids[:, :4], cache=cache)
        positions = torch.tensor([[4], [7]])  # row 1 leaves a gap, row 0 has nothing where row 1 is
        assert model(ids[:, 4:5], cache=cache, positions=positions).isfinite().all()


def test_last_tokens_can_be_taken_back() -> None:
    model, ids = build(), tokens(2, 12)
    cache = model.new_cache(2, 4)
    with torch.inference_mode():
        model(ids[:, :5], cache=cache)
        model(tokens(2, 6), cache=cache)  # a draft that turns out wrong
        cache.length = 5
        torch.testing.assert_close(model(ids[:, 5:], cache=cache), model(ids)[:, 5:], atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), HEADS)
def test_cache_bytes_are_what_accounting_predicts(dtype: torch.dtype, n_heads: int, n_kv_heads: int) -> None:
    model = build(n_heads, n_kv_heads, dtype=dtype)
    cache = model.new_cache(3, 10)
    assert cache.nbytes == cache_elements_per_token(model.cfg) * 3 * 10 * dtype.itemsize


def test_cache_grows_by_doubling() -> None:
    model = build()
    cache = model.new_cache(1, 4)
    sizes = []
    with torch.inference_mode():
        for _ in range(33):
            model(tokens(1, 1), cache=cache)
            sizes.append(cache.nbytes // (cache_elements_per_token(model.cfg) * 8))
    assert sorted(set(sizes)) == [4, 8, 16, 32, 64]


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), HEADS)
def test_gradients_are_right(n_heads: int, n_kv_heads: int) -> None:
    attention = GQA(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=4).build(d_model=6, layer=0).double()
    ctx = Context(positions=torch.arange(5), ids=torch.zeros(2, 5, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: attention(x, ctx), (x, *attention.parameters()))


def test_bfloat16_decode_stays_near_the_full_pass() -> None:
    """Long enough that its products are cut and joined."""
    model = build().bfloat16()
    ids = tokens(2, 140)
    cache = model.new_cache(2, 140)
    with torch.inference_mode():
        model(ids[:, :60], cache=cache)
        steps = [model(ids[:, t : t + 1], cache=cache) for t in range(60, 140)]
        full = build()(ids)[:, 60:]  # the same weights in float64
    error = (torch.cat(steps, 1) - full).abs()
    assert error.mean() < 0.02 * full.abs().mean()
    assert error.max() < 0.1 * full.abs().max()


def test_the_temperature_of_yarn_may_sit_in_the_softmax_or_in_the_rotation() -> None:
    ids, found = tokens(2, 9), []
    for all_dim in (1.0, 0.0):
        rope = RoPE(yarn=YaRN(factor=8, original_len=16, mscale_all_dim=all_dim))
        attention = GQA(n_heads=4, n_kv_heads=2, head_dim=6, rope=rope)
        cfg = ModelConfig(
            d_model=16, n_layers=2, attention=attention, ffn=SwiGLU(hidden=20), vocab_size=37, init_std=0.3
        )
        found.append(Transformer(cfg, seed=0).double()(ids))
    assert torch.allclose(*found, atol=1e-10)
    assert not torch.allclose(found[0], build()(ids), atol=1e-3)
