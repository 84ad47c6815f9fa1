# %% [markdown]
# # Exercises 08 · Balancing without a loss
#
# Four tasks on [lesson 08](../../notebooks/08_balancing.ipynb), about 55 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("balance.route")` helps in three steps, `solution("balance.route")` shows ours once you have tried, and
# `status()` at the end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F

# %% [markdown]
# ## 1. V3's choice, and V3's weights
#
# Write the router of DeepSeek-V3 (report, eq. 12 to 16), without its limit on nodes:
#
# - affinities $s_i = \mathrm{sigmoid}(\text{logit}_i)$, each expert by itself;
# - chosen are the $K$ experts with the largest $s_i + b_i$, best first;
# - their weights are $s_i$, *without* $b_i$, divided by their sum, times `scale`.
#
# `logits` is $(N, E)$ and `b` is $(E,)$. Return the experts, int64 of shape $(N, K)$, and the weights, $(N, K)$. The
# gradient of the weights must reach the logits, and must not reach `b`.


# %% task="balance.route" title="V3's choice, and V3's weights" kind="implement" difficulty=1 minutes=15
def route(logits, b, k, scale):
    """logits: (N, E), b: (E,) -> experts (N, K) int64, weights (N, K)."""
    ### BEGIN SOLUTION
    s = logits.sigmoid()
    experts = (s + b).topk(k).indices
    weights = s.gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True) * scale
    ### END SOLUTION


# %% tags=["driver"]
def weights_of(logits, b, k, scale):
    """The weights alone."""
    return route(logits, b, k, scale)[1]


def experts_of(logits, b, k, scale):
    """The experts alone."""
    return route(logits, b, k, scale)[0]


def gradient_of_b(logits, b, k, scale):
    """What reaches the corrections: zeros, or nothing at all."""
    leaf = b.clone().requires_grad_()
    weights = weights_of(logits.clone().requires_grad_(), leaf, k, scale)
    (found,) = torch.autograd.grad((weights * torch.arange(1.0, k + 1)).sum(), leaf, allow_unused=True)
    return torch.zeros_like(b) if found is None else found


# %% tags=["judge"]
from minideepseek.judge.author import Differs, Equals, Part, Same, Untouched, call, checks, contract, invariant, value


def route_token_by_token(logits, b, k, scale):
    """Sorted lists of numbers."""
    experts, weights = [], []
    for row in logits:
        s = 1 / (1 + torch.exp(-row))
        best = sorted(range(len(row)), key=lambda i: -(s[i] + b[i]).item())[:k]
        experts.append(best)
        weights.append(torch.stack([s[i] for i in best]) * scale / sum(s[i] for i in best))
    return torch.tensor(experts), torch.stack(weights)


def _route(
    affinity=torch.sigmoid,
    choose=lambda s, b, k: (s + b).topk(k).indices,
    weigh=lambda s, b, experts: s.gather(1, experts),
    share=lambda weights, s: weights / weights.sum(-1, keepdim=True),
    multiply=lambda weights, scale: weights * scale,
):
    """The router with one part of it wrong."""

    def route(logits, b, k, scale):
        s = affinity(logits)
        experts = choose(s, b, k)
        return experts, multiply(share(weigh(s, b, experts), s), scale)

    return route


def _before_the_sigmoid(logits, b, k, scale):
    s = (logits + b).sigmoid()
    weights, experts = s.topk(k)
    return experts, weights / weights.sum(-1, keepdim=True) * scale


def _reordered(s, b, k):
    experts = (s + b).topk(k).indices
    return experts.gather(1, s.gather(1, experts).argsort(descending=True))


