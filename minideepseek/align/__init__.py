"""From a model that continues texts to one that answers questions: tuning, preferences, reinforcement, distilling."""

from minideepseek.align.batch import Batch, Example, encode_example, encode_prompt, pack, pad
from minideepseek.align.distill import OnPolicyConfig, on_policy_distill, rejection_sample
from minideepseek.align.evaluate import Accuracy, examine
from minideepseek.align.grpo import GRPOConfig, grpo
from minideepseek.align.logprobs import response_logprobs, token_entropies, token_logprobs
from minideepseek.align.preference import DPOConfig, Pair, dpo, preference_pairs, train_reward_model
from minideepseek.align.r1 import R1Config, r1
from minideepseek.align.rewards import Reward, accuracy, kept_format, kept_language, length_penalty, weighted
from minideepseek.align.rollout import Rollout, rollout
from minideepseek.align.sft import SFTConfig, demonstrations, sft
from minideepseek.align.warm import warmed_up

__all__ = [
    "Accuracy",
    "Batch",
    "DPOConfig",
    "Example",
    "GRPOConfig",
    "OnPolicyConfig",
    "Pair",
    "R1Config",
    "Reward",
    "Rollout",
    "SFTConfig",
    "accuracy",
    "demonstrations",
    "dpo",
    "encode_example",
    "encode_prompt",
    "examine",
    "grpo",
    "kept_format",
    "kept_language",
    "length_penalty",
    "on_policy_distill",
    "pack",
    "pad",
    "preference_pairs",
    "r1",
    "rejection_sample",
    "response_logprobs",
    "rollout",
    "sft",
    "token_entropies",
    "token_logprobs",
    "train_reward_model",
    "warmed_up",
    "weighted",
]
