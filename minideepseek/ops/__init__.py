"""The hot operations as plain functions: what the layers call.

``reference.py`` defines each one; its own file here computes the same quickly in eager PyTorch on a CPU; a kernel of
the same name in ``minideepseek.kernels`` does on a GPU (``backend`` says when). All are pure functions of tensors.
Products of layers may be taken in FP8 (``products_in`` says when).
"""

from minideepseek.ops.attend import attention
from minideepseek.ops.backend import backend
from minideepseek.ops.choose import choose_experts
from minideepseek.ops.gate import swiglu
from minideepseek.ops.index import index_scores
from minideepseek.ops.latent import latent_attention
from minideepseek.ops.loss import linear_cross_entropy, linear_log_probs
from minideepseek.ops.norm import add_rms_norm, rms_norm
from minideepseek.ops.products import experts, linear, products_in
from minideepseek.ops.rotary import rope
from minideepseek.ops.streams import read_streams, rms_linear, sinkhorn, write_streams

__all__ = [
    "add_rms_norm",
    "attention",
    "backend",
    "choose_experts",
    "experts",
    "index_scores",
    "latent_attention",
    "linear",
    "linear_cross_entropy",
    "linear_log_probs",
    "products_in",
    "read_streams",
    "rms_linear",
    "rms_norm",
    "rope",
    "sinkhorn",
    "swiglu",
    "write_streams",
]