@checks(
    "balance.route",
    oracle=route_token_by_token,
    mistakes={
        "the correction is in the weights, too; it takes part in the choice alone": _route(
            weigh=lambda s, b, experts: (s + b).gather(1, experts)
        ),
        "the correction is added before the sigmoid, and so gets into choice and weights": _before_the_sigmoid,
        "the correction is not used: experts are chosen by s + b": _route(choose=lambda s, b, k: s.topk(k).indices),
        "the correction is subtracted; experts are chosen by s + b": _route(
            choose=lambda s, b, k: (s - b).topk(k).indices
        ),
        "the affinities are a softmax; V3 takes the sigmoid of each expert by itself": _route(
            affinity=lambda logits: logits.softmax(-1)
        ),
        "the weights are not divided by their sum": _route(share=lambda weights, s: weights),
        "the weights are divided by the sum over all experts; divide by that of the chosen ones": _route(
            share=lambda weights, s: weights / s.sum(-1, keepdim=True)
        ),
        "the weights go through a softmax; divide them by their sum": _route(
            share=lambda weights, s: weights.softmax(-1)
        ),
        "the factor scale is missing": _route(multiply=lambda weights, scale: weights),
        "the experts are sorted by their weight; the best is the one with the largest s + b": _route(choose=_reordered),
    },
    alternatives=[
        _route(),
        _route(choose=lambda s, b, k: (s.detach() + b).argsort(-1, descending=True)[:, :k]),
        _route(affinity=lambda logits: 1 / (1 + (-logits).exp()), weigh=lambda s, b, e: torch.take_along_dim(s, e, 1)),
    ],
    hints=(
        "Two numbers for each expert: one that decides, one that weighs. Which of them knows b?",
        "s = logits.sigmoid(); topk of s + b gives the indices; gather the *same* columns from s; divide by their sum; "
        "multiply by scale.",
        "experts = (s + b).topk(k).indices; weights = s.gather(1, experts); return experts, weights / weights.sum(-1, "
        "keepdim=True) * scale.",
    ),
)
def _(draw):
    def case(tokens, experts, k):
        b = 0.3 * draw.normal(experts)
        return draw.normal(tokens, experts), b, k, 0.5 + 0.25 * draw.integer(3, 9)

    one, k = case(draw.integer(12, 30), draw.integer(7, 12), draw.integer(2, 5)), draw.integer(2, 4)
    yield contract("gives experts and weights, changes no input", 1, [call("route", *one)], [Untouched()])
    yield value(
        "experts and weights are those of the formula",
        3,
        [call("route", *one), call("route", *case(9, 20, k)), call("route", *case(5, 6, 1))],
    )
    logits, b, k, scale = case(draw.integer(10, 20), 8, 3)
    yield invariant(
        "the correction moves the choice, and nothing else",
        2,
        [
            call("experts_of", logits, b, k, scale),
            call("experts_of", logits, b + 0.25, k, scale),
            call("experts_of", logits, 0 * b, k, scale),
            call("gradient_of_b", logits, b, k, scale),
            call("weights_of", logits, b + 10.0, 8, scale),
            call("weights_of", logits, 0 * b + 10.0, 8, scale),
        ],
        [
            Same(left=Part(), right=Part(step=1), says="the same number added to all corrections changes the choice"),
            Differs(left=Part(), right=Part(step=2), says="the correction makes no difference to the choice"),
            Equals(part=Part(step=3), expected=torch.zeros(8)),
        ],
    )


# %% [markdown]
# ## 2. One correction for the whole step
#
# After a step of the training: correct `b` by the sign rule (Wang et al., arXiv 2408.15664, algorithm 1), and report
# how uneven the load was. The batch was computed in several pieces (gradient accumulation, or machines): `pieces` is a
# list of int64 tensors $(N_i, K)$, the experts that the tokens of each piece chose. Pieces may be of unequal length,
# and some experts may have been chosen by nobody.
#
# Return a dict: `"b"` is the new correction, $(E,)$, and the old one is left alone; `"max_violation"` is the MaxVio of
# the *whole* batch, $(\max \mathrm{load} - \overline{\mathrm{load}}) / \overline{\mathrm{load}}$, as a float.


