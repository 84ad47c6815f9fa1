"""How often a model is right: in one attempt, in any of k, in the majority of k.

Sampling shows what greedy decoding hides. DeepSeekMath (arXiv 2402.03300, section 5.2.2) finds that reinforcement
learning raises maj@k and not pass@k: the right answer was already among the model's, and becomes its most frequent one.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minideepseek.align.rollout import rollout
from minideepseek.data.tasks import Problem, answer_of, parse
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError
from minideepseek.generate import Sampling
from minideepseek.model import Transformer


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What ``examine`` found.

    Attributes:
        pass_at: k -> chance that at least one of k attempts is right; ``pass_at[1]`` is plain accuracy.
        majority_at: k -> chance that the most frequent answer of k attempts is right.
        error: standard error of ``pass_at[1]`` over problems.
        formatted: share of responses that keep to the format.
        length: mean length of responses in tokens.
        unfinished: share of responses that did not end in the room they had; V1 counts as such answers that repeat
            themselves for ever (report, section 4).
        problems: how many.
    """

    pass_at: dict[int, float]
    majority_at: dict[int, float]
    error: float
    formatted: float
    length: float
    unfinished: float
    problems: int


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that k of n attempts, of which ``right`` are right, hold a right one: 1 - C(n - right, k)/C(n, k).

    The unbiased estimate of Chen et al. (arXiv 2107.03374, eq. 1); 1 - (1 - right/n)^k would be too low.
    """
    if not (1 <= k <= n and 0 <= right <= n):
        raise ValueError(f"pass@{k} of {n} attempts with {right} right ones makes no sense")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def majority_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """Chance that the most frequent of k answers is right, over the disjoint runs of k in ``answers``.

    Attempts without an answer (None) do not vote. Equally frequent answers share: one of them is drawn.
    """
    if not 1 <= k <= len(answers) or len(answers) != len(right):
        raise ValueError(f"maj@{k} of {len(answers)} answers and {len(right)} judgements makes no sense")
    shares = []
    for start in range(0, len(answers) - k + 1, k):
        votes = Counter(answer for answer in answers[start : start + k] if answer is not None)
        most = max(votes.values(), default=0)
        winners = [answer for answer, n in votes.items() if n == most]
        judged = dict(zip(answers[start : start + k], right[start : start + k], strict=True))
        shares.append(sum(judged[answer] for answer in winners) / len(winners) if winners else 0.0)
    return sum(shares) / len(shares)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of ``values``, from their own spread; one alone shows none: 0."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def examine(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    attempts: int = 8,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
    at_once: int = 256,
    seed: int = 0,
) -> Accuracy:
    """Let a model answer problems, several times each.

    Args:
        model: of any generation.
        tokenizer: the model's.
        problems: the exam.
        attempts: responses to each; k goes through 1, 2, 4, ... and ``attempts`` itself.
        temperature: 0 is greedy; then one attempt is enough.
        top_p: as in ``generate``. R1's exams use temperature 0.6 and top-p 0.95.
        max_new_tokens: of a response at most.
        at_once: responses sampled together.
        seed: the same seed gives the same answers.

    Raises:
        UserError: nothing to do.
    """
    if not problems or attempts < 1 or at_once < 1:
        raise UserError(f"an exam of {len(problems)} problems with {attempts} attempts, {at_once} at once, has no end")
    generator = torch.Generator(model.embed.weight.device).manual_seed(seed)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    model.eval()
    ks = sorted({2**i for i in range(attempts.bit_length())} | {attempts})
    counts: list[int] = []
    majority: dict[int, float] = dict.fromkeys(ks, 0.0)
    formatted = tokens = unfinished = 0
    size = max(1, at_once // attempts)
    for start in range(0, len(problems), size):
        found = rollout(
            model,
            tokenizer,
            problems[start : start + size],
            group=attempts,
            sampling=sampling,
            max_new_tokens=max_new_tokens,
            generator=generator,
        )
        answers = [answer_of(text) for text in found.texts]
        right = [problem.solved_by(answer) for problem, answer in zip(found.problems, answers, strict=True)]
        formatted += sum(parse(text) is not None for text in found.texts)
        tokens += int(found.samples.lengths.sum())
        unfinished += int((~found.samples.ended).sum())
        for first in range(0, len(answers), attempts):
            own = slice(first, first + attempts)
            counts.append(sum(right[own]))
            for k in ks:
                majority[k] += majority_at_k(answers[own], right[own], k) / len(problems)
    return Accuracy(
        pass_at={k: sum(pass_at_k(attempts, count, k) for count in counts) / len(counts) for k in ks},
        majority_at=majority,
        error=standard_error([count / attempts for count in counts]),
        formatted=formatted / (attempts * len(problems)),
        length=tokens / (attempts * len(problems)),
        unfinished=unfinished / (attempts * len(problems)),
        problems=len(problems),
    )
