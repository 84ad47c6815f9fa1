# %% [markdown]
# # 13 · Hyper-connections and the Birkhoff polytope
#
# Since 2015 every deep network has had the same spine: $x + F(x)$. V4 replaces it. A token gets four vectors instead of
# one, and every sub-layer mixes them. Left free, the mixing explodes with depth; V4 keeps it on a manifold, the doubly
# stochastic matrices, where it cannot.
#
# Afterwards you can
#
# - write hyper-connections by hand, static and dynamic, and prove them equal to the package's;
# - say why a product of free matrices explodes and one of doubly stochastic matrices does not;
# - watch Sinkhorn's iterations arrive, and know when twenty are not enough;
# - tell what four streams cost, and what they bring at the size of a laptop.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it.

# %%
import csv
import json
import time
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise, permutations

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, viz
from minideepseek.data import prepare
from minideepseek.data.loader import validation_batches
from minideepseek.layers.hyper import LEAN, Mixing, composite_gain
from minideepseek.layers.probe import mixed
from minideepseek.train import TrainConfig, evaluate, prepare_cpu, train

# %%
prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: one lane for everything
#
# All layers write into the same vector, and nothing is ever taken out: what one layer adds is a small part of what has
# been collected before. A deep model, eight layers, with weights as they are drawn: how alike is the stream before and
# behind each layer?


# %%
def deep(residual):
    """Eight layers, half as wide as a mini, with any kind of residual."""
    attention = layers.GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    ffn = layers.SwiGLU(hidden=128)
    v1 = mds.generations["v1-mini"]
    return replace(v1, d_model=64, n_layers=8, attention=attention, ffn=ffn, residual=residual)


data = prepare("stories")
(text,) = validation_batches(data.valid, batch_size=4, seq_len=128, n=1)
kinds = {
    "plain": layers.Residual(),
    "HC": layers.HyperConnections(manifold=None),
    "mHC": layers.HyperConnections(),
}

# %%
model, stream = mds.Transformer(deep(kinds["plain"]), seed=0), []
hooks = [block.register_forward_hook(lambda _block, _inputs, out: stream.append(out)) for block in model.blocks]
with torch.no_grad():
    stream.insert(0, model.embed(text[:, :-1]))
    model(text[:, :-1])
alike = [torch.cosine_similarity(a, b, dim=-1).mean().item() for a, b in pairwise(stream)]
assert min(alike) > 0.95
print("cosine before and behind each layer:", " ".join(f"{value:.3f}" for value in alike))

# %% [markdown]
# Where the norm stands is a seesaw, say Zhu et al. (arXiv 2409.19606): before the sub-layer, as here, deep
# layers end up alike; behind it, gradients vanish. One lane with one rule cannot do both. Their way out: **several
# lanes, and let the model learn what flows where**.
#
# ## 2 · The idea in one picture

# %%
viz.stream_diagram(title="A sub-layer reads a mixture of the streams, and writes to all of them")

# %% [markdown]
# $X$ is now a matrix, $n$ streams of $D$ channels. $n$ is 4 in V4. A sub-layer $F$, attention or feed-forward, is what
# it was: one vector in, one vector out. Around it stand three sets of numbers:
#
# $$X' = B\,X + c\;F(a\,X)$$
#
# | | shape | what |
# |---|---|---|
# | $a$ | $1 \times n$ | how much of each stream the sub-layer **reads** |
# | $c$ | $n \times 1$ | how much of its answer it **writes** into each stream |
# | $B$ | $n \times n$ | how the streams are **mixed** with each other |
#
# In the beginning each stream is a copy of the embedding. In the end they are added up (Zhu et al.) or weighed like $a$
# (V4), and the head reads one vector as always.
#
# ## 3 · The idea in ten lines
#
# First static: the same numbers for every token.


# %%
def by_hand(X, F, a, B, c):
    """X (n, D), a (n,), B (n, n), c (n,) -> X' (n, D)."""
    y = F(a @ X)
    return B @ X + torch.outer(c, y)


draw = torch.Generator().manual_seed(0)
n, D = 4, 64
X = torch.randn(n, D, generator=draw, dtype=torch.float64)
x = X[:1]
assert_close(by_hand(x, torch.sin, torch.ones(1).double(), torch.eye(1).double(), torch.ones(1).double()), x + x.sin())
print("one stream, everything one: the plain residual")

# %% [markdown]
# So $n = 1$ is the old spine. And four streams that start alike, are read from any one lane, mixed by the identity and
# written to alike *are* the old spine too, four times. That is where hyper-connections start (Zhu et al.):
# nothing is lost in the first step, and whatever differs later was learnt. The whole model, before its first step:

