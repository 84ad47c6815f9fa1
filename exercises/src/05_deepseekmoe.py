# %% [markdown]
# # Exercises 05 · DeepSeekMoE
#
# Four tasks on [lesson 05](../../notebooks/05_deepseekmoe.ipynb), about 60 minutes. Each has a statement, a cell for
# your answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("moe.layer")` helps in three steps, `solution("moe.layer")` shows ours once you have tried, and `status()` at
# the end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F

# %% [markdown]
# ## 1. A layer of DeepSeekMoE
#
# Write the whole layer (arXiv 2401.06066, section 3.2, eq. 9 to 11), without the residual:
#
# $$h = \mathrm{FFN}_\text{shared}(u) + \sum_{i \,\in\, \text{top}\,K} s_i\, \mathrm{FFN}_i(u), \qquad
# s = \mathrm{softmax}(E u)$$
#
# - `u` is $(N, D)$. `router` is $E$: $(E, D)$, a row for each routed expert. The softmax runs over *all* of them, and the
#   weights of the chosen ones stay as they are: this generation does not divide them by their sum.
# - `gate_up` is $(E, 2F, D)$ and `down` is $(E, D, F)$. $\mathrm{FFN}(u) = W_\text{down}\,(\mathrm{silu}(g) \odot v)$, where the
#   first $F$ rows of `gate_up` give $g$ and the others $v$.
# - `shared` is the pair of matrices of the shared expert, $(2F_s, D)$ and $(D, F_s)$: every token, weight 1.
# - A loop is welcome, over experts rather than over tokens. Gradients must reach everything.


# %% task="moe.layer" title="A layer of DeepSeekMoE" kind="implement" difficulty=2 minutes=20
def mixture(u, router, gate_up, down, shared, k):
    """u: (N, D) -> (N, D)."""
    ### BEGIN SOLUTION
    scores = (u @ router.T).softmax(-1)
    weights, experts = scores.topk(k)

    def ffn(x, wide, narrow):
        gate, up = (x @ wide.T).chunk(2, dim=-1)
        return (F.silu(gate) * up) @ narrow.T

    out = ffn(u, *shared)
    for i in range(len(router)):
        token, place = (experts == i).nonzero(as_tuple=True)
        mine = weights[token, place, None] * ffn(u[token], gate_up[i], down[i])
        out = out.index_add(0, token, mine)
    return out
    ### END SOLUTION


# %% tags=["driver"]
def renumbered(u, router, gate_up, down, shared, k, order):
    """The same experts in another order."""
    return mixture(u, router[order], gate_up[order], down[order], shared, k)


def routed_part(u, router, gate_up, down, shared, k):
    """What is left when the shared expert says nothing."""
    return mixture(u, router, gate_up, down, (shared[0], torch.zeros_like(shared[1])), k)


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
    Differs,
    Equals,
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


def mixture_token_by_token(u, router, gate_up, down, shared, k):
    """For each token its own softmax, its own sorted experts."""

    def ffn(x, wide, narrow):
        half = len(wide) // 2
        gate = wide[:half] @ x
        return narrow @ (gate / (1 + torch.exp(-gate)) * (wide[half:] @ x))

    rows = []
    for x in u:
        exponents = torch.exp(router @ x - (router @ x).max())
        best = sorted(range(len(router)), key=lambda i: -exponents[i].item())[:k]
        routed = sum(exponents[i] / exponents.sum() * ffn(x, gate_up[i], down[i]) for i in best)
        rows.append(routed + ffn(x, *shared))
    return torch.stack(rows)


def _mixture(
    weigh=lambda logits, k: logits.softmax(-1).topk(k),
    ffn=lambda g, v: F.silu(g) * v,
    join=lambda routed, shared, weights: routed + shared,
    swap=False,
):
    """All experts for all tokens, weighed by mostly zeros; with one part of it wrong."""

    def run(x, wide, narrow):
        first, second = (x @ wide.mT).chunk(2, dim=-1)
        return (ffn(second, first) if swap else ffn(first, second)) @ narrow.mT

    def mixture(u, router, gate_up, down, shared, k):
        weights, experts = weigh(u @ router.T, k)
        table = torch.zeros(len(u), len(router), dtype=u.dtype).scatter(1, experts, weights)
        routed = torch.einsum("ne,end->nd", table, run(u, gate_up, down))
        return join(routed, run(u, *shared), weights)

    return mixture


