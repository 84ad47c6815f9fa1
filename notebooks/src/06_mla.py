# %% [markdown]
# # 06 · MLA: remember less, attend as well
#
# A model that writes must remember every token it has read, in every layer. In V1 and DeepSeekMoE this memory is what
# fills a GPU. V2 (May 2024) keeps one small vector a token instead, the **latent**, and makes the keys and values of
# all heads from it: multi-head latent attention, MLA. V3 and R1 use it unchanged.
#
# Afterwards you can
#
# - compute the cache of any generation, and say where V2's famous 93.3 % come from;
# - build MLA from nothing, and move its matrices around without changing a digit;
# - show with one product why its rotation had to be *decoupled*;
# - say when the clever form pays, and when the simple one is better.
#
# Runs in 1 minute on two CPU cores, without a network. Take an hour to read it. You need lesson 02 (heads, RoPE, GQA).

# %%
import copy
import csv
import time
from collections import defaultdict
from dataclasses import replace

import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import minideepseek as mds
from minideepseek import accounting, layers, ops, viz
from minideepseek.data import Recall
from minideepseek.train import prepare_cpu
from minideepseek.train.recall import found, teach

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: the cache bill
#
# A cache keeps the key and the value of every head for every token (lesson 03, section 14). With $H$ heads of $D_h$
# channels and $L$ layers that is $2 H D_h L$ numbers a token: multi-head attention, **MHA**. Grouped-query attention
# (**GQA**) lets heads share $G$ key/value heads, $2 G D_h L$; multi-query attention (**MQA**, Shazeer, arXiv 1911.02150)
# is the extreme $G = 1$. V2 has 128 heads of 128 channels and 60 layers. What would each of them cost it, and what does
# MLA?

# %%
v2 = mds.generations["v2"]
gib = {row.attention: row.gib_128k for row in accounting.cache_table() if row.model == "v2"}
heads = {"if it were MHA": 128, "if it were GQA, 8 groups": 8, "if it were MQA": 1}
for name, groups in heads.items():
    assert gib[name] == 2 * groups * 128 * 60 * 2 * 128 * 1024 / 2**30  # 2 bytes a number, 128K tokens
viz.bars(
    {"V2 as it is: MLA": gib.pop("MLA")} | {f"V2 {name}": size for name, size in gib.items()},
    unit="GiB of cache for one text of 128K tokens, in bf16", emphasis=["V2 as it is: MLA"],
    title="As MHA, one long text of V2 would fill six GPUs of 80 GB", digits=".3g",
)  # fmt: skip

# %% [markdown]
# So why not MQA? Because heads that share keys look at the same things. V2's authors trained three models of 7B that
# differ in nothing else (V2 report, appendix D.1, table 8): MMLU 45.2 with MHA, 41.2 with GQA of 8 groups, 37.9 with
# MQA. Sharing is paid for in quality, and 480 GiB cannot be paid for at all.
#
# How many tokens fit? Eight GPUs of 80 GB hold V2's weights in bf16, and what remains is cache:

# %%
elements = {"MHA": 2 * 128 * 128 * 60, "GQA-8": 2 * 8 * 128 * 60, "MLA": mds.report(v2).cache_elements_per_token}
room = 8 * 80e9 - 2 * mds.report(v2).parameters
tokens = {name: int(room / (2 * numbers)) for name, numbers in elements.items()}
assert 55 < tokens["MLA"] / tokens["MHA"] < 58
print("tokens of context beside the weights:", {name: f"{count:,}" for name, count in tokens.items()})

# %% [markdown]
# 43 thousand tokens, ten customers with short questions, against 2.4 million. And each new token reads the whole cache
# of its text once, so a cache is also *time*: section 9 counts it.
#
# ## 2 · The idea in one picture

# %%
viz.latent_diagram(title="One small vector a token, from which every head makes its own keys and values")

# %% [markdown]
# Keep what the keys and values are *made of*, not what they are. The names of the V2 report (section 2.1, eq. 9-19):
#
# | | what | width in V2 | in `v2-mini` |
# |---|---|---|---|
# | $h$ | a token's vector at the entrance of the layer | $D$ = 5120 | 128 |
# | $c$ | its latent, $c = W^{DKV} h$; kept | $d_c$ = 512 | 48 |
# | $k^R$ | its rotary key, one for all heads; kept | $d_r$ = 64 | 16 |
# | $k_i, v_i$ | key and value of head $i$: $W^{UK}_i c$ and $W^{UV}_i c$ | $d_h$ = 128 each | 32 |
#
# Together $d_c + d_r$ = 576 numbers a layer, where MHA keeps 32,768. Sections 3 and 4 leave the rotary key out: first
# the compression, then why the rotation needs a way of its own.
#
# ## 3 · Compression in ten lines
#
# Float64, so that "equal" can mean equal. One text of $T$ tokens, $H$ heads, weights of gain 1:

# %%
T, D, H, Dh, Dc = 24, 128, 4, 32, 48
draw = torch.Generator().manual_seed(0)


