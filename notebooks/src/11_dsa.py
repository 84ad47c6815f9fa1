# %% [markdown]
# # 11 · DSA: index, select, train the indexer
#
# V2 made what a token *leaves behind* small. Still, each new token reads everything that all tokens before it left.
# V3.2 (December 2025) changes one thing in V3: a small **indexer** looks at all earlier tokens, and attention reads
# only the 2,048 that it picks. DeepSeek sparse attention, DSA.
#
# Afterwards you can
#
# - say from which length on attention is the bill of a decode, and what DSA does about it;
# - build the lightning indexer from its formula, and attend sparsely in two ways that are one;
# - explain why a choice cannot be learnt from the loss, and what the indexer learns from instead;
# - turn a dense model into a sparse one in two stages, and show with controls that each of them is needed;
# - read a measured cost curve beside a counted one, and say what DSA does *not* save.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it. You need lesson 06 (latents,
# absorption).

# %%
import json
from dataclasses import replace

import torch
from torch.testing import assert_close
from tqdm.auto import tqdm

import minideepseek as mds
from minideepseek import viz
from minideepseek.layers.dsa import seen
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.indexer import FP8, index_scores
from minideepseek.ops.quantise import as_fp8, hadamard
from minideepseek.train import add_indexers, enter_stage, prepare_cpu
from minideepseek.train import sparse_recall as planted

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: a long text is paid for with every token
#
# One new token of V3 costs two FLOPs for each weight at work, whatever came before. And it costs scores and a weighted
# sum over $n$ cached latents, absorbed (lesson 06): $2 H (2 d_c + d_r)\, n$ in each of 61 layers.

# %%
v3, v32 = mds.generations["v3"], mds.generations["v3.2"]
latent, sparse = v3.attention, v32.attention
weights = 2 * mds.report(v3).activated["without embedding"]


def reading(n, a=latent):  # FLOPs of one new token that attends to n cached latents in every layer
    return v3.n_layers * 2 * a.n_heads * (2 * a.d_latent + a.d_rope) * n


even = weights / reading(1)
assert 4000 < even < 4800
assert reading(128 * 1024) / weights > 25
print(
    f"behind {even:,.0f} tokens attention costs as much as all weights; behind 128K, {reading(2**17) / weights:.0f} times"
)

# %% [markdown]
# That is *one* token. An answer of ten thousand tokens about a book pays it ten thousand times; and reading the book in
# the first place costs the same sum over all its tokens, a square. What V3.2 pays instead, counted by the same package
# that reproduces the papers' tables: the indexer looks at all $n$, attention at no more than 2,048.

# %%
lengths = [2**i for i in range(10, 21)]
indexing = [v32.n_layers * sparse.indexer.score_flops(n) for n in lengths]
attending = [reading(min(n, sparse.indexer.top_k)) for n in lengths]
total = [a + b for a, b in zip(indexing, attending, strict=True)]
viz.curves(
    {"V3: attention": [reading(n) / 1e9 for n in lengths], "V3.2: index and attention": [x / 1e9 for x in total],
     "V3.2: of this the index": [x / 1e9 for x in indexing], "theory: all weights": [weights / 1e9] * len(lengths)},
    x=lengths, log="xy", title="Attention outgrows the model; an index is a line, too, but a low one",
    xlabel="tokens before the new one", ylabel="GFLOPs for the new token",
)  # fmt: skip

# %%
saved = {n: reading(n) / (a + b) for n, a, b in zip(lengths, indexing, attending, strict=True)}
assert saved[1024] < 1 < saved[4096]
assert 8 < saved[2**17] < 16.9
limit = reading(1) / (v32.n_layers * sparse.indexer.score_flops(1))
print(
    "fewer FLOPs by a factor of",
    {f"{n // 1024:,}K": round(x, 1) for n, x in saved.items() if n in (1024, 4096, 2**17, 2**20)},
)
print(f"and never more than {limit:.1f}: the index itself remains")