def _after(logits, k):
    best, experts = logits.topk(k)
    return best.softmax(-1), experts


def _worst(logits, k):
    return logits.softmax(-1).topk(k, largest=False)


def _sigmoid(logits, k):
    return logits.sigmoid().topk(k)


def _equal(logits, k):
    weights, experts = logits.softmax(-1).topk(k)
    return torch.full_like(weights, 1 / k), experts


@checks(
    "moe.layer",
    oracle=mixture_token_by_token,
    mistakes={
        "the softmax runs over the chosen experts alone; it runs over all of them, and only then K are picked": _mixture(
            _after
        ),
        "the affinities are sigmoids, as in V3; here they are a softmax over all experts": _mixture(_sigmoid),
        "these are the experts with the lowest scores": _mixture(_worst),
        "all chosen experts count alike; each is multiplied by its score": _mixture(_equal),
        "the shared expert is missing": _mixture(join=lambda routed, shared, weights: routed),
        "the shared expert is weighed, as if it were routed; its weight is 1": _mixture(
            join=lambda routed, shared, weights: routed + weights.sum(-1, keepdim=True) * shared
        ),
        "the chosen experts are summed without a weight": _mixture(
            lambda logits, k: (torch.ones_like(logits[:, :k]), logits.topk(k).indices)
        ),
        "gate and up are swapped: the first F rows of gate_up are the gate": _mixture(swap=True),
        "the gate goes through a sigmoid; SwiGLU takes silu, the gate times its sigmoid": _mixture(
            ffn=lambda g, v: g.sigmoid() * v
        ),
    },
    alternatives=[_mixture()],
    hints=(
        "Which numbers does a token need before any expert runs? And for one expert: which tokens chose it, and in which "
        "of their K places?",
        "Scores (N, E) by a softmax, top K. For each expert, (experts == i).nonzero() gives its tokens and their places; "
        "run them through its matrices, multiply by their weights, add to their rows. The shared expert takes all rows.",
        "weights, experts = (u @ router.T).softmax(-1).topk(k); in the loop: token, place = (experts == i).nonzero("
        "as_tuple=True); out = out.index_add(0, token, weights[token, place, None] * ffn(u[token], gate_up[i], down[i])).",
    ),
)
def _(draw):
    def layer(tokens, experts, width, inner, k, grad=False, target="mixture", more=()):
        shared = draw.normal(4 * inner, width, scale=0.5), draw.normal(width, 2 * inner, scale=0.5)
        # a router that is sure of itself: neighbouring scores are apart, so that no rounding swaps two experts
        return call(
            target,
            draw.normal(tokens, width),
            draw.normal(experts, width),
            draw.normal(experts, 2 * inner, width, scale=0.5),
            draw.normal(experts, width, inner, scale=0.5),
            shared,
            k,
            *more,
            grad=grad,
        )

    k, width, inner = draw.integer(2, 4), draw.integer(5, 9), draw.integer(2, 5)
    plain = layer(draw.integer(7, 12), 6, width, inner, k, grad=True)
    yield contract("keeps the shape of u, changes no input", 1, [plain], [Untouched(), Reaches()])
    yield value(
        "equals the sum, token by token, gradients too",
        3,
        [plain, layer(draw.integer(3, 9), draw.integer(7, 12), 4, 3, 1), layer(1, 5, width, inner, 5, grad=True)],
    )
    yield value(
        "is right where most experts have nothing to do", 1, [layer(2, draw.integer(15, 25), 6, 2, 2, grad=True)]
    )
    same = layer(9, 8, width, inner, k)
    order = torch.tensor([5, 2, 7, 0, 3, 1, 6, 4])
    u, *weights = same.args
    yield invariant(
        "experts have no numbers, and tokens no neighbours",
        1,
        [
            same,
            call("renumbered", *same.args, order),
            call("mixture", u[:4], *weights),
            call("routed_part", *same.args),
        ],
        [
            Same(
                left=Part(), right=Part(step=1), says="the same experts in another order give something else", atol=1e-5
            ),
            Same(
                left=Part(cut=((0, 0, 4),)),
                right=Part(step=2),
                says="what a token gets depends on the other tokens of the batch",
                atol=1e-5,
            ),
            Differs(left=Part(), right=Part(step=3), says="the shared expert makes no difference"),
        ],
    )


