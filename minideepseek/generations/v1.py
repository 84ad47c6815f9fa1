"""V1, DeepSeek LLM (January 2024, arXiv 2401.02954, table 2).

The micro-design of LLaMA (RMSNorm first, SwiGLU, RoPE), a vocabulary of its own, initial weights of std 0.006.
"""

from __future__ import annotations

from dataclasses import replace as evolve

from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig

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
