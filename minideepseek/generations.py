"""The spine: the family as a chain of small differences. Reading this file is reading the history.

Every generation stands here twice: at its published size, which builds on ``torch.device("meta")`` and reproduces
the papers' tables, and as a *mini* of the same shape of ideas that trains on a laptop in a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as evolve
from types import MappingProxyType

from minideepseek.layers import (
    DSA,
    GQA,
    MLA,
    MTP,
    Capacity,
    CommunicationBalance,
    DeviceBalance,
    ExpertBalance,
    Groups,
    Indexer,
    LossFree,
    MoE,
    RoPE,
    SwiGLU,
    TopK,
    YaRN,
)
from minideepseek.model import ModelConfig

# --- V1: DeepSeek LLM (January 2024, arXiv 2401.02954, table 2) -------------------------------------------------------
# The micro-design of LLaMA (RMSNorm first, SwiGLU, RoPE), a vocabulary of its own, initial weights of std 0.006.

V1_7B = ModelConfig(
    d_model=4096,
    n_layers=30,
    attention=GQA(n_heads=32, n_kv_heads=32, head_dim=128),  # as many key/value heads as query heads: plain MHA
    ffn=SwiGLU(hidden=11_008),
)

# The large model shares each key/value head among eight query heads, and spends what that saves on depth: 95 layers.
V1_67B = evolve(
    V1_7B,
    d_model=8192,
    n_layers=95,
    attention=GQA(n_heads=64, n_kv_heads=8, head_dim=128),
    ffn=SwiGLU(hidden=22_016),
)

V1_MINI = evolve(
    V1_67B,
    d_model=128,
    n_layers=4,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=32),
    ffn=SwiGLU(hidden=344),
    vocab_size=2048,
    max_seq_len=512,
    init_std=None,
)

# --- DeepSeekMoE (January 2024, arXiv 2401.06066, table 7 and section 5) ----------------------------------------------
# The feed-forward layer becomes many small experts, of which each token uses a few, beside some that all tokens use.
# Attention is V1's. The 2B model is the paper's test bench; its experts are a quarter of a standard FFN (8/3·D) wide.

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

# --- V2 (May 2024, arXiv 2405.04434, section 3.1.2 and appendix B) ----------------------------------------------------
# Attention caches one latent a token. Tokens go to at most three of eight devices; two more losses even the traffic,
# and while training a device drops what goes beyond its share.

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

# --- V3 (December 2024, arXiv 2412.19437, section 4.2) ----------------------------------------------------------------
# Sigmoid affinities; a bias that moves the choice, corrected after each step, takes the place of the losses (a very
# small one within each sequence remains). A module beyond the last layer learns to predict one token further.

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

# --- V3.2 (December 2025, arXiv 2512.02556, section 2) ----------------------------------------------------------------
# V3 as it had become, stretched to 128K tokens, goes on training with a lightning indexer in every layer: each token
# reads the 2048 that its indexer chose, wherever they stand. Nothing else of the architecture changes.

V32 = evolve(
    V3,
    attention=DSA(
        mla=evolve(LATENT, rope=RoPE(layout="adjacent", yarn=YaRN(factor=40, original_len=4096))),
        indexer=Indexer(n_heads=64, head_dim=128, top_k=2048),
    ),
    max_seq_len=131_072,
)

# --- the minis: the same ideas at a width that trains in a minute, with equal activated parameters --------------------

MOE_MINI = evolve(
    V1_MINI,
    ffn=after_dense(
        4,
        1,
        SwiGLU(hidden=344),
        MoE(n_experts=16, n_shared=1, hidden=88, router=TopK(k=3), balance=(ExpertBalance(alpha=0.01),)),
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

V32_MINI = evolve(V3_MINI, attention=DSA(mla=LATENT_MINI, indexer=Indexer(n_heads=8, head_dim=32, top_k=32)))

generations: Mapping[str, ModelConfig] = MappingProxyType(
    {
        "v1-7b": V1_7B,
        "v1-67b": V1_67B,
        "moe-2b": MOE_2B,
        "moe-16b": MOE_16B,
        "moe-145b": MOE_145B,
        "v2": V2,
        "v2-lite": V2_LITE,
        "v3": V3,
        "v3.2": V32,
        "v1-mini": V1_MINI,
        "moe-mini": MOE_MINI,
        "v2-mini": V2_MINI,
        "v3-mini": V3_MINI,
        "v3.2-mini": V32_MINI,
    }
)
