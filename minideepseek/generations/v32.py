"""V3.2 (December 2025, arXiv 2512.02556, section 2).

V3 as it had become, stretched to 128K tokens, goes on training with a lightning indexer in every layer: each token
reads the 2048 that its indexer chose, wherever they stand. Nothing else of the architecture changes.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.generations.v2 import LATENT, LATENT_MINI
from minideepseek.generations.v3 import V3, V3_MINI
from minideepseek.layers import DSA, Indexer, RoPE, YaRN

V32 = evolve(
    V3,
    attention=DSA(
        mla=evolve(LATENT, rope=RoPE(layout="adjacent", yarn=YaRN(factor=40, original_len=4096))),
        indexer=Indexer(n_heads=64, head_dim=128, top_k=2048),
    ),
    max_seq_len=131_072,
)

V32_MINI = evolve(V3_MINI, attention=DSA(mla=LATENT_MINI, indexer=Indexer(n_heads=8, head_dim=32, top_k=32)))
