# %% [markdown]
# # 12 · CSA and HCA: attention to blocks
#
# V3.2 reads few tokens, but it keeps them all, and its indexer looks at every one. At a million tokens both become the
# bill. V4 (2026, arXiv 2606.19348) keeps one vector for a whole *block* of tokens: 4 in its **CSA** layers, compressed
# sparse attention, and 128 in its **HCA** layers, heavily compressed attention. What is recent it still reads word by word.
#
# Afterwards you can
#
# - compress a block by hand, plain and overlapping, and say when a query may see it;
# - explain why one vector can be key and value at once, and why the output is turned back;
# - decode from a memory of fixed size, and predict its bytes;
# - show what each branch is for, and what compression costs.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it. You need lessons 06 and 11.

# %%
import csv
import itertools
import json
from collections import defaultdict
from dataclasses import replace

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import accounting, data, viz
from minideepseek.layers import CSA, HCA, Indexer, RoPE, SharedKV, SwiGLU
from minideepseek.layers.shared_kv import turn_last
from minideepseek.train import enter_stage, prepare_cpu
from minideepseek.train.recall import found, teach

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: the bill at a million tokens
#
# What is kept for one text of $2^{20}$ tokens, two bytes a number:

# %%
million = 2**20
names = {"v1-67b": "V1 67B", "v2": "V2", "v3.2": "V3.2", "v4-pro": "V4-Pro", "v4-flash": "V4-Flash"}
kept = {label: 2 * accounting.cache_elements(mds.generations[name], million) / 2**30 for name, label in names.items()}
viz.bars(
    kept, unit="GiB of cache for a text of a million tokens, 16 bits a number", emphasis=["V4-Pro", "V4-Flash"],
    title=f"V4-Pro keeps {kept['V4-Pro'] / kept['V3.2']:.0%} of what V3.2 does", digits=".3g",
)  # fmt: skip

# %% [markdown]
# And the work for *one* more token there? V3.2's attention reads 2,048 latents, whatever the length. But its indexers score
# the whole text, in every layer:

# %%
v32 = mds.generations["v3.2"]
weights, indexing, reading = (bill.flops for bill in accounting.token_flops(v32, million).values())
share = indexing / (indexing + reading + weights)
assert share > 0.85
print(f"V3.2, a token at a million: {indexing / 1e9:,.0f} GFLOP to index, {reading / 1e9:.0f} to read, "
      f"{weights / 1e9:.0f} in its weights: the indexers do {share:.0%}")  # fmt: skip

# %% [markdown]
# Fewer things to keep, and fewer to look at: both follow if the text itself becomes shorter.
#
# ## 2 · The idea in one picture
#
# Cut the text into blocks of $m$ tokens. A block that is complete becomes **one entry**, a vector like any token's. A query
# reads entries instead of tokens, and beside them a **window** of the last $W$ tokens word by word. Turn the knobs: move the
# query over the edge of a block, and watch what it cannot see.


# %%
def what_it_sees(query=29, rate=8, window=4):
    """Tokens and entries that one query reads, without an indexer."""
    return viz.sight(query, length=48, window=window, rate=rate)


viz.knob(what_it_sees, query=(0, 47), rate=[2, 4, 8, 16], window=(1, 16))

# %% [markdown]
# Three observations to take along:
#
# - Entry $i$ covers tokens $mi$ to $mi + m - 1$ and is visible to the query at $t$ if $i < \lfloor (t+1)/m \rfloor$: a
#   block's **last token is the first to see it**.
# - The tokens of the **open block** are in no entry yet. With $W < m$ some of them (gold) are read by nobody. V4 takes
#   $W = 128$, as wide as its largest block: then there is no gap. Try it.
# - Each token is in exactly one entry, so a text of a million tokens is 262,144 entries of four, or 8,192 of 128.
#
# V4 has layers of three kinds:

# %%
for name in ("v4-flash", "v4-pro"):
    kinds = [type(attention).__name__ for attention, _ in mds.generations[name].layers]
    counts = {kind: kinds.count(kind) for kind in ("SharedKV", "CSA", "HCA")}
    print(f"{name}: {counts}, in this order: {' '.join(kind[0] for kind in kinds)}")

