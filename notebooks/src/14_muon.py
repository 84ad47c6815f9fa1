# %% [markdown]
# # 14 · Muon
#
# AdamW looks at every weight by itself. But most weights sit in matrices, and a matrix does something to *directions*, not
# to numbers. Muon (Jordan et al. 2024) takes that seriously: its step is equally long in every direction of a matrix. V4
# trains all its matrices so.
#
# Afterwards you can
#
# - say what orthogonalising an update means, and do it with an SVD and without one;
# - design a polynomial for singular values, and explain V4's eight and two iterations;
# - tell why AdamW's learning rate can be kept, and what is one matrix and what is three;
# - compare optimisers fairly: at equal steps, at equal time, at every learning rate, with seeds.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it.

# %%
import csv
import json
import time
from collections import Counter, defaultdict
from dataclasses import replace

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, viz
from minideepseek.data import Loader, prepare
from minideepseek.data.loader import validation_batches
from minideepseek.train import TrainConfig, prepare_cpu, train
from minideepseek.train.muon import COEFFICIENTS, RMS, Muon, orthogonalise, stacked_rows
from minideepseek.train.optimizer import adamw

# %%
prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: a gradient has favourites
#
# A gradient of a matrix is a sum of outer products, one for each token, and tokens agree about a few things: this word is
# frequent, that channel is too loud. So a few **singular values** are large, and the rest small. Any matrix is $G = U S
# V^\top$: directions $V$ of the input, directions $U$ of the output, and how strongly each pair is meant, $S$. Half a mini,
# the gradient of its first gate matrix after twenty steps:


# %%
def half():
    """Half a mini: the model of lessons 03, 05 and 08, dense."""
    attention = layers.GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    v1 = mds.generations["v1-mini"]
    return replace(v1, d_model=64, n_layers=2, attention=attention, ffn=layers.SwiGLU(hidden=176))


data = prepare("stories")
(text,) = validation_batches(data.valid, batch_size=16, seq_len=128, n=1)
short = TrainConfig(steps=20, lr=8e-3, eval_every=0, checkpoint_every=0, dtype="fp32")
model = train(half(), data, short, progress=False).model.train()
model.loss(text).total.backward()
gate_up = model.blocks[0].ffn.gate_up.weight
G = gate_up.grad[:176].double()  # the gate's rows; the others are the up matrix

# %%
S = torch.linalg.svdvals(G)
energy = (S.square().cumsum(0) / S.square().sum())[:8]
assert energy[7] > 0.5
print(
    f"the first 8 of 64 directions hold {energy[7]:.0%} of the squared length; largest over median: {S[0] / S.median():.1f}"
)

# %% [markdown]
# A step along $G$ is a step along eight directions. The other 56 are heard in a whisper, although what they have to say may
# be just as true: rare words, for example. Momentum sums gradients, so agreement grows and the whisper stays.
#
# ## 2 · The idea in one picture
#
# Keep the directions, forget the strengths: $U S V^\top \to U V^\top$. All singular values become one.

# %%
U, _, Vt = torch.linalg.svd(G, full_matrices=False)
steps = {
    "gradient": S,
    "its sign, AdamW's first step": torch.linalg.svdvals(G.sign()),
    "orthogonalised": torch.linalg.svdvals(U @ Vt),
}
viz.curves(
    {name: (values / values.square().mean().sqrt()).clamp(min=1e-3) for name, values in steps.items()}, log="y",
    xlabel="direction", ylabel="singular value / their RMS",
    title="Muon steps equally far in all 64 directions; AdamW does not",
)  # fmt: skip

# %% [markdown]
# AdamW divides each *number* by its usual size. Its very first step is the sign of the gradient. That evens numbers, and
# directions only a little.
#
# ## 3 · The idea in ten lines
#
# Why should $U V^\top$ be a good step? Ask for the step that lowers the loss most, to first order, among all that change no
# input's image by more than its own length (spectral norm at most 1). To first order the loss falls by $\langle G, X
# \rangle = \sum_{ij} G_{ij} X_{ij}$, and the best $X$ is $U V^\top$; the fall is the sum of all singular values. No
# other matrix of norm 1 gets there:

