# %% [markdown]
# # Exercises 07 · V2
#
# Five tasks on [lesson 07](../../notebooks/07_v2.ipynb), about 75 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("v2.route")` helps in three steps, `solution("v2.route")` shows ours once you have tried, and `status()` at the
# end tells where you are.

# %% tags=["given"]
import math

import torch

# %% [markdown]
# ## 1. Few devices
#
# Choose experts on few devices (V2 report, arXiv 2405.04434, section 2.2.1; V3 report, arXiv 2412.19437, section
# 2.1.2). The $N$ experts lie on $D$ devices, neighbours together: the first $N/D$ on device 0, and so on.
#
# - A device is worth the *sum of its `judged_by` best* scores: 1 in V2 (the best one), 2 in V3.
# - Only the `limit` best devices take part. Of their experts the `k` best are chosen, best first.
# - `scores` is $(T, N)$, and **may be negative**: V3 adds a bias. No two scores of a token are equal.
# - The result is $(T, k)$, int64.


# %% task="v2.route" title="Few devices" kind="implement" difficulty=2 minutes=20
def route(scores, k, devices, limit, judged_by=1):
    """scores: (T, N) -> (T, k) int64, the experts of each token, best first, on at most `limit` devices."""
    ### BEGIN SOLUTION
    grouped = scores.unflatten(-1, (devices, -1))  # (T, D, N/D)
    worth = grouped.topk(judged_by, dim=-1).values.sum(-1)
    best = worth.topk(limit, dim=-1).indices
    outside = torch.ones_like(worth, dtype=torch.bool).scatter(1, best, False)
    return grouped.masked_fill(outside[..., None], -torch.inf).flatten(1).topk(k, dim=-1).indices
    ### END SOLUTION


