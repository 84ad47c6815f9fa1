"""Tasks whose answers a few lines of code can check: what reinforcement learning practises on without a reward model.

A task draws problems from a seed, shows how one is solved (flawlessly, or with the flaws one asks for), and judges
answers. Everything is characters: ``tokenizer_for`` makes a vocabulary of some twenty tokens.
"""

from minideepseek.data.tasks.catalogue import open_task
from minideepseek.data.tasks.characters import character_tokenizer, tokenizer_for
from minideepseek.data.tasks.columns import Addition, Multiplication
from minideepseek.data.tasks.countdown import Countdown
from minideepseek.data.tasks.numerals import CHINESE, LATIN
from minideepseek.data.tasks.problem import Flaws, Problem, Step, Task, held_out_problems, practice_problems
from minideepseek.data.tasks.response import answer_of, parse, respond

__all__ = [
    "CHINESE",
    "LATIN",
    "Addition",
    "Countdown",
    "Flaws",
    "Multiplication",
    "Problem",
    "Step",
    "Task",
    "answer_of",
    "character_tokenizer",
    "held_out_problems",
    "open_task",
    "parse",
    "practice_problems",
    "respond",
    "tokenizer_for",
]
