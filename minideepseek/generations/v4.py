"""V4 (June 2026, arXiv 2606.19348, sections 2 and 4.2.1).

Attention is new from the ground up: one vector a token is key and value of all heads, read word by word within a window
and in compressed blocks beyond it; layers with small blocks, chosen by an indexer, and layers with large ones take
turns. The residual stream becomes four, mixed on a manifold. Every layer has experts, those of the first layers chosen
by a table of token ids; affinities no longer saturate, SwiGLU is clamped, and groups of experts are given up. The
module that looks ahead sees the window only.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.generations.v3 import V3, V3_MINI
from minideepseek.layers import (
    CSA,
    HCA,
    MTP,
    ExpertBalance,
    HashRouting,
    HyperConnections,
    Indexer,
    LossFree,
    MoE,
    RoPE,
    SharedKV,
    TopK,
    YaRN,
)


def after_tables(n_layers: int, tables: int, mixture: MoE) -> tuple[MoE, ...]:
    """The feed-forward layers of a model whose first ``tables`` layers choose experts by token id.

    Tables need no correction and no loss: that these would push the affinities of experts which nothing chooses by, the
    report does not say.
    """
    assert isinstance(mixture.router, TopK)
    by_id = HashRouting(gate=evolve(mixture.router, bias=False))
    return (evolve(mixture, router=by_id, balance=(), loss_free=None),) * tables + (mixture,) * (n_layers - tables)


# Long texts are the business of layers that compress: their rotations are slower from the start, and stretched by YaRN,
# without a temperature.
NEAR = RoPE(theta=10_000.0, layout="adjacent")
FAR = RoPE(
    theta=160_000.0,
    layout="adjacent",
    yarn=YaRN(factor=16, original_len=65_536, mscale=0.0, mscale_all_dim=0.0),
)

FLASH_WINDOW = SharedKV(
    n_heads=64, head_dim=512, d_rope=64, d_query_latent=1024, window=128, out_groups=8, d_out_latent=1024, rope=NEAR
)
FLASH_SPARSE = CSA(mqa=evolve(FLASH_WINDOW, rope=FAR), rate=4, indexer=Indexer(n_heads=64, head_dim=128, top_k=512))
FLASH_HEAVY = HCA(mqa=FLASH_SPARSE.mqa, rate=128)

FLASH_GATE = TopK(k=6, affinity="sqrt-softplus", normalise=True, scale=1.5, bias=True)
FLASH_MIXTURE = MoE(
    n_experts=256,
    n_shared=1,
    hidden=2048,
    router=FLASH_GATE,
    balance=(ExpertBalance(alpha=0.0001, share=True),),
    loss_free=LossFree(speed=0.001),
    limit=10.0,
)

V4_FLASH = evolve(
    V3,
    d_model=4096,
    n_layers=43,
    attention=(FLASH_WINDOW,) * 2 + (FLASH_SPARSE, FLASH_HEAVY) * 20 + (FLASH_SPARSE,),
    ffn=after_tables(43, 3, FLASH_MIXTURE),
    residual=HyperConnections(streams=4),
    mtp=MTP(depth=1, weight=0.3, late_weight=0.1, attention=FLASH_WINDOW),
    max_seq_len=1_048_576,
    init_std=0.02,
)

# The large model: wider, deeper, twice the heads, twice the blocks that a query reads; no layer without compression.
PRO_WINDOW = evolve(FLASH_WINDOW, n_heads=128, d_query_latent=1536, out_groups=16)
PRO_SPARSE = CSA(mqa=evolve(PRO_WINDOW, rope=FAR), rate=4, indexer=Indexer(n_heads=64, head_dim=128, top_k=1024))
PRO_HEAVY = HCA(mqa=PRO_SPARSE.mqa, rate=128)
V4_PRO = evolve(
    V4_FLASH,
    d_model=7168,
    n_layers=61,
    attention=(PRO_HEAVY,) * 2 + (PRO_SPARSE, PRO_HEAVY) * 29 + (PRO_SPARSE,),
    ffn=after_tables(61, 3, evolve(FLASH_MIXTURE, n_experts=384, hidden=3072, router=evolve(FLASH_GATE, scale=2.5))),
    mtp=MTP(depth=1, weight=0.3, late_weight=0.1, attention=PRO_WINDOW),
)

# The mini has a layer of each kind, at rates that a text of 128 tokens can fill.
MINI_WINDOW = SharedKV(
    n_heads=4, head_dim=32, d_rope=16, d_query_latent=64, window=32, out_groups=2, d_out_latent=48, rope=NEAR
)
MINI_SPARSE = CSA(
    mqa=evolve(MINI_WINDOW, rope=evolve(FAR, yarn=None)), rate=4, indexer=Indexer(n_heads=8, head_dim=32, top_k=8)
)
MINI_HEAVY = HCA(mqa=MINI_SPARSE.mqa, rate=16)

V4_MINI = evolve(
    V3_MINI,
    attention=(MINI_WINDOW, MINI_SPARSE, MINI_HEAVY, MINI_SPARSE),
    ffn=after_tables(
        4,
        1,
        MoE(
            n_experts=16,
            n_shared=1,
            hidden=80,
            router=TopK(k=3, affinity="sqrt-softplus", normalise=True, scale=1.5, bias=True),
            balance=(ExpertBalance(alpha=0.0001, share=True),),
            loss_free=LossFree(speed=0.01),
            limit=10.0,
        ),
    ),
    residual=HyperConnections(streams=4),
    mtp=MTP(depth=1, weight=0.3, late_weight=0.1, attention=MINI_WINDOW),
)
