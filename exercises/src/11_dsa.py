# %% [markdown]
# # Exercises 11 · DSA
#
# Five tasks on [lesson 11](../../notebooks/11_dsa.ipynb), about 80 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# Names are those of the lesson: $T$ tokens, an indexer of $H^I$ heads of $d^I$ channels, $k$ tokens that each may read.
# `hint("dsa.index")` helps in three steps, `solution("dsa.index")` shows ours once you have tried, and `status()` at the
# end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F

# %% [markdown]
# ## 1. The index
#
# Write the index scores of a text (V3.2 report, section 2.1, eq. 1), scaled as the released code does:
#
# $$I_{t,s} = \frac{1}{\sqrt{H^I d^I}} \sum_{j} w_{t,j} \cdot \mathrm{ReLU}(q_{t,j} \cdot k_s)$$
#
# - `q` is $(T, H^I, d^I)$, `w` is $(T, H^I)$ and may be negative, `k` is $(T, d^I)$: one key for all heads.
# - No token looks ahead: where $s > t$ the score is $-\infty$.
# - The result is $(T, T)$, a row for each query.


# %% task="dsa.index" title="The index" kind="implement" difficulty=1 minutes=15
def index(q, w, k):
    """q: (T, heads, channels), w: (T, heads), k: (T, channels) -> (T, T), -inf above the diagonal."""
    ### BEGIN SOLUTION
    products = torch.einsum("the,se->ths", q, k).relu()
    scores = torch.einsum("th,ths->ts", w, products) / math.sqrt(q.shape[1] * q.shape[2])
    future = torch.ones(len(q), len(q), dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf)
    ### END SOLUTION


# %% tags=["driver"]
def index_seen(q, w, k):
    """The scores of what may be seen, row after row."""
    here = torch.ones(len(q), len(q), dtype=torch.bool).tril()
    return index(q, w, k)[here]


def index_hidden(q, w, k):
    """How many scores are -inf, and whether these are the right ones."""
    hidden = index(q, w, k) == -torch.inf
    return int(hidden.sum()), bool(hidden.triu(1).sum() == hidden.sum())


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


def index_one_by_one(q, w, k):
    """Pair by pair."""
    tokens, heads, channels = q.shape
    rows = []
    for t in range(tokens):
        row = [
            sum((w[t, j] * (q[t, j] * k[s]).sum().clamp(min=0) for j in range(heads)), start=q.new_zeros(()))
            / (heads * channels) ** 0.5
            for s in range(t + 1)
        ]
        row += [q.new_full((), -torch.inf)] * (tokens - t - 1)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _index(
    products=lambda q, k: torch.einsum("the,se->ths", q, k).relu(),
    join=lambda w, products: torch.einsum("th,ths->ts", w, products),
    scale=lambda heads, channels: (heads * channels) ** -0.5,
    diagonal=1,
):
    """The index with one part of it wrong."""

    def index(q, w, k):
        scores = join(w, products(q, k)) * scale(*q.shape[1:])
        return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(diagonal), -torch.inf)

    return index