# %% [markdown]
# ### Myth check: "DSA makes attention linear", "DSA shrinks the cache"
#
# The *attention* becomes linear in the length of a text. The indexer remains quadratic: it scores every pair, only with
# little work for each (64 heads of 128 channels, one key, no values). And the cache *grows*: latents of 576 numbers stay
# for all tokens, because any of them may be picked, and the indexer adds a key of 128.

# %%
per_layer = {name: cfg.attention.cache_elements(1) for name, cfg in (("V3", v3), ("V3.2", v32))}
assert per_layer == {"V3": 576, "V3.2": 576 + 128}
pair = sparse.indexer.score_flops(1) / (reading(1) / v3.n_layers)
print(f"numbers kept a token and layer: {per_layer}; work of the index for a pair: {pair:.1%} of attention's")

# %% [markdown]
# ## 2 · The idea in one picture

# %%
viz.index_diagram(title="Look at everything cheaply, read the best few properly")

# %% [markdown]
# The names of the V3.2 report (section 2.1, eq. 1 and 2). For a token $t$ and every token $s$ up to it:
#
# $$I_{t,s} = \sum_{j=1}^{H^I} w^I_{t,j} \cdot \mathrm{ReLU}\!\left(q^I_{t,j} \cdot k^I_s\right)$$
#
# | | what | made of | width in V3.2 |
# |---|---|---|---|
# | $q^I_{t,j}$ | index query of head $j$ | the query latent that attention has anyway | 64 heads of 128 |
# | $k^I_s$ | index key, one for all heads; cached | the token's $h$, then a LayerNorm | 128 |
# | $w^I_{t,j}$ | how much head $j$ counts; may be negative | the token's $h$ | 64 |
#
# Then $S_t$, the $k$ tokens with the largest $I_{t,s}$, and attention as in MLA, over $S_t$ alone. The choice is made for a
# *token*, not for a head: all 128 heads read the same latents, so that a latent is fetched once (lesson 06: absorbed,
# MLA is multi-query attention, and that is the form that DSA thins out).
#
# ## 3 · The indexer in ten lines
#
# A mini of V3.2 with fresh weights, in float64. Its first layer's indexer, by hand:

# %%
mini = mds.generations["v3.2-mini"]
model = mds.Transformer(mini, seed=0).double().eval()
layer = model.blocks[0].attention
ids = torch.randint(0, mini.vocab_size, (2, 96), generator=torch.Generator().manual_seed(1))
x, ctx = model.blocks[0].attention_norm(model.embed(ids)).detach(), model.context(ids)
query_latent = layer.mla.compress(x)[0].detach()
layer.indexer.cfg

# %% [markdown]
# Positions enter as in attention, by rotation, with one trap: attention pairs *neighbouring* channels, the indexer pairs
# channel $i$ with $i + d_r/2$. DeepSeek's first release had it wrong, and corrected it in November 2025.


# %%
def rotated(x, dim, theta=10_000.0):  # x: (B, T, heads, d^I); the first dim channels turn, as halves
    half = dim // 2
    angle = torch.arange(x.shape[1])[:, None, None] * theta ** (-torch.arange(half, dtype=x.dtype) / half)
    a, b, rest = x.split([half, half, x.shape[-1] - dim], dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos(), rest], dim=-1)


# %%
def index_by_hand(x, query_latent, indexer, dim):
    heads, width = indexer.cfg.n_heads, indexer.cfg.head_dim
    q = rotated((query_latent @ indexer.query_up.weight.T).unflatten(-1, (heads, width)), dim)
    k = indexer.key_norm(x @ indexer.key.weight.T)
    k = rotated(k[:, :, None], dim)[:, :, 0]
    w = x @ indexer.weigh.weight.T
    products = torch.einsum("bthe,bse->bths", q, k) / width**0.5
    return torch.einsum("bth,bths->bts", w, products.relu()) / heads**0.5


with torch.no_grad():
    by_hand = index_by_hand(x, query_latent, layer.indexer, layer.cfg.mla.d_rope)
    question, keys = layer.indexer(x, query_latent, ctx)
    package = index_scores(question, keys)
off = ((by_hand - package).norm() / package.norm()).item()
assert off < 1e-12
print(f"by hand and in the package ({mini.attention.indexer.n_heads} heads): {off:.0e} apart")