# %%
draw = torch.Generator().manual_seed(0)
best_fall = (G * (U @ Vt)).sum()
assert_close(best_fall, S.sum())
others = [torch.linalg.qr(torch.randn(176, 64, generator=draw, dtype=torch.float64))[0] for _ in range(200)]
sign = G.sign() / torch.linalg.matrix_norm(G.sign(), 2)
plain = G / S[0]
rivals = {"gradient": (G * plain).sum(), "its sign": (G * sign).sum(), "200 random": max((G * X).sum() for X in others)}
assert max(rivals.values()) < best_fall
print("fall of the loss, U V^T = 1:", {name: f"{fall / best_fall:.2f}" for name, fall in rivals.items()})

# %% [markdown]
# So Muon is steepest descent, measured with a ruler made for matrices (Bernstein and Newhouse, arXiv 2409.20325). Momentum
# $\mu = 0.95$ comes before, with Nesterov's look ahead, and a size behind (section 6). The whole of V4's algorithm 1 for
# one matrix, with an SVD:


# %%
def muon_step(W, G, M, lr, decay=0.1, mu=0.95):
    """New weights and new momentum of one matrix."""
    M = mu * M + G
    U, _, Vt = torch.linalg.svd(mu * M + G, full_matrices=False)  # Nesterov: as if the next gradient were this one
    size = 0.18 * max(W.shape) ** 0.5
    return (1 - lr * decay) * W - lr * size * (U @ Vt), M


# %%
W = torch.randn(48, 64, generator=draw, dtype=torch.float64)
M, ours = torch.zeros_like(W), W.clone()
theirs = torch.nn.Parameter(W.clone())
optimizer = Muon({theirs: (48,)}, lr=0.02)
for _ in range(3):
    theirs.grad = torch.randn(48, 64, generator=draw, dtype=torch.float64)
    ours, M = muon_step(ours, theirs.grad, M, lr=0.02)
    optimizer.step()
apart = (ours - theirs.detach()).abs().max().item()
assert apart < 1e-4
print(f"three steps by SVD and three of the package differ by {apart:.0e}")

# %% [markdown]
# ([muon.py](../minideepseek/train/muon.py).) The package has no SVD in it. An SVD is iterative, hard to run in parallel, and
# wants many bits. What is left is the question how else singular values can be changed.
#
# ## 4 · Newton and Schulz: a polynomial of a matrix
#
# $X X^\top X = U S V^\top\, V S U^\top\, U S V^\top = U S^3 V^\top$. Products of a matrix with itself, transposed in between,
# are powers of its singular values. So an odd polynomial of the matrix *is* that polynomial of each singular value:
#
# $$a X + b\,(X X^\top) X + c\,(X X^\top)^2 X = U\,(a S + b S^3 + c S^5)\,V^\top$$


# %%
def polynomial(X, a, b, c):
    gram = X @ X.mT
    return a * X + (b * gram + c * gram @ gram) @ X


X = G.T / G.norm()  # wide, so that X X^T is the small product; no singular value is above the Frobenius norm
s = S / G.norm()
a, b, c = COEFFICIENTS[0]
assert_close(torch.linalg.svdvals(polynomial(X, a, b, c)).sort().values, (a * s + b * s**3 + c * s**5).sort().values)
print(f"a, b, c = {a}, {b}, {c}; singular values begin between {s.min():.4f} and {s.max():.4f}")

# %% [markdown]
# Which polynomial? It is applied again and again, so it should drive everything between 0 and 1 to 1. V4 uses two
# (report, section 2.4):
#
# | | $a$ | $b$ | $c$ | slope at 0 | at 1 |
# |---|---|---|---|---|---|
# | eight times | 3.4445 | -4.7750 | 2.0315 | 3.44: lifts small values fast | is not a fixed point: hovers |
# | twice | 2 | -1.5 | 0.5 | 2: slow | a fixed point of slope 0: arrives |

# %%
grid = torch.logspace(-4, 0, 200, dtype=torch.float64)


def iterate(values, coefficients):
    for a, b, c in coefficients:
        values = a * values + b * values**3 + c * values**5
    return values


STEEP, SETTLE = COEFFICIENTS[0], COEFFICIENTS[-1]
recipes = {"5 steep (Jordan et al.)": [STEEP] * 5, "10 steep": [STEEP] * 10, "10 settling": [SETTLE] * 10,
           "8 steep, 2 settling (V4)": COEFFICIENTS}  # fmt: skip