@checks(
    "dsa.index",
    oracle=index_one_by_one,
    mistakes={
        "there is no ReLU: without it all heads are one": _index(
            products=lambda q, k: torch.einsum("the,se->ths", q, k)
        ),
        "ReLU stands outside of the sum; it belongs to each product, and a weight may be negative": _index(
            products=lambda q, k: torch.einsum("the,se->ths", q, k),
            join=lambda w, products: torch.einsum("th,ths->ts", w, products).relu(),
        ),
        "the weights of the heads are missing": _index(join=lambda w, products: products.sum(1) + 0 * w.sum()),
        "weights went through a softmax; they are used as they are": _index(
            join=lambda w, products: torch.einsum("th,ths->ts", w.softmax(-1), products)
        ),
        "the root of the number of heads is missing": _index(scale=lambda heads, channels: channels**-0.5),
        "the root of the number of channels is missing": _index(scale=lambda heads, channels: heads**-0.5),
        "a token does not see itself; it is among the candidates": _index(diagonal=0),
        "a token sees the one after it": _index(diagonal=2),
    },
    alternatives=[
        _index(products=lambda q, k: (q @ k.T).clamp(min=0), join=lambda w, p: (w[:, :, None] * p).sum(1)),
        _index(products=lambda q, k: F.relu(q.flatten(0, 1) @ k.T).view(q.shape[0], q.shape[1], -1)),
    ],
    hints=(
        "First all products of queries and keys, (T, heads, T). What happens to each of them before heads are joined?",
        "relu, then a weighted sum over the heads with w, then divide by the root of heads times channels. Last, -inf "
        "above the diagonal.",
        "torch.einsum('th,ths->ts', w, torch.einsum('the,se->ths', q, k).relu()), and masked_fill with a mask that is "
        "triu(1).",
    ),
)
def _(draw):
    def case(tokens):
        heads, channels = draw.integer(2, 5), draw.integer(3, 8)
        return draw.normal(tokens, heads, channels), draw.normal(tokens, heads), draw.normal(tokens, channels)

    plain = case(draw.integer(6, 9))
    seen = call("index_seen", *plain, grad=True)
    yield contract("changes no input, and everything can learn", 1, [seen], [Untouched(), Reaches()])
    yield value("is the report's formula", 3, [seen, call("index_seen", *case(3)), call("index_seen", *case(1))])
    yield value(
        "looks at the past and at itself only", 1, [call("index_hidden", *plain), call("index_hidden", *case(2))]
    )


# %% [markdown]
# ## 2. Read only what was chosen
#
# One new token asks. Its absorbed queries meet the cached latents (lesson 06), but only the `k` of them with the largest
# index scores, or all if there are no more. Write this step so that the other latents are **not read**: whatever
# they hold, the result stays the same.
#
# - `scores` is $(S)$, of the new token; it may see everything. `queries` is $(H, d_c + d_r)$, absorbed and turned.
# - `latents` is $(S, d_c + d_r)$. A score of attention is query · latent · `scale`; what is summed up are the first `d_latent`
#   channels.
# - The result is $(H, d_c)$.


# %% task="dsa.read" title="Read only what was chosen" kind="implement" difficulty=2 minutes=20 forbid=["scaled_dot_product_attention"]
def sparse_step(scores, queries, latents, k, d_latent, scale):
    """scores: (S,), queries: (H, d_c + d_r), latents: (S, d_c + d_r) -> (H, d_c)."""
    ### BEGIN SOLUTION
    best = scores.topk(min(k, len(scores))).indices
    own = latents[best]
    weights = (queries @ own.T * scale).softmax(-1)
    return weights @ own[:, :d_latent]
    ### END SOLUTION


# %% tags=["driver"]
def poisoned(scores, queries, latents, k, d_latent, scale):
    """How many numbers of the result are spoilt by nonsense in the latents that were not chosen."""
    keep = torch.zeros(len(scores), dtype=torch.bool)
    keep[scores.topk(min(k, len(scores))).indices] = True
    spoilt = latents.masked_fill(~keep[:, None], torch.nan)
    return float(sparse_step(scores, queries, spoilt, k, d_latent, scale).isnan().sum())


