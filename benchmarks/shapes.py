"""The two small models that are timed: V1's and V3's parts at sizes that a laptop trains, without what peers lack."""

from dataclasses import replace

import minideepseek as mds
from minideepseek.layers import GQA, MLA, MoE, SwiGLU, TopK

V1 = mds.ModelConfig(
    d_model=256,
    n_layers=6,
    attention=GQA(n_heads=4, n_kv_heads=2, head_dim=64),
    ffn=SwiGLU(hidden=704),
    vocab_size=4096,
    max_seq_len=2048,
    init_std=None,
)
# Neither balanced nor looking ahead: the peers do neither, and in training the losses are to agree.
EXPERTS = MoE(
    n_experts=16, n_shared=1, hidden=128, router=TopK(k=4, affinity="sigmoid", normalise=True, bias=True, scale=2.5)
)
V3 = replace(
    V1,
    attention=MLA(n_heads=8, d_latent=64, d_rope=16, d_nope=32, d_value=32, d_query_latent=128),
    ffn=(SwiGLU(hidden=704), *[EXPERTS] * 5),
)
SHAPES = {"v1": V1, "v3": V3}
