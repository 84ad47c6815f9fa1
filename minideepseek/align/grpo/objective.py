"""What GRPO maximises, token by token, as a loss.

With rho = pi/pi_old the ratio of a token's probability to what it was when drawn, and A its advantage:

    min(rho·A, clip(rho, 1 - low, 1 + high)·A) - beta·KL(pi || pi_ref)      (DeepSeekMath, eq. 3)

The reports of V2, V3 and R1 print the ratio of whole responses' probabilities; DeepSeekMath's is meant, token by token.
With one update a rollout rho is 1 and the gradient is that of (A + beta·(pi_ref/pi - 1))·log pi (appendix A.1.6).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minideepseek.align.grpo.settings import GRPOConfig


class Objective(NamedTuple):
    """The loss (scalar) and what to report: ``kl``, ``clipped``, ``masked``, shares of tokens the last two."""

    loss: Tensor
    metrics: dict[str, Tensor]


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(pi || pi_ref) from one sample of pi: r - log r - 1 with r = pi_ref/pi, never negative (eq. 4).

    Its mean over samples of pi is the divergence (Schulman, "Approximating KL divergence", 2020). The mean of its
    gradient is not the divergence's, because sampling depends on the weights too and that part is missing: it is the
    gradient of the divergence the other way round, KL(pi_ref || pi).
    """
    log_ratio = reference - logp
    return log_ratio.exp() - log_ratio - 1


def unbiased_kl(logp: Tensor, old: Tensor, reference: Tensor) -> Tensor:
    """V3.2's estimate (section 3.1): k3 times pi/pi_old, through which the gradient flows too.

    With samples of pi_old both its mean and its gradient's are the divergence's. And where pi has become far smaller
    than pi_ref it does not push a token up without bound, as k3 does.
    """
    return (logp - old).exp() * k3(logp, reference)


def average(values: Tensor, mask: Tensor, cfg: GRPOConfig) -> Tensor:
    """Values of response tokens (B, T) -> scalar, as ``cfg.average`` says."""
    values = values.where(mask, 0.0)
    if cfg.average == "response":
        return (values.sum(1) / mask.sum(1).clamp(min=1)).mean()
    return values.sum() / (mask.sum() if cfg.average == "token" else mask.shape[0] * cfg.max_new_tokens)


def off_policy(logp: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, limit: float) -> Tensor:
    """(B, T) bool: tokens that V3.2's sequence mask leaves out.

    A response that was worse than average, and that the policy has meanwhile made much less likely, says what *not* to
    write to a model that would not write it; learning from it is known to unsettle training. What was better than
    average is kept, however old.
    """
    drift = ((old - logp.detach()) * mask).sum(1) / mask.sum(1).clamp(min=1)
    return (advantages < 0) & (drift > limit)[:, None] & mask


def grpo_objective(
    logp: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cfg: GRPOConfig, *, reference: Tensor | None = None
) -> Objective:
    """The loss of a minibatch. All tensors are (B, T).

    Args:
        logp: log-probabilities under the policy, which is differentiated.
        old: ... when the responses were drawn.
        advantages: of each token.
        mask: bool, which are tokens of responses.
        cfg: the settings.
        reference: log-probabilities under the reference; not needed where ``cfg.beta`` is 0.
    """
    old, advantages = old.detach(), advantages.to(logp.dtype)
    ratio = (logp - old).exp()
    free = ratio * advantages
    bounded = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * advantages
    gain = torch.minimum(free, bounded)
    left_out = off_policy(logp, old, advantages, mask, cfg.off_policy)
    gain = gain.masked_fill(left_out, 0.0)
    tokens = mask.sum()
    metrics = {
        "clipped": ((bounded < free) & mask & ~left_out).sum() / tokens,
        "masked": left_out.sum() / tokens,
    }
    if cfg.beta:
        assert reference is not None
        reference = reference.detach()
        kl = unbiased_kl(logp, old, reference) if cfg.divergence == "unbiased" else k3(logp, reference)
        gain = gain - cfg.beta * kl
        metrics["kl"] = (kl.detach() * mask).sum() / tokens
    return Objective(-average(gain, mask, cfg), metrics)