# %% [markdown]
# ## 2. The loss that evens the load
#
# Section 3.3 of the paper, eq. 12 to 14, for $T$ tokens, $E$ routed experts and $K$ of them for each token:
#
# $$\mathcal{L} = \alpha \sum_i f_i P_i, \qquad f_i = \frac{E}{K\,T}\,\#\{t : t \text{ chose } i\}, \qquad
# P_i = \frac1T \sum_t s_{i,t}$$
#
# - `scores` is $(T, E)$: the affinities $s$, rows that sum to one. A token chooses the $K$ experts with the highest.
# - Return the loss, a scalar. Its gradient must be that of the formula: counting has none.


# %% task="moe.balance" title="The loss that evens the load" kind="implement" difficulty=2 minutes=15
def balance_loss(scores, k, alpha):
    """scores: (T, E) -> scalar."""
    ### BEGIN SOLUTION
    tokens, n_experts = scores.shape
    chosen = scores.topk(k).indices
    counts = torch.bincount(chosen.flatten(), minlength=n_experts)
    frequency = counts * (n_experts / (k * tokens))
    return alpha * (frequency * scores.mean(0)).sum()
    ### END SOLUTION


# %% tags=["driver"]
def of_copies(scores, k, alpha, copies):
    """The loss of a text that is read several times."""
    return balance_loss(scores.repeat(copies, 1), k, alpha)


# %% tags=["judge"]
def balance_by_counting(scores, k, alpha):
    """Expert by expert: who has fewer than k better ones is chosen."""
    tokens, n_experts = scores.shape
    total = scores.new_zeros(())
    for i in range(n_experts):
        better = (scores.detach() > scores.detach()[:, i : i + 1]).sum(1)
        total = total + n_experts * int((better < k).sum()) / (k * tokens) * (scores[:, i].sum() / tokens)
    return alpha * total


def _balance(
    frequency=lambda scores, k: _chosen(scores, k).mean(0) * scores.shape[1] / k,
    affinity=lambda scores, k: scores.mean(0),
):
    """The loss with one part of it wrong."""
    return lambda scores, k, alpha: alpha * (frequency(scores, k) * affinity(scores, k)).sum()


def _chosen(scores, k):
    return torch.zeros_like(scores).scatter(1, scores.topk(k).indices, 1.0)


