"""What people prefer, where no rule can say what is right: learnt directly, or as a reward."""

from minideepseek.align.preference.dpo import DPOConfig, Pair, dpo, dpo_loss, preference_pairs
from minideepseek.align.preference.reward_model import RewardModel, RewardModelConfig, learnt, train_reward_model

__all__ = [
    "DPOConfig",
    "Pair",
    "RewardModel",
    "RewardModelConfig",
    "dpo",
    "dpo_loss",
    "learnt",
    "preference_pairs",
    "train_reward_model",
]