# %% [markdown]
# Why ReLU, why several heads, why weights? Without ReLU the sum over heads would be *one* product: $\sum_j w_j (q_j \cdot
# k) = (\sum_j w_j q_j) \cdot k$, a single head. ReLU makes it a sum of half-spaces, which can say "this *or* that"; and a
# softmax, which costs an exponential and a sum over all tokens, is not needed to put scores in order.

# %%
w = question.weights[0, -1]
merged = torch.einsum("h,he->e", w, question.queries[0, -1]) @ keys[0].T
summed = torch.einsum("h,hs->s", w, question.queries[0, -1] @ keys[0].T)
assert_close(merged, summed)
assert not torch.allclose(package[0, -1], summed)
print(f"without ReLU all {len(w)} heads are one: {(merged - summed).abs().max():.0e} apart")

# %% [markdown]
# ## 4 · Select: masked is gathered
#
# The same sparse attention can be computed in two ways. **Masked**: all scores, and $-\infty$ where nothing was picked;
# for prompts and training, where the queries together want everything. **Gathered**: fetch the picked latents and forget
# the others; for a decode. By hand for the last token:

# %%
visible = seen(ctx, 96)
with torch.no_grad():
    chosen = layer.indexer.choose(question, keys, visible)  # (B, T, S) bool
    query, latents = layer.mla.turn(*layer.mla.compress(x), ctx)
    masked = layer.mla.attend(query, latents, chosen[:, None], "expanded")
    best = package[0, -1].topk(mini.attention.indexer.top_k).indices  # the last token sees all others
    gathered = layer.mla.attend(query[:1, -1:], latents[:1, best], None, "absorbed")
apart = ((gathered[0, 0] - masked[0, -1]).norm() / masked[0, -1].norm()).item()
assert apart < 1e-12
print(f"{best.numel()} of 96 latents, fetched and absorbed: {apart:.0e} from the masked form")

# %% [markdown]
# Is anything else read? The strict test: put NaN, which no arithmetic forgives, into every latent that was not picked.

# %%
poisoned = latents.clone()
poisoned[0][~chosen[0, -1]] = torch.nan
places = chosen[0, -1].nonzero()[:, 0][None, None]
with torch.no_grad():
    again = layer.gathered(query[:1, -1:], poisoned[:1], places)
    through_mask = layer.mla.attend(query[:1, -1:], poisoned[:1], chosen[:1, None, -1:], "expanded")
assert_close(again[0, 0], masked[0, -1], rtol=1e-10, atol=1e-12)
assert through_mask.isnan().any()
print("gathered: does not notice. Masked: 0 times NaN is NaN, so it did read them")

# %% [markdown]
# Two details on which implementations differ. A token that sees fewer than $k$ others picks them all, and the causal
# mask must still apply: `topk` returns $k$ places in any case. And of *equal* scores the first is taken here, always;
# otherwise a text read in pieces could choose otherwise than the same text read at once. So this holds:

# %%
cache = model.new_cache(2, 96)
with torch.inference_mode():
    pieces = [model(part, cache=cache) for part in ids.split([40, 1, 1, 54], dim=1)]
    whole = model(ids)
assert chosen[0, :32].sum(-1).tolist() == list(range(1, 33))  # few to see: all are read
assert_close(torch.cat(pieces, 1), whole, rtol=1e-9, atol=1e-9)
cached = cache.nbytes / (2 * 96 * mini.n_layers * 8)
print(
    f"read in pieces as at once; {cached:.0f} numbers cached a token and layer, {layer.cfg.indexer.head_dim} of them index keys"
)

# %% [markdown]
# ## 5 · A choice has no gradient
#
# Move an index score a little: the same tokens are picked, the loss does not change. Move it further: another token is
# picked, and the loss jumps. The derivative is zero wherever it exists, so the language model's loss teaches the indexer
# *nothing*. Look:

# %%
net = mds.Transformer(mini, seed=0).train()
losses = net.loss(ids)
own = {name: p for name, p in net.named_parameters() if ".indexer." in name}
from_text = torch.autograd.grad(losses.lm, list(own.values()), allow_unused=True, retain_graph=True)
assert all(grad is None for grad in from_text)
print(f"{len(own)} tensors of indexers; the loss of the text reaches {sum(g is not None for g in from_text)} of them")

# %% [markdown]
# So the indexer gets a loss of its own (section 2.1.1, eq. 3 and 4): be like the attention that you work for. Sum
# attention over heads, make it a distribution $p_{t,:}$, and let the index scores be the logits of another:
#
# $$\mathcal L^I = \sum_t D_{\mathrm{KL}}\big(\,p_{t,:}\;\|\;\mathrm{softmax}(I_{t,:})\,\big)$$
#
# in the *warm-up* over all tokens that $t$ sees; in the *sparse* stage over $S_t$ alone, $p$ summed up to one there. By
# hand, for the first layer:

# %%
with torch.no_grad():
    k_all, _ = layer.mla.expand(latents)
    scores = query.transpose(1, 2) @ k_all.mT * layer.mla.cfg.scale
    p = scores.masked_fill(~chosen[:, None], -torch.inf).softmax(-1).mean(1)  # the mean is the sum, made to one
    log_q = package.masked_fill(~chosen, -torch.inf).log_softmax(-1)
    kl = torch.where(chosen, p * (p.log() - log_q), 0.0).sum(-1).mean()
one = mds.Transformer(replace(mini, n_layers=1, ffn=mini.layers[0][1], mtp=None), seed=0).double().train()
one.load_state_dict({name: value for name, value in model.state_dict().items() if name in one.state_dict()})
from_package = one.loss(torch.cat([ids, ids[:, :1]], 1)).indexer
assert_close(kl, from_package.detach())
print(f"KL by hand {kl:.6f}, in the package {from_package:.6f}")

# %% [markdown]
# ### Why the indexer's input is detached
#
# The indexer reads $h$. If its loss could flow on into $h$, the *model* would learn as well: to have attention that is
# easy to imitate. In the package the input is detached, and the two losses never meet. What would happen otherwise? We
# compute the same loss both ways and look at the gradient that arrives at the embedding:


# %%
def arrives(detached):
    h = net.blocks[0].attention_norm(net.embed(ids))
    attention, ctx = net.blocks[0].attention, net.context(ids)
    parts = attention.mla.compress(h)
    read = (h.detach(), parts[0].detach()) if detached else (h, parts[0])
    scores = index_scores(*attention.indexer(*read, ctx)).masked_fill(~seen(ctx, 96), -torch.inf)
    loss = -scores.log_softmax(-1).masked_fill(~seen(ctx, 96), 0.0).mean()
    (grad,) = torch.autograd.grad(loss, [net.embed.weight], allow_unused=True)
    return 0.0 if grad is None else grad.norm().item()


from_index = torch.autograd.grad(losses.indexer, [net.embed.weight], allow_unused=True, retain_graph=True)[0]
pull = arrives(detached=False)
assert from_index is None
assert arrives(detached=True) == 0 < pull
print(f"gradient at the embedding: 0 with the input detached, {pull:.1e} without")

# %% [markdown]
# ## 6 · Two stages on planted recall
#
# Natural text of this size needs little of what is far away. So we use rows in which it can be counted (lesson 07): 12
# pairs of a key and a value lie hidden among noise, in 128 tokens; at the end keys are asked again. Whoever cannot look up
# a place more than a hundred tokens back cannot answer. A small model with full MLA learns that first:

# %%
finder = planted.finder(seed=0)
dense_share = planted.answered(finder)
rows = planted.TASK.rows(1, 128, pairs=12, questions=4, generator=torch.Generator().manual_seed(99))
assert rows.asked[0] >= 96
assert dense_share > 0.95
print(f"full attention: {dense_share:.1%} of 512 questions answered; chance is 3 %")

# %% [markdown]
# Now each token may read 8. The **warm-up** first: attention stays dense, everything is frozen, and only indexers learn.
# How good they are is a number that needs no questions: **recall**, the share of dense attention that falls on the chosen
# tokens, averaged over heads.