@checks(
    "moe.balance",
    oracle=balance_by_counting,
    mistakes={
        "only the best expert of each token is counted; a token chooses K": _balance(
            lambda scores, k: _chosen(scores, 1).mean(0) * scores.shape[1]
        ),
        "f is not divided by K: it should be 1 for each expert when all are equally busy": _balance(
            lambda scores, k: _chosen(scores, k).mean(0) * scores.shape[1]
        ),
        "the factor E is missing, or the products are averaged: f is 1 when all are equally busy, and f·P is summed": _balance(
            lambda scores, k: _chosen(scores, k).mean(0) / k
        ),
        "the loss grows with the number of tokens: f is a share of them, and P a mean over them": _balance(
            lambda scores, k: _chosen(scores, k).sum(0) * scores.shape[1] / k
        ),
        "P counts only the scores of chosen experts; it is the mean of all": _balance(
            affinity=lambda scores, k: (scores * _chosen(scores, k)).mean(0)
        ),
        "f is made of the scores, not of choices: this is the sum of P squared": _balance(
            lambda scores, k: scores.mean(0) * scores.shape[1]
        ),
        "f is made of the scores, and gets a gradient; it counts choices": _balance(
            lambda scores, k: (scores * _chosen(scores, k)).mean(0) * scores.shape[1] / k
        ),
    },
    alternatives=[
        _balance(),
        lambda scores, k, alpha: (
            (F.one_hot(scores.topk(k).indices, scores.shape[1]).sum((0, 1)) * scores.sum(0)).sum()
            * (alpha * scores.shape[1] / (k * len(scores) ** 2))
        ),
    ],
    hints=(
        "What is f_i when every expert is chosen equally often? Which of f and P can have a gradient at all?",
        "topk gives the choices, bincount counts them: f = counts · E / (K·T). P is the mean of the scores over the tokens. "
        "Multiply, sum over the experts, times alpha.",
        "torch.bincount(scores.topk(k).indices.flatten(), minlength=E) * (E / (k * T)), then (f * scores.mean(0)).sum() * "
        "alpha.",
    ),
)
def _(draw):
    def scores(tokens, experts):
        lean = draw.normal(experts)  # some experts are liked more than others
        return (draw.normal(tokens, experts) + lean).softmax(-1)

    alpha = 0.01 * draw.integer(1, 9)
    one, other = scores(draw.integer(9, 20), draw.integer(5, 9)), scores(draw.integer(25, 40), draw.integer(10, 16))
    plain = call("balance_loss", one, draw.integer(2, 4), alpha, grad=True)
    yield contract("is a scalar with a gradient, changes no input", 1, [plain], [Untouched(), Reaches()])
    yield value("equals the formula, gradient too", 3, [plain, call("balance_loss", other, 3, 1.0, grad=True)])
    experts = draw.integer(4, 8)
    even = torch.full((experts, experts), 0.5 / (experts - 1)).fill_diagonal_(0.5)
    yield value("is alpha where all are equally busy", 1, [call("balance_loss", even, 1, alpha)])
    yield invariant(
        "a text read twice is as uneven as once",
        1,
        [call("of_copies", one, 2, alpha, 1), call("of_copies", one, 2, alpha, 3)],
        [
            Same(left=Part(), right=Part(step=1), says="the loss grows with the number of tokens"),
            Between(
                part=Part(), low=alpha * 0.5, says="the loss is far below alpha, which it is when the load is even"
            ),
        ],
    )


# %% [markdown]
# ## 3. Debug: what the sorting lost
#
# Fast mixtures sort: all rows of expert 0, then all rows of expert 1, each expert one product, and back to the tokens.
# Somebody wrote it so. It was tested with one expert for each token, and was right to the last bit. With two for each
# token there is no error, the numbers look sound, and models train worse than they should. What shows it:
#
# - two experts with weight ½ each, and equal matrices, are one expert with weight 1;
# - the result for a token does not depend on how its experts are ordered.
#
# Repair what is wrong.


# %% task="moe.dispatch" title="What the sorting lost" kind="debug" difficulty=2 minutes=15
def run_sorted(u, experts, weights, matrices):
    """u: (N, D), experts and weights: (N, K), matrices: (E, D, D) -> (N, D): the sum of weight · tanh(u @ matrix)."""
    k = experts.shape[1]
    order = experts.flatten().argsort(stable=True)  # assignments, expert by expert
    token = order // k  # whose assignment it is
    counts = torch.bincount(experts.flatten(), minlength=len(matrices)).tolist()
    blocks = zip(u[token].split(counts), matrices, strict=True)
    rows = torch.cat([torch.tanh(block @ matrix) for block, matrix in blocks])
    rows = rows * weights.flatten()[order, None]
    out = torch.zeros_like(u)
    ### BEGIN SOLUTION
    out = out.index_add(0, token, rows)
    ### STUB
    # out[token] += rows
    ### END SOLUTION
    return out


# %% tags=["driver"]
def halved(u, matrix):
    """Every token to two experts of the same matrix, half and half."""
    experts = torch.tensor([[0, 1]]).expand(len(u), 2)
    return run_sorted(u, experts, torch.full((len(u), 2), 0.5, dtype=u.dtype), torch.stack([matrix, matrix]))


def alone(u, matrix):
    """Every token to one expert."""
    return run_sorted(u, torch.zeros(len(u), 1, dtype=torch.int64), torch.ones(len(u), 1, dtype=u.dtype), matrix[None])


# %% tags=["judge"]
def run_one_by_one(u, experts, weights, matrices):
    rows = []
    for x, mine, share in zip(u, experts.tolist(), weights, strict=True):
        rows.append(sum(w * torch.tanh(x @ matrices[i]) for i, w in zip(mine, share, strict=True)))
    return torch.stack(rows)


