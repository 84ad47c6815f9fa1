"""One idea, one file: its config dataclass, its module, its cache."""

from minideepseek.layers.balance import CommunicationBalance, DeviceBalance, ExpertBalance, LossFree
from minideepseek.layers.capacity import Capacity
from minideepseek.layers.dsa import DSA
from minideepseek.layers.gqa import GQA
from minideepseek.layers.hyper import Birkhoff, HyperConnections
from minideepseek.layers.hashed import HashRouting
from minideepseek.layers.indexer import Indexer
from minideepseek.layers.mla import MLA
from minideepseek.layers.moe import MoE
from minideepseek.layers.mtp import MTP
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.residual import Residual
from minideepseek.layers.rope import RoPE
from minideepseek.layers.router import Groups, TopK
from minideepseek.layers.swiglu import SwiGLU
from minideepseek.layers.yarn import YaRN

__all__ = [
    "DSA",
    "GQA",
    "MLA",
    "MTP",
    "Birkhoff",
    "Capacity",
    "CommunicationBalance",
    "DeviceBalance",
    "ExpertBalance",
    "Groups",
    "HyperConnections",
    "Indexer",
    "LossFree",
    "MoE",
    "HashRouting",
    "RMSNorm",
    "Residual",
    "RoPE",
    "SwiGLU",
    "TopK",
    "YaRN",
]