# %% task="balance.correct" title="One correction for the whole step" kind="implement" difficulty=2 minutes=15
def correct(b, pieces, gamma):
    """b: (E,), pieces: list of (N_i, K) int64 -> {"b": (E,), "max_violation": float}."""
    ### BEGIN SOLUTION
    load = sum(torch.bincount(piece.flatten(), minlength=len(b)) for piece in pieces).to(b.dtype)
    mean = load.mean()
    return {"b": b + gamma * torch.sign(mean - load), "max_violation": ((load.max() - mean) / mean).item()}
    ### END SOLUTION


# %% tags=["driver"]
def in_one_piece(b, pieces, gamma):
    """The same batch, not cut."""
    return correct(b, [torch.cat(list(pieces))], gamma)


# %% tags=["judge"]
def correct_by_counting(b, pieces, gamma):
    counts = [0] * len(b)
    for piece in pieces:
        for expert in piece.flatten().tolist():
            counts[expert] += 1
    mean = sum(counts) / len(counts)
    moved = [x + gamma * ((count < mean) - (count > mean)) for x, count in zip(b.tolist(), counts, strict=True)]
    return {"b": torch.tensor(moved, dtype=b.dtype), "max_violation": max(counts) / mean - 1}


def _loads(b, pieces):
    return sum(torch.bincount(piece.flatten(), minlength=len(b)) for piece in pieces).to(b.dtype)


def _correct(step=lambda load: (load.mean() - load).sign(), violation=lambda load: load.max() / load.mean() - 1):
    """The correction with one part of it wrong."""

    def correct(b, pieces, gamma):
        load = _loads(b, pieces)
        return {"b": b + gamma * step(load), "max_violation": violation(load).item()}

    return correct


def _piece_by_piece(b, pieces, gamma):
    for piece in pieces:
        load = _loads(b, [piece])
        b = b + gamma * (load.mean() - load).sign()
    load = _loads(b, pieces)
    return {"b": b, "max_violation": (load.max() / load.mean() - 1).item()}


def _last_piece(b, pieces, gamma):
    return _correct()(b, pieces[-1:], gamma)


def _violation_of_pieces(b, pieces, gamma):
    worst = [_correct()(b, [piece], gamma)["max_violation"] for piece in pieces]
    return _correct()(b, pieces, gamma) | {"max_violation": sum(worst) / len(worst)}


def _in_place(b, pieces, gamma):
    load = _loads(b, pieces)
    b += gamma * (load.mean() - load).sign()
    return {"b": b, "max_violation": (load.max() / load.mean() - 1).item()}