def matrix(*shape):
    return torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[-1] ** 0.5


h = matrix(T, D) * D**0.5
W_q, W_dkv = matrix(H, Dh, D), matrix(Dc, D)
W_uk, W_uv = matrix(H, Dh, Dc), matrix(H, Dh, Dc)


# %%
def weights_of(scores):  # (H, T, T), nothing looks ahead
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    return (scores / Dh**0.5).masked_fill(future, -torch.inf).softmax(-1)


q = torch.einsum("hed,td->hte", W_q, h)
c = h @ W_dkv.T  # (T, Dc): all that is kept
k, v = torch.einsum("hec,tc->hte", W_uk, c), torch.einsum("hec,tc->hte", W_uv, c)
naive = weights_of(q @ k.mT) @ v  # (H, T, Dh)
print(f"kept: {c.numel()} numbers; made of them, and thrown away again: {k.numel() + v.numel()}")

# %% [markdown]
# What is lost? Stack the keys of all heads of many tokens: the table can have no more independent columns than the
# latent has numbers. MHA's table is limited by the token itself (all heads read the same $h$), MQA's by its one head.
# We compare the three where MQA and MLA keep *equally much*, 64 numbers a token:

# %%
many = matrix(1000, D) * D**0.5
latent = many @ matrix(64, D).T
tables = {
    "MHA, keeps 256": torch.cat([many @ w.T for w in matrix(H, Dh, D)], dim=1),
    "MQA, keeps 64": (many @ matrix(Dh, D).T).repeat(1, H),  # every head sees the same key
    "MLA, keeps 64": torch.cat([latent @ w.T for w in matrix(H, Dh, 64)], dim=1),
}
rank = {name: torch.linalg.matrix_rank(keys).item() for name, keys in tables.items()}
assert rank == {"MHA, keeps 256": 128, "MQA, keeps 64": 32, "MLA, keeps 64": 64}
print("independent columns in the keys of all heads:", rank)

# %% [markdown]
# MQA splits its 64 numbers into one key and one value, and all heads look at the same. MLA lets keys *and* values draw
# on all 64, and gives every head its own mixture. And MHA's row holds a lesson, too: it keeps 256 numbers that are all
# made from the 128 of $h$. In V2 that is 32,768 numbers made from 5,120. MHA's cache was never more than a copy six
# times too large; MLA keeps a *learned summary* of $h$ instead.
#
# So GQA is a special case: let the latent be the $G$ keys and values themselves, and let $W^{UK}$ hand each head the one
# it reads. Exercise C proves it.
#
# ## 4 · Absorption: never make the keys
#
# To write one token, the naive form makes all keys and values of the past anew from the latents: the room is saved, the
# work is enormous. But look at one score. The query meets a matrix that meets a latent, and brackets may be moved:
#
# $$q \cdot (W^{UK} c) \;=\; (W^{UK\top} q) \cdot c$$
#
# Move $W^{UK}$ to the query, *once*, and the latent itself is the key. The same on the other side: a weighted sum of
# $W^{UV} c_j$ is $W^{UV}$ times the weighted sum of $c_j$.

# %%
q_latent = torch.einsum("hte,hec->htc", q, W_uk)  # the query goes down to the latents ...
mixed = weights_of(q_latent @ c.T) @ c  # ... meets them as they are, and mixes them (H, T, Dc);
absorbed = torch.einsum("htc,hec->hte", mixed, W_uv)  # values are made of the mixture alone
apart = ((absorbed - naive).norm() / naive.norm()).item()
assert apart < 1e-13
print(f"absorbed and naive differ by {apart:.0e}: rounding in float64")

# %% [markdown]
# Nothing was approximated. What remains looks like multi-query attention: *one* key a token, which is its own value,
# read by all heads. MHA's freedom in the weights, MQA's traffic in the memory.
#
# A third form, between the two, keeps latents but expands each new one when it is needed: what `transformers` does, and
# what we call **expanded** below. Written as a decode, one token after the other, with nothing but `c` kept:

# %%
one_by_one = []
for t in range(T):
    past = c[: t + 1]  # the cache
    keys, values = torch.einsum("hec,tc->hte", W_uk, past), torch.einsum("hec,tc->hte", W_uv, past)
    weights = (q[:, t : t + 1] @ keys.mT / Dh**0.5).softmax(-1)
    one_by_one.append(weights @ values)
assert_close(torch.cat(one_by_one, dim=1), naive, rtol=1e-12, atol=1e-12)
print("naive, latent-cached and absorbed: three ways, one result")

# %% [markdown]
# ### Myth check: "the matrices are multiplied into one"
#
# The report says that $W^{UK}$ can be absorbed into $W^{Q}$, and $W^{UV}$ into $W^O$ (section 2.1.2). Many retellings
# then store the product. Is that a good idea in V2, where queries come from a latent of $d_c'$ = 1536?