# %% [markdown]
# S is the window alone. The names of section 2.3 of the report, for the sizes of V4-Flash and of `v4-mini`, whose layers we
# take apart below:
#
# | | what | V4-Flash | `v4-mini` |
# |---|---|---|---|
# | $H$, $c$ | heads; channels of a query, and of *the* key/value vector | 64, 512 | 4, 32 |
# | $W$ | window | 128 | 32 |
# | $m$, $m'$ | tokens in a block of CSA, of HCA | 4, 128 | 4, 16 |
# | $k$ | entries that a query of CSA reads | 512 | 8 |
#
# ## 3 · Compression in ten lines
#
# How does a block become a vector? Each token $j$ offers a value $C_j$ and a score $Z_j$, *both as wide as the entry*. With a
# learnt bias $P$ for each place in a block (equations 20 to 23):
#
# $$E_i = \sum_{j \in \text{block } i} \text{softmax}_j(Z_j + P_{j - m'i}) \odot C_j .$$
#
# The softmax runs over the tokens of the block, **in each channel by itself**: channel 5 of the entry may come from the third
# token and channel 6 from the first. That is more than a weighted mean of vectors. Then a norm, and a rotation to the
# position of the block's first token.

# %%
mini = mds.generations["v4-mini"]
torch.manual_seed(0)
T, D = 64, mini.d_model
x = torch.randn(1, T, D, dtype=torch.float64)
hca = mini.layers[2][0].build(D, layer=0).double().requires_grad_(False)
hca.compressor.place.normal_()
net, ids = mds.Transformer(mini), torch.zeros(1, T, dtype=torch.int64)  # layers only ask where tokens stand, not which
ctx = net.context(ids)  # positions 0 to T - 1


def entry_by_hand(i, made_by):
    """Entry i (1, d) of the text x."""
    m, block = made_by.rate, x[:, made_by.rate * i : made_by.rate * (i + 1)]  # (1, m, D)
    values, scores = (block @ made_by.down.weight.T).chunk(2, dim=-1)  # (1, m, d) each
    shares = (scores + made_by.place).softmax(dim=1)  # over the tokens
    entry = made_by.norm((shares * values).sum(1))
    return turn_last(entry[:, None, None], made_by.rope, torch.tensor([m * i]))[:, 0, 0]


# %%
entries = hca.compressor(x, ctx, None).vectors  # (1, T / m', d)
assert entries.shape[1] == T // hca.compressor.rate
for i in range(entries.shape[1]):
    assert_close(entry_by_hand(i, hca.compressor), entries[:, i])
print("by hand, and by minideepseek/layers/compressor.py:", tuple(entries.shape))

# %% [markdown]
# ### Overlapping blocks
#
# Blocks of four cut a lot of words in two. So in CSA every token makes *two* offers, one to the entry of its own block and
# one to the entry of the next (equations 9 to 12). Entry $i$ is a softmax over $2m$ offers: four of block $i - 1$ and four
# of block $i$. Still one entry for every $m$ tokens, each now made of $2m$:

# %%
csa = mini.layers[1][0].build(D, layer=0).double().requires_grad_(False)
csa.compressor.place.normal_()


def overlapping_by_hand(i, made_by):
    """Entry i > 0 (1, d) of the text x."""
    m, d = made_by.rate, made_by.width
    both = x[:, m * (i - 1) : m * (i + 1)] @ made_by.down.weight.T  # (1, 2m, 4d)
    for_next, for_own, next_score, own_score = both.split(d, dim=-1)
    values = torch.cat([for_next[:, :m], for_own[:, m:]], dim=1)
    place = torch.cat(made_by.place.chunk(2, dim=-1))
    shares = (torch.cat([next_score[:, :m], own_score[:, m:]], dim=1) + place).softmax(dim=1)
    entry = made_by.norm((shares * values).sum(1))
    return turn_last(entry[:, None, None], made_by.rope, torch.tensor([m * i]))[:, 0, 0]


# %%
entries = csa.compressor(x, ctx, None).vectors
for i in range(1, entries.shape[1]):
    assert_close(overlapping_by_hand(i, csa.compressor), entries[:, i])