# %%
plain = mds.Transformer(deep(kinds["plain"]), seed=0).double()
same = mds.Transformer(deep(layers.HyperConnections(dynamic=False, manifold=None)), seed=0).double()
same.load_state_dict(plain.state_dict(), strict=False)  # what the two have in common: all but the mixing
with torch.no_grad():
    difference = (same(text[:1, :-1]) - plain(text[:1, :-1])).abs().max().item()
assert difference < 1e-4  # the streams' sum is four times the vector; a norm divides that out, up to its epsilon
print(f"four static streams against one, logits differ by {difference:.0e}")

# %% [markdown]
# Now **dynamic**: the numbers depend on the token. mHC flattens all streams to one long vector, norms it, multiplies by a
# matrix $W$ of $n + n + n^2$ rows, and adds the result, times a small gate $g$ (0.01 at the start), to the static part
# (mHC, arXiv 2512.24880; V4 report, section 2.2):
#
# $$r = \mathrm{base} + g \cdot W\,\mathrm{rms}(\mathrm{flat}(X))$$
#
# The first $n$ numbers become $a$ (a sigmoid), the next $n$ become $c$ (twice a sigmoid), and the last $n^2$ a matrix $M$
# on the manifold, which the next sections are about.


# %%
def three_maps(X, W, base, gate):
    """One token's streams (n, D) -> a (n,), c (n,), B (n, n)."""
    v = X.flatten()
    r = W @ (v / (v.square().mean() + 1e-6).sqrt())
    gates = gate.repeat_interleave(torch.tensor([n, n, n * n]))
    a, c, M = (base + gates * r).split([n, n, n * n])
    M = M.view(n, n).softmax(1) + 1e-6
    M = M / (M.sum(0) + 1e-6)
    for _ in range(19):
        M = M / (M.sum(1, keepdim=True) + 1e-6)
        M = M / (M.sum(0) + 1e-6)
    return a.sigmoid() + 1e-6, 2 * c.sigmoid(), M.T


# %%
part = Mixing(layers.HyperConnections(), D, 1e-6, turn=0).double()
for parameter in part.parameters():
    parameter.data += 0.5 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
ours = three_maps(X, part.weight, part.base, part.gate)
theirs = part(X[None, None])
for mine, packaged in zip(ours, theirs, strict=True):
    assert_close(mine, packaged[0, 0])
read, (kept, write) = part.read(X[None, None])
assert_close(
    by_hand(X, torch.sin, *(ours[i] for i in (0, 2, 1))), kept[0, 0] + torch.outer(write[0, 0], read[0, 0].sin())
)
print("reading, writing and mixing are the package's: minideepseek/layers/hyper.py")

# %% [markdown]
# ([hyper.py](../minideepseek/layers/hyper.py); the quick form in [streams.py](../minideepseek/ops/streams.py).)
#
# ### Why $B = M^\top$
#
# The last line says `M.T`. Row $j$ of $M$ comes out of a softmax: it says how stream $j$ *gives itself away*. What
# stream $k$ gets is then a **column**: $X'_k = \sum_j M_{jk} X_j$, and that is $M^\top X$. The released weights are
# stored so. Both $M$ and $M^\top$ are doubly stochastic, both train, and no gain or norm tells them apart. Only the
# result does:

# %%
a, c, B = ours
wrong = by_hand(X, torch.sin, a, B.T, c)
right = by_hand(X, torch.sin, a, B, c)
assert_close(composite_gain([B]), composite_gain([B.T]))
apart = ((wrong - right).norm() / right.norm()).item()
assert apart > 0.01
print(f"the same gain, {composite_gain([B]):.4f}, and streams that differ by {apart:.0%}")

# %% [markdown]
# ## 4 · What freedom does: a product of matrices
#
# Hyper-connections as Zhu et al. published them (**HC**) leave $B$ free. A signal that enters at the first sub-layer
# arrives at the last one multiplied by all $B$ in between, and its gradient by the same on the way back. The plain
# residual has ones there. A product of a hundred matrices that are *nearly* the identity is not nearly the identity.
#
# mHC's measure (section 3.1) is the **composite gain**: the greatest sum of absolute values of a row (how much a stream
# can be enlarged, forwards) or of a column (backwards) of the product.