# %%
a = v2.attention
apart_weights = a.n_heads * a.d_nope * (a.d_query_latent + a.d_latent)  # W^UQ and W^UK
product = a.n_heads * a.d_query_latent * a.d_latent  # one matrix from query latent to key latent, for each head
assert product > 2.9 * apart_weights
print(f"two matrices: {apart_weights / 1e6:.1f} M weights a layer; their product: {product / 1e6:.1f} M")

# %% [markdown]
# The product is *three times* larger, because the way from 1536 to 512 leads through a head of only 128 channels. Good
# implementations absorb by order of brackets, one small product after the other. So does
# [`_absorbed`](../minideepseek/layers/mla.py) in the package.
#
# ## 5 · Why the rotation must be decoupled
#
# RoPE turns query and key by their places, and matrices of rotation compose: $R_t^\top R_j = R_{j-t}$ (lesson 02). Put
# it on the keys that we have just learned not to make:
#
# $$(R_t\, q) \cdot (R_j\, W^{UK} c) \;=\; q^\top\, R_{j-t}\, W^{UK}\, c$$
#
# A matrix that depends on the *distance* now stands between $q$ and $W^{UK}$. What would have to be absorbed is the
# product $A(t-j) = W^{UK\top} R_{t-j}$, and there is one of them for every distance. Look at the product:


# %%
def rotation(by):  # (Dh, Dh): turns neighbouring pairs of channels as `by` tokens do
    angle = by * layers.RoPE().frequencies(Dh, torch.float64)
    pairs = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
    return torch.block_diag(*pairs.view(-1, 2, 2))


A = torch.stack([W_uk[0].T @ rotation(distance) for distance in range(300)])  # (300, Dc, Dh), of head 0
assert_close(rotation(7).T @ rotation(4), rotation(-3))
viz.matrices(
    {f"distance {d}": A[d, :16, :16] for d in (0, 1, 4, 16)}, xlabel="query channel", ylabel="latent channel",
    title="What would have to be absorbed is another matrix at every distance",
)  # fmt: skip

# %% [markdown]
# First: is the formula right? Scores from turned queries and keys, against scores through $A$ of each distance. Second:
# what if we do not care, absorb $A(0)$ once, and use it everywhere?

# %%
turned = torch.stack([rotation(t) for t in range(T)])  # (T, Dh, Dh)
q_turned, k_turned = (torch.einsum("tfe,hte->htf", turned, x) for x in (q, k))
right = (q_turned @ k_turned.mT)[0]
through = torch.stack([torch.stack([c[j] @ A[t - j] @ q[0, t] for j in range(t + 1)] + [right[t, t] * 0] * (T - 1 - t))
                       for t in range(T)])  # fmt: skip
assert_close(through, right.tril(), rtol=1e-11, atol=1e-11)
wrong = (A - A[0]).flatten(1).norm(dim=1) / A[0].norm()
assert wrong[0] == 0
assert wrong[1] > 0.2
print(f"through A(t - j): exact. With A(0) for all: {wrong[1]:.0%} off at distance 1, {wrong[20]:.0%} at 20")

# %%
viz.curves(
    {"A(d) against A(0)": wrong[1:], "theory: unrelated matrices": [2**0.5] * 299}, x=range(1, 300), log="x",
    title="A matrix absorbed for one distance is wrong for every other",
    xlabel="distance between query and key (tokens)", ylabel="relative difference",
)  # fmt: skip

# %% [markdown]
# Could one absorb *all* of them? A rotation is a sum, $R_d = \sum_i \cos(d\,\omega_i) P_i + \sin(d\,\omega_i) J_i$ over the
# $D_h/2$ pairs, where $P_i$ and $J_i$ do not depend on the distance. So all the $A(d)$, infinitely many, are mixtures of
# $D_h$ fixed matrices:

# %%
far = torch.stack([W_uk[0].T @ rotation(distance) for distance in range(0, 128 * 1024, 431)])
independent = torch.linalg.matrix_rank(far.flatten(1)).item()
assert independent == Dh < len(far)
print(
    f"{len(far)} distances up to 128K tokens: {independent} independent matrices, so {independent} absorbed queries a head"
)

# %% [markdown]
# In V2 it would be 128 absorbed queries a head. The alternative is to make every old key anew in every step, which is the
# form that we wanted to leave. The report names this dilemma in one sentence (section 2.1.3); you have now seen both
# horns.
#
# The way out: **split the head**. Most channels, $d_h$ of them, tell *what* and do not turn, so their matrix can be
# moved. A few, $d_r$, tell *where*: they turn, and do not come from the latent but straight from $h$, one rotary key for
# all heads. A score is then a sum of two:
#
# $$s_{tj} = \frac{q^C_t \cdot W^{UK} c_j \;+\; q^R_t \cdot k^R_j}{\sqrt{d_h + d_r}}$$
#
# ## 6 · The whole of MLA
#
# Two details more. Queries get a latent of their own (eq. 12-13): no cache needs it, it saves parameters and
# activations while training. And both latents pass an RMSNorm, which the equations leave out (the report mentions it
# with the hyper-parameters, section 3.1.2). What is kept is the *normed* latent and the *turned* rotary key. Naively:

# %%
mini = mds.generations["v2-mini"]
model = mds.Transformer(mini, seed=0).double().eval()  # training would drop tokens: lesson 07
layer = model.blocks[0].attention
ids = torch.randint(0, mini.vocab_size, (2, T), generator=torch.Generator().manual_seed(1))
x, ctx = torch.randn(2, T, D, generator=draw, dtype=torch.float64), model.context(ids)
mini.attention


# %%
def naive_mla(x, layer, cfg, ctx):
    c_q, c, k_r = layer.down(x).split([cfg.d_query_latent, cfg.d_latent, cfg.d_rope], dim=-1)
    q = layer.query_up(ops.rms_norm(c_q, layer.query_norm.weight)).unflatten(-1, (cfg.n_heads, -1))
    kv = layer.latent_up(ops.rms_norm(c, layer.latent_norm.weight)).unflatten(-1, (cfg.n_heads, -1))
    q_c, q_r = q.split([cfg.d_nope, cfg.d_rope], dim=-1)  # (B, T, H, ...)
    k_c, v = kv.split([cfg.d_nope, cfg.d_value], dim=-1)
    q_r, k_r = cfg.rope.rotate(q_r, ctx), cfg.rope.rotate(k_r[:, :, None], ctx)  # k_r has one head
    scores = torch.einsum("bthe,bjhe->bhtj", q_c, k_c) + torch.einsum("bthe,bjge->bhtj", q_r, k_r)
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    weights = (scores / (cfg.d_nope + cfg.d_rope) ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
    return layer.out(torch.einsum("bhtj,bjhe->bthe", weights, v).flatten(2))


# %%
naive = naive_mla(x, layer, mini.attention, ctx)
query, latents = layer.project(x, ctx)  # what the package keeps: latents (B, T, d_c + d_r)
forms = {form: layer.attend(query, latents, None, form) for form in ("expanded", "absorbed")}
apart = {form: ((y - naive).norm() / naive.norm()).item() for form, y in forms.items()}
assert max(apart.values()) < 1e-12
print("relative difference to the naive form:", {form: f"{size:.0e}" for form, size in apart.items()})

# %%
# Trainable in either form: the same gradient arrives at every weight.
gradients = [torch.autograd.grad(y.square().sum(), layer.parameters(), retain_graph=True) for y in forms.values()]
for expanded, absorbed in zip(*gradients, strict=True):
    assert_close(absorbed, expanded, rtol=1e-9, atol=1e-9)
print(f"gradients of all {len(gradients[0])} weights agree")

# %% [markdown]
# The live cache holds latents and rotary keys, *nothing else*, so its size is known to the byte. And a text may come in
# pieces of any length, in whatever form is cheaper for each piece:

# %%
cache = model.new_cache(batch_size=2, max_len=T)
kept = mini.attention.d_latent + mini.attention.d_rope
assert cache.nbytes == kept * mini.n_layers * 2 * T * 8  # 2 rows of T tokens, 8 bytes in float64
with torch.inference_mode():
    pieces = [model(piece, cache=cache) for piece in ids.split([9, 1, 1, T - 11], dim=1)]
    assert_close(torch.cat(pieces, dim=1), model(ids), rtol=1e-9, atol=1e-9)
print(f"{kept} numbers a token and layer; pieces of 9, 1, 1 and {T - 11} tokens give the logits of one pass")

# %% [markdown]
# ## 7 · Look inside: what, and where
#
# Does a model use the two halves as intended? We need a task with a *what* and a *where*: **planted recall**. Pairs of a
# key and a value are hidden in noise; at the end a key is asked for, and the model must name the value that stood behind
# it ([recall.py](../minideepseek/data/recall.py)). Two layers can do it together: one tells each value which key stands
# *just before* it (a matter of place), the next looks for *this key* (a matter of content).

# %%
task = Recall(n_keys=8, n_values=8, n_fillers=2)
attention = layers.MLA(
    n_heads=2, d_latent=48, d_rope=16, d_nope=16, d_value=32, rope=layers.RoPE(theta=160, layout="adjacent")
)
finder = replace(
    mini, d_model=64, n_layers=2, attention=attention, ffn=layers.SwiGLU(hidden=64), vocab_size=task.vocab_size
)
rows = task.rows(200, 16, pairs=3, questions=3, generator=torch.Generator().manual_seed(99))
names = [f"k{i}" for i in range(8)] + [f"v{i}" for i in range(8)] + ["·", "·"]
print("a row:", " ".join(names[token] for token in rows.ids[0]), "| asked at", rows.asked.tolist())

# %%
from tqdm.auto import tqdm

readers = []
for seed in tqdm(range(3), desc="seeds"):
    readers.append(mds.Transformer(finder, seed=seed))
    before = found(readers[-1], rows).float().mean()
    teach(readers[-1], task, length=16, pairs=3, steps=100, lr=6e-3, tokens=1024, seed=seed)
    print(f"seed {seed}: found {before:.0%} before, {found(readers[-1], rows).float().mean():.1%} after 100 steps")
assert min(found(reader, rows).float().mean() for reader in readers) > 0.95

# %% [markdown]
# Where do they look? The weights of both layers, for one row: each row of a map is a reader, each column what it reads.


# %%
def look(model, ids):
    stream, ctx, maps = model.embed(ids), model.context(ids), []
    future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    for block in model.blocks:
        query, latents = block.attention.project(block.attention_norm(stream), ctx)
        c, k_r = latents.split([48, 16], dim=-1)
        k_c = block.attention.latent_up(c).unflatten(-1, (2, -1))[..., :16]
        keys = torch.cat([k_c, k_r[:, :, None].expand(-1, -1, 2, -1)], dim=-1)  # as the absorbed form never does
        scores = torch.einsum("bthe,bjhe->bhtj", query, keys) / 32**0.5
        maps.append(scores.masked_fill(future, -torch.inf).softmax(-1)[0].detach())
        stream = block(stream, ctx)
    return maps  # for each layer (H, T, T)


# %%
tokens = [names[token] for token in rows.ids[0]]
first, second = look(readers[0], rows.ids[:1])
before = max(first, key=lambda head: head.diagonal(-1).sum())  # the head of layer 1 that looks one back the most
answer = max(second, key=lambda head: head[rows.asked, rows.planted[0] + 1].sum())
viz.attention_map(
    torch.stack([before, answer]), tokens=tokens, names=["layer 1", "layer 2"],
    title="Layer 1 looks one back, layer 2 finds the value asked for",
)  # fmt: skip

# %% [markdown]
# Now take one half away in one layer. Without the rotary key a layer has no sense of place; without $W^{UK}$ its
# content keys are gone. Both are a matter of setting some rows of a matrix to zero:


# %%
def without(model, layer, *parts):
    lamed = copy.deepcopy(model)
    attention = lamed.blocks[layer].attention
    if "where" in parts:
        attention.down.weight.data[-attention.cfg.d_rope :] = 0  # no rotary key
    if "what" in parts:
        attention.latent_up.weight.data.view(2, -1, 48)[:, : attention.cfg.d_nope] = 0  # no content key
    return 100 * found(lamed, rows).float().mean().item()


cases = [(layer, *parts) for layer in (0, 1) for parts in (["what"], ["where"], ["what", "where"])]
left = {case: [without(reader, *case) for reader in readers] for case in cases}
for (at, *parts), shares in left.items():
    print(f"layer {at + 1} without {' and '.join(parts):>14}: finds", ", ".join(f"{share:.0f} %" for share in shares))

# %%
assert max(left[0, "where"]) < 85 < min(left[0, "what"])
assert max(left[1, "what", "where"]) < 70
viz.bars(
    {f"layer {at + 1} without {' and '.join(parts)}": sum(x) / 3 for (at, *parts), x in left.items()}, unit="% found",
    title="Looking one back needs the rotary key; looking for a key can use either half", digits=".0f",
    emphasis=["layer 1 without where"],
)  # fmt: skip

# %% [markdown]
# The first layer is as expected: *what* is idle there, and without *where* it fails. The second is a surprise: it can
# lose either half, not both. Remember where $k^R$ comes from: from $h$, so it knows the content as well, and within 16
# tokens its slow pairs hardly turn. The split says which half *may* turn, not what each half learns. In longer texts
# those slow pairs do turn, to angles never trained, and that is what lesson 07 has to repair.
#
# ## 8 · Train it: is it as good as MHA?
#
# The paper's claim is about quality: MLA is *better* than MHA (appendix D.2, table 9: MMLU 50.0 against 48.7 for a
# model of 16B, 59.0 against 57.5 for one of 250B). Can that be seen small? We trained half a mini on stories with five
# attentions, every arm of a seed on the same text ([script](../benchmarks/attention.py),
# [table](../benchmarks/results/attention.csv)).

# %%
losses, cached = defaultdict(lambda: defaultdict(list)), {}
with open("../benchmarks/results/attention.csv", newline="") as file:
    for row in csv.DictReader(file):
        losses[row["arm"]][row["seed"]].append(float(row["valid_loss"]))
        cached[row["arm"]] = int(row["cached"])
losses = {arm: torch.tensor(list(seeds.values())) for arm, seeds in losses.items()}  # (seeds, looks)
gap = {arm: (found[:, -1] - losses["MHA"][:, -1]) for arm, found in losses.items() if arm != "MHA"}
for arm, pairs in gap.items():
    band = 2 * pairs.std() / len(pairs) ** 0.5
    print(
        f"{arm:>10}, keeps {cached[arm]:>3} numbers: {pairs.mean():+.3f} ± {band:.3f} nats against MHA ({cached['MHA']})"
    )

# %%
viz.curves(
    {f"{arm}, keeps {cached[arm]}": found[:, 4:] for arm, found in losses.items()}, x=range(100, 301, 20),
    title="Small and briefly trained, MLA learns later than MHA", xlabel="step (updates of the weights)",
    ylabel="loss on held-out text (nats)",
)  # fmt: skip

# %% [markdown]
# GQA ends within the noise of MHA, MQA a little behind it, as the paper's large models do. MLA is *further* behind, and
# not because its cache is small: the wide latent is no better. All curves still fall steeply, so this may be a delay rather
# than a limit. How long a delay?

# %%
reached = losses["MHA"].mean(0)
late = {arm: 280 - 20 * int((reached > losses[arm][:, -1].mean()).sum()) for arm in ("MQA", "MLA", "MLA, wide")}
against = gap["MLA"] - gap["MQA"]  # equal cache
noise = 2 * against.std().item() / len(against) ** 0.5
assert (gap["MLA"] > 0).all()
assert late["MLA"] > 0
print("MHA has had the final loss of each of them, of 300 steps, about so many steps before the end:", late)

# %% [markdown]
# A likely reason: keys and values are made by two matrices in a row, and both must learn before either is of use. A
# story needs little of what many heads are for, and 300 steps are few. We report what we see: at this size, with these
# settings, MLA costs some steps; that it *helps* is the paper's measurement, at 16 and 250 billion parameters.
#
# ## 9 · When does absorption pay?
#
# Count the multiplications of one layer for $T$ new tokens over $S$ cached ones. Expanding costs $d_c (d_h + d_v)$ a
# head for each of the $S$ cached tokens; absorbing costs the same for each of the $T$ *new* ones, and then every score
# meets a longer vector: $2 d_c + d_r$ instead of $d_h + d_r + d_v$.


# %%
def products(form, n_new, n_cached, a=v2.attention):
    up = a.d_latent * (a.d_nope + a.d_value)
    if form == "expanded":
        return a.n_heads * (n_cached * up + n_new * n_cached * (a.d_nope + a.d_rope + a.d_value))
    return a.n_heads * (n_new * up + n_new * n_cached * (2 * a.d_latent + a.d_rope))


step = products("expanded", 1, 4096) / products("absorbed", 1, 4096)
prefill = products("absorbed", 4096, 4096) / products("expanded", 4096, 4096)
assert step > 100
assert 3 < prefill < 3.4
print(f"one new token after 4,096: expanding costs {step:.0f} times as much as absorbing")
print(f"a prompt of 4,096 tokens at once: absorbing costs {prefill:.1f} times as much as expanding")

# %%
new = [1, 4, 16, 64, 128, 256, 1024, 4096]
meet = next(n for n in range(1, 4096) if products("expanded", n, 4096) < products("absorbed", n, 4096))
with torch.device("meta"):  # shapes without memory
    v2_layer = v2.attention.build(v2.d_model, 0)
assert v2_layer.cheaper_form(meet - 1, 4096) == "absorbed"
assert v2_layer.cheaper_form(meet, 4096) == "expanded"
viz.curves(
    {form: [products(form, n, 4096) / n / 1e6 for n in new] for form in ("expanded", "absorbed")}, x=new, log="xy",
    title=f"Up to {meet - 1} new tokens at once, V2 should absorb", marks={f"{meet}": meet},
    xlabel="new tokens at once, after 4,096 cached", ylabel="million products a new token",
)  # fmt: skip

# %% [markdown]
# So: train and read prompts expanded, write absorbed. The package counts before every pass
# ([`cheaper_form`](../minideepseek/layers/mla.py)). Does PyTorch count the same? A layer small enough to run, and its
# clock beside it (which decides nothing here: your machine may be busy):

# %%
shape = layers.MLA(n_heads=16, d_latent=128, d_rope=16, d_nope=32, d_value=32)
small = mds.Transformer(
    replace(mini, d_model=512, n_layers=1, attention=shape, ffn=layers.SwiGLU(hidden=176)), seed=0
).requires_grad_(False)
block = small.blocks[0].attention


def cost(form, n_new, n_cached):
    query, kept = torch.randn(1, n_new, 16, 48), torch.randn(1, n_cached, 144)
    with FlopCounterMode(display=False) as counter:  # float64 takes the calls that are counted
        copy.deepcopy(block).double().attend(query.double(), kept.double(), None, form)
    clock = []
    for _ in range(5):
        began = time.process_time()
        block.attend(query, kept, None, form)
        clock.append(time.process_time() - began)
    return counter.get_total_flops() / 1e6, 1e3 * min(clock)


# %%
for n_new, n_cached in ((1, 512), (1, 2048), (1, 8192), (512, 512)):
    measured = {form: cost(form, n_new, n_cached) for form in ("expanded", "absorbed")}
    more = measured["expanded"][0] / measured["absorbed"][0]
    assert (more > 8) if n_new == 1 else (more < 1)
    text = "; ".join(f"{form} {mflops:6,.0f} MFLOPs, {ms:6.2f} ms" for form, (mflops, ms) in measured.items())
    print(f"{n_new:>3} new on {n_cached:>5,}: {text}")

# %% [markdown]
# ### Traffic against arithmetic
#
# Against MHA the bill has two columns. In V2's shape, absorbed MLA multiplies *more* for each cached token than MHA
# would, and reads far less:

# %%
mla_products = a.n_heads * (2 * a.d_latent + a.d_rope)
mha_products = a.n_heads * (a.d_nope + a.d_value)
mla_bytes, mha_bytes = 2 * (a.d_latent + a.d_rope), 2 * a.n_heads * (a.d_nope + a.d_value)
print(f"a cached token, in one layer: {mla_products / mha_products:.2f} times the products of MHA-128,")
print(
    f"{mha_bytes / mla_bytes:.1f} times fewer bytes; FLOPs for each byte: {2 * mla_products / mla_bytes:.0f} against 1"
)
assert mla_products > 4 * mha_products
assert mha_bytes > 56 * mla_bytes

# %% [markdown]
# One FLOP for each byte is a waste of a GPU, which can do hundreds while it fetches one. An H800's data sheet says
# 3.35 TB/s and 990 TFLOP/s in bf16: 295 for each byte. MLA's 242 come near it: the same memory traffic is put to use by
# 128 heads. Turn the knobs; a step takes as long as the slower of the two columns.


# %%
def step_time(context=32, texts=16, heads=128):
    n = context * 1024 * texts
    kinds = {"MHA": (heads, 256, 256 * heads), "GQA-8": (heads, 256, 2 * 8 * 128), "MQA": (heads, 256, 256)}
    kinds["MLA, absorbed"] = (heads, 2 * 512 + 64, 576)
    bill = {}
    for name, (h, products, numbers) in kinds.items():
        fetch, compute = 2 * numbers * n / 3.35e12, 2 * h * products * n / 990e12
        bill[f"{name}: {'fetching' if fetch > compute else 'computing'}"] = 1e6 * max(fetch, compute)
    return viz.bars(
        bill, unit="µs for the attention of one layer, at a data sheet's best", digits=",.0f",
        title=f"A step of {texts} texts of {context}K tokens, {heads} heads",
    )  # fmt: skip


viz.knob(step_time, context=(4, 128, 4), texts=(1, 64), heads=[8, 16, 32, 64, 128, 256])

# %% [markdown]
# With 256 heads MLA would begin to compute rather than fetch, with 16 heads (V2-Lite) it fetches. And it is never
# cheaper than MQA, whose key and value of 256 numbers are less than half of 576.
#
# ### Myth check: 93.3 %
#
# "MLA shrinks the cache by 93.3 %" (from the V2 report's abstract) is repeated everywhere. Against which model, and by
# what? Against V1-67B, which has GQA of 8 groups:

# %%
v1 = mds.generations["v1-67b"]
by_numbers = accounting.cache_saving(*(mds.report(cfg).cache_elements_per_token for cfg in (v1, v2)))
with_bits = accounting.cache_saving(*(mds.report(cfg).cache_elements_per_token for cfg in (v1, v2)), new_bits=6)
assert round(100 * by_numbers.elements, 1) == 82.2
assert round(100 * with_bits.together, 1) == 93.3
assert accounting.equivalent_groups(v2.attention) == 2.25
print(f"fewer numbers: {by_numbers.elements:.1%}; each in 6 bits instead of 16: {with_bits.bits:.1%} less")
print(
    f"together {with_bits.together:.1%}. In numbers a layer MLA is a GQA of {accounting.equivalent_groups(a)} groups; MQA is 1"
)

# %% [markdown]
# Latents alone save 82.2 %. The rest is 6 bits a number, in which V2 is served (section 3.2.3); the report does not spell
# the product out, but it is exact. And two sentences you can now refute: "MLA has the smallest cache" (MQA's is 2.25
# times smaller), "MLA saves computation" (absorbed it computes 4.25 times more than MHA on each cached token).
#
# ## 10 · The ledger

# %%
viz.ledger(f"""
naive, expanded and absorbed are one function | V2, section 2.1.2 | relative difference {max(apart.values()):.0e} in float64, gradients too | exact
MLA keeps d_c + d_r numbers a token and layer | V2, table 1 | bytes of a live cache equal the formula | exact
as much as GQA with 2.25 groups | V2, table 1 | 576 / 256 | exact
a rotation on the keys cannot be absorbed | V2, section 2.1.3 | {independent} different matrices a head; A(0) is {wrong[1]:.0%} off at distance 1 | shown
the cache is 93.3 % smaller than the 67B's | V2, abstract | {by_numbers.elements:.1%} by latents, the rest by 6 bits a number | exact
keys of all heads stay independent | this lesson | {rank["MLA, keeps 64"]} columns against {rank["MQA, keeps 64"]} of MQA at equal cache | shown
the rotary half is the model's sense of place | this lesson | layer 1 without it: {sum(left[0, "where"]) / 3:.0f} % found, 3 seeds | shown
the other half is its sense of content | often told | layer 2 finds {sum(left[1, "what"]) / 3:.0f} % without it | contradicted
MLA is better than MHA | V2, table 9 | {gap["MLA"].mean():+.3f} nats at a quarter of its cache, {len(gap["MLA"])} seeds | not at this size
MLA is better than MQA at equal cache | this lesson | {against.mean():+.3f} ± {noise:.3f} nats | {"tie" if abs(against.mean()) < noise else "not at this size"}
absorbing pays for few new tokens | V2, section 2.1.2 | {step:.0f} times fewer products for one, dearer from {meet} on | exact
MLA saves computation | often told | {mla_products / mha_products:.2f} times MHA's products for a cached token | contradicted
""")

# %% [markdown]
# ## 11 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell. Then solve the exercises of this lesson.
#
# **A. Turn the latent.** Somebody proposes: turn $c$ itself, $R_j c_j$, and keep that. Then $W^{UK}$ stays next to $q$.
# Do scores depend on the distance alone? Can they be absorbed? And what about the values?
#
# **B. One million tokens.** How many GiB would V3 keep for a text of $2^{20}$ tokens, in bf16? Could a GPU of 80 GB hold it?
#
# **C. GQA is a special case.** Build a layer of MLA (without rotation) that is exactly a given layer of GQA with two groups,
# and keeps as many numbers.
#
# **D. No query latent.** V2-Lite makes its queries straight from $h$. How many parameters a layer does a query latent of
# 1536 save V2, and would it save V2-Lite any?
#
# Then go on to lesson 07, where V2 is trained, and reads four times as far as it was taught.

# %% jupyter={"source_hidden": true}
spin = lambda t: torch.block_diag(rotation(t), rotation(t)[:16, :16])  # noqa: E731 (Dc, Dc)
score = lambda t, j: (spin(t) @ q_latent[0, t]) @ (spin(j) @ c[j])  # noqa: E731
straight = (spin(5 + 30) @ q_latent[0, 5]) @ (spin(2 + 30) @ c[2])
assert_close(score(5, 2), straight, rtol=1e-10, atol=1e-10)
off = ((spin(7) @ c[7] - c[7]).norm() / c[7].norm()).item()
viz.answer(
    "A",
    "The scores work: moved by 30 places they are the same, and W^UK stays with the query, so they can be absorbed. But the values "
    f"are made of the same latents, and a turned one is another vector ({off:.0%} off at place 7): W^UV would see each token "
    "differently at each place. One would have to turn the mixture back by the query's place, and even then a sum of R_j c_j is "
    "not R of a sum. Values would carry positions; or keep c twice, and the cache doubles.",
)

# %% jupyter={"source_hidden": true}
v3 = mds.report(mds.generations["v3"])
million = v3.cache_bytes_per_token * 2**20 / 2**30
others = mds.report(v1).cache_bytes_per_token * 2**20 / 2**30
assert 68 < million < 69
viz.answer(
    "B",
    f"{v3.cache_elements_per_token:,} numbers a token, {million:.1f} GiB: it fits into 80 GB (74.5 GiB) with little else beside "
    f"it. The 67B's cache would fill {others / 74.5:.1f} such GPUs.",
)

# %% jupyter={"source_hidden": true}
key, value = matrix(2, Dh, D), matrix(2, Dh, D)  # GQA: two groups
grouped_k, grouped_v = (torch.einsum("ged,td->gte", w, h).repeat_interleave(2, 0) for w in (key, value))
down = torch.cat([key.flatten(0, 1), value.flatten(0, 1)])  # (2·2·Dh, D): the latent is [k1; k2; v1; v2]
pick = torch.eye(4 * Dh, dtype=torch.float64).view(4, Dh, 4 * Dh)
up_k, up_v = pick[[0, 0, 1, 1]], pick[[2, 2, 3, 3]]
summary = h @ down.T
latent_q = torch.einsum("hte,hec->htc", q, up_k)
as_mla = torch.einsum("htc,hec->hte", weights_of(latent_q @ summary.T) @ summary, up_v)
assert_close(as_mla, weights_of(q @ grouped_k.mT) @ grouped_v, rtol=1e-12, atol=1e-12)
viz.answer(
    "C",
    f"The latent is the groups' keys and values side by side, {4 * Dh} numbers, as many as GQA keeps; W^UK and W^UV of a head are "
    "ones and zeros that pick. The outputs agree to 12 digits. So whatever GQA can do, MLA can at the same cache; the "
    "reverse is not true.",
)

# %% jupyter={"source_hidden": true}
saved = {}
for name, width in (("V2", 1536), ("V2-Lite", 1536)):
    cfg = mds.generations[name.lower()]
    plain, pressed = (replace(cfg.attention, d_query_latent=d).n_params(cfg.d_model) for d in (None, width))
    saved[name] = (plain - pressed) / 1e6
assert saved["V2"] > 0 > saved["V2-Lite"]
viz.answer(
    "D",
    f"V2 saves {saved['V2']:.0f} million a layer. V2-Lite would pay {-saved['V2-Lite']:.1f} million more: its 16 heads make "
    "queries of 3,072 numbers from 2,048, and the way through 1,536 is longer than the direct one. No cache is touched either way.",
)