# %% tags=["driver"]
def devices_of(scores, k, devices, limit, judged_by=1):
    """On how many devices each token's experts lie, at most."""
    size = scores.shape[1] // devices
    return float(
        max(len({expert // size for expert in row}) for row in route(scores, k, devices, limit, judged_by).tolist())
    )


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
    Part,
    Reaches,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    value,
)


def route_by_sorting(scores, k, devices, limit, judged_by=1):
    """Token by token, with lists."""
    chosen = []
    for row in scores.tolist():
        size = len(row) // devices
        homes = [range(device * size, (device + 1) * size) for device in range(devices)]
        worth = [sum(sorted((row[expert] for expert in home), reverse=True)[:judged_by]) for home in homes]
        allowed = sorted(range(devices), key=lambda device: -worth[device])[:limit]
        experts = [expert for device in allowed for expert in homes[device]]
        chosen.append(sorted(experts, key=lambda expert: -row[expert])[:k])
    return torch.tensor(chosen)


def _route(
    group=lambda scores, devices: scores.unflatten(-1, (devices, -1)),
    flat=lambda grouped: grouped.flatten(1),
    worth=lambda grouped, judged_by: grouped.topk(judged_by, dim=-1).values.sum(-1),
    hide=lambda grouped, outside: grouped.masked_fill(outside, -torch.inf),
    pick=lambda shown, k: shown.topk(k, dim=-1).indices,
):
    """Routing with one part of it wrong."""

    def route(scores, k, devices, limit, judged_by=1):
        grouped = group(scores, devices)
        value = worth(grouped, judged_by)
        outside = torch.ones_like(value, dtype=torch.bool).scatter(1, value.topk(limit, dim=-1).indices, False)
        return pick(flat(hide(grouped, outside[..., None])), k)

    return route


@checks(
    "v2.route",
    oracle=route_by_sorting,
    mistakes={
        "experts of other devices are hidden with 0, which beats a negative score: use minus infinity": _route(
            hide=lambda grouped, outside: grouped.masked_fill(outside, 0.0)
        ),
        "all devices take part; only the best `limit` may": _route(hide=lambda grouped, outside: grouped),
        "a device is judged by the sum of all its experts; only the best `judged_by` stand for it": _route(
            worth=lambda grouped, judged_by: grouped.sum(-1)
        ),
        "a device is judged by its best expert alone, whatever judged_by says": _route(
            worth=lambda grouped, judged_by: grouped.amax(-1)
        ),
        "experts are dealt out like cards; neighbours live together, expert e on device e // (N / D)": _route(
            group=lambda scores, devices: scores.unflatten(-1, (-1, devices)).transpose(1, 2),
            flat=lambda grouped: grouped.transpose(1, 2).flatten(1),
        ),
        "the worst devices are taken": _route(
            worth=lambda grouped, judged_by: -grouped.topk(judged_by, dim=-1).values.sum(-1)
        ),
        "the right experts in the wrong order: best first": _route(
            pick=lambda shown, k: shown.topk(k, dim=-1).indices.sort(-1).values
        ),
    },
    alternatives=[
        _route(pick=lambda shown, k: shown.sort(dim=-1, descending=True).indices[:, :k]),
        _route(worth=lambda grouped, judged_by: grouped.sort(-1, descending=True).values[..., :judged_by].mean(-1)),
    ],
    hints=(
        "Which shape must the scores have so that one dimension runs over devices and the next over their experts?",
        "Unflatten to (T, D, N/D). The worth of a device is a topk and a sum; the best devices are a topk of that. Hide "
        "the experts of all others, flatten, take the topk.",
        "outside = torch.ones(T, D, dtype=torch.bool).scatter(1, best, False); grouped.masked_fill(outside[..., None], "
        "-torch.inf).flatten(1).topk(k).indices.",
    ),
)
def _(draw):
    def case(size, devices, k, limit, judged_by, shift=0.0):
        scores = draw.normal(draw.integer(20, 40), size * devices) + shift
        return call("route", scores, k, devices, limit, judged_by)

    plain = case(4, 8, 6, 3, 1)
    yield contract("gives (T, k), changes no input", 1, [plain], [Untouched()])
    yield value(
        "chooses as the definition does",
        3,
        [plain, case(5, draw.integer(4, 7), 4, 2, 2), case(8, 8, 8, 4, 2, shift=-1.5), case(3, 4, 5, 4, 1)],
    )
    scores = draw.normal(50, 32)
    yield value(
        "never uses more devices than allowed",
        1,
        [call("devices_of", scores, 6, 8, 3), call("devices_of", scores, 6, 8, 2)],
        rules=[
            Between(part=Part(step=step), low=1, high=limit, says="a token is sent to more devices than its limit")
            for step, limit in ((0, 3), (1, 2))
        ],
    )


# %% [markdown]
# ## 2. Letters
#
# Write V2's communication loss (eq. 29-31) without its factor. With $D$ devices, of which a token may use $M$, and $T$
# tokens:
#
# $$\sum_j f''_j P''_j, \qquad f''_j = \frac{D}{M T}\,\bigl(\text{tokens sent to device } j\bigr), \qquad
# P''_j = \sum_{i \in j} \frac1T \sum_t s_{i,t}$$
#
# - `experts` is $(T, K)$ int64; a token that has two experts on a device is sent there **once**.
# - `scores` is $(T, N)$, the affinities $s$; neighbours lie on one device. The gradient flows through them alone.
# - The result is a scalar.


# %% task="v2.letters" title="Letters" kind="implement" difficulty=2 minutes=20
def letters(experts, scores, devices, limit):
    """experts: (T, K), scores: (T, N) -> scalar, the communication loss without its factor."""
    ### BEGIN SOLUTION
    size = scores.shape[1] // devices
    sent = torch.zeros(len(experts), devices, dtype=scores.dtype).scatter(1, experts // size, 1.0)
    frequency = sent.mean(0) * devices / limit
    affinity = scores.mean(0).view(devices, -1).sum(1)
    return (frequency * affinity).sum()
    ### END SOLUTION


# %% tags=["driver"]
def with_heads_renamed(experts, scores, devices, limit):
    """The same traffic between devices in another order."""
    size = scores.shape[1] // devices
    other = (devices - 1 - experts // size) * size + experts % size
    return letters(other, scores.view(-1, devices, size).flip(1).flatten(1), devices, limit)


# %% tags=["judge"]
def letters_one_by_one(experts, scores, devices, limit):
    """With sets, device by device."""
    n, size, total = len(experts), scores.shape[1] // devices, 0.0
    homes = [{expert // size for expert in row} for row in experts.tolist()]
    for device in range(devices):
        sent = sum(device in home for home in homes)
        total = total + devices / (limit * n) * sent * scores[:, device * size : (device + 1) * size].sum() / n
    return total


def _letters(
    sent=lambda device, devices: torch.zeros(len(device), devices).scatter(1, device, 1.0).mean(0),
    affinity=lambda scores, devices: scores.mean(0).view(devices, -1).sum(1),
    factor=lambda devices, limit, k: devices / limit,
    home=lambda experts, size, devices: experts // size,
):
    """The loss with one part of it wrong."""

    def letters(experts, scores, devices, limit):
        device = home(experts, scores.shape[1] // devices, devices)
        frequency = sent(device, devices).to(scores.dtype) * factor(devices, limit, experts.shape[1])
        return (frequency * affinity(scores, devices)).sum()

    return letters


def _assignments(device, devices):
    return torch.bincount(device.flatten(), minlength=devices) / len(device)


@checks(
    "v2.letters",
    oracle=letters_one_by_one,
    mistakes={
        "assignments are counted; a token is sent to a device once, however many experts it has there": _letters(
            sent=_assignments
        ),
        "this is the device loss of eq. 26: it counts work, not letters": _letters(
            sent=_assignments, factor=lambda devices, limit, k: devices / k
        ),
        "the limit is missing: a device's fair share is M·T/D tokens": _letters(
            factor=lambda devices, limit, k: devices
        ),
        "D and M are the wrong way round": _letters(factor=lambda devices, limit, k: limit / devices),
        "affinities of a device are averaged; they are summed": _letters(
            affinity=lambda scores, devices: scores.mean(0).view(devices, -1).mean(1)
        ),
        "affinities are summed over the tokens; take their mean": _letters(
            affinity=lambda scores, devices: scores.sum(0).view(devices, -1).sum(1)
        ),
        "experts are dealt out like cards; neighbours live together, expert e on device e // (N / D)": _letters(
            home=lambda experts, size, devices: experts % devices
        ),
    },
    alternatives=[_letters(), letters_one_by_one],
    hints=(
        "How can each row of `experts` be turned into a row of D zeros and ones, a one for each device that is visited?",
        "experts // (N/D) is the device of each expert. Scatter ones into zeros (T, D): twice the same place is still one. "
        "Its mean over tokens, times D/M, is f''.",
        "torch.zeros(T, D).scatter(1, experts // size, 1.0).mean(0) * D / M, times scores.mean(0).view(D, -1).sum(1), "
        "summed.",
    ),
)
def _(draw):
    def case(devices, size, k, limit):
        tokens = draw.integer(8, 20)
        scores = draw.normal(tokens, devices * size).softmax(-1)
        allowed = draw.normal(tokens, devices).argsort(1)[:, :limit]
        within = draw.normal(tokens, limit * size).argsort(1)[:, :k]
        return allowed.gather(1, within // size) * size + within % size, scores, devices, limit

    one = case(4, 5, 5, 2)
    plain = call("letters", *one, grad=True)
    yield contract("gives a scalar, changes no input", 1, [plain], [Untouched(), Reaches()])
    yield value(
        "equals a count device by device, gradients too",
        3,
        [plain, call("letters", *case(8, 3, 6, 3), grad=True), call("letters", *case(2, 5, 4, 2), grad=True)],
    )
    yield invariant(
        "devices in another order have the same loss",
        1,
        [call("letters", *one), call("with_heads_renamed", *one)],
        [Same(left=Part(), right=Part(step=1), says="the same traffic between renamed devices has another loss")],
    )


# %% [markdown]
# ## 3. A bug in dropping
#
# A colleague has built token dropping (section 2.2.4). Each device takes `budget` assignments, the rest fall. His model
# trains, but as soon as dropping is switched on, the loss jumps, although only a few per cent fall. Find the mistake and
# repair it. What must hold: *on each device, whatever stays weighs at least as much as whatever falls.*


# %% task="v2.dropping" title="A bug in dropping" kind="debug" difficulty=2 minutes=15
def keep_within(experts, weights, devices, size, budget):
    """experts and weights: (T, K), `size` experts a device -> (T, K) bool, True where an assignment stays."""
    keep = torch.ones(experts.shape, dtype=torch.bool)
    for device in range(devices):
        tokens, places = (experts // size == device).nonzero(as_tuple=True)
        ### BEGIN SOLUTION
        order = weights[tokens, places].argsort(descending=True)
        ### STUB
        # order = weights[tokens, places].argsort()
        ### END SOLUTION
        falls = order[budget:]
        keep[tokens[falls], places[falls]] = False
    return keep


# %% tags=["driver"]
def weight_that_falls_too_much(experts, weights, devices, size, budget):
    """By how much, on the worst device, the best that falls outweighs the worst that stays."""
    keep, worst = keep_within(experts, weights, devices, size, budget), -1.0
    for device in range(devices):
        here = experts // size == device
        stays, falls = weights[here & keep], weights[here & ~keep]
        if len(stays) and len(falls):
            worst = max(worst, (falls.max() - stays.min()).item())
    return worst


# %% tags=["judge"]
def keep_by_counting(experts, weights, devices, size, budget):
    """An assignment stays if fewer than `budget` of its device weigh more."""
    device = (experts // size).flatten()
    weight = weights.flatten()
    heavier = (device[None] == device[:, None]) & (weight[None] > weight[:, None])
    return (heavier.sum(1) < budget).view(experts.shape)


def _keep(
    order=lambda w: w.argsort(descending=True),
    falls=lambda order, budget: order[budget:],
    home=lambda e, size: e // size,
):
    """Dropping with one part of it wrong."""

    def keep_within(experts, weights, devices, size, budget):
        keep = torch.ones(experts.shape, dtype=torch.bool)
        for device in range(devices):
            tokens, places = (home(experts, size) == device).nonzero(as_tuple=True)
            gone = falls(order(weights[tokens, places]), budget)
            keep[tokens[gone], places[gone]] = False
        return keep

    return keep_within


@checks(
    "v2.dropping",
    oracle=keep_by_counting,
    mistakes={
        "the heaviest assignments fall; the lightest should": _keep(order=lambda w: w.argsort()),
        "the last in the text fall; those with the lowest weight should": _keep(order=lambda w: torch.arange(len(w))),
        "everything beyond the budget stays, and the budget falls": _keep(
            order=lambda w: w.argsort(descending=True), falls=lambda order, budget: order[:budget]
        ),
        "one assignment too many falls": _keep(falls=lambda order, budget: order[max(0, budget - 1) :]),
        "now every expert has the budget; a device has it for all of its experts": lambda experts, weights, devices, size, budget: (
            keep_by_counting(experts, weights, devices * size, 1, budget)
        ),
    },
    alternatives=[
        keep_by_counting,
        _keep(order=lambda w: (-w).argsort()),
        _keep(order=lambda w: w.argsort(), falls=lambda order, budget: order[: max(0, len(order) - budget)]),
    ],
    hints=(
        "Take one device with three assignments of weights 0.1, 0.5, 0.3 and a budget of two. Which one falls?",
        "What does argsort return first, the lightest or the heaviest? And which end of the list is cut off?",
        "The list must begin with what is to stay: argsort(descending=True).",
    ),
)
def _(draw):
    def case(tokens, k, devices, size, budget):
        experts = draw.normal(tokens, devices * size).argsort(1)[:, :k]
        weights = draw.normal(tokens, k).softmax(-1)
        return experts, weights, devices, size, budget

    one = case(draw.integer(20, 40), 3, 4, 4, 12)
    plain = call("keep_within", *one)
    yield invariant(
        "what stays weighs at least as much as what falls",
        2,
        [call("weight_that_falls_too_much", *one)],
        [Between(high=0.0, says="on some device a heavier assignment falls than one that stays")],
    )
    yield value(
        "keeps the heaviest of each device",
        2,
        [plain, call("keep_within", *case(10, 2, 2, 3, 4)), call("keep_within", *case(6, 2, 3, 2, 100))],
    )


# %% [markdown]
# ## 4. Predict, then measure: which pairs stay?
#
# A model has a rotary key of 64 channels, 32 pairs, with $\theta = 10{,}000$. Unlike V2 it was trained on texts of
# **8,192** tokens. YaRN is to stretch it, with $\alpha = 1$ and $\beta = 32$. **How many of its 32 pairs keep exactly their
# speed?** Pair $i$ turns $\theta^{-2i/64}$ radians a token; the ramp begins at the last pair with 32 full turns or more.
# Write your number down, check it, then run the measurement.


# %% task="v2.pairs" title="Which pairs stay?" kind="predict" difficulty=2 minutes=10
### BEGIN SOLUTION
pairs_that_stay = 13  # 64 · ln(8192 / (2π · 32)) / (2 ln 10,000) = 12.9, so pairs 0 to 12
### STUB
# pairs_that_stay = None  # your number
### END SOLUTION

# %%
from minideepseek.layers import RoPE, YaRN

before = RoPE().frequencies(64)
after = RoPE(yarn=YaRN(factor=16, original_len=8192)).frequencies(64)
print(f"predicted {pairs_that_stay} pairs, measured {int((before == after).sum())}")

# %% tags=["judge"]
from minideepseek.layers import RoPE, YaRN

before = RoPE().frequencies(64)
after = RoPE(yarn=YaRN(factor=16, original_len=8192)).frequencies(64)
stay = int((before == after).sum())


@checks(
    "v2.pairs",
    oracle=float(stay),
    mistakes={
        "pairs count from 0: pairs 0 to 12 are one more": 12.0,
        "this is V2, which was trained on 4,096 tokens": 11.0,
        "these are the pairs that make at least one turn; 32 turns are asked for": 25.0,
        "these are all pairs; the slow ones change": 32.0,
        "these are the pairs that change": 19.0,
    },
    hints=(
        "How many turns does pair i make in 8,192 tokens?",
        "Pair i turns 8192 · θ^(-2i/64) / (2π) times. Set that to 32 and solve for i.",
        "i = 64 · ln(8192 / (64π)) / (2 · ln 10,000), rounded down, is the last pair that stays; the first is 0.",
    ),
)
def _(draw):
    yield value("the number is right", 2, [call("pairs_that_stay")], rtol=1e-3, atol=0.0)


# %% [markdown]
# ## 5. The papers against the code
#
# Somebody wrote V2's traffic and YaRN down from the papers. Every line runs. But **two** of the six lines do not do
# what the place beside them says. Which ones?
#
# ```python
# # a  tokens that a device receives (V2 report, arXiv 2405.04434, eq. 30)
# received = torch.bincount((experts // size).flatten(), minlength=devices)
# # b  a device's worth for the routing (V2, section 2.2.1)
# worth = scores.view(-1, devices, size).amax(-1)
# # c  how often an expert is used, 1 if even (V2, eq. 24)
# f = load * n_experts / (k * n_tokens)
# # d  YaRN's blend: `turns` of a pair within the old length (Peng et al., arXiv 2309.00071, section 3.2)
# ramp = ((turns - alpha) / (beta - alpha)).clamp(0, 1)
# speed = (1 - ramp) * speed + ramp * speed / s
# # e  how much scores are sharpened, query and key each (V2, section 3.1.4)
# factor = 0.0707 * math.log(s) + 1
# # f  which assignments fall (V2, section 2.2.4)
# fall = affinity.argsort()[: len(affinity) - budget]
# ```
#
# Write the two letters down, and for yourself what each line should say.


# %% task="v2.papers" title="The papers against the code" kind="compare" difficulty=2 minutes=10
### BEGIN SOLUTION
wrong_lines = "ad"  # a counts assignments, not tokens; d slows the fast pairs (ramp is 1 for many turns)
### STUB
# wrong_lines = None  # two letters, such as "bf"
### END SOLUTION


# %% tags=["driver"]
def right_letters(letters):
    """How many of these were named; none where more than two were."""
    if wrong_lines is None:
        raise NotImplementedError
    named = set(str(wrong_lines).lower()) & set("abcdef")
    return len(named & set(letters)) if len(named) <= 2 else 0


# %% tags=["judge"]
NEITHER = "neither of the two is wrong, or there are more than two letters"
ONE = "one of your two letters is right, the other line does what its source says"


@checks(
    "v2.papers",
    mistakes={NEITHER: "bf", ONE: "ac"},
    alternatives=["D, A", ["a", "d"]],
    hints=(
        "For each line, put in an extreme: a token with all experts on one device; a pair with very many turns.",
        "One is about what counts as a letter, the other about who is slowed.",
        "A token is sent to a device once. And a pair with many turns must keep its speed.",
    ),
)
def _(draw):
    named = [call("right_letters", "ad")]
    yield value("finds one of the two", 1, named, rules=[Between(low=1, says=NEITHER)])
    yield value("finds both", 1, named, rules=[Between(low=1, says=NEITHER), Between(low=2, says=ONE)])
