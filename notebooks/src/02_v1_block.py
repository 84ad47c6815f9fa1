# %% [markdown]
# # 02 · A V1 block from bricks
#
# DeepSeek's first language model (V1, January 2024) is a stack of identical **blocks**: 30 of them in the 7B model,
# 95 in the 67B. This lesson builds one block from nothing, brick by brick. Each brick is first written naively in a
# cell, then compared with the package, and at the end the whole model is compared with `transformers`.
#
# Runs in about 1 minute on two cores, without a network. You need some Python, matrix products, and the softmax.

# %%
import math
from dataclasses import replace
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, ops, viz
from minideepseek.train import prepare_cpu

prepare_cpu()
torch.manual_seed(0)
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem
#
# A language model reads a row of tokens and guesses the next one. Inside, each token is a vector of $D$ numbers, and
# all the vectors together are the **stream**: a tensor $x$ of shape $(B, T, D)$ for $B$ texts of $T$ tokens. A block
# improves the stream a little and hands it on. Five problems have to be solved, and each has its brick:
#
# | problem | brick | paper | our file |
# |---|---|---|---|
# | after 95 blocks the numbers must be neither huge nor gone | RMSNorm, placed first | Zhang & Sennrich 2019 | [norm.py](../minideepseek/layers/norm.py) |
# | tokens must read from each other, and never from the future | causal attention | Vaswani et al. 2017 | [reference.py](../minideepseek/ops/reference.py) |
# | attention does not know who came first | RoPE | Su et al. 2021 | [rope.py](../minideepseek/layers/rope.py) |
# | what attention remembers of the past fills the memory | grouped-query attention | Ainslie et al. 2023 | [gqa.py](../minideepseek/layers/gqa.py) |
# | each token must also be worked on by itself | SwiGLU | Shazeer 2020 | [swiglu.py](../minideepseek/layers/swiglu.py) |
#
# None of the five is DeepSeek's invention. V1 takes LLaMA's block as it is (DeepSeek LLM, arXiv 2401.02954, section
# 2.2), and that is why it is the right first lesson: every later generation replaces one of these bricks.
#
# ## 2 · The idea in one picture

# %%
viz.block_diagram(title="A block: two branches, each reads a normed copy and adds to the stream")

# %% [markdown]
# The stream runs straight through. A branch takes a *copy*, norms it, works on it, and *adds* its result. Nothing is
# ever overwritten: the last block still sees the token it started from.
#
# We build with the sizes of `v1-mini`, the family's smallest member. $H$ is the number of query heads, $G$ of
# key/value heads, $D_h$ the channels of a head.

# %%
mini = mds.generations["v1-mini"]
B, T, D = 2, 16, mini.d_model
H, G, Dh = mini.attention.n_heads, mini.attention.n_kv_heads, mini.attention.head_dim
x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))
mini

# %% [markdown]
# ## 3 · RMSNorm: one size for every vector
#
# A branch should not care whether the stream has grown. So its copy is divided by its own size, the root mean square,
# and multiplied by a learned gain $g$, one number a channel (Zhang & Sennrich, arXiv 1910.07467, eq. 4):
#
# $$\mathrm{RMSNorm}(x)_i = \frac{x_i}{\sqrt{\frac1D\sum_j x_j^2 + \epsilon}}\; g_i$$
#
# The small $\epsilon = 10^{-6}$ keeps a vector of zeros from being divided by zero. It stands *inside* the root;
# exercise C shows what it does outside. Here is the idea in code, and beside it
# [`RMSNorm`](../minideepseek/layers/norm.py) of the package:


# %%
def rms_norm(x, gain, eps=1e-6):
    mean_square = x.pow(2).mean(-1, keepdim=True)
    return x / torch.sqrt(mean_square + eps) * gain


norm = layers.RMSNorm(D)
torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
assert_close(rms_norm(x, norm.weight), norm(x))
print("three lines are the package's RMSNorm")

# %% [markdown]
# The older LayerNorm (Ba et al., arXiv 1607.06450) first subtracts the mean of the channels, and adds a learned bias
# at the end. What does leaving that out change? With two channels one can see it. Both norms remove a vector's
# length. LayerNorm also removes its part along $(1, 1)$, and of two dimensions that leaves nothing but a sign.
#
# With $D$ channels it is one dimension of $D$. For vectors of random numbers the two norms therefore differ by about
# $1/\sqrt D$ a channel, as the second figure measures.

# %%
points = torch.randn(90, 2, generator=torch.Generator().manual_seed(1)) * 1.4 + torch.tensor([0.6, 0.0])
viz.norm_picture(
    points,
    {"LayerNorm": F.layer_norm(points, (2,)), "RMSNorm": ops.rms_norm(points, torch.ones(2))},
    title="RMSNorm keeps a vector's direction, LayerNorm removes one more dimension",
)

# %%
widths = [2, 8, 32, 128, 512, 2048, 8192]
gap = torch.zeros(5, len(widths))  # five seeds
for seed in range(5):
    for i, width in enumerate(widths):
        rows = torch.randn(256, width, generator=torch.Generator().manual_seed(seed))
        gap[seed, i] = (F.layer_norm(rows, (width,)) - ops.rms_norm(rows, torch.ones(width))).square().mean().sqrt()