# %% tags=["judge"]
def step_by_mask(scores, queries, latents, k, d_latent, scale):
    """Everything is computed, and hidden in the order of the scores."""
    order = sorted(range(len(scores)), key=lambda s: -float(scores[s]))[:k]
    hidden = torch.tensor([s not in order for s in range(len(scores))])
    weights = (queries @ latents.T * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.nan_to_num(weights) @ torch.where(hidden[:, None], 0.0, latents)[:, :d_latent]


def _read(
    best=lambda scores, k: scores.topk(min(k, len(scores))).indices,
    weigh=lambda attention, scores: attention.softmax(-1),
    scale=lambda scale: scale,
    first=lambda own, d_latent: own[:, :d_latent],
):
    """A step with one part of it wrong."""

    def sparse_step(scores, queries, latents, k, d_latent, scale_):
        chosen = best(scores, k)
        own = latents[chosen]
        weights = weigh(queries @ own.T * scale(scale_), scores[chosen])
        return weights @ first(own, d_latent)

    return lambda scores, queries, latents, k, d_latent, scale: sparse_step(
        scores, queries, latents, k, d_latent, scale
    )


def _dense(scores, queries, latents, k, d_latent, scale):
    return (queries @ latents.T * scale).softmax(-1) @ latents[:, :d_latent]


def _softmax_before(scores, queries, latents, k, d_latent, scale):
    hidden = torch.ones(len(scores), dtype=torch.bool)
    hidden[scores.topk(min(k, len(scores))).indices] = False
    return (queries @ latents.T * scale).softmax(-1).masked_fill(hidden, 0.0) @ latents[:, :d_latent]


def _masked(scores, queries, latents, k, d_latent, scale):
    hidden = torch.ones(len(scores), dtype=torch.bool)
    hidden[scores.topk(min(k, len(scores))).indices] = False
    weights = (queries @ latents.T * scale).masked_fill(hidden, -torch.inf).softmax(-1)
    return weights @ latents[:, :d_latent]


READ = "latents that were not chosen are read: 0 times NaN is NaN; fetch the chosen ones first"


@checks(
    "dsa.read",
    oracle=step_by_mask,
    mistakes={
        "all latents are attended to; only the k best are": _dense,
        "the softmax runs over all tokens; over the chosen ones the weights must sum to 1": _softmax_before,
        READ: _masked,
        "the k smallest scores are chosen": _read(
            best=lambda scores, k: scores.topk(min(k, len(scores)), largest=False).indices
        ),
        "the latest k are chosen; scores decide": _read(best=lambda scores, k: torch.arange(len(scores))[-k:]),
        "index scores weigh the latents; they only choose, attention weighs": _read(
            weigh=lambda attention, scores: scores.softmax(-1).expand_as(attention)
        ),
        "index scores are added to those of attention; they only choose": _read(
            weigh=lambda attention, scores: (attention + scores).softmax(-1)
        ),
        "attention's scores are not scaled": _read(scale=lambda scale: 1.0),
        "the last channels are summed up; the latent comes first": _read(
            first=lambda own, d_latent: own[:, own.shape[1] - d_latent :]
        ),
    },
    alternatives=[
        _read(best=lambda scores, k: scores.argsort(descending=True)[:k]),
        _read(best=lambda scores, k: scores.topk(min(k, len(scores))).indices.sort().values),
    ],
    hints=(
        "What is fetched from the cache first: everything, or the k rows?",
        "scores.topk(min(k, len(scores))).indices, and with these rows of latents attention as in lesson 06.",
        "own = latents[best]; (queries @ own.T * scale).softmax(-1) @ own[:, :d_latent].",
    ),
)
def _(draw):
    def case(tokens, k):
        heads, latent, rope = draw.integer(2, 5), draw.integer(5, 9), 2 * draw.integer(1, 3)
        given = draw.normal(tokens), draw.normal(heads, latent + rope), draw.normal(tokens, latent + rope)
        return *given, k, latent, 0.37

    many, few = case(draw.integer(12, 18), draw.integer(3, 6)), case(4, 7)
    here = call("sparse_step", *many)
    yield contract("gives (H, d_c), changes no input", 1, [here], [Untouched()])
    yield value("attends to the k best", 3, [here, call("sparse_step", *few), call("sparse_step", *case(6, 1))])
    yield invariant("reads nothing else", 2, [call("poisoned", *many)], [Between(low=0, high=0, says=READ)])


# %% [markdown]
# ## 3. What the indexer learns from
#
# In the sparse stage the indexer imitates attention *on what it chose* (V3.2 report, section 2.1.1, eq. 4): sum attention
# over the heads, keep what was chosen, make it a distribution $p$ again, and compare with the softmax of the index scores,
# over the same tokens:
#
# $$\mathcal{L}^I = \frac{1}{T} \sum_t \; \sum_{s \in S_t} p_{t,s} \,\big(\log p_{t,s} - \log \mathrm{softmax}(I_{t,S_t})_s\big)$$
#
# - `scores` is $(T, T)$, and only `scores` may learn: no gradient reaches `attention`.
# - `attention` is $(H, T, T)$, the dense probabilities of all heads. `chosen` is $(T, T)$, bool; each row has at least one.
# - Where $p$ is 0 the term is 0. Nothing may become NaN, in the gradient neither.


# %% task="dsa.loss" title="What the indexer learns from" kind="implement" difficulty=3 minutes=25 forbid=["kl_div"]
def index_loss(scores, attention, chosen):
    """scores: (T, T), attention: (H, T, T), chosen: (T, T) bool -> a number."""
    ### BEGIN SOLUTION
    target = attention.detach().sum(0) * chosen
    target = target / target.sum(-1, keepdim=True)
    log_found = scores.masked_fill(~chosen, -torch.inf).log_softmax(-1).masked_fill(~chosen, 0.0)
    return (torch.xlogy(target, target) - target * log_found).sum(-1).mean()
    ### END SOLUTION


# %% tags=["driver"]
def gradient_at_attention(scores, attention, chosen):
    """How much of the loss's gradient reaches attention."""
    attention = attention.clone().requires_grad_()
    scores = scores.clone().requires_grad_()
    grads = torch.autograd.grad(index_loss(scores, attention, chosen), [scores, attention], allow_unused=True)
    return 0.0 if grads[1] is None else float(grads[1].abs().max())


# %% tags=["judge"]
def loss_row_by_row(scores, attention, chosen):
    """Each row's own short distribution."""
    rows = []
    for t in range(len(scores)):
        where = chosen[t].nonzero()[:, 0]
        p = attention.detach()[:, t, where].sum(0)
        p, q = p / p.sum(), scores[t, where].softmax(0)
        rows.append(sum((p[i] * (p[i].log() - q[i].log()) for i in range(len(p)) if p[i] > 0), start=0 * q.sum()))
    return torch.stack(rows).mean()


def _loss(
    target=lambda attention: attention.detach().sum(0),
    keep=lambda target, chosen: target * chosen,
    share=lambda target: target / target.sum(-1, keepdim=True),
    found=lambda scores, chosen: scores.masked_fill(~chosen, -torch.inf),
    kl=lambda p, log_q, log_p: torch.xlogy(p, p) - p * log_q,
    reduce=lambda rows: rows.mean(),
):
    """The loss with one part of it wrong."""

    def index_loss(scores, attention, chosen):
        p = share(keep(target(attention), chosen))
        log_q = found(scores, chosen).log_softmax(-1)
        log_q = log_q.masked_fill(log_q == -torch.inf, 0.0)
        return reduce(kl(p, log_q, p.clamp(min=1e-30).log()).sum(-1))

    return index_loss


@checks(
    "dsa.loss",
    oracle=loss_row_by_row,
    mistakes={
        "attention learns from it, too: detach it": _loss(target=lambda attention: attention.sum(0)),
        "only the first head is imitated; all of them count": _loss(target=lambda attention: attention.detach()[0]),
        "attention on what was chosen is not made a distribution again": _loss(
            share=lambda target: target / target.sum(-1, keepdim=True).clamp(min=1e9) * 1e9 / 3
        ),
        "scores of tokens that were not chosen take part in the softmax": _loss(found=lambda scores, chosen: scores),
        "the divergence is taken the other way round: p is what is imitated": _loss(
            kl=lambda p, log_q, log_p: log_q.exp() * (p > 0) * (log_q - log_p)
        ),
        "this is the cross-entropy; the entropy of p is missing": _loss(kl=lambda p, log_q, log_p: -p * log_q),
        "rows are summed up; take their mean": _loss(reduce=lambda rows: rows.sum()),
    },
    alternatives=[_loss(), loss_row_by_row],
    hints=(
        "Three steps: the target, the logarithm of what the indexer says, and the divergence. Which of them may learn?",
        "target = attention.detach().sum(0) * chosen, divided by its sum. log_softmax of the scores with -inf where nothing "
        "was chosen. 0 times -inf is NaN, in the gradient as well: put a 0 there before you multiply.",
        "log_found = scores.masked_fill(~chosen, -inf).log_softmax(-1).masked_fill(~chosen, 0); torch.xlogy(p, p) is "
        "p log p with 0 at 0.",
    ),
)
def _(draw):
    def case(tokens, zero=False):
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        chosen = (causal & (draw.normal(tokens, tokens) > -0.3)) | torch.eye(tokens, dtype=torch.bool)
        logits = draw.normal(draw.integer(2, 5), tokens, tokens, scale=2.0).masked_fill(~causal, -torch.inf)
        attention = logits.softmax(-1)
        if zero:
            attention[:, -1, 0] = 0.0
            chosen[-1, 0] = True
        return draw.normal(tokens, tokens), attention, chosen

    plain, rare = case(draw.integer(5, 8)), case(6, zero=True)
    reached = call("gradient_at_attention", *plain)
    yield contract("changes no input", 1, [call("index_loss", *plain)], [Untouched()])
    yield value(
        "is the divergence on what was chosen",
        3,
        [call("index_loss", *plain), call("index_loss", *rare), call("index_loss", *case(1))],
    )
    yield value("teaches the indexer and nobody else", 2, [reached, call("gradient_at_attention", *rare)], atol=1e-12)


# %% [markdown]
# ## 4. A choice that falls short
#
# A colleague chooses tokens for a whole prompt. Scores come without a mask; the function returns which tokens each query
# reads. No query looks ahead, everything runs, and training goes well; but a look at the numbers shows that early
# queries read far fewer tokens than they could. Find the mistake and repair it. A query that sees fewer than `k` tokens reads
# all of them, and none that comes after it.


# %% task="dsa.choose" title="A choice that falls short" kind="debug" difficulty=1 minutes=10
def choose(scores, k):
    """scores: (T, T), nothing hidden -> (T, T) bool, at most k True in a row, none above the diagonal."""
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    ### BEGIN SOLUTION
    best = scores.masked_fill(future, -torch.inf).topk(min(k, len(scores))).indices
    ### STUB
    # best = scores.topk(min(k, len(scores))).indices
    ### END SOLUTION
    picked = torch.zeros_like(future).scatter(1, best, True)
    return picked & ~future


# %% tags=["judge"]
def choose_row_by_row(scores, k):
    """Each row sorts what it sees."""
    rows = torch.zeros(scores.shape, dtype=torch.bool)
    for t in range(len(scores)):
        for s in sorted(range(t + 1), key=lambda s: -float(scores[t, s]))[:k]:
            rows[t, s] = True
    return rows


def _choose(hide=lambda scores, future: scores.masked_fill(future, -torch.inf), diagonal=1, after=True, largest=True):
    """The choice with one part of it wrong."""

    def choose(scores, k):
        future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal)
        best = hide(scores, future).topk(min(k, len(scores)), largest=largest).indices
        picked = torch.zeros_like(future).scatter(1, best, True)
        return picked & ~future if after else picked

    return choose


