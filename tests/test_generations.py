"""The family: what the papers say of each member."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import minideepseek as mds
from minideepseek.layers import CSA, DSA, GQA, HashRouting, HyperConnections, MoE, RoPE, SharedKV, SwiGLU


# DeepSeek LLM, arXiv 2401.02954, table 2 and section 2.
@pytest.mark.parametrize(
    ("name", "layers", "width", "heads", "kv_heads", "hidden"),
    [("v1-7b", 30, 4096, 32, 32, 11_008), ("v1-67b", 95, 8192, 64, 8, 22_016)],
)
def test_v1_is_as_published(name: str, layers: int, width: int, heads: int, kv_heads: int, hidden: int) -> None:
    cfg = mds.generations[name]
    assert (cfg.n_layers, cfg.d_model) == (layers, width)
    assert cfg.attention == GQA(n_heads=heads, n_kv_heads=kv_heads, head_dim=128, rope=RoPE(theta=10_000.0))
    assert cfg.ffn == SwiGLU(hidden=hidden)
    assert (cfg.vocab_size, cfg.max_seq_len, cfg.norm_eps, cfg.init_std) == (102_400, 4096, 1e-6, 0.006)


# DeepSeek-V3.2, arXiv 2512.02556, section 2.1 and the released config.
@pytest.mark.parametrize(("name", "before"), [("v3.2", "v3"), ("v3.2-mini", "v3-mini")])
def test_v32_is_v3_with_an_indexer_in_every_layer(name: str, before: str) -> None:
    cfg, old = mds.generations[name], mds.generations[before]
    attention = cfg.attention
    assert isinstance(attention, DSA)
    mla = replace(attention.mla, rope=RoPE(layout="adjacent"))
    assert replace(cfg, attention=mla, max_seq_len=old.max_seq_len) == old


def test_v32_adds_fourteen_million_parameters_a_layer_and_128_numbers_a_token() -> None:
    new, old = (mds.report(mds.generations[name]) for name in ("v3.2", "v3"))
    indexer = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128  # queries, key, weights, LayerNorm
    assert indexer == 13_959_424
    assert new.parameters - old.parameters == 61 * indexer
    assert new.mtp_parameters - old.mtp_parameters == indexer
    assert new.cache_elements_per_token - old.cache_elements_per_token == 61 * 128
    assert round(new.stored_parameters / 1e9) == 685  # as the release is listed


# DeepSeek-V4, arXiv 2606.19348, section 4.2.1 and the released configs: 0 a window alone, else tokens in a block.
@pytest.mark.parametrize(
    ("name", "ratios"),
    [
        ("v4-flash", [0, 0] + [4, 128] * 20 + [4]),
        ("v4-pro", [128, 128] + [4, 128] * 29 + [4]),
        ("v4-mini", [0, 4, 16, 4]),
    ],
)
def test_v4_is_as_published(name: str, ratios: list[int]) -> None:
    cfg = mds.generations[name]
    assert [getattr(attention, "rate", 0) for attention, _ in cfg.layers] == ratios
    assert [isinstance(attention, CSA) for attention, _ in cfg.layers] == [ratio == 4 for ratio in ratios]
    tables = [isinstance(ffn, MoE) and isinstance(ffn.router, HashRouting) for _, ffn in cfg.layers]
    n = 1 if name == "v4-mini" else 3
    assert tables == [True] * n + [False] * (cfg.n_layers - n)
    for attention, ffn in cfg.layers:
        assert isinstance(ffn, MoE)
        assert ffn.limit == 10
        core = attention if isinstance(attention, SharedKV) else attention.mqa
        assert core.rope.theta == (10_000 if core is attention else 160_000)
        assert core.scale == core.head_dim**-0.5  # YaRN changes no temperature
    assert cfg.residual == HyperConnections(streams=4)
    assert cfg.mtp is not None
    assert isinstance(cfg.mtp.attention, SharedKV)


def test_all_minis_activate_about_as_many_parameters() -> None:
    found = {name: mds.report(mds.generations[name]).activated["everything"] for name in mds.generations}
    minis = [count for name, count in found.items() if name.endswith("-mini")]
    assert max(minis) < 1.12 * min(minis)


@pytest.mark.parametrize("name", [name for name in mds.generations if name.endswith("-mini")])
def test_minis_run_and_learn(name: str) -> None:
    torch.manual_seed(0)
    model = mds.Transformer(mds.generations[name], seed=0)
    ids = torch.randint(0, model.cfg.vocab_size, (2, 24))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    history = []
    for _ in range(8):
        losses = model.loss(ids)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(losses.lm.item())
    assert history[-1] < history[0] - 2


def test_the_family_cannot_be_changed_by_accident() -> None:
    family: Any = mds.generations
    with pytest.raises(TypeError):
        family["v1-7b"] = None