theory = torch.tensor(widths) ** -0.5
assert_close(gap.mean(0)[2:], theory[2:], rtol=0.1, atol=0)
viz.curves(
    {"LayerNorm - RMSNorm": gap, "theory: 1/√D": theory}, x=widths, log="xy",
    title="The wider the model, the less the forgotten mean matters",
    xlabel="width D (channels)", ylabel="difference of a channel",
)  # fmt: skip

# %% [markdown]
# What each norm cannot see is the sharpest description of it: RMSNorm cannot see the *scale* of its input, LayerNorm
# can see neither scale nor *shift*.

# %%
plain = torch.ones(D)
assert_close(ops.rms_norm(1000 * x, plain), ops.rms_norm(x, plain))
assert_close(F.layer_norm(x + 3, (D,)), F.layer_norm(x, (D,)), rtol=1e-4, atol=1e-5)
moved = (ops.rms_norm(x + 3, plain) - ops.rms_norm(x, plain)).abs().mean()
assert moved > 0.5
print(f"adding 3 to every channel changes RMSNorm's output by {moved:.2f} on average, LayerNorm's not at all")

# %% [markdown]
# ## 4 · Attention: tokens read from each other
#
# Each token makes three vectors of $D_h$ numbers: a **query** $q$ (what am I looking for?), a **key** $k$ (what can I
# be found by?) and a **value** $v$ (what do I give?). The score of query $t$ for key $j$ is their dot product. A
# softmax turns a row of scores into weights that sum to one, and the output is the weighted mean of the values
# (Vaswani et al., arXiv 1706.03762, eq. 1):
#
# $$\mathrm{out}_t = \sum_{j \le t} w_{tj}\, v_j, \qquad w_{t\cdot} = \mathrm{softmax}_{j \le t}\!\left(\frac{q_t \cdot k_j}{\sqrt{D_h}}\right)$$
#
# The condition $j \le t$ is the **causal mask**: scores of the future are set to $-\infty$ before the softmax. The
# package defines it in [`ops.attention`](../minideepseek/ops/reference.py).


# %%
def attention(q, k, v):  # each (B, H, T, Dh)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, H, T, T)
    future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return weights @ v, weights


q, k, v = torch.randn(3, B, H, T, Dh, generator=torch.Generator().manual_seed(2))
out, weights = attention(q, k, v)
assert_close(out, ops.attention(q, k, v, causal=True))
print("four lines are the package's attention; output", tuple(out.shape))

# %%
assert_close(weights.sum(-1), torch.ones(B, H, T))
viz.attention_map(
    weights[0, :2, :8, :8],
    names=["head 0", "head 1"],
    title="Random queries and keys: each row sums to one, nothing looks ahead",
)

# %%
# "Nothing looks ahead" is worth a stronger test than a picture: disturb everything from token 10 on.
later = (torch.arange(T) >= 10).view(1, 1, T, 1)
disturbed, _ = attention(*(torch.where(later, t + torch.randn_like(t), t) for t in (q, k, v)))
assert torch.equal(disturbed[:, :, :10], out[:, :, :10])
assert not torch.isclose(disturbed[:, :, 10:], out[:, :, 10:]).all()
print("tokens 0-9 are bit for bit the same; from 10 on everything moved")

# %% [markdown]
# ### Why divide by $\sqrt{D_h}$?
#
# A dot product of two random vectors is a sum of $D_h$ terms of variance 1, so its own standard deviation is
# $\sqrt{D_h}$ (the same paper, section 3.2.1, footnote 4). Fed undivided to a softmax, scores that large pick one
# winner, and a softmax that has picked a winner passes on almost no gradient. We count the **keys in use**: the
# exponential of the entropy of the weights, which is 64 when 64 keys share equally and 1 when one takes all.


# %%
def keys_in_use(dim, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    q, k = torch.randn(64, 1, dim, generator=draw), torch.randn(64, 64, dim, generator=draw)
    weights = (q @ k.mT * scale).softmax(-1)
    return torch.special.entr(weights).sum(-1).exp().mean()


dims = [4, 8, 16, 32, 64, 128, 256, 512]
scaled = torch.tensor([[keys_in_use(dim, dim**-0.5, seed) for dim in dims] for seed in range(5)])
unscaled = torch.tensor([[keys_in_use(dim, 1.0, seed) for dim in dims] for seed in range(5)])
assert scaled.min() > 35
assert unscaled[:, dims.index(128)].max() < 3

# %%
viz.curves(
    {"divided by √Dh": scaled, "not divided": unscaled, "theory: 64·e^(-1/2)": [64 * math.exp(-0.5)] * len(dims)},
    x=dims,
    title="Without the scale, heads of 128 channels start out looking at one or two keys",
    xlabel="channels of a head, Dh",
    ylabel="keys in use (of 64)",
    log="x",
    marks={"V1": 128},
)

# %% [markdown]
# ## 5 · RoPE: turning vectors to tell their place
#
# So far attention is blind to order. Shuffle the keys and values of the past, and the last token does not notice:

# %%
order = torch.randperm(T, generator=torch.Generator().manual_seed(3))
last = q[:, :, -1:]
assert_close(ops.attention(last, k, v), ops.attention(last, k[:, :, order], v[:, :, order]))
print("'dog bites man' and 'man bites dog' are the same to it; the shuffle was", order.tolist())

# %% [markdown]
# The cure of Su et al. (RoFormer, arXiv 2104.09864, eq. 13-15) adds nothing to the vectors. It **turns** them. Take
# the channels in pairs and read each pair as a point in the plane. The token at position $t$ turns pair $i$ by the
# angle $t\,\omega_i$, with speeds that fall from pair to pair:
#
# $$\omega_i = \theta^{-2i/D_h}, \qquad i = 0, 1, \dots, \tfrac{D_h}{2} - 1, \qquad \theta = 10{,}000$$
#
# A point in the plane is a complex number, and turning it is multiplying by $e^{\mathrm{i} t \omega}$. That is the
# whole code, beside [`RoPE`](../minideepseek/layers/rope.py) of the package:


# %%
def turn(x, positions, theta=10_000.0):  # x: (..., T, Dh), positions: (T,)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # channels 2i and 2i+1: one number
    half = pairs.shape[-1]
    angle = positions[:, None] * theta ** (-torch.arange(half) / half)  # (T, Dh/2)
    return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)