# %%
def gain(matrices):
    product = torch.eye(len(matrices[0]), dtype=matrices[0].dtype)
    for matrix in matrices:
        product = matrix @ product
    return max(product.abs().sum(1).max().item(), product.abs().sum(0).max().item())


chain = [torch.eye(4) + 0.3 * torch.randn(4, 4, generator=draw) for _ in range(10)]
assert abs(gain(chain) - composite_gain(chain)) < 1e-4 * gain(chain)
print(f"ten matrices, each entry 0.3 from the identity's: {gain(chain):.1f}")

# %%
depths = [1, 2, 4, 8, 16, 32, 64, 128]
lines = defaultdict(list)
for _ in range(5):  # draws
    logits = [2 * torch.eye(4) + 0.3 * torch.randn(4, 4, generator=draw, dtype=torch.float64) for _ in range(128)]
    free = [torch.eye(4, dtype=torch.float64) + (raw - 2 * torch.eye(4)) for raw in logits]
    bound = [layers.Birkhoff().project(raw).T for raw in logits]
    lines["free, 0.3 from the identity"].append([gain(free[:depth]) for depth in depths])
    lines["the same noise, on the manifold"].append([gain(bound[:depth]) for depth in depths])
assert min(run[-1] for run in lines["free, 0.3 from the identity"]) > 100
assert max(run[-1] for run in lines["the same noise, on the manifold"]) < 1.01
viz.curves(
    lines, x=depths, log="xy", xlabel="matrices multiplied", ylabel="composite gain",
    title="Small freedoms multiply; on the manifold the gain is one at any depth",
)  # fmt: skip

# %% [markdown]
# V4-Pro has 61 layers, 122 sub-layers. In mHC's test with 27 billion parameters HC's gain reached about 3,000 and training became unstable.
#
# ## 5 · The manifold
#
# What must a matrix be so that products stay harmless? Ask for non-negative numbers, rows that sum to one, and columns
# that sum to one: **doubly stochastic**. Then
#
# - no vector gets longer: $\lVert B x\rVert \le \lVert x\rVert$, the spectral norm is 1;
# - the product of two such matrices is another, so *depth changes nothing*;
# - the mean of the streams passes unchanged, as on the plain residual: each column sum is one.

# %%
draws = layers.Birkhoff(iterations=200, eps=0.0).project(
    2 * torch.randn(1000, 4, 4, generator=draw, dtype=torch.float64)
)
norms = torch.linalg.matrix_norm(draws, 2)
product = torch.linalg.multi_dot(list(draws[:50]))
one = torch.ones(4, dtype=torch.float64)
assert_close(norms, torch.ones(1000, dtype=torch.float64))
assert_close(product.sum(0), one)
assert_close(product.sum(1), one)
mean = torch.randn(4, 64, generator=draw, dtype=torch.float64)
assert_close((product @ mean).mean(0), mean.mean(0))
print(f"1000 matrices: spectral norm between {norms.min():.9f} and {norms.max():.9f}")

# %% [markdown]
# All doubly stochastic matrices of one size form a convex body, the **Birkhoff polytope**. Its corners are the
# permutations: each stream goes to exactly one place (Birkhoff 1946). Everything inside is a mixture of them. For two
# streams there are two corners, *stay* and *swap*, and the body is the line between. For three streams there are six
# corners in four dimensions; two planes at right angles show all of it:

# %%
three = torch.eye(3, dtype=torch.float64)
shown = {
    "identity": three,
    "a third everywhere": torch.full((3, 3), 1 / 3),
    "half identity, half a swap": (three + three[[1, 0, 2]]) / 2,
    "random": layers.Birkhoff().project(torch.randn(3, 3, generator=draw, dtype=torch.float64)),
}
viz.birkhoff(shown, title="The Birkhoff polytope of three streams: its corners are the permutations")

# %% [markdown]
# "Everything inside is a mixture of permutations" can be computed: take the permutation whose smallest entry is largest,
# subtract as much of it as there is, go on. Birkhoff's proof as a loop:


# %%
def in_permutations(matrix):
    """A doubly stochastic matrix (n, n) as {permutation: share}."""
    rest, found, rows = matrix.clone(), {}, range(len(matrix))
    while rest.sum() > 1e-9:
        best = max(permutations(rows), key=lambda columns: rest[rows, columns].min())
        found[best] = rest[rows, best].min().item()
        rest[rows, best] -= found[best]
    return found


