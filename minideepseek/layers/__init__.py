"""One idea, one file: its config dataclass, its module, its cache."""

from minideepseek.layers.balance import CommunicationBalance, DeviceBalance, ExpertBalance, LossFree
from minideepseek.layers.capacity import Capacity
from minideepseek.layers.compressed import CSA, HCA
from minideepseek.layers.dsa import DSA
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.gqa import GQA
from minideepseek.layers.hashed import HashRouting
from minideepseek.layers.hyper import Birkhoff, HyperConnections
from minideepseek.layers.indexer import Indexer
from minideepseek.layers.mla import MLA
from minideepseek.layers.moe import MoE
from minideepseek.layers.mtp import MTP
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.residual import Residual
from minideepseek.layers.rope import RoPE
from minideepseek.layers.router import Groups, TopK
from minideepseek.layers.shared_kv import SharedKV
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.layers.yarn import YaRN

__all__ = [
    "CSA",
    "DSA",
    "FP4",
    "FP8",
    "GQA",
    "HCA",
    "MLA",
    "MTP",
    "Birkhoff",
    "Capacity",
    "CommunicationBalance",
    "DeviceBalance",
    "ExpertBalance",
    "Groups",
    "HashRouting",
    "HyperConnections",
    "Indexer",
    "LossFree",
    "MoE",
    "RMSNorm",
    "Residual",
    "RoPE",
    "SharedKV",
    "SwiGLU",
    "TopK",
    "YaRN",
]
