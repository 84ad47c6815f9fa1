"""The small models that are timed: parts of V1, V3 and V4 at sizes that a laptop trains, without what peers lack."""

from dataclasses import replace

import minideepseek as mds
from minideepseek.layers import CSA, GQA, HCA, MLA, HyperConnections, Indexer, MoE, SharedKV, SwiGLU, TopK

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
# Every entry is read, and the indexer left alone: the peer chooses and does not train what chooses.
WINDOW = SharedKV(n_heads=8, head_dim=64, d_rope=16, d_query_latent=128, window=64, out_groups=2, d_out_latent=128)
SPARSE = CSA(mqa=WINDOW, rate=4, indexer=Indexer(n_heads=16, head_dim=32, top_k=512), stage="dense")
V4 = replace(
    V3,
    attention=(WINDOW, SPARSE, HCA(mqa=WINDOW, rate=32)) * 2,
    ffn=replace(EXPERTS, router=TopK(k=4, affinity="sqrt-softplus", normalise=True, bias=True, scale=1.5), limit=10.0),
    residual=HyperConnections(streams=4),
)
SHAPES = {"v1": V1, "v3": V3, "v4": V4}
