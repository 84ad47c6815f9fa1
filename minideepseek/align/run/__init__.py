"""What all methods of alignment share beside the update: the loop, which may be killed and then goes on exactly."""

from minideepseek.align.run.loop import Keeping, Moving, OnStep, run
from minideepseek.align.run.order import Cycle, Shuffled

__all__ = ["Cycle", "Keeping", "Moving", "OnStep", "Shuffled", "run"]