# %%
thin = add_indexers(finder, planted.INDEXER)
curves = {"layer 1": [], "layer 2": []}


def note(step, ctx):
    for layer, name in enumerate(curves):
        curves[name].append(ctx.metrics[f"recall/{layer}"].item())


planted.learn(thin, seed=200, watch=note)
warm = len(curves["layer 1"])
after_warm_up = {name: sum(values[-5:]) / 5 for name, values in curves.items()}
enter_stage(thin, "sparse")
cold_start = planted.answered(thin)
planted.learn(thin, seed=300, watch=note)
print(f"sparse right after the warm-up: {cold_start:.1%}; after the sparse stage: {planted.answered(thin):.1%}")

# %%
viz.curves(
    curves, x=range(1, len(curves["layer 1"]) + 1), title="The indexers learn what attention wants in thirty steps",
    xlabel="step", ylabel="recall of the 8 chosen", marks={"sparse stage": warm},
)  # fmt: skip

# %% [markdown]
# Layer 1 never gets beyond about a half, and yet nothing is lost. Its attention is partly *spread out*, which no eight
# tokens can hold, and which is apparently not what answers are made of. Recall is a measure of imitation, not of use.
#
# ### The controls
#
# Perhaps any eight tokens would do, once the model has learnt to live with them? Perhaps the warm-up is a luxury? Four
# arms start from the same dense model, and the model itself learns for equally many steps in each
# ([`sparse_recall`](../minideepseek/train/sparse_recall.py)). Three seeds, everything anew for each:

# %%
found = {name: [] for name in ("full attention", *planted.ARMS)}
for seed in tqdm(range(3), desc="seeds"):
    dense = finder if seed == 0 else planted.finder(seed)
    found["full attention"].append(planted.answered(dense))
    for name in planted.ARMS:
        found[name].append(planted.answered(planted.arm(name, dense, seed=seed)))
share = {name: 100 * torch.tensor(values) for name, values in found.items()}
for name, values in share.items():
    print(f"{name:>18}: {', '.join(f'{value:.1f}' for value in values)} %")

# %%
kept = share["two stages"] / share["full attention"]
spread = lambda name: f"{share[name].min():.0f} to {share[name].max():.0f} %"  # noqa: E731
assert (kept >= 0.95).all()
assert share["untrained indexer"].max() < 30
assert share["window"].max() < 30
assert (share["no warm-up"] < share["two stages"]).all()
viz.bars(
    {name: values.mean().item() for name, values in share.items()}, unit="% of questions answered, mean of 3 seeds",
    emphasis=["two stages"], title="Eight tokens of a hundred are enough, if an indexer has learnt which", digits=".0f",
)  # fmt: skip

# %% [markdown]
# The window shows that the task is honest: without far tokens there is nothing to answer with. The untrained indexer
# shows that sparsity is not harmless by itself. And the arm without a warm-up, with as many steps in all, falls behind:
# in the sparse stage an indexer is taught only about tokens that it picked. What it never picks it never hears of.
#
# ## 7 · Look inside: what a query chooses
#
# The last question of a row, in the second layer. Move $k$, and move through the questions. With few, the query still
# finds the place where its value lies; the rest of $k$ is filled with what attention also liked.

# %%
with torch.no_grad():
    asked = planted.TASK.rows(1, 128, pairs=12, questions=8, generator=torch.Generator().manual_seed(5))
    second, ctx = thin.blocks[1], thin.context(asked.ids)
    h = second.attention_norm(thin.blocks[0](thin.embed(asked.ids), ctx))
    parts = second.attention.mla.compress(h)
    index = index_scores(*second.attention.indexer(h, parts[0], ctx))[0]
    q, c = second.attention.mla.turn(*parts, ctx)
    keys_of_heads, _ = second.attention.mla.expand(c)
    weights_all = (q.transpose(1, 2) @ keys_of_heads.mT * second.attention.mla.cfg.scale)[0]