@checks(
    "balance.correct",
    oracle=correct_by_counting,
    mistakes={
        "b is corrected after every piece; sum the loads of all pieces first, and correct once": _piece_by_piece,
        "only the last piece is counted; the batch is all of them": _last_piece,
        "this is the mean of the pieces' violations; the load of the batch is the sum of its pieces": _violation_of_pieces,
        "busy experts are pushed up: the sign is the wrong way round": _correct(
            lambda load: (load - load.mean()).sign()
        ),
        "the correction is in proportion to the error; the rule takes its sign": _correct(
            lambda load: (load.mean() - load) / load.mean()
        ),
        "loads are compared with the median; the rule takes the mean": _correct(
            lambda load: (load.quantile(0.5) - load).sign()
        ),
        "only busy experts are corrected; idle ones must be pushed up": _correct(
            lambda load: (load.mean() - load).sign().clamp(max=0)
        ),
        "MaxVio is measured against the mean; this divides by the largest load": _correct(
            violation=lambda load: (load.max() - load.mean()) / load.max()
        ),
        "this is the largest load over the mean; MaxVio is by how much it exceeds the mean": _correct(
            violation=lambda load: load.max() / load.mean()
        ),
        "it changes an input in place; make a new tensor instead": _in_place,
    },
    alternatives=[
        _correct(),
        _correct(lambda load: torch.where(load > load.mean(), -1.0, torch.where(load < load.mean(), 1.0, 0.0))),
        lambda b, pieces, gamma: _correct()(b, [torch.cat([piece.flatten() for piece in pieces])], gamma),
    ],
    hints=(
        "What is the load of the batch, if you know those of its pieces? And how long must a table of loads be if the last "
        "expert was chosen by nobody?",
        "torch.bincount(piece.flatten(), minlength=E) for each piece, and the sum of them. Then gamma times the sign of "
        "(mean - load), added to b without changing b.",
        "load = sum(torch.bincount(p.flatten(), minlength=len(b)) for p in pieces).to(b.dtype); b + gamma * "
        "torch.sign(load.mean() - load); (load.max() - load.mean()) / load.mean().",
    ),
)
def _(draw):
    experts = draw.integer(6, 10)
    lean = torch.arange(experts) * 0.4 + draw.normal(experts, scale=0.2)

    def piece(tokens, k=2, reach=experts):
        return (draw.normal(tokens, reach) - lean[:reach]).topk(k).indices

    b, gamma = draw.normal(experts, scale=0.1), 0.001 * draw.integer(1, 9)
    pieces = [piece(draw.integer(20, 40)), piece(draw.integer(5, 10)), piece(draw.integer(50, 70))]
    plain = call("correct", b, pieces, gamma)
    yield contract("gives a new correction and a number, changes no input", 1, [plain], [Untouched()])
    idle = [piece(30, 3, experts - 2), piece(11, 3, experts - 1)]
    yield value(
        "equals counting one by one",
        3,
        [plain, call("correct", b, idle, gamma), call("correct", 0 * b, pieces[:1], 1.0)],
        rtol=1e-5,  # the violation may be computed in float32
        atol=1e-6,
    )
    yield invariant(
        "how a batch is cut makes no difference",
        1,
        [plain, call("in_one_piece", b, pieces, gamma), call("correct", b, pieces[::-1], gamma)],
        [
            Same(left=Part(), right=Part(step=1), says="the batch in one piece is corrected in another way", rtol=1e-5),
            Same(left=Part(), right=Part(step=2), says="the order of the pieces makes a difference", rtol=1e-5),
        ],
    )


# %% [markdown]
# ## 3. Debug: the loss that remained
#
# V3 keeps a small loss within each sequence (report, eq. 17 to 20). For a sequence of $T$ tokens:
#
# $$\mathcal{L} = \alpha \sum_i f_i P_i, \quad f_i = \frac{E}{K\,T}\#\{t : s_{i,t} \text{ is among the } K \text{ largest}\}, \quad
# P_i = \frac1T \sum_t \frac{s_{i,t}}{\sum_j s_{j,t}}$$
#
# A batch has the mean over its sequences. Somebody wrote it for a router with corrections. It runs, it trains, and
# **two** things are wrong. Two laws show it:
#
# - the loss judges the router, so the corrections `b` must not change it;
# - if all scores of a token are equally large, it does not matter *how* large.


# %% task="balance.sequence" title="The loss that remained" kind="debug" difficulty=2 minutes=15
def sequence_loss(logits, b, k, alpha):
    """logits: (B, T, E), b: (E,) -> scalar."""
    s = logits.sigmoid()
    n_experts = s.shape[-1]
    ### BEGIN SOLUTION
    chosen = s.topk(k).indices
    P = (s / s.sum(-1, keepdim=True)).mean(1)
    ### STUB
    # chosen = (s + b).topk(k).indices
    # P = s.mean(1)
    ### END SOLUTION
    f = F.one_hot(chosen, n_experts).sum(2).to(s.dtype).mean(1) * (n_experts / k)
    return alpha * (f * P).sum(-1).mean()


# %% tags=["driver"]
def one_by_one(logits, b, k, alpha):
    """The mean over sequences that come alone."""
    return torch.stack([sequence_loss(row[None], b, k, alpha) for row in logits]).mean()


def flat(size, experts, k, alpha):
    """Two sequences whose scores are all equally large, up to a hair."""
    logits = torch.full((2, 6, experts), float(size)) + 1e-4 * torch.arange(experts)
    return sequence_loss(logits, torch.zeros(experts), k, alpha)