for name, recipe in recipes.items():
    ends = iterate(grid, recipe)
    print(
        f"{name:>25}: from 1e-4 to {ends[0]:.4f}; from 0.01 to 1: between {ends[100:].min():.4f} and {ends[100:].max():.4f}"
    )
assert (iterate(grid, COEFFICIENTS) - 1).abs().max() < 0.003

# %% [markdown]
# Ten settling steps are exact where they arrive, and do not arrive. Ten steep ones arrive everywhere, and hover between
# 0.68 and 1.13. Eight and two do both. Turn the knobs:


# %%
def singular_values(steep=8, settling=2):
    ends = iterate(grid, [STEEP] * steep + [SETTLE] * settling)
    reached = grid[(ends - 1).abs() < 0.05]
    news = f"within 5 % from {reached[0]:.1e} on" if len(reached) else "nothing within 5 %"
    return viz.curves(
        {f"{steep} steep, {settling} settling": ends}, x=grid, log="x", levels={"1": 1.0},
        xlabel="singular value, over the Frobenius norm", ylabel="after all iterations",
        title=f"{steep + settling} iterations: {news}",
    )  # fmt: skip


viz.knob(singular_values, steep=(0, 10), settling=(0, 10))

# %% [markdown]
# ### Myth check: "five iterations orthogonalise"
#
# Jordan's recipe stops after five steep ones; it is meant to be rough, and trains well. But what it makes is not
# orthogonal. Our gradient, and all other matrices of the model:

# %%
five = X
for _ in range(5):
    five = polynomial(five, *STEEP)
rough, exact = torch.linalg.svdvals(five), torch.linalg.svdvals(orthogonalise(X[None])[0])
assert (exact - 1).abs().max() < 0.003 < 0.1 < (rough - 1).abs().max()
print(
    f"five steep: between {rough.min():.3f} and {rough.max():.3f}; eight and two: {exact.min():.4f} and {exact.max():.4f}"
)

# %% [markdown]
# ## 5 · Tall, wide, and many
#
# $X X^\top$ is $R \times R$. If the matrix is tall ($R > C$), turn it first: the result is the same, turned, and the products
# are smaller. An iteration costs $4 R^2 C + 2 R^3$ FLOPs with $R$ the *shorter* side:

# %%
tall = torch.randn(3, 512, 64, generator=draw)
assert_close(orthogonalise(tall), orthogonalise(tall.mT).mT)


def flops(rows, columns, iterations=10):
    small, large = sorted((rows, columns))
    return iterations * (4 * small**2 * large + 2 * small**3)


short_way, long_way = flops(512, 64), 10 * (4 * 512**2 * 64 + 2 * 512**3)
print(
    f"512 x 64: {short_way / 1e6:.0f} million FLOPs over the short side, {long_way / 1e6:,.0f} million over the long one"
)

# %% [markdown]
# A mini's matrices are small, and there are many: multiply equal shapes in one batch. And against an SVD?


