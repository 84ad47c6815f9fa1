"""Writing text with a model: how a token is drawn, one after the other, or several at a time."""

from minideepseek.generate.plain import generate, stream
from minideepseek.generate.sampling import Sampling, filter_logits
from minideepseek.generate.speculate import Speculation

__all__ = ["Sampling", "Speculation", "filter_logits", "generate", "stream"]