@checks(
    "dsa.choose",
    oracle=choose_row_by_row,
    mistakes={
        "tokens of the future are chosen first and hidden then: they have taken the places of others": _choose(
            hide=lambda scores, future: scores
        ),
        "topk returns k places even if fewer are to be seen: hide the future after the choice, too": _choose(
            after=False
        ),
        "what is hidden counts as 0, which is more than a negative score": _choose(
            hide=lambda scores, future: scores.masked_fill(future, 0.0)
        ),
        "a token does not read itself": _choose(diagonal=0),
    },
    alternatives=[_choose(hide=lambda scores, future: torch.where(future, torch.finfo(scores.dtype).min, scores))],
    hints=(
        "Count how many tokens each query reads, for k = 3. How many does the second query see, and how many of its three "
        "best may it read?",
        "A token of the future may have one of the k largest scores. Whose place does it take?",
        "Hide the future before topk as well, with -inf.",
    ),
)
def _(draw):
    tokens = draw.integer(7, 11)
    plain = call("choose", draw.normal(tokens, tokens), draw.integer(2, 4))
    rising = draw.normal(5, 5).abs() + torch.arange(5) * 10  # later is larger: the future is chosen
    below = -draw.normal(6, 6).abs() - 1
    yield value(
        "chooses the best of what is seen",
        3,
        [plain, call("choose", rising, 2), call("choose", below, 3), call("choose", below, 9)],
    )
    scores = draw.normal(tokens, tokens)
    raised = scores + 10 * torch.ones(tokens, tokens).triu(1)
    yield invariant(
        "whatever comes later changes nothing",
        1,
        [call("choose", scores, 3), call("choose", raised, 3)],
        [Same(left=Part(), right=Part(step=1), says="other scores of the future change what is chosen of the past")],
    )


