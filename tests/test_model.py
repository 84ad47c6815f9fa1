"""The skeleton: composition, initial weights, packing, the objective, and what is refused."""

import copy
import math
import pickle
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minideepseek import ModelConfig, Transformer, generations
from minideepseek.context import Context
from minideepseek.layers import GQA, RoPE, SwiGLU
from minideepseek.model import Losses

TINY = ModelConfig(
    d_model=16,
    n_layers=3,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=6),
    ffn=SwiGLU(hidden=20),
    vocab_size=37,
    init_std=0.3,
)


def tokens(batch: int = 2, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(0, 37, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- what a pass computes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_logits_are_float32_at_least(dtype: torch.dtype) -> None:
    logits = Transformer(TINY, seed=0).to(dtype)(tokens())
    assert logits.shape == (2, 12, 37)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@given(change=st.integers(0, 11))
@settings(max_examples=12, deadline=None)
def test_no_token_sees_the_future(change: int) -> None:
    model, ids = Transformer(TINY, seed=0), tokens()
    other = ids.clone()
    other[:, change] = (ids[:, change] + 1) % 37
    before, after = model(ids), model(other)
    assert torch.equal(before[:, :change], after[:, :change])
    assert not torch.isclose(before[:, change:], after[:, change:]).all(-1).any()


def test_rows_of_a_batch_do_not_meet() -> None:
    model = Transformer(TINY, seed=0).double()
    ids = tokens(3)
    torch.testing.assert_close(model(ids), torch.cat([model(row[None]) for row in ids]), atol=1e-12, rtol=0)


@given(cuts=st.lists(st.integers(1, 15), max_size=4, unique=True).map(sorted), restart=st.booleans())
@settings(max_examples=20, deadline=None)
def test_packed_documents_equal_separate_ones(cuts: list[int], restart: bool) -> None:
    model, ids = Transformer(TINY, seed=0).double(), tokens(2, 16)
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, 16], strict=True)]
    segments = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)]).expand(2, -1)
    positions = torch.cat([torch.arange(size) for size in sizes]).expand(2, -1) if restart else None
    packed = model(ids, segments=segments, positions=positions)
    alone = torch.cat([model(document) for document in ids.split(sizes, 1)], 1)
    torch.testing.assert_close(packed, alone, atol=1e-10, rtol=0)


def test_shifting_all_positions_changes_nothing() -> None:
    model, ids = Transformer(TINY, seed=0).double(), tokens()
    shifted = model(ids, positions=torch.arange(12) + torch.tensor([[5], [300]]))
    torch.testing.assert_close(model(ids), shifted, atol=1e-9, rtol=0)


def test_layers_may_differ() -> None:
    wide, narrow = SwiGLU(hidden=40), SwiGLU(hidden=8)
    many, one = GQA(n_heads=4, n_kv_heads=4, head_dim=6), GQA(n_heads=4, n_kv_heads=1, head_dim=6)
    cfg = replace(TINY, attention=(many, one, one), ffn=(wide, narrow, narrow))
    model = Transformer(cfg, seed=0)
    assert [block.ffn.down.in_features for block in model.blocks] == [40, 8, 8]
    assert [block.attention.qkv.out_features for block in model.blocks] == [72, 36, 36]
    assert cfg.layers == ((many, wide), (one, narrow), (one, narrow))
    assert model(tokens()).isfinite().all()


# --- the objective --------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_cross_entropy_of_the_next_token() -> None:
    model, ids = Transformer(TINY, seed=0).double(), tokens()
    log_p = model(ids)[:, :-1].log_softmax(-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean()
    assert model.loss(ids).lm.item() == pytest.approx(expected.item(), abs=1e-12)


def test_loss_of_packed_documents_is_that_of_separate_ones() -> None:
    """Across a border nothing is predicted: the next document's first token does not follow from this one."""
    model, ids = Transformer(TINY, seed=0).double(), tokens(1, 12)
    segments = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4])
    parts = [(model.loss(part).lm, part.shape[1] - 1) for part in ids.split([5, 3, 4], 1)]
    expected = sum(loss * count for loss, count in parts) / sum(count for _, count in parts)
    assert model.loss(ids, segments=segments).lm.item() == pytest.approx(expected.item(), abs=1e-12)


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """A feed-forward that does nothing but report, as a mixture of experts would."""

    def build(self, d_model: int, layer: int, vocab_size: int) -> nn.Module:
        class Module(nn.Module):
            def forward(self, x: Tensor, ctx: Context) -> Tensor:
                ctx.add_loss("balance", x.square().mean())
                ctx.metrics[f"load/{layer}"] = ctx.ids.float().mean()
                return torch.zeros_like(x)

        return Module()

    def n_params(self, d_model: int) -> int:
        return 0


def test_what_layers_report_reaches_the_objective() -> None:
    ids = tokens()
    losses = Transformer(replace(TINY, ffn=Reporting()), seed=0).loss(ids)
    assert losses.total.item() == pytest.approx((losses.lm + losses.balance).item())
    assert losses.balance.item() > 0
    assert dict(losses) == {"lm": losses.lm, "balance": losses.balance}
    assert set(losses.metrics) == {"load/0", "load/1", "load/2"}
    assert losses.metrics["load/1"].item() == pytest.approx(ids[:, :-1].float().mean().item())


def test_losses_say_what_they_have() -> None:
    losses = Losses({"lm": torch.tensor(2.5), "balance": torch.tensor(0.25)})
    assert repr(losses) == "Losses(total=2.7500, lm=2.5000, balance=0.2500)"
    with pytest.raises(AttributeError, match=r"no loss called 'mtp'; there are: total, lm, balance"):
        _ = losses.mtp
    assert not hasattr(losses, "__array__")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_losses_can_be_copied_and_sent(duplicate: Any) -> None:
    losses = duplicate(Losses({"lm": torch.tensor(2.5)}))
    assert losses.lm.item() == losses.total.item() == 2.5


