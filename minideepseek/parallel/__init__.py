"""Many devices: how work and weights are divided among them, and what waiting and sending cost.

==========  =======================================================================
module      holds
==========  =======================================================================
pipeline    ``Schedule``, ``simulate``, ``check``: who waits for whom, and for how long
schedules   ``gpipe``, ``one_f_one_b``, ``zero_bubble``, ``dual_pipe``, ``dual_pipe_v``
overlap     ``side_by_side``: a pair of passes in pieces, one computed while the other is sent
run         ``run_schedule``: any of them, worked through by processes
eplb        ``place``, ``place_by_groups``: where experts and their replicas live
traffic     ``traffic``: copies of tokens between nodes and within
memory      ``memory``: what a device must remember of a divided model
experts     ``parallel_experts``: the mixture whose experts are elsewhere
team        ``Team``, ``joined``, ``together``: processes that train as one (``train.train`` asks for them)
==========  =======================================================================
"""

from minideepseek.parallel.eplb import Placement, place, place_by_groups
from minideepseek.parallel.experts import parallel_experts
from minideepseek.parallel.memory import Division, Memory, memory
from minideepseek.parallel.overlap import Layer, one_after_the_other, side_by_side
from minideepseek.parallel.pipeline import Costs, Op, Schedule, Timeline, check, simulate
from minideepseek.parallel.run import run_schedule
from minideepseek.parallel.schedules import dual_pipe, dual_pipe_v, gpipe, one_f_one_b, zero_bubble
from minideepseek.parallel.team import Team, joined, together
from minideepseek.parallel.traffic import Cluster, Traffic, traffic

__all__ = [
    "Cluster",
    "Costs",
    "Division",
    "Layer",
    "Memory",
    "Op",
    "Placement",
    "Schedule",
    "Team",
    "Timeline",
    "Traffic",
    "check",
    "dual_pipe",
    "dual_pipe_v",
    "gpipe",
    "joined",
    "memory",
    "one_after_the_other",
    "one_f_one_b",
    "parallel_experts",
    "place",
    "place_by_groups",
    "run_schedule",
    "side_by_side",
    "simulate",
    "together",
    "traffic",
    "zero_bubble",
]