# %%
def chooses(k=8, question=8):
    t = int(asked.asked[question - 1])
    value = int(asked.planted[0, question - 1]) + 1
    picked = torch.zeros(t + 1, dtype=torch.bool)
    picked[index[t, : t + 1].topk(k).indices] = True
    attention = weights_all[:, t, : t + 1].softmax(-1).mean(0)
    share = index[t, : t + 1].softmax(-1)
    return viz.selection(
        {"index, as a share": share, "dense attention": attention}, picked, marks={"planted": value},
        title=f"{k} of {t + 1} tokens hold {attention[picked].sum():.0%} of attention, the planted value "
        f"{'among them' if picked[value] else 'NOT among them'}",
    )  # fmt: skip


viz.knob(chooses, k=(1, 32), question=(1, 8))

# %%
hits = {}
for k in (1, 2, 4, 8, 16):
    best = [index[t, : t + 1].topk(k).indices for t in asked.asked.tolist()]
    hits[k] = sum(int(place) + 1 in row.tolist() for place, row in zip(asked.planted[0], best, strict=True))
assert hits[8] >= 7
print("questions of 8 whose value is among the k best:", hits)

# %% [markdown]
# ## 8 · Eight bits
#
# The indexer looks at everything, so its precision is its price. The released inference code rotates queries and keys by
# a Hadamard matrix and rounds them to FP8 (E4M3, one scale a vector). A rotation $R$ changes no product, $(Rq) \cdot (Rk)
# = q \cdot k$; rounding does. What matters is not the error of a score but whether the *same tokens* are chosen:


# %%
def rounded(rounding):
    """The sparse model with indexers that round."""
    other = mds.Transformer(thin.cfg, seed=0).eval()
    other.load_state_dict(thin.state_dict())
    for block in other.blocks:
        block.attention.indexer.cfg = replace(block.attention.indexer.cfg, rounding=rounding)
    return other


def choices(model):
    many = planted.TASK.rows(32, 128, pairs=12, questions=4, generator=torch.Generator().manual_seed(7)).ids
    with torch.no_grad():
        attention, ctx = model.blocks[0].attention, model.context(many)
        h = model.blocks[0].attention_norm(model.embed(many))
        asked = attention.indexer(h, attention.mla.compress(h)[0], ctx)
        return attention.indexer.choose(*asked, seen(ctx, 128))[:, 8:]


# %%
exact = choices(thin)
ways = {"FP8": FP8(rotate=False), "Hadamard, then FP8": FP8(), "the same, scales 2^n": FP8(power_of_two=True)}
overlap = {name: ((choices(rounded(how)) & exact).sum() / exact.sum()).item() for name, how in ways.items()}
answers = {name: planted.answered(rounded(how)) for name, how in ways.items()}
for name, value in overlap.items():
    assert 0.9 < value < 1
    assert answers[name] > 0.95 * planted.answered(thin)
    print(f"{name:>20}: {value:.1%} of the choices stay, {answers[name]:.1%} of the questions are answered")

# %% [markdown]
# ### Myth check: what the rotation is for
#
# "Hadamard removes outliers, so FP8 gets better." Try it: one channel of the queries is $a$ times as large as the others.
# Beside FP8 two formats that are known to suffer: INT8, 255 equal steps with one scale a vector, and FP4, in which V4
# stores these keys (lesson 15).

# %%
draw = torch.Generator().manual_seed(0)
q8, k8 = torch.randn(512, 128, generator=draw), torch.randn(512, 128, generator=draw)


def int8(x):
    step = x.abs().amax(-1, keepdim=True) / 127
    return (x / step).round() * step


def error(a, rounding, rotate):
    q, k = (hadamard(x) if rotate else x for x in (q8 * torch.where(torch.arange(128) == 7, a, 1.0), k8))
    return ((rounding(q) @ rounding(k).T - q @ k.T).norm() / (q @ k.T).norm()).item()


# %%
formats = {"FP8": as_fp8, "INT8": int8, "FP4": FP4()}
errors = {
    (name, a): [error(a, how, turn) for turn in (False, True)] for name, how in formats.items() for a in (1, 10, 30)
}
for (name, a), (plain, turned) in errors.items():
    print(f"{name:>4}, an outlier of {a:>2}: error of products {plain:5.1%}, after a rotation {turned:5.1%}")