# %%
sample = draws[0]
shares = in_permutations(sample)
rebuilt = sum(share * torch.eye(4, dtype=torch.float64)[list(columns)] for columns, share in shares.items())
assert_close(rebuilt, sample)
assert abs(sum(shares.values()) - 1) < 1e-6
assert len(shares) <= (4 - 1) ** 2 + 1  # so many always suffice
print({columns: f"{share:.3f}" for columns, share in shares.items()})

# %% [markdown]
# Hyper-connections on this body are a gentle thing: streams are shuffled with certain probabilities, never amplified.
#
# ## 6 · Sinkhorn: how to get there
#
# A network puts out any numbers. Make them positive (a softmax of each row), divide the columns by their sums, then the
# rows, and so on. Each division spoils what the other one had mended, but less each time (Sinkhorn and Knopp 1967). V4
# does 20 rounds and ends with columns. Watch the rows arrive, for logits of different size:

# %%
rounds = [1, 2, 3, 5, 10, 20, 40]
misses = {}
for spread in (0.5, 1.0, 2.0, 4.0):
    raw = spread * torch.randn(500, 4, 4, generator=draw, dtype=torch.float64)
    off = [(layers.Birkhoff(iterations=r, eps=0.0).project(raw).sum(-1) - 1).abs().amax(-1) for r in rounds]
    misses[f"logits of size {spread}"] = [miss.mean().clamp(min=1e-15).item() for miss in off]
assert misses["logits of size 0.5"][5] < 1e-6 < 1e-4 < misses["logits of size 4.0"][5]
viz.curves(
    misses, x=rounds, log="xy", xlabel="rounds", ylabel="rows miss one by (mean)", marks={"V4": 20},
    title="Sinkhorn converges geometrically; how fast depends on the logits",
)  # fmt: skip

# %% [markdown]
# Columns, the last to be divided, are right to the last digit at any moment. Rows are as right as there was time for:
# with large logits twenty rounds miss. *Doubly stochastic* is therefore a limit, and code that relies on it checks.
#
# ### Turn the knobs
#
# `temperature` divides the logits: high, and all six permutations count alike, the matrix is a third everywhere; low,
# and it runs into a corner (or onto an edge, where Sinkhorn crawls). The line is the way of the iterations.


# %%
def polytope(temperature=0.2, rounds=20, seed=3):
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / temperature
    m = logits.softmax(1)
    path = [m]
    for _ in range(rounds):
        path += [path[-1] / path[-1].sum(0)]
        path += [path[-1] / path[-1].sum(1, keepdim=True)]
    m = path[-2]  # V4 ends with columns
    off = (m.sum(1) - 1).abs().max().item()
    numbers = "   ".join(" ".join(f"{value:.2f}" for value in row) for row in m.tolist())
    return viz.birkhoff({"Sinkhorn's way": torch.stack(path[:-1])}, title=f"rows  {numbers}   (miss one by {off:.0e})")


viz.knob(polytope, temperature=(0.1, 3.0, 0.1), rounds=(1, 60), seed=(0, 20))

# %% [markdown]
# ### Myth check: "Sinkhorn finds the nearest doubly stochastic matrix"
#
# Nearest in which sense? Not by Euclid. Sinkhorn only ever multiplies rows and columns, so its result is
# $\mathrm{diag}(r)\,e^{L}\,\mathrm{diag}(c)$, and that minimises the relative entropy $\sum_{ij} P_{ij} \ln (P_{ij} /
# e^{L_{ij}})$ over the polytope. Walk away from it in a hundred directions inside, and look at both distances:

# %%
raw = 2 * torch.randn(4, 4, generator=draw, dtype=torch.float64)
found, K = layers.Birkhoff(iterations=500, eps=0.0).project(raw), raw.softmax(1)
others = [0.9 * found + 0.1 * other for other in draws[:100]]
entropy = [(P * (P / K).log()).sum() for P in [found, *others]]
euclid = [(P - K).norm() for P in [found, *others]]
assert min(entropy) == entropy[0]
nearer = sum(distance < euclid[0] for distance in euclid)
print(f"of 100 neighbours, nearer in entropy: 0; nearer by Euclid: {nearer}")

# %% [markdown]
# ## 7 · Train it: plain, HC, mHC
#
# The same start, the same text in the same order, and a learning rate that is too high by a factor of four. 40 steps,
# then the gain of every prefix of the chain:


# %%
@torch.no_grad()
def gains(model):
    """Median composite gain over 512 tokens, of the first sub-layer, of the first two, ..."""
    with mixed(model) as notes:
        model(text[:, :-1])
    chain = [passes[0] for passes in notes]
    return [composite_gain(chain[:depth]).median().item() for depth in range(1, len(chain) + 1)]


