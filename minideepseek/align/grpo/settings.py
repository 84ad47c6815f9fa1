"""Every choice of a GRPO run, and the paper that made it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from minideepseek.align.update import UpdateConfig
from minideepseek.errors import UserError
from minideepseek.generate import Sampling


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(UpdateConfig):
    """Settings of GRPO. The defaults are DeepSeekMath's form at the size of a mini.

    DeepSeekMath trains with 16 questions, 64 responses to each, lr 1e-6, beta 0.04, one update a rollout (section
    4.2); R1-Zero with 32 questions, 16 responses, lr 3e-6, beta 0.001, rollouts of 8,192 responses in 16 minibatches,
    and a reference replaced every 400 steps (Nature 645, methods).
    """

    steps: int = 100
    """Rollouts."""
    questions: int = 24
    """Questions in a rollout."""
    group: int = 8
    """Responses to each, G."""
    max_new_tokens: int = 32
    """Of a response at most, its end included."""
    temperature: float = 1.0
    """Responses are drawn at this temperature, which is part of the policy that is trained."""
    top_p: float = 1.0
    """Draw from the smallest set of tokens with this probability together."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    supervision: Literal["outcome", "process"] = "outcome"
    """What is judged: whole responses, or each of their steps (DeepSeekMath, sections 4.1.2 and 4.1.3)."""
    scale: bool = True
    """Divide advantages by the group's standard deviation. Without: Dr. GRPO (arXiv 2503.20783), and V3.2's formula."""
    average: Literal["response", "token", "constant"] = "response"
    """A response counts once, whatever its length (DeepSeekMath); a token counts once (DAPO); or each token counts
    1/max_new_tokens (Dr. GRPO), so that being long does not make mistakes cheap."""
    clip_low: float = 0.2
    """The probability of a token is not pushed below 1 - this times what it was when it was drawn (PPO)."""
    clip_high: float = 0.2
    """... nor above 1 + this times. DAPO (arXiv 2503.14476) raises it to 0.28, for rare tokens' sake; R1 to 10."""
    beta: float = 0.02
    """Weight of the divergence from the reference; 0 needs none (Dr. GRPO, DAPO)."""
    divergence: Literal["k3", "unbiased"] = "k3"
    """Its estimate: DeepSeekMath's (eq. 4), or V3.2's (section 3.1), whose gradient is that of the divergence too."""
    reference_every: int = 0
    """Let the reference catch up with the policy after so many steps; 0 keeps the first."""
    epochs: int = 2
    """Times a rollout is gone through: mu."""
    minibatches: int = 1
    """Updates in which it is gone through once."""
    resample: int = 0
    """Replace groups that teach nothing, all their rewards being equal, by up to so many further rollouts (DAPO's
    "dynamic sampling"; it goes on until the batch is full)."""
    off_policy: float = math.inf
    """Leave out responses below average that the policy has moved away from by more than this, in nats a token (V3.2:
    "off-policy sequence masking")."""
    keep_routing: bool = True
    """Train through the experts that were used when sampling (V3.2)."""
    keep_mask: bool = True
    """Train on the tokens that top_p and top_k let through (V3.2)."""
    checkpoint_every: int = 10
    """Rollouts between checkpoints, in a folder; 0 saves only when interrupted and at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(1, "questions", "max_new_tokens", "epochs", "minibatches")
        self.require(2, "group")
        self.require(0, "clip_low", "clip_high", "beta", "reference_every", "resample")
        if self.temperature == 0:
            raise UserError("temperature=0 draws the same response again and again: a group of them teaches nothing")
        Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        if self.questions % self.minibatches:
            raise UserError(f"questions={self.questions} cannot be cut into minibatches={self.minibatches}")
        if self.resample and self.supervision == "process":
            raise UserError(
                f"resample={self.resample} looks at outcomes, which process supervision does not learn from"
            )
        if not self.off_policy > 0:
            raise UserError(f"off_policy={self.off_policy} must be positive; infinity keeps every response")
        for name, known in (
            ("supervision", ("outcome", "process")),
            ("average", ("response", "token", "constant")),
            ("divergence", ("k3", "unbiased")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown; choose {', '.join(known)}")

    @property
    def sampling(self) -> Sampling:
        """How responses are drawn."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)

    @property
    def truncates(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_p < 1 or self.top_k is not None
