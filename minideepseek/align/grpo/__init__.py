"""Group relative policy optimisation: learn from what one tried oneself, judged against one's other attempts.

DeepSeekMath (arXiv 2402.03300, section 4) drops PPO's critic: the mean reward of a group of responses to one question
says how well one usually does there, and what a response has above it is its advantage.
"""

from minideepseek.align.grpo.advantages import group_advantages, process_advantages
from minideepseek.align.grpo.loop import grpo
from minideepseek.align.grpo.objective import grpo_objective, k3, unbiased_kl
from minideepseek.align.grpo.settings import GRPOConfig
from minideepseek.align.grpo.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "GRPOConfig",
    "group_advantages",
    "grpo",
    "grpo_objective",
    "k3",
    "process_advantages",
    "unbiased_kl",
]