settings = TrainConfig(
    steps=40, batch_size=8, lr=0.03, warmup=10, seed=0, eval_every=0, checkpoint_every=0, dtype="fp32"
)
runs, seconds = {}, {}
for name, residual in kinds.items():
    start = time.process_time()
    runs[name] = train(deep(residual), data, settings, progress=False)
    seconds[name] = time.process_time() - start

# %%
live = {name: gains(runs[name].model) for name in ("HC", "mHC")}
losses = {name: evaluate(run.model, data, batches=8).loss for name, run in runs.items()}
assert live["mHC"][-1] < 1.1 < live["HC"][-1]
print({name: f"{loss:.3f} nats" for name, loss in losses.items()})
viz.curves(
    live, log="y", xlabel="sub-layers passed (attention, feed-forward, attention ...)", ylabel="composite gain, median",
    title=f"After 40 steps HC multiplies a signal by up to {live['HC'][-1]:,.0f}",
)  # fmt: skip

# %% [markdown]
# The paper's curve, with fifty thousand times fewer parameters. But look at the losses: does the explosion *hurt*? One run
# cannot say. So: three learning rates (8e-3 suits a mini), five seeds, 100 steps each
# ([script](../benchmarks/streams.py), [runs](../benchmarks/results/streams_train.csv)).

# %%
table = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/streams_train.csv", newline="") as file:
    for row in csv.DictReader(file):
        key = row["arm"], float(row["lr"])
        if int(row["step"]) > 20:  # behind the warm-up
            table["norm"][*key, row["seed"]].append(float(row["grad_norm"]))
        if row["valid_loss"]:
            table["loss"][key].append(float(row["valid_loss"]))
rates = sorted({lr for _, lr in table["loss"]})
worst = defaultdict(list)
for (arm, lr, _), norms in table["norm"].items():
    worst[arm, lr].append(max(norms))

# %%
for lr in rates:
    for arm in kinds:
        found = torch.tensor(table["loss"][arm, lr])
        high = max(worst[arm, lr])
        print(f"lr {lr:<6} {arm:>5}: loss {found.mean():.3f} ± {2 * found.std():.3f}, largest gradient {high:,.1f}")

# %%
deeper = defaultdict(list)
with open("../benchmarks/results/streams_gain.csv", newline="") as file:
    for row in csv.DictReader(file):
        deeper[row["arm"], float(row["lr"]), row["seed"]].append(float(row["median"]))
prefixes = defaultdict(list)
for (arm, lr, _), values in sorted(deeper.items()):
    prefixes[f"{arm}, lr {lr:g}"].append(values)
viz.curves(
    prefixes, log="y", xlabel="sub-layers passed", ylabel="composite gain, median",
    title="HC's gain grows with depth and with the learning rate; mHC's stays one",
)  # fmt: skip


# %%
def pairs(better, worse, lr):
    """Loss of one less the other's, seed by seed: mean, two sigma, and what may be said of "the first is better"."""
    apart = torch.tensor(table["loss"][better, lr]) - torch.tensor(table["loss"][worse, lr])
    mean, band = apart.mean().item(), 2 * apart.std().item()
    return mean, band, "tie" if abs(mean) < band else "shown" if mean < 0 else "contradicted"


found = {(a, b, lr): pairs(a, b, lr) for lr in rates for a, b in (("HC", "plain"), ("mHC", "plain"), ("mHC", "HC"))}
for (a, b, lr), (mean, band, word) in found.items():
    print(f"lr {lr:<6} {a:>3} against {b:<5}: {mean:+.3f} nats, two sigma {band:.3f}: {word}")

# %% [markdown]
# Here our measurement parts from the paper, and it pays to read it slowly.
#
# - **8e-3**, a good learning rate: a tie of all three. Streams neither help nor hurt in a hundred steps of a small model.
# - **0.03**, too high: the plain residual scatters, one seed is lost. mHC holds every seed within a few hundredths: *that*
#   is stability. But HC learns best of all, at a gain of tens of thousands.
# - **0.1**, absurd: one of five HC runs blows up, with a gradient a thousand times the usual one. The other four shrug at
#   gains of up to ten billion, and learn *better* than both others.
#
# So the paper's cause is here, and its effect is rare. Why? Our reading, which these runs do not prove: each sub-layer reads
# through a norm, which divides a large stream by its size, and with sixteen sub-layers that goes well for long. Large
# streams may even help: what a late layer writes is small beside them, and that tames a step that is far too long. The bill
# comes with depth (122 sub-layers in V4-Pro), with numbers of 16 bits, and with trillions of tokens in which the one bad
# draw will happen.