ctx = mds.Transformer(mini).context(torch.zeros(B, T, dtype=torch.int64))
adjacent = layers.RoPE(layout="adjacent")
ours, theirs = turn(q, torch.arange(T)), adjacent.rotate(q.transpose(1, 2), ctx).transpose(1, 2)
assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
print("complex numbers and the package turn alike")

# %% [markdown]
# Why does that tell *distance*? Turning the query by $t\omega$ and the key by $j\omega$ leaves the angle
# $(t-j)\,\omega$ between them. A dot product knows angles between vectors and their lengths, nothing else. So the
# score depends on $t - j$ alone. Put one query and one key at every pair of places: the table of scores is constant
# along its diagonals.

# %%
places = torch.arange(64)
q_everywhere, k_everywhere = (turn(t[0, 0, :1].expand(64, Dh), places) for t in (q, k))
table = q_everywhere @ k_everywhere.T  # query at row, key at column
assert_close(table[1:, 1:], table[:-1, :-1], rtol=1e-3, atol=1e-3)
assert_close(q_everywhere.norm(dim=-1), q[0, 0, 0].norm().expand(64))
print(f"distance 5: score {table[5, 0]:.3f} at the start, {table[63, 58]:.3f} at the end; lengths unchanged")

# %% [markdown]
# Turn it yourself. `key` moves both hands of every dial: the yellow angles stay. `distance` moves the query alone:
# the angles open, fast dials first. `theta` sets how slow the slowest dial is. The curve below is the score of a
# query and a key that were *equal* before they turned; the dot is where you are.


# %%
def dials(key=9, distance=3, theta=10_000):
    rope = layers.RoPE(theta=theta)
    return viz.rotation_dials(query=key + distance, key=key, rope=rope, dim=Dh, pairs=[0, 2, 4, 8, 12])


viz.knob(dials, key=(0, 64), distance=(0, 64), theta=[100, 10_000, 500_000])

# %% [markdown]
# ### What $\theta$ does
#
# The fastest pair turns once in $2\pi \approx 6.3$ tokens and tells neighbours apart. The slowest turns once in about
# $2\pi\theta$ tokens. A pair that does not complete one turn within the text never shows the same angle twice: it is
# a clock without ambiguity, and almost a channel without position.

# %%
pair = torch.arange(64)
tokens_a_turn = {theta: 2 * torch.pi / layers.RoPE(theta=theta).frequencies(128) for theta in (10_000, 500_000)}
slow = {theta: int((turns > 4096).sum()) for theta, turns in tokens_a_turn.items()}
assert slow == {10_000: 18, 500_000: 32}
viz.curves(
    {"θ = 10,000 (V1)": tokens_a_turn[10_000], "θ = 500,000 (LLaMA 3)": tokens_a_turn[500_000]},
    x=pair,
    title=f"At V1's θ, {slow[10_000]} of 64 pairs never complete a turn in a text of 4,096 tokens",
    xlabel="pair i of a head with 128 channels",
    ylabel="tokens for one turn",
    log="y",
    levels={"V1's training length": 4096},
)

# %% [markdown]
# ### Myth check: "with RoPE, attention fades with distance"
#
# RoFormer shows an *upper bound* that falls with distance (section 3.4.3), and for a query equal to its key the score
# itself falls on average, as the knob showed. From there it is often told that distant tokens must be heard less. Two
# measurements: the typical score of *unrelated* vectors at growing distance, and a key that was built to be heard
# best at distance 20. (Barbero et al., arXiv 2410.06205, section 3, prove both points in general.)

# %%
far = [0, 1, 16, 256, 4096]
queries, keys = torch.randn(2, 4000, 1, 128, generator=torch.Generator().manual_seed(4))
typical = [((turn(queries, torch.tensor([t])) * keys).sum(-1) / 128**0.5).std().item() for t in far]
assert max(abs(size - 1) for size in typical) < 0.05
favourite = turn(queries[0], torch.tensor([20])).expand(65, 128)  # the key stands at 0 and is turned ahead by 20
scores = (turn(queries[0].expand(65, 128), torch.arange(65)) * favourite).sum(-1)
assert scores.argmax() == 20
print("typical score at distance", dict(zip(far, [round(size, 2) for size in typical], strict=True)))
print("the key made for distance 20 is heard best at distance", scores.argmax().item())

# %% [markdown]
# No fading at all between unrelated vectors, and a peak wherever the weights want one. RoPE makes distance *visible*;
# what to do with it is learned.
#
# ### Two layouts, one idea
#
# Which two channels form a pair is a convention. The paper pairs neighbours, $(2i, 2i+1)$: `adjacent`. So did Meta's
# files of LLaMA. The LLaMA of `transformers`, and with it V1's published weights, pairs channel $i$ with $i + D_h/2$:
# `half_split`. The two differ by a fixed reordering of channels:

# %%
half_split = mini.attention.rope
assert half_split.layout == "half_split"
evens_first = torch.cat([torch.arange(0, Dh, 2), torch.arange(1, Dh, 2)])
heads = q.transpose(1, 2)  # (B, T, H, Dh)
assert_close(half_split.rotate(heads[..., evens_first], ctx), adjacent.rotate(heads, ctx)[..., evens_first])
print("reorder, then half_split  =  adjacent, then reorder")

# %% [markdown]
# A model trained from scratch does not care. A *checkpoint* does: read in the wrong layout it computes without any
# error, and wrongly. We test that below, against `transformers`.
#
# ## 6 · From multi-head to grouped-query attention
#
# A model that writes a text asks, for each new token, all past keys and values again. They are kept: the **cache**.
# Past queries are never needed again. With $L$ layers and $b$ bytes a number, a text of $T$ tokens needs
#
# $$2 \cdot G \cdot D_h \cdot L \cdot T \cdot b \ \text{ bytes.}$$
#
# $G$ is the number of key/value heads. In **multi-head** attention (MHA) it equals $H$. **Multi-query** attention
# (MQA, Shazeer, arXiv 1911.02150) has one for all. **Grouped-query** attention (GQA, Ainslie et al., arXiv
# 2305.13245) stands between: $H/G$ query heads share one.

# %%
viz.head_sharing(8, [8, 2, 1], title="All query heads stay; what is shared, and cached, is keys and values")

# %% [markdown]
# The whole layer, now from stream to stream: one product makes all queries, keys and values; queries and keys turn;
# each key/value head is repeated for the queries that share it. Beside it, the package's
# [`Attention`](../minideepseek/layers/gqa.py):


