"""A reward model: a transformer that says with one number how good a response is, learnt from preferences.

For what no rule can judge. DeepSeek's start from the tuned chat model (V2 report, section 4.2; V3 report, section
5.2.1) and learn from pairs that the preferred response should score higher. In Bradley and Terry's model of comparisons
the chance of being preferred is the sigmoid of the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minideepseek.align.batch import Batch, Example, encode_example, pad
from minideepseek.align.preference.dpo import Pair
from minideepseek.align.rewards import Reward
from minideepseek.align.run import OnStep, Shuffled, run
from minideepseek.align.update import UpdateConfig, Updater
from minideepseek.data.tasks import Problem
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.model import Transformer
from minideepseek.train.metrics import Record


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig(UpdateConfig):
    """Settings of learning a reward model. R1's learns one epoch at 6e-6 in batches of 256."""

    steps: int = 100
    """Updates."""
    batch_size: int = 16
    """Pairs in an update."""
    lr: float = 3e-4
    """Peak learning rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "batch_size")


class RewardModel(nn.Module):
    """A copy of a model, read at the last token of a response by one row of weights in place of the head's V.

    Args:
        model: where it starts from; it is left alone.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.head.requires_grad_(False)
        self.score = nn.Parameter(model.head.weight.new_zeros(model.cfg.d_model))

    def forward(self, batch: Batch) -> Tensor:
        """Scores (B,) of responses, one a row. At the start all are 0."""
        ids = batch.ids
        columns = torch.arange(1, ids.shape[1], device=ids.device)
        last = (columns * batch.mask).amax(1)  # of each row, where its response ends
        hidden = self.model.hidden(ids, self.model.context(ids))
        return hidden[torch.arange(len(ids), device=ids.device), last] @ self.score


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected), of each pair: how surprising the preference is, in nats."""
    return -F.logsigmoid(chosen - rejected)


def train_reward_model(
    model: Transformer,
    pairs: Sequence[Pair],
    cfg: RewardModelConfig | None = None,
    *,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> tuple[RewardModel, list[Record]]:
    """A reward model that starts from ``model`` and learns to score chosen responses above rejected ones.

    Args:
        model: usually the tuned one that wrote the responses; it is left alone.
        pairs: each comes once before any comes again.
        cfg: the settings.
        on_step: called after each step with its record.
        progress: show a progress bar.

    Returns:
        The reward model, and a record a step: ``loss`` in nats a pair, ``accuracy`` (share of pairs in the right
        order), ``lr``, ``grad_norm``.

    Raises:
        UserError: no pairs, or the loss diverged.
    """
    cfg = cfg or RewardModelConfig()
    if not pairs:
        raise UserError("there are no pairs to learn from; did every response earn the same?")
    judge = RewardModel(model)
    updater = Updater(judge, cfg)
    order = Shuffled(len(pairs), cfg.batch_size, cfg.seed)

    def step(i: int) -> Record:
        chosen, rejected = score_pairs(judge, [pairs[row] for row in next(order)])
        right = (chosen > rejected).double().mean().item()
        return updater.update([preference_loss(chosen, rejected).mean()]) | {"accuracy": right}

    return judge, run(updater, step, name="judging", on_step=on_step, progress=progress)


def score_pairs(judge: RewardModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Scores (B,) of the chosen and of the rejected responses."""
    rows = [Example(pair.prompt, response) for pair in pairs for response in (pair.chosen, pair.rejected)]
    scores = judge(pad(rows).to(judge.score.device))
    return scores[::2], scores[1::2]


def learnt(judge: RewardModel, tokenizer: Tokenizer) -> Reward:
    """The reward model as a reward like any other, for texts of responses that have ended."""

    def score(problem: Problem, response: str) -> float:
        batch = pad([encode_example(tokenizer, problem.prompt, response)])
        with torch.no_grad():
            return judge(batch.to(judge.score.device)).item()

    return score
