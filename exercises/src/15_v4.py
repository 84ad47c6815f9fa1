# %% [markdown]
# # Exercises 15 · V4
#
# Five tasks on [lesson 15](../../notebooks/15_v4.ipynb), about 75 minutes. Each has a statement, a cell for your answer,
# and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs belongs
# into its cell.
#
# `hint("v4.cache")` helps in three steps, `solution("v4.cache")` shows ours once you have tried, and `status()` at the end
# tells where you are.

# %% tags=["given"]
import math

import torch

# %% [markdown]
# ## 1. What does a text cost?
#
# V4's `config.json` gives each layer a number, `compress_ratios`: 0 reads a sliding window and nothing else, 4 is CSA, and
# 128 is HCA (arXiv 2606.19348, section 2.3). Behind a text of $T$ tokens
#
# - *every* layer holds the last $W$ vectors of $c$ numbers, or as many as there are;
# - a layer that compresses $m$ tokens to one entry holds an entry of $c$ numbers for each *complete* block;
# - a CSA layer, $m = 4$, also holds a key of $d_I$ numbers for each complete block, for its indexer.
#
# What waits of open blocks is of a fixed size, and left aside here.


# %% task="v4.cache" title="What does a text cost?" kind="implement" difficulty=1 minutes=15
def cached(ratios, tokens, window, width, index):
    """[0, 4, 128, ...], T, W, c, d_I -> how many numbers all layers hold for one text, a whole number."""
    ### BEGIN SOLUTION
    total = 0
    for rate in ratios:
        total += min(tokens, window) * width
        if rate:
            total += tokens // rate * (width + (index if rate == 4 else 0))
    return total
    ### END SOLUTION


# %% tags=["driver"]
def growth(ratios, tokens, more, window, width, index):
    """By how much the cache grows with so many tokens more."""
    return cached(ratios, tokens + more, window, width, index) - cached(ratios, tokens, window, width, index)


# %% tags=["judge"]
from minideepseek.judge.author import Between, Equals, Part, Same, call, checks, contract, invariant, value


def cached_vector_by_vector(ratios, tokens, window, width, index):
    """Everything that is held, listed one by one."""
    held = []
    for rate in ratios:
        held += [width for t in range(tokens) if t >= tokens - window]
        if rate:
            closed = [t for t in range(tokens) if t % rate == rate - 1]
            held += [width for _ in closed]
            held += [index for _ in closed if rate == 4]
    return sum(held)