# --- initial weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init_std", [0.006, None])
def test_initial_weights_have_the_spread_they_should(init_std: float | None) -> None:
    cfg = replace(TINY, d_model=256, ffn=SwiGLU(hidden=512), vocab_size=2000, init_std=init_std)
    model = Transformer(cfg, seed=0)
    expected = {
        "embed.weight": 0.4,  # a lookup: one input
        "head.weight": 0.4 / math.sqrt(256),
        "blocks.2.ffn.gate_up.weight": 0.4 / math.sqrt(256),
        "blocks.2.ffn.down.weight": 0.4 / math.sqrt(512),
        "blocks.0.attention.out.weight": 0.4 / math.sqrt(24),
        "blocks.0.attention.qkv.weight": 0.4 / math.sqrt(256),
    }
    state = model.state_dict()
    for name, std in expected.items():
        weight, std = state[name], init_std or std
        error = 5 / math.sqrt(weight.numel())  # five standard errors
        assert weight.std().item() == pytest.approx(std, rel=error), name
        assert abs(weight.mean().item()) < error * std, name
        assert (weight.abs() > 3 * std).float().mean().item() == pytest.approx(0.0027, abs=0.0015), name
    assert all((p == 1).all() for name, p in state.items() if "norm" in name)


def test_mini_starts_at_the_loss_of_knowing_nothing() -> None:
    cfg = generations["v1-mini"]
    ids = torch.randint(0, cfg.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
    assert Transformer(cfg, seed=0).loss(ids).lm.item() == pytest.approx(math.log(cfg.vocab_size), abs=0.15)


def test_the_same_seed_gives_the_same_weights() -> None:
    a, b, c = Transformer(TINY, seed=1), Transformer(TINY, seed=1), Transformer(TINY, seed=2)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.head.weight, c.head.weight)


def test_without_a_seed_the_global_generator_decides() -> None:
    torch.manual_seed(3)
    a = Transformer(TINY)
    torch.manual_seed(3)
    b = Transformer(TINY)
    assert torch.equal(a.head.weight, b.head.weight)


def test_meta_model_has_shapes_and_no_memory() -> None:
    with torch.device("meta"):
        model = Transformer(generations["v1-67b"])
        cache = model.new_cache(1, 128 * 1024)
    assert model.head.weight.shape == (102_400, 8192)
    assert all(p.is_meta for p in model.parameters())
    assert cache.nbytes == 2 * 47.5 * 2**30  # float32 here; 47.5 GiB in bfloat16
    model.to_empty(device="meta")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 0}, "d_model=0 must be positive"),
        ({"n_layers": -1}, "n_layers=-1 must be positive"),
        ({"vocab_size": 0}, "vocab_size=0 must be positive"),
        ({"max_seq_len": 0}, "max_seq_len=0 must be positive"),
        ({"norm_eps": -1e-6}, "norm_eps=-1e-06"),
        ({"init_std": 0.0}, "init_std=0.0"),
        ({"ffn": (SwiGLU(hidden=4),) * 2}, "ffn is given for 2 layers, but n_layers=3"),
        ({"attention": ()}, "attention is given for 0 layers, but n_layers=3"),
    ],
)
def test_config_refuses_nonsense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TINY, **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GQA(n_heads=6, n_kv_heads=4, head_dim=8), "n_heads=6 is not divisible by n_kv_heads=4"),
        (lambda: GQA(n_heads=0, n_kv_heads=1, head_dim=8), "n_heads=0 must be positive"),
        (lambda: GQA(n_heads=1, n_kv_heads=1, head_dim=7), "cannot rotate 7 channels in pairs in a head of 7"),
        (lambda: GQA(n_heads=1, n_kv_heads=1, head_dim=4, rope=RoPE(dim=8)), "cannot rotate 8 channels"),
        (lambda: RoPE(theta=1.0), "theta=1.0"),
        (lambda: RoPE(dim=3), "dim=3: rotated channels come in pairs"),
        (lambda: RoPE(layout="spiral"), "choose 'half_split' or 'adjacent'"),
        (lambda: SwiGLU(hidden=0), "hidden=0: the inner width must be positive"),
    ],
)
def test_parts_refuse_nonsense(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_configs_do_not_change_and_can_be_keys() -> None:
    with pytest.raises(AttributeError):
        TINY.d_model = 3  # type: ignore[misc]
    assert {TINY: 1}[replace(TINY)] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(tokens()[0]), "ids must be whole numbers of shape (B, T), not torch.int64 of shape (12,)"),
        (lambda m: m(tokens().float()), "ids must be whole numbers"),
        (lambda m: m(tokens(), positions=torch.arange(12)), "positions have shape (12,), but ids have (2, 12)"),
        (lambda m: m(tokens(), segments=tokens(2, 3)), "segments have shape (2, 3), but ids have (2, 12)"),
        (lambda m: m(tokens(), cache=m.new_cache(3, 9)), "the cache was made for 3 rows, but ids have 2"),
        (lambda m: m(tokens(), cache=m.new_cache(2, 9), segments=tokens()), "a cache holds one document a row"),
        (lambda m: m.new_cache(0, 4), "batch_size=0 and max_len=4 must be positive"),
        (lambda m: m.loss(tokens(2, 1)), "leave nothing to predict"),
    ],
)
def test_calls_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(Transformer(TINY, seed=0))
