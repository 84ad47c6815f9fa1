"""minideepseek: DeepSeek, every generation, rebuilt small, in the open, and checked against the real thing."""

from importlib.metadata import PackageNotFoundError, version

from minideepseek.accounting import report
from minideepseek.checkpoint import load
from minideepseek.errors import UserError
from minideepseek.generate import Speculation, generate, stream
from minideepseek.generations import generations
from minideepseek.model import ModelConfig, Transformer

try:
    __version__ = version("minideepseek")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

__all__ = [
    "ModelConfig",
    "Speculation",
    "Transformer",
    "UserError",
    "__version__",
    "generate",
    "generations",
    "load",
    "report",
    "stream",
]
