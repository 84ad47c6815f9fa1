# %% [markdown]
# # Exercises 12 · CSA and HCA
#
# Five tasks on [lesson 12](../../notebooks/12_compressed_attention.ipynb), about 90 minutes. Each has a statement, a cell for
# your answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("csa.visible")` helps in three steps, `solution("csa.visible")` shows ours once you have tried, and `status()` at the
# end tells where you are.

# %% tags=["given"]
import torch

# %% [markdown]
# ## 1. Who sees what
#
# A text of $T$ tokens, blocks of $m$, a window of $W$. Write the two masks of V4's attention (arXiv 2606.19348, section
# 2.3): which tokens the query at $t$ reads word by word, $\max(0, t - W + 1) \dots t$, and which entries it may see. Entry
# $i$ stands for the tokens $mi \dots mi + m - 1$; it exists when the block is complete, and the block's last token is the
# first to see it. A tail of fewer than $m$ tokens has no entry.


# %% task="csa.visible" title="Who sees what" kind="implement" difficulty=1 minutes=15
def visible(length, rate, window):
    """T, m, W -> tokens (T, T) bool and entries (T, T // m) bool; row t is the query at position t."""
    ### BEGIN SOLUTION
    now = torch.arange(length)[:, None]
    earlier, blocks = torch.arange(length), torch.arange(length // rate)
    return (earlier <= now) & (earlier > now - window), blocks < (now + 1) // rate
    ### END SOLUTION


# %% tags=["judge"]
from minideepseek.judge.author import (
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


def visible_one_by_one(length, rate, window):
    """By counting."""
    tokens = [[t - window + 1 <= s <= t for s in range(length)] for t in range(length)]
    entries = [[rate * i + rate - 1 <= t for i in range(length // rate)] for t in range(length)]
    return torch.tensor(tokens), torch.tensor(entries).view(length, length // rate)


def _visible(closed=lambda now, i, m: i < (now + 1) // m, near=lambda now, s, w: (s <= now) & (s > now - w), up=False):
    """Masks with one rule wrong."""

    def visible(length, rate, window):
        now = torch.arange(length)[:, None]
        count = -(-length // rate) if up else length // rate
        return near(now, torch.arange(length), window), closed(now, torch.arange(count), rate)

    return visible


@checks(
    "csa.visible",
    oracle=visible_one_by_one,
    mistakes={
        "a block's last token does not see its block; it is the first that should": _visible(
            closed=lambda now, i, m: i < now // m
        ),
        "a query sees its own block before the block is complete: it is shown what comes after it": _visible(
            closed=lambda now, i, m: i <= now // m
        ),
        "a block is visible one token too early": _visible(closed=lambda now, i, m: i < (now + 2) // m),
        "the window is one token too wide: W tokens, the query among them": _visible(
            near=lambda now, s, w: (s <= now) & (s >= now - w)
        ),
        "the window leaves out the query itself": _visible(near=lambda now, s, w: (s < now) & (s >= now - w)),
        "the window reaches into the future": _visible(near=lambda now, s, w: s > now - w),
        "the tail has no entry: only complete blocks do": _visible(up=True),
    },
    alternatives=[
        _visible(closed=lambda now, i, m: m * (i + 1) - 1 <= now),
        _visible(near=lambda now, s, w: (now - s >= 0) & (now - s < w)),
    ],
    hints=(
        "Take T = 6, m = 2, W = 3 and draw both masks on paper. Which is the first query that sees entry 0?",
        "Compare a column of query positions with a row of token positions, and with a row of block numbers. Entry i closes "
        "with token m(i + 1) - 1.",
        "(s <= t) & (s > t - window), and i < (t + 1) // rate for i in arange(length // rate).",
    ),
)
def _(draw):
    yield contract("gives two masks of bools", 1, [call("visible", 8, 3, 2)], [])
    some = [call("visible", draw.integer(9, 30), draw.integer(2, 7), draw.integer(1, 9)) for _ in draw.rounds(4)]
    yield value("several texts", 2, some)
    yield value("a text that ends within a block", 1, [call("visible", 4 * draw.integer(2, 5) + 3, 4, 2)])
    yield value("a text shorter than a block", 1, [call("visible", 3, 8, 2)])


# %% [markdown]
# ## 2. Overlapping blocks
#
# In CSA every token offers two values and two scores, for the next block's entry and for its own: the first $d$ channels of
# `values` and `scores` are for the next, the last $d$ for its own. Entry $i$ is a softmax over $2m$ offers, **in each channel
# by itself**: $m$ from block $i - 1$ (its channels "for the next") and $m$ from block $i$ (its channels "for its own").
# `place` is added to the scores, row $r$ to the $r$-th token of each block, in both halves of the channels (equations 9 to
# 12). Block 0 has no predecessor: its entry is a softmax over $m$ offers. Leave out norm and rotation.


# %% task="csa.compress" title="Overlapping blocks" kind="implement" difficulty=2 minutes=20
def compress(values, scores, place):
    """(B, T, 2d), (B, T, 2d), (m, 2d) -> (B, T // m, d)."""
    ### BEGIN SOLUTION
    m, d = len(place), place.shape[1] // 2
    n = values.shape[1] // m
    values = values[:, : n * m].unflatten(1, (n, m))
    scores = scores[:, : n * m].unflatten(1, (n, m)) + place
    nothing = torch.zeros_like(values[:, :1, :, :d])
    before = torch.cat([nothing, values[:, :-1, :, :d]], 1)
    unseen = torch.cat([nothing - torch.inf, scores[:, :-1, :, :d]], 1)
    shares = torch.cat([unseen, scores[..., d:]], 2).softmax(2)
    return (shares * torch.cat([before, values[..., d:]], 2)).sum(2)
    ### END SOLUTION


# %% tags=["judge"]
def compress_channel_by_channel(values, scores, place):
    """Every entry's channel from a list of offers."""
    m, d = len(place), place.shape[1] // 2
    batch, n = values.shape[0], values.shape[1] // m
    out = []
    for b in range(batch):
        for i in range(n):
            for channel in range(d):
                offers = [(m * i + r, r, channel + d) for r in range(m)]
                offers += [(m * (i - 1) + r, r, channel) for r in range(m) if i > 0]
                weights = torch.stack([(scores[b, t, c] + place[r, c]).exp() for t, r, c in offers])
                given = torch.stack([values[b, t, c] for t, _, c in offers])
                out.append((weights * given).sum() / weights.sum())
    return torch.stack(out).view(batch, n, d) if out else values.new_zeros(batch, 0, d)


def _compress(swap=False, first=-torch.inf, places=True, over=2, join=None, mean=False):
    """Compression with one thing wrong."""

    def compress(values, scores, place):
        m, d = len(place), place.shape[1] // 2
        n = values.shape[1] // m
        values, scores = (x[:, : n * m].unflatten(1, (n, m)) for x in (values, scores))
        scores = scores + (place if places else 0)
        if swap:
            values, scores = (torch.cat([x[..., d:], x[..., :d]], -1) for x in (values, scores))
        nothing = torch.zeros_like(values[:, :1, :, :d])
        before = torch.cat([nothing, values[:, :-1, :, :d]], 1)
        unseen = torch.cat([nothing + first, scores[:, :-1, :, :d]], 1)
        own, own_scores = values[..., d:], scores[..., d:]
        if join == "apart":
            halves = [(unseen.softmax(2).nan_to_num() * before).sum(2), (own_scores.softmax(2) * own).sum(2)]
            return sum(halves) / 2
        if join == "own":
            return (own_scores.softmax(2) * own).sum(2)
        together = torch.cat([unseen, own_scores], 2)
        shares = together.mean(-1, keepdim=True).softmax(2) if mean else together.softmax(over)
        return (shares * torch.cat([before, own], 2)).sum(2)

    return compress


@checks(
    "csa.compress",
    oracle=compress_channel_by_channel,
    mistakes={
        "the halves are swapped: the first d channels are for the NEXT block's entry": _compress(swap=True),
        "block 0 gives a share to a block that does not exist: its scores must be -inf, not 0": _compress(first=0.0),
        "the bias of the places is missing": _compress(places=False),
        "the softmax runs over channels; it runs over tokens, in each channel by itself": _compress(over=3),
        "two softmaxes, one for each block; all 2m offers share one": _compress(join="apart"),
        "nothing of the block before arrives in an entry": _compress(join="own"),
        "all channels of a token share one weight; each channel has a softmax of its own": _compress(mean=True),
    },
    alternatives=[_compress()],
    hints=(
        "Cut the text into (B, n, m, 2d) first. Which channels of which block does entry i read? What does that mean for the "
        "tensor shifted by one block?",
        "Shift the first half of the channels by one block; put values of 0 and scores of -inf in front. Then lay both halves "
        "side by side along the tokens, (B, n, 2m, d), and take the softmax there.",
        "shares = torch.cat([shifted_scores, scores[..., d:]], 2).softmax(2), and the same with the values; sum over axis 2.",
    ),
)
def _(draw):
    def problem(n, tail=0):
        m, d = draw.integer(2, 5), draw.integer(2, 5)
        shape = 2, n * m + tail * (m - 1), 2 * d
        return draw.normal(*shape), draw.normal(*shape), draw.normal(m, 2 * d)

    many = problem(4)
    yield contract(
        "inputs left alone, gradients everywhere", 1, [call("compress", *many, grad=True)], [Untouched(), Reaches()]
    )
    yield value("four blocks, and their gradients", 2, [call("compress", *many, grad=True)], rtol=1e-4, atol=1e-5)
    yield value("a tail without an entry", 1, [call("compress", *problem(3, tail=1))], rtol=1e-4, atol=1e-5)
    yield value("the first block alone", 1, [call("compress", *problem(1))], rtol=1e-4, atol=1e-5)


# %% [markdown]
# ## 3. Debug: two branches
#
# One query of one token reads its window and some entries, with $H$ heads; each vector is key and value at once, and each
# head has a sink: a score that takes its share and brings no value (equation 27). Somebody wrote the two branches one after
# the other. It runs, it looks like attention, it trains. But V4 has *one* softmax over window, entries and sink. Laws show
# what is wrong:
#
# - whether a vector stands in the window or among the entries makes no difference;
# - with a sink of $-\infty$ this is ordinary attention to all vectors together; with a very high one nothing comes out.


# %% task="csa.attend" title="Two branches, one softmax" kind="debug" difficulty=2 minutes=15
def attend(query, window, entries, sink):
    """(H, c), (W, c), (n, c), (H,) -> (H, c)."""
    scale = query.shape[-1] ** -0.5
    ### BEGIN SOLUTION
    vectors = torch.cat([window, entries])
    scores = torch.cat([query @ vectors.T * scale, sink[:, None]], 1)
    return scores.softmax(-1)[:, :-1] @ vectors
    ### STUB
    # near = (query @ window.T * scale).softmax(-1) @ window
    # far = (query @ entries.T * scale).softmax(-1) @ entries
    # return (near + far) / 2 * (1 - sink[:, None].sigmoid())
    ### END SOLUTION


# %% tags=["judge"]
def attend_by_sums(query, window, entries, sink):
    """Head by head, with the exponentials written out."""
    out = []
    for q, s in zip(query, sink, strict=True):
        weights = [(torch.dot(q, v) / query.shape[1] ** 0.5).exp() for v in (*window, *entries)]
        total = sum(weights) + s.exp()
        out.append(sum(w / total * v for w, v in zip(weights, (*window, *entries), strict=True)))
    return torch.stack(out)


def _attend(scaled=1.0, kept=True, take=None, scale=None):
    """Attention with the sink or the scale wrong."""

    def attend(query, window, entries, sink):
        vectors = torch.cat([window, entries])
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = query @ vectors.T * factor
        if take is not None:
            return take(scores, sink, vectors, len(window))
        if not kept:
            return scores.softmax(-1) @ vectors
        extra = sink[:, None] * (factor if scaled is None else scaled)
        return torch.cat([scores, extra], 1).softmax(-1)[:, :-1] @ vectors

    return attend


def _apart(scores, sink, vectors, w):
    halves = [scores[:, :w].softmax(-1) @ vectors[:w], scores[:, w:].softmax(-1) @ vectors[w:]]
    return sum(halves) / 2 * (1 - sink[:, None].sigmoid())


def _sink_each(scores, sink, vectors, w):
    total = 0
    for part, own in ((scores[:, :w], vectors[:w]), (scores[:, w:], vectors[w:])):
        total = total + torch.cat([part, sink[:, None]], 1).softmax(-1)[:, :-1] @ own
    return total


@checks(
    "csa.attend",
    oracle=attend_by_sums,
    mistakes={
        "each branch still has a softmax of its own": _attend(take=_apart),
        "each branch has its own softmax and its own sink": _attend(take=_sink_each),
        "the sink is missing": _attend(kept=False),
        "the sink is scaled like a product of vectors; it is a score as it is": _attend(scaled=None),
        "the sink takes a fixed share; it competes with the scores in the softmax": _attend(
            take=lambda scores, sink, vectors, w: scores.softmax(-1) @ vectors * (1 - sink[:, None].sigmoid())
        ),
    },
    alternatives=[
        _attend(),
        _attend(
            take=lambda scores, sink, vectors, w: (
                (scores - torch.logaddexp(scores.logsumexp(-1), sink)[:, None]).exp() @ vectors
            )
        ),
    ],
    hints=(
        "Move a vector from the window to the entries in the broken version: why does the output change? What would have to be "
        "shared for it not to?",
        "Put all vectors below each other, and all scores side by side. The sink is one more score at the end of the row.",
        "torch.cat([scores, sink[:, None]], 1).softmax(-1)[:, :-1] @ torch.cat([window, entries]).",
    ),
)
def _(draw):
    heads, width = draw.integer(2, 5), draw.integer(3, 8)
    query, window, entries = draw.normal(heads, width, scale=2.0), draw.normal(5, width), draw.normal(4, width)
    sink = draw.normal(heads)
    yield value("a window, entries and sinks", 2, [call("attend", query, window, entries, sink)], rtol=1e-4, atol=1e-5)
    moved = call("attend", query, torch.cat([window, entries[:2]]), entries[2:], sink)
    yield invariant(
        "a vector may stand in either branch",
        2,
        [call("attend", query, window, entries, sink), moved],
        [
            Same(
                left=Part(step=0),
                right=Part(step=1),
                says="the output changes when a vector changes branches",
                rtol=1e-4,
            )
        ],
    )
    closed = call("attend", query, window, entries, sink + 100.0)
    opened = call("attend", query, window, entries, sink - 100.0)
    yield value(
        "a very high sink lets nothing out, a very low one is not there", 2, [closed, opened], rtol=1e-4, atol=1e-5
    )


# %% [markdown]
# ## 4. The open block
#
# A model writes token by token. For plain blocks (HCA), `push` is given what waits, a list of pairs (value, score), each
# $(d,)$, of the open block's tokens so far, and the pair of the new token. It returns what waits afterwards and the new
# entry, or None if no block is complete. The entry is the softmax over the block's $m$ tokens of scores plus `place`, in each
# channel, times the values.
#
# Two things to hold: the entry must be there **when the block's last token arrives**, not one token later; and never more
# than $m - 1$ pairs may wait. The list given must not be changed: a draft may be taken back.


# %% task="csa.push" title="The open block" kind="implement" difficulty=2 minutes=20
def push(waiting, value, score, place):
    """Pairs of (d,), two (d,), (m, d) -> (list of pairs that wait, (d,) or None)."""
    ### BEGIN SOLUTION
    block = [*waiting, (value, score)]
    if len(block) < len(place):
        return block, None
    shares = (torch.stack([score for _, score in block]) + place).softmax(0)
    return [], (shares * torch.stack([value for value, _ in block])).sum(0)
    ### END SOLUTION


# %% tags=["driver"]
def decoded(values, scores, place):
    """(T, d) twice, (m, d) -> the entries (n, d), when each came (n,), and how many waited after each token (T,)."""
    waiting, entries, when, held = [], [], [], []
    for t, pair in enumerate(zip(values, scores, strict=True)):
        waiting, entry = push(waiting, *pair, place)
        held.append(len(waiting))
        if entry is not None:
            entries.append(entry)
            when.append(t)
    found = torch.stack(entries) if entries else values.new_zeros(0, values.shape[1])
    return found, torch.tensor(when), torch.tensor(held)


def taken_back(values, scores, place):
    """The entry after two wrong drafts were pushed and dropped."""
    m = len(place)
    waiting = []
    for pair in zip(values[: m - 1], scores[: m - 1], strict=True):
        waiting, _ = push(waiting, *pair, place)
    for draft in range(2):
        push(waiting, values[m + draft], scores[m + draft], place)
    return push(waiting, values[m - 1], scores[m - 1], place)[1]


# %% tags=["judge"]
def push_by_the_book(waiting, value, score, place):
    """Sums and exponentials, channel by channel."""
    block = [*waiting, (value, score)]
    if len(block) != len(place):
        return block, None
    entry = value.new_zeros(value.shape)
    for channel in range(len(value)):
        weights = [(s[channel] + place[r, channel]).exp() for r, (_, s) in enumerate(block)]
        entry[channel] = sum(w * v[channel] for w, (v, _) in zip(weights, block, strict=True)) / sum(weights)
    return [], entry


def _push(late=0, keep=0, places=True, turned=False, change=False, over=0):
    """A push with one thing wrong."""

    def push(waiting, value, score, place):
        m = len(place)
        if change:
            waiting.append((value, score))
            block = waiting
        else:
            block = [*waiting, (value, score)]
        if len(block) < m + late:
            return block, None
        used = block[:m]
        bias = place.flip(0) if turned else place
        shares = (torch.stack([s for _, s in used]) + (bias if places else 0)).softmax(over)
        return block[m:] if late else used[m - keep :], (shares * torch.stack([v for v, _ in used])).sum(0)

    return push


@checks(
    "csa.push",
    oracle=push_by_the_book,
    mistakes={
        "the entry comes one token late; the block's last token must see it already": _push(late=1),
        "a pair stays behind when the block closes, and the blocks that follow are one token early": _push(keep=1),
        "the bias of the places is missing": _push(places=False),
        "the places are counted from the end of the block": _push(turned=True),
        "the list that was given is changed: a draft that is taken back stays in the block": _push(change=True),
        "the softmax runs over channels; it runs over the tokens of the block": _push(over=1),
    },
    alternatives=[_push()],
    hints=(
        "How many pairs wait before the block's last token arrives? Then the new pair completes it, within this call.",
        "Make a new list of what waits and the new pair. Shorter than m: return it and None. Otherwise compress it, and "
        "nothing waits any more.",
        "shares = (torch.stack(scores) + place).softmax(0); entry = (shares * torch.stack(values)).sum(0); return [], entry.",
    ),
)
def _(draw):
    m, d = draw.integer(3, 6), draw.integer(2, 5)
    text = draw.normal(4 * m + 2, d), draw.normal(4 * m + 2, d), draw.normal(m, d)
    yield contract("gives entries, and leaves its inputs alone", 1, [call("decoded", *text)], [Untouched()])
    yield value("four blocks and a tail: entries, moments, memory", 3, [call("decoded", *text)], rtol=1e-4, atol=1e-5)
    yield value("drafts that are taken back leave no trace", 2, [call("taken_back", *text)], rtol=1e-4, atol=1e-5)


# %% [markdown]
# ## 5. Predict: a million tokens of V4-Flash
#
# V4-Flash has 43 layers: 2 with a window alone, 21 with CSA ($m = 4$, $k = 512$) and 20 with HCA ($m' = 128$). The window is
# 128, a vector has 512 channels, an index key 128. Write down, before you run the cell below the check, for the query at
# position 999,999:
#
# - `csa_entries`: how many entries does a CSA layer's indexer score?
# - `read_csa`: how many vectors does a CSA layer then read, window included?
# - `read_hca`: and an HCA layer?
# - `per_token`: by how many numbers does the whole model's cache grow with each further token, on average?


# %% task="csa.bill" title="A million tokens of V4-Flash" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
csa_entries = 1_000_000 // 4
read_csa = 128 + 512
read_hca = 128 + 1_000_000 // 128
per_token = 21 * (512 + 128) / 4 + 20 * 512 / 128
### STUB
# csa_entries = None  # entries
# read_csa = None  # vectors
# read_hca = None  # vectors
# per_token = None  # numbers
### END SOLUTION

# %% [markdown]
# Ask the package:

# %%
import minideepseek as mds

print(f"{mds.report(mds.generations['v4-flash']).cache_elements_per_token:,} numbers a token; you said {per_token}")

# %% tags=["judge"]
_bill = {"csa_entries": 250_000.0, "read_csa": 640.0, "read_hca": 7940.0, "per_token": 3440.0}


@checks(
    "csa.bill",
    oracle=_bill,
    mistakes={
        "the indexer scores every closed block, not only those it picks": _bill | {"csa_entries": 512.0},
        "the indexer scores blocks, not tokens": _bill | {"csa_entries": 1_000_000.0},
        "the window is read beside the chosen entries": _bill | {"read_csa": 512.0},
        "k counts entries, not tokens: nothing is divided": _bill | {"read_csa": 256.0},
        "the window is read in HCA layers, too": _bill | {"read_hca": 7812.0},
        "HCA has no indexer: it reads all entries it sees": _bill | {"read_hca": 640.0},
        "the index keys are kept, too, one for each block": _bill | {"per_token": 21 * 128 + 80.0},
        "an HCA layer adds an entry for every 128 tokens as well": _bill | {"per_token": 3360.0},
        "entries are kept for blocks, not for tokens": _bill | {"per_token": 21 * 640 + 20 * 512.0},
    },
    hints=(
        "How many blocks of four are complete when the millionth token has been read? Of 128?",
        "Read: the window and what was chosen, or the window and all. Kept in the long run: per CSA layer a vector and an index "
        "key for each four tokens; per HCA layer a vector for each 128.",
        "1,000,000 / 4; 128 + 512; 128 + 7,812 (complete blocks); 21 (512 + 128) / 4 + 20 · 512 / 128.",
    ),
)
def _(draw):
    yield value("what an indexer scores", 1, [call("csa_entries")], rtol=0.0, atol=0.0)
    yield value("what a CSA layer reads", 1, [call("read_csa")], rtol=0.0, atol=0.0)
    yield value("what an HCA layer reads", 1, [call("read_hca")], rtol=0.0, atol=0.0)
    yield value("what a token adds to the cache", 1, [call("per_token")], rtol=0.001, atol=0.0)
