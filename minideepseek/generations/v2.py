"""V2 (May 2024, arXiv 2405.04434, section 3.1.2 and appendix B).

Attention caches one latent a token. Tokens go to at most three of eight devices; two more losses even the traffic, and
while training a device drops what goes beyond its share.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.generations.moe import MOE_16B, MOE_MINI, after_dense
from minideepseek.layers import (
    MLA,
    Capacity,
    CommunicationBalance,
    DeviceBalance,
    ExpertBalance,
    Groups,
    MoE,
    SwiGLU,
    TopK,
)

LATENT = MLA(n_heads=128, d_latent=512, d_rope=64, d_nope=128, d_value=128, d_query_latent=1536)

V2 = evolve(
    MOE_16B,
    d_model=5120,
    n_layers=60,
    attention=LATENT,
    ffn=after_dense(
        60,
        1,
        SwiGLU(hidden=12_288),
        MoE(
            n_experts=160,
            n_shared=2,
            hidden=1536,
            router=TopK(k=6, groups=Groups(n=8, limit=3), scale=16.0),
            balance=(
                ExpertBalance(alpha=0.003),
                DeviceBalance(alpha=0.05, devices=8),
                CommunicationBalance(alpha=0.02, devices=8, limit=3),
            ),
            capacity=Capacity(devices=8),
        ),
    ),
)

V2_LITE = evolve(
    MOE_16B,
    n_layers=27,
    attention=MLA(n_heads=16, d_latent=512, d_rope=64, d_nope=128, d_value=128),
    ffn=after_dense(
        27,
        1,
        SwiGLU(hidden=10_944),
        MoE(n_experts=64, n_shared=2, hidden=1408, router=TopK(k=6), balance=(ExpertBalance(alpha=0.001),)),
    ),
)

LATENT_MINI = MLA(n_heads=4, d_latent=48, d_rope=16, d_nope=32, d_value=32, d_query_latent=64)

V2_MINI = evolve(
    MOE_MINI,
    attention=LATENT_MINI,
    ffn=after_dense(
        4,
        1,
        SwiGLU(hidden=344),
        MoE(
            n_experts=16,
            n_shared=1,
            hidden=88,
            router=TopK(k=3, groups=Groups(n=4, limit=2)),
            balance=(
                ExpertBalance(alpha=0.003),
                DeviceBalance(alpha=0.05, devices=4),
                CommunicationBalance(alpha=0.02, devices=4, limit=2),
            ),
            capacity=Capacity(devices=4),
        ),
    ),
)
