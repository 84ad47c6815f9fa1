"""How much better a response was than one's others to the same question: what takes the place of a critic.

DeepSeekMath, sections 4.1.2 (outcome) and 4.1.3 (process supervision). Which standard deviation is meant no paper says;
here it is that of the group itself (divided by G), so that advantages have a mean of 0 and a deviation of exactly 1,
stay below sqrt(G - 1), and need no epsilon: a group in which all are equal has no advantages at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minideepseek.data.tasks import Problem, Step
from minideepseek.data.tokenizer import Tokenizer

EQUAL = 1e-9  # rewards that differ by less differ by rounding


def is_flat(rewards: Tensor) -> Tensor:
    """(Q, G) rewards -> (Q,) bool: groups whose rewards are all equal, from which there is nothing to learn."""
    return rewards.amax(1) - rewards.amin(1) <= EQUAL * rewards.abs().amax(1).clamp(min=1.0)


def group_advantages(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """Rewards less their group's mean and, with ``scale``, divided by their group's deviation.

    Args:
        rewards: (Q, G) float64, a row each question.
        scale: DeepSeekMath's form. Without it (Dr. GRPO, V3.2) a question does not count more for being nearly
            always, or hardly ever, answered.

    Returns:
        (Q, G); exactly 0 for groups whose rewards are all equal.
    """
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale:
        advantages = advantages / rewards.std(1, keepdim=True, correction=0)
    return advantages.masked_fill(is_flat(rewards)[:, None], 0.0)


def process_advantages(steps: Sequence[Sequence[tuple[int, float]]], width: int, *, scale: bool = True) -> Tensor:
    """Advantages of the tokens of one group whose responses were judged step by step.

    The rewards of all steps of all responses are normalised together; a token's advantage is the sum over the steps
    that end with it or after it, for these are what it may have led to.

    Args:
        steps: of each response, (column of its last token, reward) of each step.
        width: columns.
        scale: as in ``group_advantages``.

    Returns:
        (G, width) float64.
    """
    rewards = torch.tensor([[reward for response in steps for _, reward in response]], dtype=torch.float64)
    normal = iter(group_advantages(rewards, scale=scale)[0].tolist())
    found = torch.zeros(len(steps), width, dtype=torch.float64)
    for row, response in enumerate(steps):
        for column, _ in response:
            found[row, : column + 1] += next(normal)
    return found


def step_columns(tokenizer: Tokenizer, response: list[int], steps: Sequence[Step]) -> list[int]:
    """For each step of a response's text, which of the response's tokens completes it."""
    columns, length, k = [], 0, -1
    for step in steps:
        while length < step.end and k + 1 < len(response):
            k += 1
            length = len(tokenizer.decode(response[: k + 1]))
        columns.append(max(k, 0))
    return columns


def judged_steps(
    tokenizer: Tokenizer, problem: Problem, text: str, response: list[int], start: int
) -> list[tuple[int, float]]:
    """(column, reward) of each step of a response whose first token is predicted at column ``start``: 1 if right.

    The last step, the answer, reaches to the response's end.
    """
    steps = problem.task.steps(problem, text)
    columns = [*step_columns(tokenizer, response, steps[:-1]), len(response) - 1]
    return [(start + column, float(step.right)) for column, step in zip(columns, steps, strict=True)]
