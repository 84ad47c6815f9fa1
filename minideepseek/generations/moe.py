"""DeepSeekMoE (January 2024, arXiv 2401.06066, table 7 and section 5).

The feed-forward layer becomes many small experts, of which each token uses a few, beside some that all tokens use.
Attention is V1's. The 2B model is the paper's test bench; its experts are a quarter of a standard FFN (8/3·D) wide.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.generations.v1 import V1_7B, V1_MINI
from minideepseek.layers import GQA, DeviceBalance, ExpertBalance, MoE, SwiGLU, TopK

MOE_2B = evolve(
    V1_7B,
    d_model=1280,
    n_layers=9,
    attention=GQA(n_heads=10, n_kv_heads=10, head_dim=128),
    ffn=MoE(
        n_experts=63,
        n_shared=1,
        hidden=853,
        router=TopK(k=7),
        balance=(ExpertBalance(alpha=0.01, over="batch"),),
    ),
    vocab_size=8192,
    max_seq_len=2048,
)


def after_dense(n_layers: int, dense: int, first: SwiGLU, mixture: MoE) -> tuple[SwiGLU | MoE, ...]:
    """The feed-forward layers of a model whose first ``dense`` layers have no experts (their load is slow to even)."""
    return (first,) * dense + (mixture,) * (n_layers - dense)


MOE_16B = evolve(
    V1_7B,
    d_model=2048,
    n_layers=28,
    attention=GQA(n_heads=16, n_kv_heads=16, head_dim=128),
    ffn=after_dense(
        28,
        1,
        SwiGLU(hidden=10_944),
        MoE(
            n_experts=64,
            n_shared=2,
            hidden=1408,
            router=TopK(k=6),
            balance=(ExpertBalance(alpha=0.001, over="batch"),),
        ),
    ),
)

MOE_145B = evolve(
    V1_7B,
    d_model=4096,
    n_layers=62,
    attention=GQA(n_heads=32, n_kv_heads=32, head_dim=128),
    ffn=after_dense(
        62,
        1,
        SwiGLU(hidden=22_528),
        MoE(
            n_experts=128,
            n_shared=4,
            hidden=1408,  # an eighth of 8/3·D, rounded up to a multiple of 64; the paper gives only the totals
            router=TopK(k=12),
            balance=(
                ExpertBalance(alpha=0.003, over="batch"),
                DeviceBalance(alpha=0.05, devices=4, over="batch"),
            ),
        ),
    ),
)

MOE_MINI = evolve(
    V1_MINI,
    ffn=after_dense(
        4,
        1,
        SwiGLU(hidden=344),
        MoE(n_experts=16, n_shared=1, hidden=88, router=TopK(k=3), balance=(ExpertBalance(alpha=0.01),)),
    ),
)