# %%
def grouped(x, layer, ctx):
    n_heads, n_kv_heads = layer.cfg.n_heads, layer.cfg.n_kv_heads
    rows = layer.qkv(x).unflatten(-1, (-1, layer.cfg.head_dim))  # (B, T, H + 2G, Dh)
    q, k, v = rows.split([n_heads, n_kv_heads, n_kv_heads], dim=2)
    q, k = layer.cfg.rope.rotate(q, ctx), layer.cfg.rope.rotate(k, ctx)
    k, v = (t.repeat_interleave(n_heads // n_kv_heads, dim=2) for t in (k, v))  # (B, T, H, Dh)
    out, _ = attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return layer.out(out.transpose(1, 2).flatten(2))


for n_kv_heads in (4, 2, 1):
    layer = replace(mini.attention, n_kv_heads=n_kv_heads).build(D, layer=0)
    assert_close(grouped(x, layer, ctx), layer(x, ctx), rtol=1e-4, atol=1e-5)
    print(f"H = 4, G = {n_kv_heads}: equal to the package's Attention")

# %% [markdown]
# GQA is not another mechanism. It is MHA with *tied weights*: an MHA layer whose key/value heads are copies of each
# other computes the same function, with more parameters and a larger cache.

# %%
gqa = mini.attention.build(D, layer=0)  # H = 4, G = 2
mha = replace(mini.attention, n_kv_heads=H).build(D, layer=0)
to_q, to_k, to_v = gqa.qkv.weight.unflatten(0, (-1, Dh)).split([H, G, G])
copies = torch.cat([to_q, to_k.repeat_interleave(2, 0), to_v.repeat_interleave(2, 0)]).flatten(0, 1)
mha.load_state_dict({"qkv.weight": copies, "out.weight": gqa.out.weight})
assert_close(mha(x, ctx), gqa(x, ctx), rtol=1e-4, atol=1e-5)
print(f"same function: {mini.attention.n_params(D):,} parameters as GQA, {mha.cfg.n_params(D):,} as MHA")

# %%
tokens = 512  # is the formula what really lies in memory? A live cache knows
for n_kv_heads in (4, 2, 1):
    cfg = replace(mini, attention=replace(mini.attention, n_kv_heads=n_kv_heads))
    cache = mds.Transformer(cfg, seed=0).new_cache(batch_size=1, max_len=tokens)
    formula = 2 * n_kv_heads * Dh * mini.n_layers * tokens * 4  # float32: 4 bytes a number
    assert cache.nbytes == formula == 4 * tokens * mds.report(cfg).cache_elements_per_token
    print(f"G = {n_kv_heads}: {cache.nbytes:>9,} bytes for {tokens} tokens")

# %% [markdown]
# Now at full size. On torch's `meta` device tensors have shapes but no memory, so even a 67-billion-parameter model
# and its cache can be built and asked for their size.


# %%
def cache_gib(cfg, tokens=4096):
    with torch.device("meta"):
        return mds.Transformer(cfg).bfloat16().new_cache(batch_size=1, max_len=tokens).nbytes / 2**30


v1_7b, v1_67b = mds.generations["v1-7b"], mds.generations["v1-67b"]
as_mha = replace(v1_67b, attention=replace(v1_67b.attention, n_kv_heads=64))
gib = {"V1-7B, MHA": cache_gib(v1_7b), "V1-67B, GQA-8": cache_gib(v1_67b), "V1-67B, were it MHA": cache_gib(as_mha)}
assert gib["V1-67B, were it MHA"] / 8 == gib["V1-67B, GQA-8"] < gib["V1-7B, MHA"]
viz.bars(
    gib, unit="GiB of cache for one text of 4,096 tokens (bfloat16)", digits=".2f", emphasis=["V1-67B, GQA-8"],
    title="The model ten times larger needs the smaller cache",
)  # fmt: skip

# %% [markdown]
# ## 7 · SwiGLU: work on each token by itself
#
# After reading from others, each token is worked on alone: into a wider space of $F$ hidden units, and back. SwiGLU
# (Shazeer, arXiv 2002.05202, eq. 6) makes two projections of the input. One, passed through
# $\mathrm{SiLU}(g) = g \cdot \mathrm{sigmoid}(g)$, is a **gate** that says how far each unit opens. The other,
# **up**, is what passes. The package's is [`FeedForward`](../minideepseek/layers/swiglu.py):
#
# $$\mathrm{SwiGLU}(x) = W_{\mathrm{down}}\big(\mathrm{SiLU}(W_{\mathrm{gate}}\,x) \odot W_{\mathrm{up}}\,x\big)$$


# %%
def swiglu(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


ffn = mini.ffn.build(D, layer=0)
gate, up = ffn.gate_up.weight.chunk(2)  # the package keeps both in one matrix: one product reads x once
assert_close(swiglu(x, gate, up, ffn.down.weight), ffn(x, ctx), rtol=1e-4, atol=1e-5)
print("one line is the package's SwiGLU; hidden units:", mini.ffn.hidden)

# %%
normed = ops.rms_norm(x, plain)  # and weights enlarged 2.5 times, to see both sides of the gate
viz.gate_picture(
    (normed @ (2.5 * gate).T)[0, :3].flatten().detach(),
    (normed @ (2.5 * up).T)[0, :3].flatten().detach(),
    title="A gate below zero silences its unit, whatever the up value says",
)

# %% [markdown]
# The layer *multiplies* two functions of its input. So it is, nearly, of second degree: twice the input gives about
# four times the output, where the classic layer with ReLU gives exactly twice. The norm in front of it is what keeps
# that from running away.

# %%
sizes = [0.01, 0.1, 1.0, 10.0, 100.0]
relu = torch.nn.Sequential(
    torch.nn.Linear(D, 4 * D, bias=False), torch.nn.ReLU(), torch.nn.Linear(4 * D, D, bias=False)
)
for name, f in (("SwiGLU", lambda t: ffn(t, ctx)), ("ReLU", relu)):
    growth = [(f(2 * size * x).norm() / f(size * x).norm()).item() for size in sizes]
    assert all(3.9 < ratio < 4.5 for ratio in growth) if name == "SwiGLU" else all(1.99 < r < 2.01 for r in growth)
    print(f"{name:>6}: output grows by", "  ".join(f"{ratio:.2f}" for ratio in growth), "when the input doubles")

# %% [markdown]
# Is it better? Shazeer measured that it is, and closes the paper without a theory: the success is credited to "divine
# benevolence" (section 4).
#
# ### The 8/3 rule
#
# The classic layer has two matrices and $F = 4D$: $8D^2$ parameters. SwiGLU has three matrices, $3DF$. For the same
# bill $F = \tfrac83 D$ (Shazeer, section 2; DeepSeek LLM, section 2.2), rounded up to a multiple that suits the
# hardware.

# %%
for cfg, multiple in ((v1_7b, 256), (v1_67b, 256), (mini, 8)):
    width, exact = cfg.d_model, 8 * cfg.d_model / 3
    rounded = -(-exact // multiple) * multiple
    assert cfg.ffn.hidden == rounded
    bill = cfg.ffn.n_params(width) / (8 * width**2)
    assert 1 <= bill < 1.01
    print(f"D = {width:>4}: 8/3·D = {exact:>8,.1f} -> F = {cfg.ffn.hidden:>6,}; {bill:.4f} of the classic bill")

# %% [markdown]
# ## 8 · The block, the model, and the proof
#
# Now the picture of section 2 in code, from nothing but our own bricks:


# %%
def our_block(x, block, ctx):
    x = x + grouped(rms_norm(x, block.attention_norm.weight), block.attention, ctx)
    gate, up = block.ffn.gate_up.weight.chunk(2)
    return x + swiglu(rms_norm(x, block.ffn_norm.weight), gate, up, block.ffn.down.weight)


model = mds.Transformer(mini, seed=0)
assert_close(our_block(x, model.blocks[0], ctx), model.blocks[0](x, ctx), rtol=1e-4, atol=1e-5)
print("our block is the package's Block:", f"{sum(p.numel() for p in model.blocks[0].parameters()):,} parameters")

# %% [markdown]
# The source is [`Block` in model.py](../minideepseek/model.py); it adds one shortcut, the sum and the norm after it
# in one pass. A model is an embedding (one row for each token of the vocabulary), the blocks, a last norm, and a head
# that scores every token of the vocabulary as the next one:

# %%
ids = torch.randint(0, mini.vocab_size, (B, T), generator=torch.Generator().manual_seed(5))
stream = model.embed.weight[ids]
for block in model.blocks:
    stream = our_block(stream, block, ctx)
logits = rms_norm(stream, model.norm.weight) @ model.head.weight.T
assert_close(logits, model(ids), rtol=1e-4, atol=1e-5)
print("our model is the package's Transformer; logits", tuple(logits.shape))

# %% [markdown]
# Both could be wrong in the same way. So we save the model in the ecosystem's format and let an implementation read
# it that we have not written: `transformers`, whose `LlamaForCausalLM` is the class DeepSeek published V1 for.

# %%
from transformers import AutoModelForCausalLM, logging

logging.set_verbosity_error()
logging.disable_progress_bar()
with TemporaryDirectory() as folder:
    model.save(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder)
with torch.no_grad():
    expected, got = reference(ids).logits, model(ids)
apart = ((got - expected).norm() / expected.norm()).item()
assert apart < 1e-5
print(f"{type(reference).__name__} agrees: relative difference below 1e-5")

# %% [markdown]
# And the wrong layout? The same weights in a model that pairs neighbouring channels: no error, no warning, other
# numbers. Reorder the rows of the query and key matrices, and it is right again. The layout belongs to the weights,
# not to the idea.

# %%
wrong = mds.Transformer(replace(mini, attention=replace(mini.attention, rope=adjacent)))
wrong.load_state_dict(model.state_dict())
with torch.no_grad():
    silent = ((wrong(ids) - expected).norm() / expected.norm()).item()
    for block in wrong.blocks:
        heads = block.attention.qkv.weight.unflatten(0, (-1, Dh))[: H + G]  # a view of queries and keys: values stay
        heads[:, evens_first] = heads.clone()
    repaired = ((wrong(ids) - expected).norm() / expected.norm()).item()
assert repaired < 1e-5 < 1e-2 < silent
print(f"wrong layout: relative difference {silent:.3f}; rows reordered: below 1e-5 again")

# %% [markdown]
# ### Why the norm comes first
#
# The first transformer had the norm *behind* the sum, on the stream itself (post-norm). V1, like LLaMA, has it at the
# entrance of each branch (pre-norm). We wire 95 blocks both ways, as many as the 67B has, with weights of ordinary
# size (a matrix keeps the size of its input: gain 1), and ask how large the gradient is that arrives at each depth.

# %%
deep = replace(mini, d_model=64, n_layers=95, vocab_size=8)


def gradients(wire, gain, seed):
    draw = torch.Generator().manual_seed(seed)
    stack = mds.Transformer(deep, seed=seed)
    for matrix in (p for p in stack.blocks.parameters() if p.ndim == 2):
        matrix.data *= gain / 0.4  # a mini starts with a gain of 0.4
    depths = [torch.randn(1, T, 64, generator=draw).requires_grad_()]
    for block in stack.blocks:
        depths.append(wire(block, depths[-1]))
    goal = stack.norm(depths[-1]) * torch.randn(1, T, 64, generator=draw)
    return torch.stack([g.norm() for g in torch.autograd.grad(goal.sum(), depths)])


# %%
def post_norm(block, x):
    x = block.attention_norm(x + block.attention(x, ctx))
    return block.ffn_norm(x + block.ffn(x, ctx))


ratio, gradient = {}, {}
for name, wire in (("post-norm", post_norm), ("pre-norm (V1)", lambda block, x: block(x, ctx))):
    for gain in (1.0, 0.4):
        gradient[name, gain] = torch.stack([gradients(wire, gain, seed) for seed in range(5)])
        ratio[name, gain] = gradient[name, gain][:, 0] / gradient[name, gain][:, -1]
        print(f"{name:>13}, gain {gain}: first depth over last {ratio[name, gain].mean():>8,.1f}")
assert ratio["post-norm", 1.0].min() > 1000 > 100 > ratio["pre-norm (V1)", 1.0].max()
assert max(ratio[name, 0.4].max() for name in ("post-norm", "pre-norm (V1)")) < 3

# %%
viz.curves(
    {name: sizes for (name, gain), sizes in gradient.items() if gain == 1.0},
    x=range(96),
    title="95 blocks deep, the gradient of post-norm explodes, that of pre-norm does not",
    xlabel="depth (blocks passed)",
    ylabel="size of the gradient",
    log="y",
)

# %% [markdown]
# Xiong et al. (arXiv 2002.04745) explain it; they also find that post-norm trains if the learning rate warms up
# slowly. One honest footnote: V1 starts its weights much smaller, with a standard deviation of 0.006 (DeepSeek LLM,
# section 2.3), which is a gain of $0.006\sqrt{4096} \approx 0.4$. At that size a block hardly moves the stream, and
# *both* wirings start out well.
#
# ## 9 · Where the parameters are
#
# Every brick has a bill, so the model's is a sum. With vocabulary $V$ and untied embedding and head:
#
# $$2VD + L\,\big(\underbrace{2DHD_h + 2DGD_h}_{\text{attention}} + \underbrace{3DF}_{\text{SwiGLU}} + \underbrace{2D}_{\text{norms}}\big) + D$$


# %%
def count(cfg):
    a, width = cfg.attention, cfg.d_model
    attention = 2 * width * a.n_heads * a.head_dim + 2 * width * a.n_kv_heads * a.head_dim
    return 2 * cfg.vocab_size * width + cfg.n_layers * (attention + 3 * width * cfg.ffn.hidden + 2 * width) + width


assert count(v1_7b) == mds.report(v1_7b).parameters == 6_910_365_696
assert count(v1_67b) == mds.report(v1_67b).parameters == 67_425_001_472
mds.report(v1_67b)

# %%
bill = {}
for name, cfg in (("V1-7B", v1_7b), ("V1-67B, were it MHA", as_mha), ("V1-67B", v1_67b)):
    attention_part, ffn_part = (cfg.n_layers * part.n_params(cfg.d_model) / 1e9 for part in (cfg.attention, cfg.ffn))
    ends = cfg.vocab_size * cfg.d_model / 1e9
    bill[name] = {"embedding": ends, "attention": attention_part, "SwiGLU": ffn_part, "head": ends}
viz.shares(bill, unit="billion parameters", title="Most of a model is feed-forward, and GQA makes that more so")

# %% [markdown]
# What did the 67B do with the parameters that GQA saved? It grew *deeper*: 95 blocks, where the usual choice would
# have been a wider feed-forward layer (DeepSeek LLM, section 2.2).
#
# ### Myth check: "DeepSeek LLM introduced GQA", "its architecture is identical to LLaMA 2"
#
# GQA is by Ainslie et al. (May 2023), LLaMA 2's 70B had it two months later, and only V1's 67B uses it. The *block*
# is LLaMA's, as section 8 proved; the model is not. `LlamaConfig()` of `transformers` is by default the 7B of LLaMA;
# LLaMA 2's 70B has 80 layers, a feed-forward width of 28,672 and 32,000 tokens (arXiv 2307.09288).

# %%
from transformers import LlamaConfig

from minideepseek.checkpoint import write_config

llama, v1 = LlamaConfig().to_dict(), write_config(v1_7b)
for field in ("hidden_size", "num_hidden_layers", "vocab_size", "initializer_range"):
    print(f"7B  {field:<18} LLaMA {llama[field]:>7,}   V1 {v1[field]:>7,}")
llama_70b = replace(v1_67b, n_layers=80, ffn=layers.SwiGLU(hidden=28_672), vocab_size=32_000)
assert mds.report(llama_70b).parameters == 68_976_648_192
for name, cfg in (("V1-67B", v1_67b), ("LLaMA 2 70B", llama_70b)):
    print(f"{name}: {cfg.n_layers} blocks, feed-forward width {cfg.ffn.hidden:,}")
assert v1_7b.attention.n_kv_heads == v1_7b.attention.n_heads  # multi-head, no groups
assert v1_67b.attention.n_kv_heads == 8 < v1_67b.attention.n_heads

# %% [markdown]
# ## 10 · Train it: before and after RoPE
#
# A brick proves itself in training. The task: *name the token just before you*, in rows of random tokens. One block,
# 32 different tokens, rows of 32. Without positions (every token is told it stands at place 0) the block sees its
# past as a bag. The best it can do is to name the most frequent token of the bag, and how often that is right can be
# computed. With RoPE the task should be easy.
#
# Five seeds each; the band in the figure is two standard deviations. Afterwards we look inside: how did the block
# build "one to the left" out of rotations?


# %%
def train(knows_place, seed, steps=80):
    one_block = replace(mini, d_model=64, n_layers=1, vocab_size=32, attention=replace(mini.attention, n_heads=2))
    model = mds.Transformer(one_block, seed=seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, 32, (32, 32), generator=draw)
        named = model(ids, positions=knows_place * torch.arange(32).expand(32, 32))[:, 1:]
        loss = F.cross_entropy(named.flatten(0, 1), ids[:, :-1].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


# %%
from tqdm.auto import tqdm

tests = torch.randint(0, 32, (512, 32), generator=torch.Generator().manual_seed(99))
places = torch.arange(32).expand_as(tests)
correct, readers = torch.zeros(2, 5, 31), []  # with and without positions, five seeds, 1 to 31 tokens before
for seed in tqdm(range(5), desc="seeds"):
    for knows_place in (True, False):
        trained = train(knows_place, seed)
        with torch.no_grad():
            named = trained(tests, positions=knows_place * places)[:, 1:].argmax(-1)
        correct[1 - knows_place, seed] = 100 * (named == tests[:, :-1]).float().mean(0)
        readers += [trained] * knows_place
with_rope, without = correct

# %%
bags = F.one_hot(torch.randint(0, 32, (20_000, 31), generator=torch.Generator().manual_seed(7)), 32).cumsum(1)
ceiling = 100 * bags.amax(-1).float().mean(0) / torch.arange(1, 32)  # the share of the most frequent token in the bag
assert with_rope.mean(1).min() > 99
assert ceiling.mean() - 4 < without.mean(1).min() < without.mean(1).max() < ceiling.mean() + 1
viz.curves(
    {"with RoPE": with_rope, "without positions": without, "theory: most frequent of the bag": ceiling},
    x=range(1, 32),
    title=f"With RoPE {with_rope.mean():.0f} % right, without {without.mean():.0f} % (a bag allows {ceiling.mean():.0f} %)",
    xlabel="tokens before this one",
    ylabel="named correctly (%)",
)

# %%
reader, block = readers[0], readers[0].blocks[0]
rows = block.attention.qkv(rms_norm(reader.embed(tests[:1]), block.attention_norm.weight)).unflatten(-1, (-1, Dh))
here = reader.context(tests[:1])
q, k, _ = (block.attention.cfg.rope.rotate(t, here).transpose(1, 2) for t in rows.split([2, 2, 2], dim=2))
_, weights = attention(q, k, k)
to_the_left = weights[0].diagonal(-1, dim1=-2, dim2=-1).mean().item()
assert to_the_left > 0.5
viz.attention_map(
    weights[0].detach(),
    names=["head 0", "head 1"],
    title=f"{100 * to_the_left:.0f} % of the weight lies one to the left",
)

# %% [markdown]
# ## 11 · The ledger
#
# What this lesson showed, and what it did not. "Not tested" needs real pre-training, or a quiet machine with a clock.

# %%
viz.ledger(f"""
V1's block is LLaMA's block | DeepSeek LLM, section 2.2 | logits of transformers' Llama, relative difference {apart:.0e} | exact
a checkpoint read in the wrong RoPE layout is silently wrong | section 8 above | {silent:.1%} off, no error raised | shown
the mean that LayerNorm removes matters little in wide layers | Zhang & Sennrich, section 4 | 1/√D for random vectors, 5 seeds | shown
RMSNorm is faster at the same quality | Zhang & Sennrich, abstract | | not tested
scores need the factor 1/√Dh | Vaswani et al., section 3.2.1 | without it {unscaled[:, 5].mean():.1f} of 64 keys in use at Dh = 128 | shown
RoPE's score depends on the distance alone | RoFormer, eq. 16 | table constant along its diagonals | exact
RoPE makes distant tokens fade | often told | unrelated vectors: no fading up to distance {far[-1]:,} | contradicted
RoPE gives attention an order | RoFormer | {with_rope.mean():.0f} % right against {without.mean():.0f} %, 5 seeds | shown
GQA divides the cache by H/G | Ainslie et al., section 2.2 | bytes of live caches equal the formula | exact
GQA costs almost no quality | Ainslie et al., section 3 | | not tested
SwiGLU beats ReLU | Shazeer, section 3 | | not tested
pre-norm tames the gradients of deep stacks | Xiong et al., section 3 | at gain 1; at V1's gain 0.4 both start out well | shown
""")

# %% [markdown]
# ## 12 · Try it yourself
#
# Write down your own answer before you open ours; each of them is computed by its cell.
#
# **A. Two blind blocks.** One block without positions reads a bag. Do two blocks without positions read a bag too?
# Decide, then test: shuffle the first 15 tokens of a row and see whether the last token's logits move.
#
# **B. What GQA paid for.** Build the 67B with multi-head attention and the same number of parameters: how many of its
# 95 blocks are left?
#
# **C. A planted bug.** A colleague writes RMSNorm as `x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)`. All tests
# with random inputs pass. For which inputs is it wrong, and by how much?
#
# **D. Longer texts.** Later models read 131,072 tokens. At $\theta = 10{,}000$ and 128 channels, how many of the 18
# slow pairs stay slow (no full turn within the text)? How large must $\theta$ be for 18 of them?
#
# Then go on to lesson 03, which puts these blocks to work on real text.
#
# Then solve [the exercises](../exercises/02_v1_block/02_v1_block.ipynb).

# %% jupyter={"source_hidden": true}
row = torch.randint(0, 32, (1, 16), generator=torch.Generator().manual_seed(8))
shuffled = torch.cat([row[:, torch.randperm(15, generator=torch.Generator().manual_seed(9))], row[:, 15:]], dim=1)
moved = []
for n_layers in (1, 2):
    blind = mds.Transformer(replace(mini, n_layers=n_layers, vocab_size=32), seed=0)
    before, after = (blind(ids, positions=torch.zeros_like(ids))[:, -1] for ids in (row, shuffled))
    moved.append((before - after).abs().max().item())
assert moved[0] < 1e-5 < 1e-3 < moved[1]
viz.answer(
    "A",
    f"One block: the logits move by less than 0.00001. Two blocks: by {moved[1]:.3f}. The causal mask itself tells order: the "
    "first token sees one token, the fifth sees five, and the second block reads what the first made of that. Decoders can "
    "learn order this way (Haviv et al., arXiv 2203.16634; Kazemnejad et al., arXiv 2305.19466).",
)

# %% jupyter={"source_hidden": true}
fits = max(n for n in range(1, 96) if mds.report(replace(as_mha, n_layers=n)).parameters <= 67_425_001_472)
saved = 95 * (as_mha.attention.n_params(8192) - v1_67b.attention.n_params(8192)) / 1e9
viz.answer(
    "B",
    f"{fits}. Shared keys and values save {saved:.1f} billion parameters over 95 blocks, which pay for {95 - fits} blocks of "
    "depth. The smaller cache comes on top.",
)

# %% jupyter={"source_hidden": true}
off = {}
for size in (1.0, 6e-3, 1e-3, 1e-4):
    right, wrong = ops.rms_norm(size * x, plain), size * x / ((size * x).pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)
    off[f"{size:g}"] = 100 * ((wrong - right).norm() / right.norm()).item()
assert off["1"] < 0.01 < 1 < off["0.006"] < off["0.0001"]
viz.answer(
    "C",
    "For small ones. Inside the root 1e-6 matters where the root mean square comes near 1e-3, outside only near 1e-6. "
    f"Its output is too large by {', '.join(f'{error:.2g} % at size {size}' for size, error in off.items())}. "
    "And 0.006 is how large V1's embeddings are at the start: test with small inputs.",
)


# %% jupyter={"source_hidden": true}
def slow_pairs(theta, tokens):
    return int((2 * torch.pi / layers.RoPE(theta=theta).frequencies(128) > tokens).sum())


needed = next(theta for theta in range(10_000, 10**7, 10_000) if slow_pairs(theta, 131_072) >= 18)
viz.answer(
    "D",
    f"{slow_pairs(10_000, 131_072)}: every pair completes turns, and meets angles that it never saw in training on 4,096 tokens. "
    f"θ of about {needed:,} gives 18 slow pairs again. V2 goes another way, YaRN, which slows down the slow pairs and leaves "
    "the fast ones as they are.",
)