# %%
lost = {(arm, lr): sum(norm > 100 for norm in worst[arm, lr]) for arm in kinds for lr in rates}
scatter = {arm: torch.tensor(table["loss"][arm, 0.03]).std().item() for arm in kinds}
assert max(lost[arm, lr] for arm in ("plain", "mHC") for lr in rates) == 0 < lost["HC", max(rates)]
assert scatter["mHC"] < scatter["plain"] / 3
print("runs with a gradient above 100:", {f"{arm}, lr {lr:g}": n for (arm, lr), n in lost.items() if n})
print("standard deviation of the loss over seeds at 0.03:", {arm: f"{value:.3f}" for arm, value in scatter.items()})

# %% [markdown]
# ## 8 · Look inside: what was learnt?
#
# The matrices of a few sub-layers after the live runs, averaged over tokens. HC starts from the identity, mHC from a soft
# one (`LEAN` in [hyper.py](../minideepseek/layers/hyper.py); what V4 starts from is not published).

# %%
with torch.no_grad(), mixed(runs["HC"].model) as of_hc:
    runs["HC"].model(text[:, :-1])
with torch.no_grad(), mixed(runs["mHC"].model) as of_mhc:
    runs["mHC"].model(text[:, :-1])
panels = {f"{name}, {depth}": notes[depth - 1][0].mean((0, 1))
          for name, notes in (("HC", of_hc), ("mHC", of_mhc)) for depth in (2, 9, 16)}  # fmt: skip
viz.matrices(panels, title="How streams are mixed in sub-layers 2, 9 and 16", xlabel="from stream", ylabel="to stream")

# %%
begin = {"HC": torch.eye(4), "mHC": layers.Birkhoff().project(LEAN * torch.eye(4))}
moved = {
    name: sum((passes[0] - begin[name]).norm(dim=(-2, -1)).mean().item() for passes in notes) / len(notes)
    for name, notes in (("HC", of_hc), ("mHC", of_mhc))
}
varied = {
    name: sum(passes[0].std((0, 1)).mean().item() for passes in notes) / len(notes)
    for name, notes in (("HC", of_hc), ("mHC", of_mhc))
}
print("distance from the start:", {name: f"{value:.3f}" for name, value in moved.items()})
print("spread from token to token:", {name: f"{value:.3f}" for name, value in varied.items()})

# %% [markdown]
# Do the streams become different from each other at all? They start as four copies. Their mean cosine at the end of the
# network, 1 for copies:


# %%
def likeness(model):
    """Mean cosine between different streams behind the last block."""
    last = []
    hook = model.blocks[-1].register_forward_hook(lambda _block, _inputs, out: last.append(out))
    with torch.no_grad():
        model(text[:, :-1])
    hook.remove()
    unit = torch.nn.functional.normalize(last[0], dim=-1)
    cosines = unit @ unit.mT
    return ((cosines.sum((-2, -1)) - 4) / 12).mean().item()


between = {name: likeness(runs[name].model) for name in ("HC", "mHC")}
assert between["HC"] < between["mHC"]
print({name: f"{value:.6f}" for name, value in between.items()})

# %% [markdown]
# HC's streams part company. mHC's do not: after 40 steps they are *one stream, four times*. The matrices it starts from mix
# softly, and averaging wipes out in a few sub-layers what one of them wrote into a lane (exercise A below computes how
# fast). So what we compared with the plain residual was very nearly the plain residual, with learnt factors: no wonder that
# they tie. A start nearer to the identity keeps streams apart, but twenty rounds of Sinkhorn do not reach the manifold from
# there. (mHC-lite, arXiv 2601.05732, mixes the 24 permutations directly, and needs no rounds.) What V4 does about it is not
# published; with trillions of tokens matrices have time to move.

# %% [markdown]
# ## 9 · The bill
#
# **Parameters**: two mixings a layer, $(2n + n^2)(nD + 1) + 3$ each, and the final weighing. A rounding error:

# %%
for name, d_model, n_layers, total in (("V4-Flash", 4096, 43, 284e9), ("V4-Pro", 7168, 61, 1.6e12)):
    count = kinds["mHC"].n_params(d_model, n_layers)
    by_hand_count = 2 * n_layers * (24 * (4 * d_model + 1) + 3) + 4 * (4 * d_model + 1) + 1
    assert count == by_hand_count
    print(f"{name}: {count / 1e6:.0f} million numbers for mixing, {count / total:.3%} of all")