for a in (10, 30):
    assert errors["INT8", a][1] < 0.6 * errors["INT8", a][0]
    assert errors["FP4", a][1] < 0.9 * errors["FP4", a][0]
    assert errors["FP8", a][1] > errors["FP8", a][0]

# %% [markdown]
# A number of FP8 has an exponent of its own, so an outlier beside it costs it nothing until it is tens of thousands of
# times larger; spread out, it costs all of them a little. Equal steps suffer, and so does FP4, with next to no exponent.
# Why does V3.2 rotate, then? The report does not say. Here it is not for the digits: the choices above stay the same with
# it and without.
#
# ## 9 · What it costs, measured
#
# Counting is one thing. One layer of V2-Lite's proportions, one new token, on one core of the machine that is named below
# the [table](../benchmarks/results/sparse.md): dense (absorbed, as in lesson 06) against sparse, in bfloat16
# ([script](../benchmarks/sparse.py)). *Attention alone* is what grows with the text, the indexer's scores, the choice and
# the fetching included; the *layer* adds the projections.

# %%
with open("../benchmarks/results/sparse.json") as file:
    samples = json.load(file)["samples"]
contexts = [4096, 16384, 65536]


def ms(name, part, n):
    values = torch.tensor([sample[f"{part} bf16 1 {n}"] for sample in samples[name]])
    return 1e3 * values.median().item()


alone = {name: [ms(name, "attention alone", n) for n in contexts] for name in ("dense", "sparse")}
layers = {name: [ms(name, "layer", n) for n in contexts] for name in ("dense", "sparse")}
viz.curves(
    {f"{name}, {part}": values for part, both in (("layer", layers), ("alone", alone)) for name, values in both.items()},
    x=contexts, log="xy", title="Sparse pays from a few thousand tokens on", xlabel="tokens in the cache",
    ylabel="ms of one core for a token",
)  # fmt: skip

# %%
bytes_read = {n: (576 * n) / (128 * n + 576 * 2048) for n in contexts}
quicker = {n: alone["dense"][i] / alone["sparse"][i] for i, n in enumerate(contexts)}
whole = {n: layers["dense"][i] / layers["sparse"][i] for i, n in enumerate(contexts)}
slope = {name: torch.tensor(values[-1] / values[0]).log2().item() / 4 for name, values in alone.items()}
assert quicker[16384] > 1.5
assert quicker[65536] > 3
for n in contexts:
    print(
        f"{n:>6,} tokens: {quicker[n]:.1f} times as quick alone ({bytes_read[n]:.1f} by bytes), {whole[n]:.1f} the layer"
    )
print("time grows with the length to the power of", {name: round(value, 2) for name, value in slope.items()})

# %% [markdown]
# Three remarks. At 4,096 tokens nothing is gained: half of the tokens are read anyway, and choosing them costs something.
# Beyond, the gain can exceed what bytes say, because dense attention multiplies each latent with all heads' queries and
# waits for arithmetic, not for memory. And the layer gains less than its attention: its weights are read as before. A GPU
# that serves many texts at once shares the weights among them, and there the attention is what counts.
#
# Whoever only *masks* gains nothing: `transformers` 5.23 computes dense attention and hides the rest, which is exact, and
# which is what we compare our logits with.

# %%
peer = {n: ms("transformers", "layer", n) / layers["sparse"][i] for i, n in enumerate(contexts[:2])}
assert min(peer.values()) > 3
print(
    "transformers' layer takes",
    {f"{n:,}": f"{x:.0f} times as long" for n, x in peer.items()},
    "(it also expands the latents)",
)

# %% [markdown]
# ## 10 · The ledger