print(f"{entries.shape[1]} entries of {T} tokens; each is made of {2 * csa.compressor.rate}, the first of 4")

# %% [markdown]
# ## 4 · One vector, key and value at once
#
# V4 leaves MLA behind. A token has one vector $k$ of $c$ channels; all heads score it *and* sum it (multi-query attention,
# lesson 06, with $V = K$). But a key is turned to its position $s$, and then the value is, too: $R_s k_s$. The output would
# tell *where* things are in the text instead of how far away. The cure (section 2.3.3): turn the output back by the
# query's own position. $R_{-t} \sum_s p_{ts} R_s k_s = \sum_s p_{ts} R_{s-t} k_s$: distances only.

# %%
mqa = hca.mqa
later = net.context(ids, positions=ctx.positions[None] + 1000)  # the same text, a thousand tokens further down
heads, outputs = [], []
for place in (ctx, later):
    _, query, vectors = mqa.project(x, place)
    heads.append(mqa.read(query, mqa.near(vectors, place, None), place, slice(0, T))[0])
    outputs.append(mqa.out(heads[-1], place))  # turns back first
assert_close(outputs[0], outputs[1])
moved = (heads[0] - heads[1]).norm() / heads[0].norm()
assert moved > 0.3
print(f"a thousand tokens later: what heads sum moves by {moved:.0%}, what the layer says by "
      f"{((outputs[0] - outputs[1]).norm() / outputs[0].norm()):.0e}")  # fmt: skip

# %% [markdown]
# Two more parts, in one line each. The **sink**: each head has a learnt score $z'_h$ that joins the softmax and brings no
# value, so a head may look at nothing (equation 27). And the **norms**: queries and keys both have length $\sqrt{c}$ (but for
# the keys' learnt gain), so no score exceeds $\sqrt{c}$, and nothing has to be clipped when training gets rough.

# %%
with_sink = mqa.read(query, mqa.near(vectors, later, None), later, slice(0, T))[1][0].sum(-1)  # (1, T, H)
assert (with_sink < 1).all()
print(f"at the start the sink weighs as one more token of score 0: attention sums to {with_sink[0, 0].mean():.2f} for the "
      f"first token, to {with_sink[0, -1].mean():.2f} for one with a full window")  # fmt: skip

# %% [markdown]
# ## 5 · Look inside: who is made of whom
#
# One softmax runs over window, entries and sink together; no gate chooses between branches. How far does a change of token
# $j$ reach? We nudge each token of a text and watch the outputs. (W = 4 here, so that the branches stay apart.)


# %%
narrow = replace(mini.layers[0][0], window=4)
behind = replace(mini.layers[1][0].mqa, window=4)
kinds = {
    "window": narrow,
    "HCA": HCA(mqa=behind, rate=16),
    "CSA": CSA(mqa=behind, rate=4, indexer=Indexer(n_heads=8, head_dim=32, top_k=3)),
}


def reach(attention, length=48):
    """(T, T): how much output t moves when token j is nudged; row j of the batch has token j nudged."""
    layer = attention.build(D, layer=0).double().eval()
    here = net.context(torch.zeros(length, length, dtype=torch.int64))
    same = x[:, :length].expand(length, -1, -1)
    with torch.no_grad():
        moves = layer(same + 0.1 * torch.eye(length, dtype=x.dtype)[:, :, None], here) - layer(same, here)
    return moves.norm(dim=-1).T


# %%
torch.manual_seed(0)
maps = {kind: reach(attention) for kind, attention in kinds.items()}
assert all((moves.triu(1) == 0).all() for moves in maps.values())  # nothing looks ahead
picture = viz.attention_map(
    [(moves / moves.max()) ** 0.3 for moves in maps.values()], names=list(maps),
    title="A band word by word; beyond it HCA reads closed blocks, CSA those it chose",
)  # fmt: skip
picture.axes[-1].set_ylabel("how far the output moves")
picture

