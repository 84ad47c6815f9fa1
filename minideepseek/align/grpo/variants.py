"""The forms of GRPO as a chain of small differences: what each paper changed, at the size of a mini.

Learning rates, numbers of questions and of responses are ours throughout. So is what a paper does not publish: V3.2
says neither its clipping nor its weight of the divergence nor its limit of drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as evolve
from types import MappingProxyType

from minideepseek.align.grpo.settings import GRPOConfig

# arXiv 2402.03300, section 4.2: one update a rollout, so that nothing is ever clipped.
DEEPSEEK_MATH = GRPOConfig(epochs=1, beta=0.04)

# arXiv 2501.12948 and Nature 645: minibatches, of which all but the first are a little off-policy; hardly a divergence,
# from a reference that catches up (every 400 of 10,400 steps); and hardly a clip, 10, which only R1 itself says.
R1 = evolve(DEEPSEEK_MATH, minibatches=4, beta=0.001, reference_every=25, clip_low=10.0, clip_high=10.0)

# arXiv 2503.20783: without what favours long wrong answers, and questions that are nearly always or never answered.
DR_GRPO = evolve(DEEPSEEK_MATH, minibatches=4, scale=False, average="constant", beta=0.0)

# arXiv 2503.14476: room upwards for rare tokens, tokens that count alike, groups that teach, no divergence.
DAPO = evolve(DEEPSEEK_MATH, minibatches=4, clip_high=0.28, average="token", resample=4, beta=0.0)

# The V3.2 report, section 3.1: an unbiased divergence, no more responses that the policy has left behind, and what
# every variant here has from it: the routing and the mask of the sampler.
V32 = evolve(DEEPSEEK_MATH, minibatches=4, scale=False, divergence="unbiased", off_policy=0.1)

VARIANTS: Mapping[str, GRPOConfig] = MappingProxyType(
    {"deepseek-math": DEEPSEEK_MATH, "r1": R1, "dr-grpo": DR_GRPO, "dapo": DAPO, "v3.2": V32}
)