# %%
viz.ledger(f"""
core attention falls from L² to L·k | V3.2, section 2.1 | above 2,048 tokens its FLOPs stand still | exact
DSA makes attention linear | often told | the index is not: {pair:.1%} of the work for a pair, {indexing[-1] / total[-1]:.0%} of it at 1M | contradicted
DSA shrinks the cache | often told | 704 numbers a layer instead of 576 | contradicted
masked and gathered are one function | V3.2, section 2.1 | {apart:.0e} apart, NaN elsewhere does no harm | exact
the text teaches the indexer nothing | V3.2, section 2.1.1 | no gradient reaches its {len(own)} tensors | exact
8 of 100 tokens are enough after two stages | this lesson | keeps {100 * kept.min():.0f} % or more of the answers, 3 seeds | shown
the choice must be learnt | this lesson | untrained: {spread("untrained indexer")}; a window: {spread("window")} | shown
the warm-up is needed | V3.2, section 2.1.1 | as many steps without it: {spread("no warm-up")}, 3 seeds | shown
high recall is needed for a good model | often told | layer 1: recall {after_warm_up["layer 1"]:.2f}, and answers are kept | contradicted
FP8 chooses the same tokens | V3.2's code | {min(overlap.values()):.1%} of the choices stay | shown
Hadamard makes FP8 better | often told | outlier of 30: FP8 {errors["FP8", 30][0]:.1%} to {errors["FP8", 30][1]:.1%}, FP4 {errors["FP4", 30][0]:.0%} to {errors["FP4", 30][1]:.0%} | contradicted
a decode becomes cheaper | V3.2, section 2.3 | {quicker[16384]:.1f} times at 16K, {quicker[65536]:.1f} at 64K, attention alone | shown
the model is as good as dense | V3.2, section 2.2 | not asked of a mini: text of this size needs no far tokens | not at this size
""")

# %% [markdown]
# ## 11 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. From where on?** From which length on does DSA need fewer FLOPs for a new token than dense attention, in V3.2's
# shape, absorbed? Why is it not 2,048?
#
# **B. How many pairs?** Of all pairs of a text of 128K tokens, what share does attention still score?
#
# **C. One head.** An indexer with a single head would be cheaper. What goes wrong with ReLU? (Think of the tokens whose
# product is negative.)
#
# **D. Half the keys.** If index keys were stored in FP8, how far would the byte bound at 64K move, latents in bf16?
#
# Then solve [the exercises](../exercises/11_dsa/11_dsa.ipynb), and go on to [lesson 12](12_compressed_attention.ipynb), where the
# text itself becomes shorter.

# %% jupyter={"source_hidden": true}
per_token, index_one = reading(1) / v3.n_layers, sparse.indexer.score_flops(1)
crossing = 2048 * per_token / (per_token - index_one)
assert 2048 < crossing < 2300
viz.answer(
    "A",
    f"From {crossing:,.0f} tokens on. At 2,048 everything is read, and the index is work on top, {index_one / per_token:.1%} of "
    "attention's for each token; beyond, each token saves the rest.",
)

# %% jupyter={"source_hidden": true}
n = 2**17
pairs, scored = n * (n + 1) / 2, 2048 * 2049 / 2 + (n - 2048) * 2048
assert 0.03 < scored / pairs < 0.032
viz.answer("B", f"{scored / pairs:.1%}. The indexer scores all {pairs / 1e9:.1f} billion of them.")

# %% jupyter={"source_hidden": true}
products = (torch.randn(1000, 32, generator=draw) @ torch.randn(32, 200, generator=draw)).relu()
zero = (products == 0).float().mean().item()
assert 0.45 < zero < 0.55
viz.answer(
    "C",
    f"ReLU makes every negative product exactly 0, {zero:.0%} of random ones, and nothing orders them: whoever falls there is "
    "picked or not by its place in the text. Worse, if the head's weight is negative, ALL tokens with a positive product stand "
    "behind those with none. With n heads a token is blind to all of them with a chance of 1 in 2^n.",
)


# %% jupyter={"source_hidden": true}
def bound(index_bytes, n=65536):
    return 576 * 2 * n / (index_bytes * n + 2048 * 576 * 2)


assert bound(256) < 4 < bound(132) < 8
viz.answer(
    "D",
    f"From {bound(256):.1f} to {bound(132):.1f} (128 bytes and a scale of 4). The fetched latents cost only "
    f"{2048 * 1152 / (132 * 65536 + 2048 * 1152):.0%} of the bytes by then: the index is the bill, and that is where V4 saves next.",
)