# %% tags=["judge"]
def sequence_loss_by_counting(logits, b, k, alpha):
    total = logits.new_zeros(())
    for row in 1 / (1 + torch.exp(-logits)):
        shares = torch.stack([s / s.sum() for s in row])
        for i in range(row.shape[1]):
            count = int(((row.detach() > row.detach()[:, i : i + 1]).sum(1) < k).sum())
            total = total + row.shape[1] * count / (k * len(row)) * shares[:, i].mean()
    return alpha * total / len(logits)


def _sequence(
    choose=lambda s, b, k: s.topk(k).indices,
    affinity=lambda s: (s / s.sum(-1, keepdim=True)).mean(1),
    window=lambda x: x,
):
    """The loss with one part of it wrong."""

    def sequence_loss(logits, b, k, alpha):
        s = window(logits).sigmoid()
        table = torch.zeros_like(s).scatter(-1, choose(s, b, k), 1.0)
        f = table.mean(1) * s.shape[-1] / k
        return alpha * (f * affinity(s)).sum(-1).mean()

    return sequence_loss


@checks(
    "balance.sequence",
    oracle=sequence_loss_by_counting,
    mistakes={
        "the corrections still choose, and the scores are still not shares of their token's sum": _sequence(
            lambda s, b, k: (s + b).topk(k).indices, lambda s: s.mean(1)
        ),
        "the corrections still choose: the loss judges what the scores alone would choose": _sequence(
            lambda s, b, k: (s + b).topk(k).indices
        ),
        "the scores are still not shares: divide each by the sum over its token's experts": _sequence(
            affinity=lambda s: s.mean(1)
        ),
        "the scores are divided by the sum over the tokens; take that over the experts": _sequence(
            affinity=lambda s: s.mean(1) / s.sum((1, 2))[:, None]
        ),
        "all sequences are thrown together; each is judged by itself": _sequence(
            window=lambda logits: logits.flatten(0, 1)[None]
        ),
        "the corrections are taken off; the scores do not hold them, so there is nothing to take off": _sequence(
            lambda s, b, k: (s - b).topk(k).indices
        ),
    },
    alternatives=[_sequence(), _sequence(affinity=lambda s: F.normalize(s, p=1, dim=-1).mean(1))],
    hints=(
        "Go through the formulas, symbol by symbol. Does b stand anywhere? What stands below s in P?",
        "f counts what s alone would choose. And P averages *shares*: s over the sum of the same token's scores.",
        "chosen = s.topk(k).indices, and P = (s / s.sum(-1, keepdim=True)).mean(1).",
    ),
)
def _(draw):
    experts, k, alpha = draw.integer(6, 10), draw.integer(2, 4), 0.1 * draw.integer(1, 9)
    logits = draw.normal(3, draw.integer(9, 15), experts) + draw.normal(3, 1, experts)  # every sequence has favourites
    b = 0.5 * draw.normal(experts)
    plain = call("sequence_loss", logits, b, k, alpha, grad=False)
    yield invariant(
        "corrections do not change it, nor does the size of equal scores",
        2,
        [
            plain,
            call("sequence_loss", logits, 0 * b, k, alpha),
            call("flat", -2.0, experts, k, alpha),
            call("flat", 1.5, experts, k, alpha),
            call("one_by_one", logits, b, k, alpha),
        ],
        [
            Same(left=Part(), right=Part(step=1), says="the corrections change the loss", rtol=1e-4),
            Same(left=Part(step=2), right=Part(step=3), says="equal scores count by their size", rtol=1e-3),
            Same(left=Part(), right=Part(step=4), says="a sequence is judged by its neighbours, too", rtol=1e-4),
        ],
    )
    other = draw.normal(2, 30, 12) + draw.normal(2, 1, 12)
    yield value(
        "equals the formula, counted one by one",
        3,
        [plain, call("sequence_loss", other, 0.5 * draw.normal(12), 3, 1.0)],
    )


