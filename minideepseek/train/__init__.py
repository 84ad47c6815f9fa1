"""Training: one loop for all generations, resumable to the bit."""

from minideepseek.train.config import TrainConfig
from minideepseek.train.evaluate import Evaluation, evaluate
from minideepseek.train.interrupt import Interrupted
from minideepseek.train.loop import Result, train
from minideepseek.train.low_precision import in_fp4
from minideepseek.train.metrics import read_metrics
from minideepseek.train.pretrained import trained
from minideepseek.train.recipes import recipe
from minideepseek.train.stages import add_indexers, enter_stage
from minideepseek.train.threads import choose_threads, explain_threads, prepare_cpu

__all__ = [
    "Evaluation",
    "Interrupted",
    "Result",
    "TrainConfig",
    "add_indexers",
    "choose_threads",
    "enter_stage",
    "evaluate",
    "explain_threads",
    "in_fp4",
    "prepare_cpu",
    "read_metrics",
    "recipe",
    "train",
    "trained",
]