def _cached(window_in=lambda rate: True, blocks=lambda t, m: t // m, key=lambda rate: rate == 4, all_tokens=False):
    """A count with one thing wrong."""

    def cached(ratios, tokens, window, width, index):
        total = 0
        for rate in ratios:
            near = tokens if all_tokens else min(tokens, window)
            total += near * width if window_in(rate) else 0
            if rate:
                total += blocks(tokens, rate) * (width + (index if key(rate) else 0))
        return total

    return cached


def _by_kind(ratios, tokens, window, width, index):
    n_csa = ratios.count(4)
    entries = sum(tokens // rate for rate in ratios if rate)
    return len(ratios) * min(tokens, window) * width + entries * width + n_csa * (tokens // 4) * index


@checks(
    "v4.cache",
    oracle=cached_vector_by_vector,
    mistakes={
        "layers that compress have a window, too": _cached(window_in=lambda rate: not rate),
        "the layers without compression hold a window, too": _cached(window_in=lambda rate: bool(rate)),
        "an open block has no entry yet: round down": _cached(blocks=lambda t, m: -(-t // m)),
        "only CSA has an indexer": _cached(key=lambda rate: True),
        "the indexer's keys are missing": _cached(key=lambda rate: False),
        "a window forgets what is older": _cached(all_tokens=True),
        "a text shorter than the window fills only a part of it": lambda ratios, tokens, window, width, index: (
            cached_vector_by_vector(ratios, tokens, window, width, index)
            + len(ratios) * max(window - tokens, 0) * width
        ),
    },
    alternatives=[_by_kind],
    hints=(
        "Which part does every layer hold? Which one depends on the layer's number?",
        "Go through the ratios. Each adds its window, min(T, W) · c. A ratio above 0 adds its complete blocks, times what one "
        "of them holds.",
        "Complete blocks are tokens // rate; one holds width numbers, and index more if the rate is 4.",
    ),
)
def _(draw):
    flash = [0, 0, *[4, 128] * 20, 4]
    ratios = [draw.choice([0, 4, 16, 128]) for _ in range(6)] + [0, 4, 128]
    long = draw.integer(700, 900), draw.integer(20, 60), draw.integer(8, 40), draw.integer(50, 90)
    short = draw.integer(9, 15), draw.integer(40, 60), draw.integer(8, 40), draw.integer(50, 90)
    yield contract(
        "gives a number", 1, [call("cached", ratios, *long)], [Between(low=1, says="that is not a positive number")]
    )
    yield value("counts a long text", 2, [call("cached", ratios, *long)])
    yield value("counts a text shorter than the window", 1, [call("cached", ratios, *short)])
    yield value("V4-Flash behind a million tokens", 1, [call("cached", flash, 2**20, 128, 512, 128)], [
        Equals(part=Part(), expected=43 * 128 * 512 + 21 * 2**18 * 640 + 20 * 2**13 * 512)
    ])  # fmt: skip
    yield invariant(
        "beyond the window it grows by the same for each 128 tokens",
        1,
        [call("growth", ratios, 256, 128, 64, 32, 16), call("growth", ratios, 1280, 128, 64, 32, 16)],
        [Same(left=Part(), right=Part(step=1), says="128 tokens more cost more at one place than at another")],
    )


# %% [markdown]
# ## 2. Experts dealt like cards
#
# In V4's first layers nobody learns where a token goes: a table says it, by the token's id (section 2.1). How the report's
# tables were made is not published. The simplest fair way: order the tokens by how often they occur, the most frequent first
# and of equals the smaller id, and deal. The token at place $p$ of this order gets the experts
#
# $$(p K + j) \bmod E, \qquad j = 0, \dots, K - 1 .$$
#
# - `counts` is $(V,)$, how often each token occurs; the table is $(V, K)$ int64, row $v$ for the token with id $v$.
# - So every expert gets frequent and rare tokens alike. (The package deals with random shifts, so that tokens that share
#   their experts in one layer part in the next.)


# %% task="v4.deal" title="Experts dealt like cards" kind="implement" difficulty=2 minutes=15
def deal(counts, n_experts, k):
    """(V,) int64, E, K -> (V, K) int64, the experts of each token id."""
    ### BEGIN SOLUTION
    order = counts.sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return (place[:, None] * k + torch.arange(k)) % n_experts
    ### END SOLUTION


# %% tags=["driver"]
def load(counts, n_experts, k, rank):
    """How many tokens of the text the expert of this rank gets (0: the fewest), in units of the mean."""
    table = deal(counts, n_experts, k)
    loads = torch.zeros(n_experts).index_add_(0, table.flatten(), counts.float().repeat_interleave(k))
    return loads.sort().values[rank] / loads.mean()


def distinct(counts, n_experts, k):
    """The fewest different experts that a token has."""
    return min(len(set(row.tolist())) for row in deal(counts, n_experts, k))


# %% tags=["judge"]
def deal_one_by_one(counts, n_experts, k):
    order = sorted(range(len(counts)), key=lambda v: (-int(counts[v]), v))
    table = torch.zeros(len(counts), k, dtype=torch.int64)
    for place, v in enumerate(order):
        for j in range(k):
            table[v, j] = (place * k + j) % n_experts
    return table


def _by_place(counts, n_experts, k):
    """The row of the p-th token, not of token p."""
    return (torch.arange(len(counts))[:, None] * k + torch.arange(k)) % n_experts


def _through_order(counts, n_experts, k):
    order = counts.sort(descending=True, stable=True).indices
    return (order[:, None] * k + torch.arange(k)) % n_experts


def _cards(counts, n_experts, k):
    order = counts.sort(descending=True, stable=True).indices
    table = torch.empty(len(counts), k, dtype=torch.int64)
    table[order] = (torch.arange(len(counts) * k) % n_experts).view(-1, k)
    return table


def _ties_the_other_way(counts, n_experts, k):
    order = sorted(range(len(counts)), key=lambda v: (-int(counts[v]), -v))
    table = torch.zeros(len(counts), k, dtype=torch.int64)
    table[torch.tensor(order)] = (torch.arange(len(order))[:, None] * k + torch.arange(k)) % n_experts
    return table


def _step_of_one(counts, n_experts, k):
    order = counts.sort(descending=True, stable=True).indices
    table = torch.empty(len(counts), k, dtype=torch.int64)
    table[order] = (torch.arange(len(counts))[:, None] + torch.arange(k)) % n_experts
    return table


@checks(
    "v4.deal",
    oracle=deal_one_by_one,
    mistakes={
        "the tokens are dealt in the order of their ids, not of their frequency": _by_place,
        "the order says which token stands at a place; a row needs the place of its token": _through_order,
        "the rarest come first": lambda counts, n_experts, k: deal_one_by_one(-counts, n_experts, k),
        "of two that occur as often, the smaller id is dealt first": _ties_the_other_way,
        "each token takes one card, not K: neighbours share experts": _step_of_one,
    },
    alternatives=[_cards],
    hints=(
        "If you had the tokens in the order of their frequency: which experts would the first one get, and the second?",
        "Sort the counts (stable, descending); that gives the id at each place. Make the rows by place, and put each into the "
        "row of its id.",
        "table[order] = (arange(V)[:, None] * k + arange(k)) % n_experts, with order = counts.sort(descending=True, "
        "stable=True).indices.",
    ),
)
def _(draw):
    n, experts, k = draw.integer(90, 120), draw.integer(9, 16), draw.integer(2, 4)
    counts = torch.tensor([draw.integer(0, 40) for _ in range(n)])
    zipf = (1e5 / torch.arange(1, 513)).long()[draw.normal(512).argsort()]
    yield contract("gives whole numbers (V, K)", 1, [call("deal", counts, experts, k)], [])
    yield value("each token gets its cards", 3, [call("deal", counts, experts, k)])
    yield invariant(
        "a token's experts are different ones",
        1,
        [call("distinct", counts, experts, k)],
        [Between(low=k, high=k, says="a token has the same expert twice")],
    )
    yield invariant(
        "on text whose tokens are as uneven as in any language, no expert is idle",
        1,
        [call("load", zipf, 16, 2, 0), call("load", zipf, 16, 2, 15)],
        [
            Between(part=Part(step=0), low=0.2, says="some expert has less than a fifth of the mean"),
            Between(part=Part(step=1), high=4.0, says="some expert has more than four times the mean"),
        ],
    )


# %% [markdown]
# ## 3. Four bits
#
# V4's experts are fine-tuned to live in four bits (section 5.2.1), in the format MXFP4: blocks of 32 numbers share one scale,
# a power of two. With the block's largest magnitude $a$ and the eight magnitudes that E2M1 can hold,
#
# $$s = 2^{\lceil \log_2 (a / 6) \rceil}, \qquad \hat x = s \cdot \mathrm{round}(x / s), \qquad
# \pm\{0,\ 0.5,\ 1,\ 1.5,\ 2,\ 3,\ 4,\ 6\}.$$
#
# - `x` is $(\dots, n)$ float32 with $n$ a multiple of 32; so is what you return: the rounded numbers, not their codes.
# - Round to the nearest of the eight. Halfway between two, take the one with the *even* code (0 is code 0, 0.5 is code 1, ...,
#   6 is code 7): 2.5 becomes 2, 3.5 becomes 4.
# - A block of zeros stays one.


# %% task="v4.mxfp4" title="Four bits" kind="implement" difficulty=3 minutes=25
def mxfp4(x):
    """(..., n) float32 -> (..., n) float32, what four bits can hold of it."""
    ### BEGIN SOLUTION
    levels = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    blocks = x.unflatten(-1, (-1, 32))
    peak = blocks.abs().amax(-1, keepdim=True)
    scale = torch.where(peak > 0, 2 ** torch.ceil(torch.log2(peak / 6)), 1.0)
    distance = ((blocks / scale).abs()[..., None] - levels).abs()
    distance[..., 1::2] += 1e-6  # of two equally near, the even code
    return (blocks.sign() * levels[distance.argmin(-1)] * scale).flatten(-2)
    ### END SOLUTION


# %% tags=["driver"]
def twice(x):
    """Rounded once more."""
    return mxfp4(mxfp4(x))


def eightfold(x):
    """Eight times as large before, an eighth after."""
    return mxfp4(8 * x) / 8


# %% tags=["judge"]
_LEVELS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def _number_by_number(nearest=None, scale_of=None, block=32):
    """Four bits with plain numbers, any part of it exchanged."""

    def even(a):
        return min(range(8), key=lambda code: (abs(a - _LEVELS[code]), code % 2))

    def power(peak):
        return 2.0 ** math.ceil(math.log2(peak / 6)) if peak else 1.0

    nearest, scale_of = nearest or even, scale_of or power

    def mxfp4(x):
        flat, out = x.flatten().tolist(), []
        size = len(flat) if block is None else block
        for start in range(0, len(flat), size):
            part = flat[start : start + size]
            scale = scale_of(max(abs(v) for v in part))
            out += [math.copysign(_LEVELS[nearest(abs(v) / scale)] * scale, v) if v else 0.0 for v in part]
        return torch.tensor(out, dtype=x.dtype).view_as(x)

    return mxfp4


def _up(a):
    return min(range(8), key=lambda code: (abs(a - _LEVELS[code]), -code))


def _towards_zero(a):
    return max(code for code in range(8) if _LEVELS[code] <= a)


def _down(a):
    return min(range(8), key=lambda code: (abs(a - _LEVELS[code]), code))


def _by_thresholds(x):
    blocks = x.unflatten(-1, (-1, 32))
    peak = blocks.abs().amax(-1, keepdim=True)
    exponent = torch.ceil(torch.log2(peak.clamp(min=2.0**-100) / 6))
    a = blocks.abs() / 2**exponent
    # Halfway up to an even code counts as above, halfway up to an odd one does not.
    code = sum((a >= middle).long() for middle in (0.75, 1.75, 3.5))
    code = code + sum((a > middle).long() for middle in (0.25, 1.25, 2.5, 5.0))
    return (torch.tensor(_LEVELS)[code] * blocks.sign() * 2**exponent).flatten(-2)


@checks(
    "v4.mxfp4",
    oracle=_number_by_number(),
    mistakes={
        "halfway it takes the larger number, not the one with the even code": _number_by_number(nearest=_up),
        "halfway it takes the smaller number, not the one with the even code": _number_by_number(nearest=_down),
        "it cuts off towards zero; the nearest is wanted": _number_by_number(nearest=_towards_zero),
        "the scale is no power of two": _number_by_number(scale_of=lambda peak: peak / 6 if peak else 1.0),
        "the scale is rounded down, and the largest numbers are cut off: round it up": _number_by_number(
            scale_of=lambda peak: 2.0 ** math.floor(math.log2(peak / 6)) if peak else 1.0
        ),
        "the scale is rounded to the nearest power of two, not up": _number_by_number(
            scale_of=lambda peak: 2.0 ** round(math.log2(peak / 6)) if peak else 1.0
        ),
        "one scale is used for everything; each 32 numbers have their own": _number_by_number(block=None),
        "the signs are lost": lambda x: _number_by_number()(x.abs()),
    },
    alternatives=[_by_thresholds],
    hints=(
        "What is the largest magnitude in a block after the division, at most? Which of the eight is nearest to a number, and "
        "what if there are two?",
        "Cut the last axis into blocks of 32 and find each block's scale. Compare every magnitude with all eight levels and "
        "take the index with the smallest distance; then give it its sign and scale back.",
        "unflatten(-1, (-1, 32)); scale = 2 ** ceil(log2(peak / 6)); distance = (magnitude[..., None] - levels).abs(). argmin "
        "takes the first of equals: add a millionth to the odd codes' distances.",
    ),
)
def _(draw):
    x = draw.normal(3, 96) * torch.logspace(-2, 2, 96)
    x[1, 32:64] = 0.0
    halves = torch.tensor([draw.integer(-24, 24) / 4 for _ in range(64)])
    halves[5], halves[40] = 6.0, -6.0
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4)
    yield contract("keeps shape and dtype", 1, [call("mxfp4", x)], [])
    yield value("rounds to the nearest, with a scale for each block", 3, [call("mxfp4", x)])
    yield value("halfway takes the even code", 1, [call("mxfp4", halves), call("mxfp4", -middles)])
    yield invariant(
        "what is rounded stays",
        1,
        [call("mxfp4", x), call("twice", x)],
        [Same(left=Part(), right=Part(step=1), says="rounded numbers change when they are rounded again")],
    )
    yield invariant(
        "eight times as large is rounded eight times as coarsely",
        1,
        [call("mxfp4", x), call("eightfold", x)],
        [Same(left=Part(), right=Part(step=1), says="the scale does not follow the numbers")],
    )


# %% [markdown]
# ## 4. Debug: a clamp in the wrong place
#
# V4 limits what an expert's gate and its other factor can be, so that no single channel can upset a training of months
# (section 4.2.3, $L = 10$): the gate *from above* before its SiLU (from below it is harmless, SiLU sees to that), the other
# factor on *both* sides.
#
# $$\mathrm{SiLU}\big(\min(g, L)\big) \odot \min\big(\max(u, -L), L\big), \qquad g = x W_g^\top, \quad u = x W_u^\top$$
#
# Somebody wrote it down from memory. **Two** things are wrong, and two laws show it:
#
# - no channel of the result is larger in magnitude than $L^2$, whatever comes in;
# - a gate beyond $L$ is as good as one at $L$: the result is that of $\mathrm{SiLU}(L)$.


# %% task="v4.clamp" title="A clamp in the wrong place" kind="debug" difficulty=1 minutes=10
def gated(x, w_gate, w_up, limit):
    """x: (N, D), two matrices (F, D), L -> (N, F)."""
    ### BEGIN SOLUTION
    gate = torch.nn.functional.silu((x @ w_gate.T).clamp(max=limit))
    up = (x @ w_up.T).clamp(-limit, limit)
    ### STUB
    # gate = torch.nn.functional.silu(x @ w_gate.T).clamp(max=limit)
    # up = (x @ w_up.T).clamp(max=limit)
    ### END SOLUTION
    return gate * up


# %% tags=["driver"]
def largest(x, w_gate, w_up, limit):
    """The largest magnitude of the result, in units of the square of the limit."""
    return gated(x, w_gate, w_up, limit).abs().max() / limit**2


def height(x, w_gate, limit):
    """The largest result where the other factor is one everywhere."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    w_gate = torch.nn.functional.pad(w_gate, (0, 1))
    w_up = torch.zeros_like(w_gate)
    w_up[:, -1] = 1.0
    return gated(x, w_gate, w_up, limit).max()


# %% tags=["judge"]
def gated_number_by_number(x, w_gate, w_up, limit):
    rows = []
    for token in x:
        row = []
        for g_row, u_row in zip(w_gate, w_up, strict=True):
            g, u = (token * g_row).sum(), (token * u_row).sum()
            g = torch.where(g > limit, torch.full_like(g, limit), g)
            u = torch.where(u > limit, torch.full_like(u, limit), u)
            u = torch.where(u < -limit, torch.full_like(u, -limit), u)
            row.append(g / (1 + torch.exp(-g)) * u)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _gated(gate=lambda g, limit: _silu(g.clamp(max=limit)), up=lambda u, limit: u.clamp(-limit, limit)):
    return lambda x, w_gate, w_up, limit: gate(x @ w_gate.T, limit) * up(x @ w_up.T, limit)


def _silu(g):
    return g * torch.sigmoid(g)


@checks(
    "v4.clamp",
    oracle=gated_number_by_number,
    mistakes={
        "the gate is still limited after its SiLU; it has to be before": _gated(
            gate=lambda g, limit: _silu(g).clamp(max=limit)
        ),
        "the other factor is still free downwards": _gated(up=lambda u, limit: u.clamp(max=limit)),
        "both are as they were": _gated(
            gate=lambda g, limit: _silu(g).clamp(max=limit), up=lambda u, limit: u.clamp(max=limit)
        ),
        "the gate is limited from below as well, which holds it away from zero": _gated(
            gate=lambda g, limit: _silu(g.clamp(-limit, limit))
        ),
        "the product is limited, not its factors": lambda x, w_gate, w_up, limit: (
            _silu(x @ w_gate.T) * (x @ w_up.T)
        ).clamp(-limit * limit, limit * limit),
    },
    alternatives=[
        _gated(gate=lambda g, limit: _silu(torch.minimum(g, torch.tensor(limit)))),
        _gated(up=lambda u, limit: -(-u.clamp(max=limit)).clamp(max=limit)),
    ],
    hints=(
        "Which of the two factors can still be as large as it likes, and in which direction?",
        "Each factor is clamped once. The gate inside the SiLU, from above; the other on both sides.",
        "silu((x @ w_gate.T).clamp(max=limit)), and clamp(-limit, limit).",
    ),
)
def _(draw):
    x, w_gate, w_up = draw.normal(6, 8), draw.normal(9, 8), draw.normal(9, 8)
    yield value(
        "equals the formula, number by number",
        2,
        [call("gated", x, w_gate, w_up, 1.5), call("gated", x / 9, w_gate, w_up, 10.0)],
    )
    yield invariant(
        "no channel beyond the square of the limit",
        1,
        [call("largest", 50 * x, w_gate, w_up, 2.0)],
        [Between(low=0.1, high=1.0, says="a channel of the result is larger than L² in magnitude")],
    )
    yield invariant(
        "a gate beyond the limit is as good as one at the limit",
        1,
        [call("height", 50 * x, w_gate, 1.0)],
        [Between(low=0.7305, high=0.7316, says="a gate far beyond L = 1 does not give SiLU(1) = 0.731")],
    )


# %% [markdown]
# ## 5. Predict: a million tokens
#
# Write down, before you run the cell below the check, each to within one percent. $N = 2^{20}$ tokens are in the past;
# V4-Flash has 21 CSA layers ($m = 4$, the indexer keeps 512 blocks, its keys have 128 numbers) and 20 HCA layers
# ($m' = 128$), vectors of 512 numbers and windows of 128 tokens.
#
# - `csa`, `hca`: how many vectors does one head of a query read, in a layer of each kind?
# - `scored`: how many keys does the indexer of a CSA layer score for it?
# - `percent`: V3.2 caches $512 + 64$ numbers a token in each of 61 layers, and $128$ for its indexer. How many numbers does
#   Flash cache *for each further token*, in percent of that?


# %% task="v4.million" title="A million tokens" kind="predict" difficulty=2 minutes=10
### BEGIN SOLUTION
csa = 128 + 512
hca = 128 + 2**20 // 128
scored = 2**20 // 4
percent = 100 * (21 * (512 + 128) / 4 + 20 * 512 / 128) / (61 * (512 + 64 + 128))
### STUB
# csa = None  # vectors
# hca = None  # vectors
# scored = None  # keys
# percent = None
### END SOLUTION

# %% [markdown]
# Now let the package count:

# %%
import minideepseek as mds

ours, theirs = mds.report(mds.generations["v4-flash"]), mds.report(mds.generations["v3.2"])
share = 100 * ours.cache_elements_per_token / theirs.cache_elements_per_token
print(f"{ours.cache_elements_per_token:,} against {theirs.cache_elements_per_token:,} numbers a token: {share:.2f} %")
print("you said", percent)

# %% tags=["judge"]
_million = {"csa": 640, "hca": 8320, "scored": 262_144, "percent": 8.0104}


@checks(
    "v4.million",
    oracle=_million,
    mistakes={
        "the window is read, too": _million | {"csa": 512},
        "512 blocks are 512 vectors: that is the point of compressing them": _million | {"csa": 2176},
        "the window is read beside the entries": _million | {"hca": 8192},
        "HCA has no indexer: it reads every entry": _million | {"hca": 640},
        "it scores blocks, not tokens": _million | {"scored": 1_048_576},
        "it reads 512, but it has to score all to know which": _million | {"scored": 512},
        "the indexer's keys are cached, too": _million | {"percent": 6.4456},
        "the layers with 128 tokens to an entry hold something, too": _million | {"percent": 7.8241},
        "this is a fraction; percent are asked for": _million | {"percent": 0.080104},
        "an entry stands for four tokens in CSA": _million | {"percent": 31.48},
    },
    hints=(
        "What is read word by word, whatever the layer? What else, in each kind of layer? What has to be looked at before one "
        "can choose?",
        "The window, and the chosen blocks or all of them. A key for each complete block. A token adds a quarter of an entry "
        "and of a key in CSA, and a 128th of an entry in HCA.",
        "128 + 512; 128 + 2^20/128; 2^20/4; (21 · 640/4 + 20 · 512/128) / (61 · 704) in percent.",
    ),
)
def _(draw):
    for name, words in (("csa", "what CSA reads"), ("hca", "what HCA reads"), ("scored", "what the indexer scores")):
        yield value(words, 1, [call(name)], rtol=0.01, atol=0.0)
    yield value("the cache against V3.2's", 1, [call("percent")], rtol=0.01, atol=0.0)