# %% [markdown]
# ## 4. Predict, then measure: a thermostat in numbers
#
# In a batch, eight experts had the loads 300, 260, 200, 100, 60, 40, 20, 20. Write down, to within two percent, before
# you run the cell below the check:
#
# - `violation`: MaxVio of this batch;
# - `slowdown`: each expert sits on a GPU of its own. How many times as long does the layer take as if the load were even?
# - `steps`: the busiest expert scores 0.70 for all tokens of some kind, an idle one 0.62. With $\gamma = 0.001$, after how many
#   steps does the idle one draw level? (Both are corrected in every step, one down, one up.)
# - `leak`: with expert choice instead, how many bits could reach a token from its future, at most? 11 layers with 64
#   experts, of which a token uses 6 on average; $K\log_2\frac{1-R}{R}$ bits a layer with $R = K/N$ (Wang et al., section 5.2).


# %% task="balance.numbers" title="A thermostat in numbers" kind="predict" difficulty=1 minutes=10
### BEGIN SOLUTION
violation = 300 / 125 - 1
slowdown = 300 / 125
steps = (0.70 - 0.62) / (2 * 0.001)
leak = 11 * 6 * math.log2((1 - 6 / 64) / (6 / 64))
### STUB
# violation = None
# slowdown = None
# steps = None
# leak = None  # bits
### END SOLUTION

# %%
from minideepseek.layers.balance import max_violation

loads = torch.tensor([300, 260, 200, 100, 60, 40, 20, 20])
print(f"MaxVio {max_violation(loads):.3f}; you said {violation}")
scores, b, done = torch.tensor([0.70, 0.62]), torch.zeros(2), 0
while (scores + b).argmax() == 0:
    b += 0.001 * torch.tensor([-1.0, 1.0])
    done += 1
print(f"the idle one wins after {done} steps; you said {steps}")

# %% tags=["judge"]
_numbers = {"violation": 1.4, "slowdown": 2.4, "steps": 40.0, "leak": 216.02}


@checks(
    "balance.numbers",
    oracle=_numbers,
    mistakes={
        "this is the largest load over the mean; MaxVio is by how much it exceeds the mean": _numbers
        | {"violation": 2.4},
        "this compares the largest load with the smallest; MaxVio compares it with the mean": _numbers
        | {"violation": 14.0},
        "this compares the largest load with the median; MaxVio compares it with the mean": _numbers
        | {"violation": 2.75},
        "that is by how much longer; how many times as long?": _numbers | {"slowdown": 1.4},
        "the layer is done when the busiest is done, however long the others wait": _numbers | {"slowdown": 1.0},
        "both move: the gap closes by two gammas in a step": _numbers | {"steps": 80.0},
        "the idle one must climb by half the gap, not by its whole score": _numbers | {"steps": 620.0},
        "this is one layer; there are 11": _numbers | {"leak": 19.638},
        "each token sits with 6 experts: K is a factor": _numbers | {"leak": 36.004},
        "these are nats: take the logarithm to base 2": _numbers | {"leak": 149.73},
        "the fraction is (1 - R) / R, not 1 / R": _numbers | {"leak": 225.39},
    },
    alternatives=[{"violation": 1.4, "slowdown": 2.4, "steps": 40, "leak": 216}],
    hints=(
        "What is the mean load? And how much smaller is the gap between the two experts after one step?",
        "The mean is 125. The gap of 0.08 shrinks by 0.002 a step. R is 6/64.",
        "300/125 - 1; 300/125; 0.08/0.002; 66 · log2(58/6).",
    ),
)
def _(draw):
    yield value("the violation of a batch", 1, [call("violation")], rtol=0.02, atol=0.0)
    yield value("what it costs", 1, [call("slowdown")], rtol=0.02, atol=0.0)
    yield value("how long a correction takes", 1, [call("steps")], rtol=0.02, atol=0.0)
    yield value("what could leak", 1, [call("leak")], rtol=0.02, atol=0.0)
