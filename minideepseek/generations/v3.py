"""V3 (December 2024, arXiv 2412.19437, section 4.2).

Sigmoid affinities; a bias that moves the choice, corrected after each step, takes the place of the losses (a very
small one within each sequence remains). A module beyond the last layer learns to predict one token further.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.generations.moe import after_dense
from minideepseek.generations.v2 import V2, V2_MINI
from minideepseek.layers import MTP, ExpertBalance, Groups, LossFree, MoE, SwiGLU, TopK

V3 = evolve(
    V2,
    d_model=7168,
    n_layers=61,
    vocab_size=129_280,
    ffn=after_dense(
        61,
        3,
        SwiGLU(hidden=18_432),
        MoE(
            n_experts=256,
            n_shared=1,
            hidden=2048,
            router=TopK(
                k=8,
                affinity="sigmoid",
                groups=Groups(n=8, limit=4, judged_by=2),
                normalise=True,
                scale=2.5,
                bias=True,
            ),
            balance=(ExpertBalance(alpha=0.0001, share=True),),
            loss_free=LossFree(speed=0.001),
        ),
    ),
    mtp=MTP(depth=1, weight=0.3, late_weight=0.1),
)

V3_MINI = evolve(
    V2_MINI,
    ffn=after_dense(
        4,
        1,
        SwiGLU(hidden=344),
        MoE(
            n_experts=16,
            n_shared=1,
            hidden=88,
            router=TopK(
                k=3,
                affinity="sigmoid",
                groups=Groups(n=4, limit=2, judged_by=2),
                normalise=True,
                bias=True,
            ),
            balance=(ExpertBalance(alpha=0.0001, share=True),),
            loss_free=LossFree(speed=0.01),  # hundreds of steps instead of a million: larger corrections
        ),
    ),
    mtp=MTP(depth=1, weight=0.3, late_weight=0.1),
)