def _dispatch(back, weigh=lambda weights, order: weights.flatten()[order, None]):
    """Sorted dispatch with another way back."""

    def run_sorted(u, experts, weights, matrices):
        order = experts.flatten().argsort(stable=True)
        counts = torch.bincount(experts.flatten(), minlength=len(matrices)).tolist()
        blocks = u[order // experts.shape[1]].split(counts)
        rows = torch.cat([torch.tanh(block @ matrix) for block, matrix in zip(blocks, matrices, strict=True)])
        return back(torch.zeros_like(u), order, experts.shape[1], rows * weigh(weights, order))

    return run_sorted


def _added_once(out, order, k, rows):
    out[order // k] += rows
    return out


def _unsorted(out, order, k, rows):
    back = torch.empty_like(rows)
    back[order] = rows
    return back.unflatten(0, (-1, k))


@checks(
    "moe.dispatch",
    oracle=run_one_by_one,
    mistakes={
        "only one of each token's experts arrives: a repeated index is written once, also by +=": _dispatch(
            _added_once
        ),
        "the experts of a token are averaged; they are summed": _dispatch(
            lambda out, order, k, rows: _unsorted(out, order, k, rows).mean(1)
        ),
        "the rows are still in the order of the experts; bring them back to their tokens": _dispatch(
            lambda out, order, k, rows: rows.unflatten(0, (-1, k)).sum(1)
        ),
        "the weights are not in the order of the rows any more": _dispatch(
            lambda out, order, k, rows: _unsorted(out, order, k, rows).sum(1),
            lambda weights, order: weights.reshape(-1, 1),
        ),
        "each token's rows are added twice": _dispatch(
            lambda out, order, k, rows: 2 * _unsorted(out, order, k, rows).sum(1)
        ),
    },
    alternatives=[
        _dispatch(lambda out, order, k, rows: _unsorted(out, order, k, rows).sum(1)),
        _dispatch(lambda out, order, k, rows: out.index_put((order // k,), rows, accumulate=True)),
        _dispatch(lambda out, order, k, rows: out.scatter_add(0, (order // k)[:, None].expand_as(rows), rows)),
    ],
    hints=(
        "Let one token use experts 0 and 1. How often does its number stand in `token`, and what does PyTorch do with "
        "out[token] += rows when a number stands there twice?",
        "out[token] += rows reads out[token], adds, and writes back: of two rows for one token the last one written wins. "
        "There are operations that add up.",
        "torch.Tensor.index_add(dim, index, source) adds every row, also to the same place.",
    ),
)
def _(draw):
    def case(tokens, n_experts, k, width):
        experts = torch.stack([draw.normal(n_experts).argsort()[:k] for _ in range(tokens)])
        weights = draw.normal(tokens, k).softmax(-1)
        return draw.normal(tokens, width), experts, weights, draw.normal(n_experts, width, width, scale=0.5)

    width = draw.integer(4, 8)
    one = case(draw.integer(6, 12), draw.integer(4, 7), 2, width)
    plain = call("run_sorted", *one, grad=True)
    yield value(
        "equals the sum over each token's experts, gradients too",
        2,
        [plain, call("run_sorted", *case(9, 12, draw.integer(3, 6), width), grad=True)],
    )
    u, matrix = draw.normal(draw.integer(3, 9), width), draw.normal(width, width, scale=0.5)
    turned = one[0], one[1].flip(1), one[2].flip(1), one[3]
    yield invariant(
        "two halves are a whole, in any order",
        2,
        [plain, call("run_sorted", *turned), call("halved", u, matrix), call("alone", u, matrix)],
        [
            Same(left=Part(), right=Part(step=1), says="the order of a token's experts makes a difference", atol=1e-5),
            Same(left=Part(step=2), right=Part(step=3), says="two equal experts, half each, are not one", atol=1e-5),
            Equals(part=Part(step=3), expected=torch.tanh(u @ matrix), rtol=1e-4, atol=1e-5),
        ],
    )


# %% [markdown]
# ## 4. Predict, then measure: what cutting changes
#
# A layer of GShard's kind has 16 experts and sends each token to 2 of them. You cut each expert into 4, and set one of
# the pieces aside as a shared expert, at equal parameters and equal work (DeepSeekMoE's 2B model). Write down, to
# within a percent, before you run the cell below the check:
#
# - `routed`, `used`: how many routed experts are there, and how many of *those* does a token use?
# - `active`: which share of all expert weights, the shared one included, does a token use? (between 0 and 1)
# - `choices`: in how many ways can a token's routed experts be chosen?
# - `awake`: a batch of 16 tokens passes through. If every choice were random, how many of the routed experts have anything to
#   do, on average?


# %% task="moe.cutting" title="What cutting changes" kind="predict" difficulty=2 minutes=10
### BEGIN SOLUTION
routed, used = 63, 7
active = 8 / 64
choices = math.comb(63, 7)
awake = 63 * (1 - (1 - 7 / 63) ** 16)  # an expert sleeps if sixteen tokens all pass it by
### STUB
# routed = None
# used = None
# active = None  # a share
# choices = None
# awake = None  # experts
### END SOLUTION

# %% [markdown]
# Measured, on the package's own model of that shape and a router of random numbers:

# %%
import minideepseek as mds
from minideepseek.layers import TopK

mixture_2b = mds.generations["moe-2b"].ffn
print(
    f"moe-2b has {mixture_2b.n_experts} routed experts, a token uses {mixture_2b.router.k}; you said {routed} and {used}"
)
expert_weights = 3 * 1280 * mixture_2b.hidden
share = (mixture_2b.n_activated(1280) - 63 * 1280) / (mixture_2b.n_params(1280) - 63 * 1280)
print(f"share of the expert weights in use: {share}; you said {active}")
batches = TopK(k=7).route(torch.randn(16 * 1000, 63)).experts.view(1000, 16 * 7)
found = sum(len(batch.unique()) for batch in batches) / 1000
print(f"awake in a batch of 16: {found:.1f}; you said {awake}")

# %% tags=["judge"]
_cutting = {"routed": 63, "used": 7, "active": 0.125, "choices": 553270671, "awake": 53.43026}


@checks(
    "moe.cutting",
    oracle=_cutting,
    mistakes={
        "that counts the shared expert; how many are left for the router?": _cutting | {"routed": 64},
        "16 experts, cut into 4, are 64 pieces": _cutting | {"routed": 15},
        "with the shared one that is too much work: 2 · 4 pieces in all, one of them is shared": _cutting | {"used": 8},
        "each of the two experts was cut into four": _cutting | {"used": 1},
        "2 of 64 would be a quarter of the work: the two experts were cut as well": _cutting | {"active": 0.03125},
        "the shared expert is in use, too": _cutting | {"active": 7 / 64},
        "seven of the routed ones, and the shared one; of 64": _cutting | {"active": 7 / 63},
        "these are the ways to choose 8 of 64: the shared one is not chosen": _cutting | {"choices": math.comb(64, 8)},
        "the order of the experts makes no difference": _cutting | {"choices": math.perm(63, 7)},
        "these are the ways before the cut": _cutting | {"choices": 120},
        "16 tokens with 7 experts each are 112 assignments, but many meet at the same expert": _cutting | {"awake": 63},
        "this counts with one expert for each token; there are 7": _cutting | {"awake": 63 * (1 - (1 - 1 / 63) ** 16)},
        "these are the experts that sleep": _cutting | {"awake": 63 * (1 - 7 / 63) ** 16},
    },
    hints=(
        "How many pieces are there, how many did two whole experts become, and which of both numbers does the shared one "
        "lower by one?",
        "64 pieces, 8 in use, one of each shared. An expert sleeps if all 16 tokens pass it by; one token does so with "
        "probability 1 - 7/63.",
        "math.comb(63, 7); and 63 · (1 - (8/9)**16).",
    ),
)
def _(draw):
    yield value("what the router has to choose from", 1, [call("routed"), call("used")])
    yield value("the share in use", 1, [call("active")], rtol=0.01, atol=0.0)
    yield value("the number of choices", 1, [call("choices")], rtol=0.01, atol=0.0)
    yield value("who has anything to do", 1, [call("awake")], rtol=0.01, atol=0.0)