# %% [markdown]
# The staircase is the visibility rule: a column block begins where its last token stands. In HCA nothing is seen of an open
# block but what the window shows. In CSA some blocks are empty: top-k chose others. The few dark cells are nudges that
# changed the *choice*. (The scale is stretched, and the layers are fresh.)
#
# ## 6 · Choosing blocks
#
# CSA's indexer is lesson 11's, with two differences: its keys come from a compressor of their own, so there is one for each
# block; and $k$ counts blocks. It scores $1/4$ as many things as V3.2's, in half of the layers. For one query, by hand:

# %%
with torch.no_grad():
    latent, query, vectors = csa.mqa.project(x, ctx)
    asked, keys = csa.indexer(x, latent, ctx, None)  # queries (1, T, H_I, d_I), weights (1, T, H_I); keys (1, T/4, d_I)
    t = 50
    scores = (asked.weights[0, t] @ (asked.queries[0, t] @ keys[0].T).relu())[: (t + 1) // 4]
    best = scores.topk(8).indices.sort().values
    near = csa.mqa.near(vectors, ctx, None)
    chosen = (entries[:, best], None)
    by_hand = csa.mqa.read(query, near, ctx, slice(t, t + 1), (chosen,))[0]  # (1, 1, H, c), before the output matrices
    here = net.context(ids[:, :1], positions=torch.tensor([[t]]))  # by which the output is turned back
    assert_close(csa.mqa.out(by_hand, here), csa.eval()(x, ctx)[:, t : t + 1])
viz.sight(t, length=T, window=32, rate=4, overlap=True, chosen=best.tolist())

# %% [markdown]
# ## 7 · Decoding: the open block
#
# What must be remembered between two tokens? Not the text. Of the window the last $W$ vectors, in a ring: a new one takes the
# place of the oldest, and order does not matter, since each carries its position. Of closed blocks their entries. And of the
# open block what its tokens *offered*, $(C_j, Z_j)$, until the last one closes it. Watch a text of 20 tokens pass through the
# HCA layer, $m' = 16$:

# %%
model = mds.Transformer(mini, seed=0).double().eval()
text = torch.randint(0, mini.vocab_size, (1, 200), generator=torch.Generator().manual_seed(1))
cache = model.new_cache(batch_size=1, max_len=200)
for t in range(20):
    with torch.inference_mode():
        model(text[:, t : t + 1], cache=cache)
    state = cache.layers[2]
    if t in (0, 1, 14, 15, 16, 19):
        closed = int(state.blocks.entries.latents[0].abs().sum(-1).gt(0).sum())
        waiting = (t + 1) % 16
        print(
            f"after token {t:>2}: {min(t + 1, 32):>2} in the window, {closed} closed, {waiting:>2} waiting in the open block"
        )
assert closed == 1

# %% [markdown]
# Token by token this is exactly what one pass over the text computes, at every position. The moments to be careful about are
# those around multiples of $m$, where off-by-one errors live:

# %%
with torch.inference_mode():
    whole = model(text)
    written = [model(text[:, t : t + 1], cache=cache)[:, 0] for t in range(20, 200)]
error = (torch.stack(written, 1) - whole[:, 20:]).abs().max().item()
assert error < 1e-10
print(f"180 tokens, one by one against all at once: {error:.0e} apart")

# %% [markdown]
# And the bytes? For a layer of each kind, for a text of $n$ tokens, with a few slots to spare so that drafts can be taken
# back (lesson 09):

# %%
W, c, d_index, SPARE = 32, 32, 32, cache.spare
ring = (W + SPARE) * c  # in every layer
for n in (256, 1024, 4096):
    of_hca = n // 16 * c + (16 + SPARE) * 2 * c
    of_csa = n // 4 * (c + d_index) + (2 * 4 + SPARE) * 4 * (c + d_index)  # the block before the open one waits, too
    predicted = 8 * (4 * ring + 2 * of_csa + of_hca)  # float64: eight bytes a number
    assert predicted == model.new_cache(batch_size=1, max_len=n).nbytes
    print(f"{n:>5} tokens: {predicted:>9,} bytes, predicted and held")

# %% [markdown]
# What comes *after* a text is long settled then: per token $(c + d^I)/4$ numbers in a CSA layer and $c/16$ in the HCA layer.
# A ring forgets, so one cannot go back further than the spare slots. The cache says so instead of answering wrongly:

# %%
cache.length -= SPARE + 1
try:
    model(text[:, :1], cache=cache)
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## 8 · Train it: dense, warm-up, sparse
#
# Planted recall, as in lesson 11: keys and values hidden in noise, and questions at the end. This time a *single* layer has
# to answer. With plain attention that is impossible: a value does not know which key stood before it, and finding out takes
# a layer of its own (lesson 07). In an entry, key and value meet.
#
# V4 trains its indexers as V3.2 did, but the stages are three: *dense*, where a query reads all entries and the indexer
# rests; *warm-up*, where only the indexer learns, to imitate what attention gives to entries; *sparse*. Each query may then
# read 2 of up to 16 entries. About half a minute for three seeds:

# %%
task = data.Recall()
shared = SharedKV(
    n_heads=2, head_dim=32, d_rope=16, d_query_latent=32, window=8, out_groups=1, d_out_latent=64,
    rope=RoPE(layout="adjacent"),
)  # fmt: skip
sparse = CSA(mqa=shared, rate=4, indexer=Indexer(n_heads=8, head_dim=16, top_k=2), stage="dense")
finder = mds.model.ModelConfig(
    d_model=64, n_layers=1, attention=sparse, ffn=SwiGLU(hidden=128), vocab_size=task.vocab_size, max_seq_len=64,
    init_std=None,
)  # fmt: skip


def answered(model):
    rows = task.rows(256, 64, pairs=6, questions=6, generator=torch.Generator().manual_seed(99))
    return found(model, rows).float().mean().item()


# %%
recall, imitation = defaultdict(list), []


def note(step, ctx):
    """Keep the share of attention to entries that falls on the chosen ones."""
    imitation[-1].append(ctx.metrics["recall/0"].item())


# %%
for seed in range(3):
    learner, rows = mds.Transformer(finder, seed=seed), {"length": 64, "pairs": 6, "tokens": 2048}
    teach(learner, task, steps=160, seed=seed, **rows)
    recall["dense: reads all 16"].append(answered(learner))
    enter_stage(learner, "sparse")
    recall["2 of 16, indexer untrained"].append(answered(learner))
    enter_stage(learner, "warm-up")
    imitation.append([])
    teach(learner, task, steps=40, lr=1e-2, short_first=0, seed=seed + 100, watch=note, **rows)
    enter_stage(learner, "sparse")
    teach(learner, task, steps=20, lr=1e-3, short_first=0, seed=seed + 200, **rows)
    recall["2 of 16, after warm-up and sparse"].append(answered(learner))

# %%
means = {name: sum(values) / 3 for name, values in recall.items()}
dense, blind, trained = means.values()
assert min(recall["2 of 16, after warm-up and sparse"]) > 0.9 * max(recall["dense: reads all 16"])
assert max(recall["2 of 16, indexer untrained"]) < 0.4
viz.bars(
    {name: 100 * value for name, value in means.items()}, unit="% of questions answered, mean of three seeds",
    emphasis=["2 of 16, after warm-up and sparse"], digits=".0f",
    title=f"Two entries of sixteen keep {trained / dense:.0%} of what all of them find",
)  # fmt: skip

# %%
viz.curves(
    {"attention on the two chosen": 100 * torch.tensor(imitation)}, title="Forty steps teach the indexer where attention goes",
    xlabel="step of the warm-up", ylabel="% of what falls on entries", levels={"chosen at random": 100 * 2 / 16},
)  # fmt: skip

# %% [markdown]
# ## 9 · What compression costs
#
# An entry is as wide as one token's vector. What fits? The same task, the same layer, blocks of different sizes, three
# seeds each ([script](../benchmarks/compression.py), [numbers](../benchmarks/results/compression.csv)). No indexer: a query
# reads all entries, so only compression can lose anything.

# %%
runs = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/compression.csv") as file:
    for row in csv.DictReader(file):
        runs[row["experiment"], row["arm"]][int(row["x"])].append(float(row["value"]))
lines = {kind: runs["rate", kind] for kind in ("HCA", "CSA")}
sizes = [2, 4, 8, 16]
for found_by in lines.values():
    assert all(min(found_by[a]) > max(found_by[b]) for a, b in itertools.pairwise(sizes))
alone = runs["rate", "window alone"][1]
viz.curves(
    {kind: 100 * torch.tensor([found_by[m] for m in sizes]).T for kind, found_by in lines.items()}, x=sizes, log="x",
    title="The more tokens share an entry, the less of each can be found", xlabel="tokens in a block",
    ylabel="% of questions answered", levels={"window alone": 100 * sum(alone) / 3},
)  # fmt: skip

# %% [markdown]
# Blocks of two hold one planted pair at most, and nothing is lost. In a block of sixteen all six pairs may compete for 32
# channels. V4's entries have 512 channels, and its text is not a string of random digits; still, this is why CSA compresses
# by 4 and leaves the rest to choosing, and why HCA, at 128, can only be a summary. At equal rates CSA and HCA do not differ
# here: our pairs never lie across an edge, so there is nothing for overlap to save.

# %%
both = {m: (sum(lines["CSA"][m]) / 3, sum(lines["HCA"][m]) / 3) for m in sizes}
print({f"blocks of {m}": f"CSA {a:.0%}, HCA {b:.0%}" for m, (a, b) in both.items()})

# %% [markdown]
# ## 10 · What each branch is for
#
# **Without blocks** nothing further away than the windows of all layers together can be found. Two layers, windows of 8,
# against a window and CSA; how far away is what was asked for?

# %%
far = {arm: runs["branches", arm] for arm in ("window and blocks", "window alone")}
bands = sorted(far["window alone"])
distant = {arm: [value for band in bands[3:] for value in found_by[band]] for arm, found_by in far.items()}
assert max(distant["window alone"]) < 0.1 < 0.8 < min(distant["window and blocks"])
viz.curves(
    {arm: 100 * torch.tensor([found_by[band] for band in bands]).T for arm, found_by in far.items()}, x=[b + 3 for b in bands],
    title="Without blocks there is no recall beyond the windows", xlabel="distance between question and planted pair (tokens)",
    ylabel="% of questions answered", levels={"guessing": 100 / task.n_values},
)  # fmt: skip

# %% [markdown]
# Within reach both do well, but for the very nearest pairs, of which few rows ask in training.
#
# **Without a window** a query sees itself and closed blocks. The words before it, which matter most in a text, wait in the
# open block. Two layers of HCA, $m' = 16$, learn to tell stories with a window of 16 and with a window of one. Where in its
# block does a token stand that predicts the next?

# %%
saw = {arm: runs["recency", arm] for arm in ("window and blocks", "blocks alone")}
places = range(16)
loss = {arm: torch.tensor([found_at[place] for place in places]).T for arm, found_at in saw.items()}
hole = loss["blocks alone"].mean(0) - loss["window and blocks"].mean(0)
viz.curves(
    loss, x=list(places), title=f"Without a window a text costs {hole.mean():.1f} nats a token more",
    xlabel="place in its block of the token that predicts", ylabel="nats a token, held-out stories",
)  # fmt: skip

# %%
assert hole.min() > 0.5
assert hole.max() - hole.min() < 0.5 * hole.mean()
print(
    f"the hole: {hole.mean():.2f} nats a token, from {hole.min():.2f} to {hole.max():.2f}, wherever in its block a token stands"
)

# %% [markdown]
# We expected a saw: a token right behind a closed block should do better than one with fifteen hidden words before it. There is
# none. Sixteen words under one softmax do not say which of them came *last*, so a fresh entry is no substitute for the
# word before. Compression and window are not two ways to the same thing.
#
# ## 11 · The bill again
#
# Forward FLOPs of one more token, and what is kept, as the text grows. Nothing here is measured: it is arithmetic on the
# configurations, every operation counted alike (the report's "27 %" and "10 %" weigh them by precision: lesson 15).

# %%
lengths = [2**k for k in range(8, 21)]


def flops(cfg, n):
    return sum(bill.flops for bill in accounting.token_flops(cfg, n).values()) / 1e9


work = {names[name]: [flops(mds.generations[name], n) for n in lengths] for name in ("v3.2", "v4-pro", "v4-flash")}
viz.curves(
    work, x=lengths, log="xy", title=f"At a million tokens V4-Pro does {work['V4-Pro'][-1] / work['V3.2'][-1]:.0%} of V3.2's work",
    xlabel="tokens before", ylabel="GFLOP for one token",
)  # fmt: skip

# %% [markdown]
# V4-Pro has more weights than V3.2, so for very short texts it is the dearer one. Where do they cross, and what of V4's work at a
# million tokens is still the indexers'?

# %%
crossing = next(n for n, pro, old in zip(lengths, work["V4-Pro"], work["V3.2"], strict=True) if pro < old)
assert work["V4-Pro"][0] > work["V3.2"][0]
still = accounting.token_flops(mds.generations["v4-pro"], million)["index"].flops / 1e9 / work["V4-Pro"][-1]
heavy = sum(a.mqa.read_flops(million / a.rate) for a, _ in mds.generations["v4-pro"].layers if isinstance(a, HCA))
print(f"V4-Pro is cheaper from {crossing:,} tokens on; at a million its indexers do {still:.0%} of the work, "
      f"its HCA layers read {million // 128:,} entries each: {heavy / 1e9 / work['V4-Pro'][-1]:.0%}")  # fmt: skip

# %% [markdown]
# And measured? `v4-mini` has read a text of 131,072 tokens on one core of our machine, and at some lengths written 64 tokens, one by
# one. `v3-mini` wrote as many from a cache of that length ([script](../benchmarks/long_decode.py),
# [table](../benchmarks/results/long_decode.md)):

# %%
with open("../benchmarks/results/long_decode.json") as file:
    measured = json.load(file)
at = [row["length"] for row in measured["v4-mini"]]
clock = {name: [row["write ms/token"] for row in measured[name]] for name in ("v3-mini", "v4-mini")}
growth = {name: times[-1] / times[0] for name, times in clock.items()}
assert growth["v3-mini"] > 5
assert max(clock["v4-mini"]) < 2 * min(clock["v4-mini"])
held = {name: measured[name][-1]["formula bytes"] / 2**20 for name in clock}
viz.curves(
    clock, x=at, log="x", title=f"From {at[0]:,} to {at[-1]:,} tokens v3-mini's step grows {growth['v3-mini']:.0f}-fold, v4-mini's hardly",
    xlabel="tokens before", ylabel="ms for one token, one core",
)  # fmt: skip

# %% [markdown]
# At short lengths `v4-mini` is the slower one: four residual streams, compressors and an indexer are many small operations, and
# a model this small spends its time on calling them. What counts is the slope. What still grows, the index keys and HCA's
# few entries, is lost in the noise of a machine that others use, too. And the memory:

# %%
print({name: f"{size:.1f} MiB for {at[-1]:,} tokens" for name, size in held.items()},
      f"; written and read logits differ by {measured['written apart from read']:.0e}")  # fmt: skip
assert held["v4-mini"] < held["v3-mini"] / 7

# %% [markdown]
# ### Myth check
#
# - "V4 compresses its cache 128 times." Only its HCA layers do. By numbers kept per further token, all layers together:

# %%
plain = {name: cfg.n_layers * 512 for name, cfg in mds.generations.items() if name in ("v4-flash", "v4-pro")}
ratio = {name: count / mds.report(mds.generations[name]).cache_elements_per_token for name, count in plain.items()}
print({name: f"{x:.1f} times fewer than one vector a token" for name, x in ratio.items()})
assert 5 < min(ratio.values()) < max(ratio.values()) < 8

# %% [markdown]
# - "A block is seen once it is *before* the query." The report's prose can be read so. Both released implementations let the
#   block's last token see its own block: $i < \lfloor (t + 1)/m \rfloor$, and so do we.
# - "CSA's top-k of 512 means 512 tokens." It means 512 *entries*, which stand for 2,048 tokens, and each overlaps with the
#   block before.
#
# ## 12 · The ledger

# %%
viz.ledger(f"""
an entry is a softmax over its block, channel by channel | V4 report, eq. 9-12, 20-23 | by hand against the package | exact
turned back, outputs depend on distances alone | V4 report, section 2.3.3 | moved by 1000 tokens: unchanged | exact
a block is visible from its last token on | released code of V4 | nudging every token | exact
memory of a decode: window, entries, open block | V4 report, section 3.5 | bytes predicted at three lengths | exact
decoding is the whole pass, token by token | | 180 tokens, {error:.0e} apart | exact
dense, warm-up, sparse: the choice costs nothing | V4 report, section 4.2 | {dense:.0%} with all entries, {trained:.0%} with 2 of 16, {blind:.0%} untrained; 3 seeds | shown
compression costs recall | | {both[2][1]:.0%} at 2 tokens a block, {both[16][1]:.0%} at 16; 3 seeds | shown
overlapping blocks are better | V4 report, section 2.3.1 | {both[4][0]:.0%} and {both[4][1]:.0%} at 4 tokens; nothing of this task is cut | tie
blocks are what far recall needs | V4 report, section 2.3 | beyond 24 tokens at most {max(distant["window alone"]):.0%} without, at least {min(distant["window and blocks"]):.0%} with; 3 seeds | shown
the window is what fluent text needs | V4 report, section 2.3.3 | {hole.mean():.1f} nats a token without | shown
a tenth of V3.2's cache, a quarter of its work (V4-Pro, 1M) | V4 report, abstract | {kept["V4-Pro"] / kept["V3.2"]:.0%} of the numbers, {work["V4-Pro"][-1] / work["V3.2"][-1]:.0%} of the FLOPs, unweighted | shown
no loss of quality against dense attention | V4 report, section 4.3 | | not at this size
""")

# %% [markdown]
# ## 13 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. The first tokens.** What does the token at position 2 of a CSA layer read, with $m = 4$ and $W = 128$? And the token at 3?
#
# **B. A planted bug.** A colleague writes the visibility rule as $i \le \lfloor t / m \rfloor$. His model trains to a lower loss
# than anyone's. Why?
#
# **C. Another rate.** V4-Flash with CSA at $m = 8$ instead of 4: how much smaller is its cache at a million tokens, and how
# much less does a token cost there?
#
# **D. Rewinding.** Speculative decoding with one module takes back at most one token a pass. Which parts of the state does
# that touch, and why does a ring of exactly $W$ slots fail?
#
# Then solve [the exercises](../exercises/12_compressed_attention/12_compressed_attention.ipynb), and go on to
# [lesson 13](13_hyper_connections.ipynb): the residual stream becomes four.

# %% jupyter={"source_hidden": true}
seen = {t: (min(t + 1, 128), (t + 1) // 4) for t in (2, 3)}
viz.answer(
    "A",
    f"Token 2: {seen[2][0]} tokens, {seen[2][1]} entries. Token 3: {seen[3][0]} tokens and {seen[3][1]} entry, its own block's, "
    "although the window shows the same four tokens word by word: what is seen twice is not removed.",
)

# %% jupyter={"source_hidden": true}
leaks = [t for t in range(16) if t // 4 * 4 + 3 > t]
viz.answer(
    "B",
    f"With m = 4, entry floor(t/4) holds tokens up to {'4 floor(t/4) + 3'}: of 16 queries {len(leaks)} are shown tokens that come "
    "after them. In training the answer leaks; in writing there is no such entry yet, and the model falls apart.",
)

# %% jupyter={"source_hidden": true}
flash = mds.generations["v4-flash"]
coarse = replace(flash, attention=tuple(replace(a, rate=8) if isinstance(a, CSA) else a for a, _ in flash.layers))
smaller = accounting.cache_elements(coarse, million) / accounting.cache_elements(flash, million)
cheaper = [flops(cfg, million) for cfg in (coarse, flash)]
assert smaller < 0.6
viz.answer(
    "C",
    f"{smaller:.0%} of the cache and {cheaper[0] / cheaper[1]:.0%} of the work: entries and index keys halve, and so does what the "
    "indexer scores. What that would cost in quality our section 9 can only hint at.",
)

# %% jupyter={"source_hidden": true}
viz.answer(
    "D",
    "The ring and the open block. A rejected token has taken the slot of the token W places before it, which the query one place "
    f"back still sees. We keep {SPARE} slots more. Entries need nothing: one closed too early is not visible, and is made "
    "again before it is.",
)