# %% [markdown]
# **Arithmetic**: a few products of small matrices a token. **Memory traffic** is the real price: every sub-layer reads and
# writes $n$ vectors where it was one. The mHC paper fuses kernels, recomputes, and overlaps, and arrives at 6.7 % more time
# for a step. On our CPU, whole steps of training
# ([script](../benchmarks/streams.py), [table](../benchmarks/results/streams.md)):

# %%
with open("../benchmarks/results/streams.json") as file:
    samples = json.load(file)["samples"]
times = {}
for case in samples["plain"][0]:
    for name in ("HC", "mHC", "mHC by formulas"):
        ratios = sorted(a[case] / b[case] for a, b in zip(samples[name], samples["plain"], strict=True))
        times[f"{case}: {name}"] = ratios[len(ratios) // 2]
assert times["v1-mini fp32: mHC"] < times["v1-mini fp32: mHC by formulas"]
viz.bars(
    {name: ratio for name, ratio in times.items() if "fp32" in name}, unit="times the plain step",
    title=f"Four streams: {times['v1-mini fp32: mHC']:.1f} times the step of a mini; by formulas {times['v1-mini fp32: mHC by formulas']:.1f}",
    emphasis=[name for name in times if name.endswith(": mHC")], digits=".2f",
)  # fmt: skip

# %%
width = {name: mds.accounting.training_flops_per_token(deep(kind), 128) for name, kind in kinds.items()}
share = {name: found / width["plain"] - 1 for name, found in width.items()}
live_ratio = {name: seconds[name] / seconds["plain"] for name in ("HC", "mHC")}
print(f"more arithmetic in our deep model: {share['mHC']:.0%}; more time in the live runs: {live_ratio['mHC'] - 1:.0%}")
v4_share = kinds["mHC"].flops(7168, 61) / (2 * 48.46e9)
print(f"V4-Pro: {v4_share:.1%} of the arithmetic of its 48.46 billion activated parameters")

# %% [markdown]
# In a mini the streams are as expensive as a narrow layer; in V4 a layer is so wide that they are lost in it. And the
# memory of training grows: what is kept for the way back holds $n$ times the stream. Ours keeps $X$ once a sub-layer, and
# of Sinkhorn's forty matrices only the sums: what went into a division is what came out, times its sum.

# %%
kept_plain = 2 * 8 * 64 * 4  # sub-layers, channels, bytes
kept_streams = 4 * kept_plain
sinkhorn = 2 * 8 * (39 * 4 + 16) * 4
print(f"bytes a token in our deep model: plain {kept_plain:,}, streams {kept_streams:,}, Sinkhorn's sums {sinkhorn:,} "
      f"instead of {2 * 8 * 40 * 16 * 4:,}")  # fmt: skip

# %% [markdown]
# ## 10 · The ledger

# %%
calm, wild = min(rates), max(rates)
last = {key: [values[-1] for k, values in deeper.items() if k[:2] == key] for key in table["loss"] if key[0] != "plain"}
bound = max(max(values) for key, values in last.items() if key[0] == "mHC")
apart_at_3 = found["mHC", "HC", 0.03]
verdict = "contradicted" if apart_at_3[0] > apart_at_3[1] else "tie"

# %%
viz.ledger(f"""
one stream is the plain residual; four alike are, too | Zhu et al. | logits differ by {difference:.0e} | exact
our maps and our mixing are the package's | DeepSeek-V4, section 2.2 | float64, all numbers agree | exact
M and its transpose: the same gain, other streams | released weights | {apart:.0%} apart | exact
free matrices multiply | mHC, section 3.1 (gain 3,000 at 27B) | lr {calm:g}: {min(last["HC", calm]):,.0f} to {max(last["HC", calm]):,.0f}; lr 0.03: {min(last["HC", 0.03]):,.0f} to {max(last["HC", 0.03]):,.0f} | shown
doubly stochastic ones do not | mHC | at most {bound:.3f} in all runs | shown
doubly stochastic is a mixture of permutations | Birkhoff 1946 | {len(shares)} of 24 for one matrix | exact
twenty rounds suffice, for small logits | DeepSeek-V4, section 2.2 | rows miss by {misses["logits of size 1.0"][5]:.0e} at size 1, {misses["logits of size 4.0"][5]:.0e} at size 4 | shown
a gain out of bounds can wreck a run | mHC, section 3.1 | lr {wild:g}: {lost["HC", wild]} of {len(worst["HC", wild])} HC runs, no other | shown
HC learns worse than mHC where rates are high | mHC (27B) | lr 0.03: mHC {apart_at_3[0]:+.3f} nats against HC, two sigma {apart_at_3[1]:.3f} | {verdict}
streams become different | Zhu et al. | mean cosine HC {between["HC"]:.3f}, mHC {between["mHC"]:.6f} | not at this size
mHC trains alike from seed to seed | mHC (27B) | lr 0.03: spread {scatter["mHC"]:.3f}, plain {scatter["plain"]:.3f} nats | shown
mHC learns better than the plain residual | mHC (27B) | lr {calm:g}: {found["mHC", "plain", calm][0]:+.3f} nats, two sigma {found["mHC", "plain", calm][1]:.3f} | {found["mHC", "plain", calm][2]}
mixing costs 6.7 % of a step | mHC | {times["v1-mini fp32: mHC"] - 1:.0%} in a mini on a CPU | not at this size
""")

# %% [markdown]
# ## 11 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Forgetting.** Doubly stochastic matrices enlarge nothing. Do they *lose* something? How much of the difference
# between two streams is left after 122 sub-layers, if each mixes as mHC does at the start?
#
# **B. A larger gate.** Set mHC's gate to 1, as the default of `transformers` does, and shake $W$. What happens to the gain?
#
# **C. One round.** What is the gain of 122 random matrices after 1 round of Sinkhorn instead of 20? With large logits?
#
# **D. Eight streams.** How many numbers a sub-layer's mixing has for $n = 8$, and how many corners its polytope?
#
# Then solve [the exercises](../exercises/13_hyper_connections/13_hyper_connections.ipynb), and go on to
# [lesson 14](14_muon.ipynb): V4's optimiser.

# %% jupyter={"source_hidden": true}
soft = layers.Birkhoff().project(LEAN * torch.eye(4, dtype=torch.float64))
second = torch.linalg.eigvalsh((soft + soft.T) / 2)[-2].item()
assert second**122 < 1e-6
viz.answer(
    "A",
    f"The mean of the streams passes unchanged, differences shrink by the second eigenvalue, {second:.2f} a sub-layer: {second**16:.0e} "
    f"is left after 16, {second**122:.0e} after 122. What a layer writes into one lane is soon in all of them: mHC's streams are a memory of "
    "a few layers, unless training moves the matrices towards the identity, a corner, which exact Sinkhorn only approaches.",
)

# %% jupyter={"source_hidden": true}
loud = [Mixing(layers.HyperConnections(gate=1.0), D, 1e-6, turn).double() for turn in range(122)]
for module in loud:
    module.weight.data.normal_(0, 0.02, generator=draw)
with torch.no_grad():
    wide = [module(torch.randn(1, 64, 4, D, generator=draw, dtype=torch.float64))[2] for module in loud]
assert composite_gain(wide).max() < 1.05
viz.answer(
    "B",
    f"Nothing: {composite_gain(wide).max():.4f} at most after 122 sub-layers. Whatever the gate, Sinkhorn's result is on the manifold, as "
    "far as twenty rounds bring it there. The gate decides how different tokens are mixed differently, not how far.",
)

# %% jupyter={"source_hidden": true}
lines_c = {}
for size in (1.0, 4.0):
    raws = size * torch.randn(122, 4, 4, generator=draw, dtype=torch.float64)
    lines_c[size] = [composite_gain(list(layers.Birkhoff(iterations=r).project(raws).mT)).item() for r in (1, 20)]
viz.answer(
    "C",
    f"Logits of size 1: {lines_c[1.0][0]:.2f} after one round, {lines_c[1.0][1]:.4f} after twenty; of size 4: {lines_c[4.0][0]:.2f} and "
    f"{lines_c[4.0][1]:.2f}. Columns of M, rows of B, are exact from the first round on, so forwards nothing can explode: a product of "
    "matrices whose rows sum to one has rows that sum to one. Only the other side, the gradient's, is left to Sinkhorn.",
)

# %% jupyter={"source_hidden": true}
eight = layers.HyperConnections(streams=8)
assert eight.n_maps == 80
viz.answer(
    "D",
    f"{eight.n_maps} numbers for each token instead of {kinds['mHC'].n_maps}, each from 8·D channels: {eight.n_params(4096, 43) / 1e6:.0f} million "
    f"parameters in V4-Flash instead of {kinds['mHC'].n_params(4096, 43) / 1e6:.0f}. Corners: 8! = {len(list(permutations(range(8)))):,}, in 49 dimensions.",
)