# %%
def seconds(work):
    """Processor seconds, the best of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


# %%
stack = torch.randn(64, 88, 128, generator=draw)
took = {
    "SVD": seconds(lambda: torch.linalg.svd(stack, full_matrices=False)),
    "iterations, float32": seconds(lambda: orthogonalise(stack)),
    "iterations, bfloat16, one by one": seconds(lambda: [orthogonalise(x[None]) for x in stack.bfloat16()]),
    "iterations, bfloat16, in batches": seconds(lambda: orthogonalise(stack.bfloat16())),
}
viz.bars({name: 1e3 * value for name, value in took.items()}, unit="ms for 64 matrices of 88 x 128",
         title=f"With 16 bits and in batches {took['SVD'] / took['iterations, bfloat16, in batches']:.1f} times as quick as an SVD", digits=".0f")  # fmt: skip

# %%
assert took["iterations, bfloat16, in batches"] < took["SVD"]
with open("../benchmarks/results/muon.json") as file:
    samples = json.load(file)["samples"]
for case in ("v3 bf16 orthogonalise", "v3-mini bf16 orthogonalise", "v3 fp32 orthogonalise"):
    ratios = sorted(a[case] / b[case] for a, b in zip(samples["loop"], samples["ours"], strict=True))
    print(f"{case}: a loop over matrices takes {ratios[len(ratios) // 2]:.2f} times as long")

# %% [markdown]
# In float32 an SVD of matrices this small is no slower. But there is no SVD in bfloat16, and a GPU, which lives on products,
# takes far longer for one.
#
# ## 6 · How long is a step? 0.18
#
# An orthogonal $R \times C$ matrix has $\min(R, C)$ singular values of one, so the sum of its squared entries is $\min(R, C)$,
# and their root mean square $1/\sqrt{\max(R, C)}$. A wide matrix would move slowly. Muon multiplies by $\sqrt{\max(R, C)}$,
# and by 0.18 (V4 report, section 2.4):

# %%
for shape in ((16, 256), (64, 64), (176, 64), (2048, 32)):
    update = 0.18 * max(shape) ** 0.5 * orthogonalise(torch.randn(1, *shape, generator=draw))[0]
    assert abs(update.square().mean().sqrt() - RMS) < 2e-3
print("root mean square of an update, any shape:", f"{update.square().mean().sqrt():.4f}")

# %% [markdown]
# Why 0.18? Because AdamW's updates are about that long, *before* the learning rate, and then its learning rate can stay.
# Liu et al. measured 0.2 to 0.4 in large models (arXiv 2502.16982, section 2.2). Ours, in a live run:

# %%
settings = TrainConfig(steps=60, lr=8e-3, seed=1, eval_every=0, checkpoint_every=0, dtype="fp32")
watched, lengths = mds.Transformer(half(), seed=1).train(), []
optimizer, batches = adamw(watched, settings), Loader(data.train, batch_size=16, seq_len=128, seed=1)


def update_of(moments, step):
    """What AdamW subtracts, learning rate apart, as one vector of numbers."""
    first, second = moments["exp_avg"] / (1 - 0.9**step), moments["exp_avg_sq"] / (1 - 0.95**step)
    return (first / second.sqrt()).nan_to_num().flatten()


# %%
for step in range(1, 41):
    watched.loss(next(batches)).total.backward()
    optimizer.step()
    optimizer.zero_grad()
    updates = [update_of(optimizer.state[p], step) for p in watched.blocks.parameters() if p.ndim >= 2]
    lengths.append(torch.cat(updates).square().mean().sqrt().item())
late = sum(lengths[20:]) / 20
assert 0.18 < late < 0.6
viz.curves({"AdamW": lengths}, levels={"Muon, 0.18": 0.18}, xlabel="step", ylabel="RMS of an update",
           title=f"AdamW's steps: one at first, {late:.2f} later")  # fmt: skip

# %% [markdown]
# ## 7 · What is a matrix?
#
# Not a tensor. `gate_up` keeps two matrices one below the other, because one product with a token's vector is quicker than
# two. An expert layer of V3 keeps 768. But gate and up do different things, and so do two experts. Orthogonalised
# together, what one of them wants would bend the other's step; V4 treats every *logically independent* matrix by itself
# (section 4.2). Our layers say what they hold:

# %%
v3 = mds.Transformer(mds.generations["v3-mini"], seed=0)
rows = stacked_rows(v3)
for name in ("blocks.1.attention.down.weight", "blocks.0.ffn.gate_up.weight", "blocks.1.ffn.gate_up"):
    parameter = v3.get_parameter(name)
    print(f"{name:<32} {tuple(parameter.shape)!s:<16} holds matrices of {rows[parameter]} rows")
vocabulary = {v3.embed.weight, v3.head.weight}
count = Counter()
for parameter, heights in rows.items():
    if parameter not in vocabulary:
        for height in heights:
            count[height, parameter.shape[-1]] += parameter[..., 0, 0].numel()
print(f"{sum(count.values())} matrices of {len(count)} shapes in v3-mini")

# %%
whole = orthogonalise(gate_up.grad[None])[0]
separate = torch.cat([orthogonalise(part[None])[0] for part in gate_up.grad.split([176, 176])])
match = torch.cosine_similarity(whole.flatten(), separate.flatten(), dim=0).item()
assert match < 0.999
loud = gate_up.grad.clone()
loud[176:] *= 1000  # the up matrix shouts
bent = orthogonalise(loud[None])[0][:176]
print(
    f"together and apart, cosine {match:.3f}; with a loud neighbour the gate's step shrinks to {bent.norm() / whole[:176].norm():.1%}"
)

# %% [markdown]
# **AdamW keeps** what is no map between vectors: embedding and head (a row of theirs belongs to one token, and most tokens are
# not in a batch), the gains of norms, biases, gates, mHC's static numbers (V4 report, section 2.4).

# %%
by_muon = sum(p.numel() for p in rows if p not in vocabulary)
everything = sum(p.numel() for p in v3.parameters())
assert by_muon / everything > 0.7
print(f"v3-mini: {by_muon / everything:.0%} of the parameters by Muon; memory of the optimiser: {by_muon + 2 * (everything - by_muon):,} "
      f"numbers, with AdamW alone {2 * everything:,}")  # fmt: skip

# %% [markdown]
# One momentum instead of two moments: Muon remembers half as much.
#
# ## 8 · Train it: AdamW, Muon, and PyTorch's own
#
# First live, one seed, AdamW's learning rate for both:

# %%
live = {}
for name in ("adamw", "muon"):
    live[name] = train(half(), data, replace(settings, optimizer=name, seed=0), progress=False)
viz.curves(
    {name: torch.tensor(run.curve()[1]).unfold(0, 5, 5).mean(1) for name, run in live.items()}, x=range(5, 61, 5),
    xlabel="step (means of five)", ylabel="loss (nats)", title="One seed, the same learning rate",
)  # fmt: skip

# %% [markdown]
# One curve, one rate. Now fairly: three optimisers, five learning rates, three seeds, 160 steps
# ([script](../benchmarks/muon_train.py), [runs](../benchmarks/results/muon_train.csv)). PyTorch's Muon comes as it is: five
# iterations, and each parameter is one matrix.

# %%
curves = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/muon_train.csv", newline="") as file:
    for row in csv.DictReader(file):
        point = int(row["step"]), float(row["seconds"]), float(row["valid_loss"])
        curves[row["arm"], float(row["lr"])][int(row["seed"])].append(point)
runs = {key: torch.tensor([seeds[s] for s in sorted(seeds)], dtype=torch.float64) for key, seeds in curves.items()}

# %%
arms = ("AdamW", "Muon", "torch.optim.Muon")
rates = sorted({lr for _, lr in runs})
ends = {key: found[:, -1, 2] for key, found in runs.items()}
viz.curves(
    {arm: torch.stack([ends[arm, lr] for lr in rates], dim=1) for arm in arms}, x=rates, log="xy",
    xlabel="learning rate", ylabel="final held-out loss (nats)",
    title="Each optimiser has its valley; compare the lowest points",
)  # fmt: skip

# %%
best = {arm: min(rates, key=lambda lr: ends[arm, lr].mean()) for arm in arms}
for arm in arms:
    values = ", ".join(f"{lr:g}: {ends[arm, lr].mean():.3f} ± {2 * ends[arm, lr].std():.3f}" for lr in rates)
    print(f"{arm:>16}: {values}; best {best[arm]:g}")


# %%
def verdict(first, second):
    """Difference of two sets of seeds, pair by pair: mean, two sigma, and what may be said of "the first is better"."""
    apart = first - second
    mean, band = apart.mean().item(), 2 * apart.std().item()
    return mean, band, "tie" if abs(mean) < band else "shown" if mean < 0 else "contradicted"


equal_steps = {
    "each at its best rate": verdict(ends["Muon", best["Muon"]], ends["AdamW", best["AdamW"]]),
    "both at AdamW's best": verdict(ends["Muon", best["AdamW"]], ends["AdamW", best["AdamW"]]),
    "both at 0.008": verdict(ends["Muon", 0.008], ends["AdamW", 0.008]),
    "ours against PyTorch's, at its best": verdict(
        ends["Muon", best["torch.optim.Muon"]], ends["torch.optim.Muon", best["torch.optim.Muon"]]
    ),
}
for name, (mean, band, word) in equal_steps.items():
    print(f"{name:>36}: {mean:+.3f} nats, two sigma {band:.3f}: {word}")

# %% [markdown]
# Look at the valleys first. At AdamW's usual rates Muon is *behind*: on a young model AdamW's updates are longer than 0.18
# (section 6), so the same rate means a shorter step. It wants about twice AdamW's rate here, and bears more. Who compares
# two optimisers at one learning rate can have any result he likes. Each at its best, Muon is well ahead, outside the band
# of the seeds. And it is ahead of PyTorch's, which differs in two things, rough iterations and matrices that are not told
# apart; this experiment does not say which of the two counts.
#
# **Equal time.** Muon's step takes longer. So let it make only as many as fit into AdamW's time (processor time, of
# training alone), with a schedule that ends when they do:

# %%
timely = ends["Muon, in AdamW's time", best["Muon"]]
fitting = int(runs["Muon, in AdamW's time", best["Muon"]][0, -1, 0])
spent = {arm: runs[arm, best[arm]][:, -1, 1].mean() for arm in arms}
cost = {arm: (seconds / spent["AdamW"]).item() for arm, seconds in spent.items()}
equal_time = verdict(timely, ends["AdamW", best["AdamW"]])
print({arm: f"{value:.2f} times AdamW's time" for arm, value in cost.items()})
print(
    f"{fitting} steps of Muon in the time of 160: {equal_time[0]:+.3f} nats, two sigma {equal_time[1]:.3f}: {equal_time[2]}"
)

# %%
viz.curves(
    {f"{arm}, lr {best[arm]:g}": runs[arm, best[arm]][:, :, 2] for arm in arms}, log="y",
    x=runs["AdamW", best["AdamW"]][0, :, 0], xlabel="step", ylabel="loss on held-out text (nats)",
    title="Each at its best learning rate",
)  # fmt: skip

# %% [markdown]
# ## 9 · Look inside: is the update orthogonal, and what becomes of the weights?
#
# One more step of the live run: the singular values of Muon's update, for every matrix of the model.

# %%
trained, tops = {name: run.model for name, run in live.items()}, []
model = trained["muon"].train()
model.loss(text).total.backward()
for name, parameter in model.named_parameters():
    if name.startswith("blocks") and parameter.ndim >= 2:
        for part in parameter.grad.split(stacked_rows(model)[parameter]):
            values = torch.linalg.svdvals(orthogonalise(part[None])[0])
            tops.append((values - 1).abs().max().item())
worst = max(tops)
assert worst < 0.01
print(f"{len(tops)} matrices, no singular value of an update is further than {worst:.4f} from one")

# %%
weights, ranks = {}, {}
for name, found in trained.items():
    gate = found.blocks[0].ffn.gate_up.weight.detach()[:176]
    values = torch.linalg.svdvals(gate)
    share = values.square() / values.square().sum()
    ranks[name] = (-(share * share.log()).sum()).exp().item()
    weights[f"{name}, effective rank {ranks[name]:.1f}"] = values
start = mds.Transformer(half(), seed=0).blocks[0].ffn.gate_up.weight.detach()[:176]
weights["theory: before training"] = torch.linalg.svdvals(start)
viz.curves(weights, xlabel="direction", ylabel="singular value", title="The gate matrix after 60 steps")

# %% [markdown]
# Do steps that are equally long in all directions leave weights that use more of them? The *effective rank* (the exponential
# of the entropy of the squared singular values) counts directions in use. After sixty steps the two hardly differ in that;
# Muon's weights have only come less far, as its steps are shorter. What long runs show (Liu et al.), ours is too short for.
#
# ## 10 · The bill
#
# Ten iterations cost $10\,(4R^2C + 2R^3)$ FLOPs a matrix and step, whatever the batch. The passes cost $6RC$ a token. So the
# share falls with the batch. V4's experts, with the tokens that reach one of them in a step, and our mini:


# %%
def share_of(rows, columns, tokens):
    return flops(rows, columns) / (6 * rows * columns * tokens)


flash = mds.generations["v3"].layers[-1][1]  # V3's shapes: expert 2048 x 7168, 8 of 256
reached = 62_900_000 * flash.router.k // flash.n_experts  # tokens of a batch of 15,360 sequences of 4,096
large, small_share = share_of(2048, 7168, reached), share_of(176, 64, 2048)
assert large < 0.05 < small_share
print(f"V3's experts, {reached:,} tokens each: {large:.2%} more arithmetic; our gate, 2,048 tokens: {small_share:.0%}")

# %% [markdown]
# What is next to nothing at scale is dear at home, where products of small matrices are also slow ones. That is why batches
# and bfloat16 count here (section 5).
#
# ## 11 · The ledger

# %%
torch_five = (rough - 1).abs().max().item()
case = equal_steps["each at its best rate"]
same_rate = equal_steps["both at 0.008"]
viz.ledger(f"""
U V^T lowers the loss most for its spectral norm | Bernstein and Newhouse | sign reaches {rivals["its sign"] / best_fall:.0%}, the gradient {rivals["gradient"] / best_fall:.0%} | exact
an SVD and ten iterations give the same step | DeepSeek-V4, algorithm 1 | differ by {apart:.0e} | exact
eight and two bring singular values from 1e-4 to one | DeepSeek-V4, section 2.4 | missed by {worst:.4f} at most | shown
five steep iterations are not orthogonal | Jordan et al. | missed by {torch_five:.2f} | shown
an update is 0.18 long, whatever the shape | DeepSeek-V4, section 2.4 | four shapes | exact
AdamW's updates are as long, so its rate can stay | Liu et al., section 2.2 | AdamW's {late:.2f}; at 0.008 Muon is {same_rate[0]:+.3f} nats off, best rates {best["Muon"]:g} and {best["AdamW"]:g} | {"shown" if best["Muon"] == best["AdamW"] else "not at this size"}
Muon learns more at equal steps | Jordan et al.; Liu et al. | {case[0]:+.3f} nats, two sigma {case[1]:.3f} | {case[2]}
Muon learns more at equal time | Liu et al. | {equal_time[0]:+.3f} nats, two sigma {equal_time[1]:.3f} | {equal_time[2]}
ours learns more than PyTorch's, which is rough and splits nothing | torch.optim.Muon | {equal_steps["ours against PyTorch's, at its best"][0]:+.3f} nats, two sigma {equal_steps["ours against PyTorch's, at its best"][1]:.3f} | {equal_steps["ours against PyTorch's, at its best"][2]}
it costs next to nothing | DeepSeek-V4, section 2.4 | V3's shapes {large:.2%} of the arithmetic; here {cost["Muon"] - 1:.0%} of the time | not at this size
""")

# %% [markdown]
# ## 12 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Vectors.** What would Muon make of a matrix with one row, say the gain of a norm?
#
# **B. How few?** How many steep iterations does it take from a singular value of 1e-4 (over the Frobenius norm) to 0.5? And
# how many settling ones would?
#
# **C. A vocabulary.** Why are embedding and head left out? Look at a gradient of the embedding: how many rows are zero?
#
# **D. Half the bits.** How far from one are the singular values if all products are bfloat16? Does more iterating help?
#
# Then solve [the exercises](../exercises/14_muon/14_muon.ipynb), and go on to [lesson 15](15_v4.ipynb): V4 as a whole.

# %% jupyter={"source_hidden": true}
vector = torch.randn(1, 1, 64, generator=draw)
made = orthogonalise(vector)[0]
assert_close(made, vector[0] / vector.norm(), atol=2e-3, rtol=0)
viz.answer(
    "A",
    f"A vector has one singular value, its length: Muon would divide by it and nothing more (length {made.norm():.4f}). That is "
    "gradient descent with normed steps, which ignores that some entries are always loud. So vectors stay with AdamW.",
)

# %% jupyter={"source_hidden": true}
counts_b = {}
for name, recipe in (("steep", STEEP), ("settling", SETTLE)):
    value, n = 1e-4, 0
    while value < 0.5:
        value, n = recipe[0] * value + recipe[1] * value**3 + recipe[2] * value**5, n + 1
    counts_b[name] = n
viz.answer(
    "B",
    f"{counts_b['steep']} steep ones, {counts_b['settling']} settling ones: small values grow by the slope at zero, 3.44 or 2, until they are no "
    "longer small. Eight steep iterations are chosen for values of about 1e-4.",
)

# %% jupyter={"source_hidden": true}
silent = (model.embed.weight.grad.abs().sum(1) == 0).float().mean().item()
assert silent > 0.1
viz.answer(
    "C",
    f"{silent:.0%} of the rows are zero, words that are not in the batch. Orthogonalising would make all directions equally long, also those "
    "of a few rare words, and its products would be over the vocabulary. Each row is a vector by itself, not part of a map.",
)

# %% jupyter={"source_hidden": true}
halved = torch.linalg.svdvals(orthogonalise(X[None].bfloat16())[0].double())
viz.answer(
    "D",
    f"Between {halved.min():.3f} and {halved.max():.3f}. More iterations do not help, each of them rounds again. For an "
    "update it is enough: the learning rate is not known to a percent either. V4 says so too (section 2.4).",
)
