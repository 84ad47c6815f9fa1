"""A whole model on its kernels computes what it computes on PyTorch: the kernels fit together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import minideepseek as mds
from minideepseek import ops
from minideepseek.layers import DSA, GQA, MLA, HyperConnections, Indexer, MoE, SwiGLU
from minideepseek.layers.router import Groups, TopK
from minideepseek.model import ModelConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MLA_MINI = MLA(n_heads=2, d_latent=16, d_rope=8, d_nope=12, d_value=12, d_query_latent=16)
V32 = replace(
    mds.generations["v3.2-mini"],
    d_model=32,
    n_layers=2,
    vocab_size=64,
    attention=DSA(mla=MLA_MINI, indexer=Indexer(n_heads=2, head_dim=16, top_k=5), stage="sparse"),
    ffn=(
        SwiGLU(hidden=40),
        MoE(n_experts=4, hidden=16, router=TopK(k=2, affinity="sigmoid", groups=Groups(n=2, limit=1), bias=True)),
    ),
)
WITH_STREAMS = replace(
    mds.generations["v1-mini"],
    d_model=32,
    n_layers=1,
    vocab_size=64,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=8),
    ffn=SwiGLU(hidden=40),
    residual=HyperConnections(),
)


@pytest.mark.parametrize("cfg", [V32, WITH_STREAMS], ids=["V3.2", "V1 with streams"])
def test_a_model_on_its_kernels_is_the_same_model(cfg: ModelConfig) -> None:
    model = mds.Transformer(cfg, seed=0).to(DEVICE)
    ids = torch.randint(0, cfg.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model.loss(ids).total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    with ops.backend("torch"):
        expected, text = gradients(), mds.generate(model, ids[:, :6], max_new_tokens=3, temperature=0)
    with ops.backend("triton"):
        found, same_text = gradients(), mds.generate(model, ids[:, :6], max_new_tokens=3, temperature=0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert torch.equal(text, same_text)
