"""One idea, one file: its config dataclass, its module, its cache."""

from minideepseek.layers.gqa import GQA
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.rope import RoPE
from minideepseek.layers.swiglu import SwiGLU

__all__ = ["GQA", "RMSNorm", "RoPE", "SwiGLU"]