# %% [markdown]
# ## 5. Predict, then count: from where does an index pay?
#
# Absorbed attention has 32 heads, $d_c = 256$, $d_r = 32$. Its indexer has 32 heads of 128 channels and picks $k = 1024$
# tokens. Count the FLOPs of one new token after $n$ others: $2 H (2 d_c + d_r)$ for each latent that is read, and
# $2 H^I (d^I + 1)$ for each key that is scored. **From which length $n$ on** does the sparse layer need fewer than the dense
# one? Write your number down, check it, then run the count below.


# %% task="dsa.crossing" title="From where does an index pay?" kind="predict" difficulty=1 minutes=10
### BEGIN SOLUTION
pays_from = 1343  # 34,816 n > 8,256 n + 34,816 · 1024
### STUB
# pays_from = None  # your number
### END SOLUTION

# %%
from minideepseek.layers import Indexer

indexer = Indexer(n_heads=32, head_dim=128, top_k=1024)
latent = 2 * 32 * (2 * 256 + 32)
counted = next(n for n in range(1, 10**5) if indexer.score_flops(n) + latent * min(n, 1024) < latent * n)
print(f"predicted {pays_from} tokens, counted {counted}")

# %% tags=["judge"]
from minideepseek.layers import Indexer

per_latent = 2 * 32 * (2 * 256 + 32)
per_key = Indexer(n_heads=32, head_dim=128, top_k=1024).score_flops(1)


@checks(
    "dsa.crossing",
    oracle=1024 * per_latent / (per_latent - per_key),
    mistakes={
        "at k tokens everything is read, and the index is work on top": 1024.0,
        "the work of the index is added to that of one latent; each token beyond k saves their difference": (
            1024 * (per_latent + per_key) / per_latent
        ),
        "this is how many keys are scored for the price of one latent": per_latent / per_key,
        "this is k latents counted in keys; the dense layer reads latents, too": 1024 * per_latent / per_key,
    },
    hints=(
        "Write both costs as functions of n, for n beyond k. Which of them is larger at n = k?",
        "Dense: a n. Sparse: b n + a k, with a for a latent and b for a key.",
        "n = a k / (a - b).",
    ),
)
def _(draw):
    yield value("the number is right to within a fiftieth", 2, [call("pays_from")], rtol=0.02, atol=0.0)
