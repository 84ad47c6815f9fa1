# %% [markdown]
# # 07 · V2: experts on eight machines, and texts four times as long
#
# DeepSeek-V2 (May 2024, arXiv 2405.04434) is DeepSeekMoE with the attention of lesson 06, made eleven times larger: 236
# billion parameters, 160 experts a layer. Experts no longer fit on one device, so where a token goes is now a matter of
# *traffic*. And at the end it learns to read 32 times as far as it was trained. This lesson is about these two.
#
# Afterwards you can
#
# - route a token to at most $M$ devices, and say what that costs;
# - write V2's three balance losses, and construct a case that only one of them sees;
# - drop tokens by capacity, and say why reading does not suffer;
# - stretch the rotations of a trained model with YaRN, and prove by retrieval that it reads four times as far.
#
# Runs in 1 minute on two CPU cores, without a network. Take an hour to read it. You need lessons 05 and 06.

# %%
import csv
import math
from collections import defaultdict
from dataclasses import replace

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, viz
from minideepseek.data import Loader, Recall, prepare
from minideepseek.layers.balance import load, max_violation
from minideepseek.train import prepare_cpu
from minideepseek.train.recall import found, teach

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: every token goes on a journey
#
# V2 spreads the experts of a layer over $D = 8$ devices. A token is sent to each device that holds one of its $K = 6$
# experts, worked on there, and sent back. In every layer, in both directions, forward and backward. What counts is not
# the number of experts but the number of *devices*. How many are there, if experts are chosen freely?
#
# With $N$ experts, a device is missed when all $K$ choices lie among the other $N - N/D$:
#
# $$\text{devices touched} = D \left(1 - \binom{N - N/D}{K} \Big/ \binom{N}{K}\right)$$


# %%
def touched(n_experts, k, devices):
    others = n_experts - n_experts // devices
    return devices * (1 - math.comb(others, k) / math.comb(n_experts, k))


v2, v3 = mds.generations["v2"].ffn[-1], mds.generations["v3"].ffn[-1]
print(f"V2, 6 of 160 on 8 devices: {touched(160, 6, 8):.2f}; V3, 8 of 256 on 8 nodes: {touched(256, 8, 8):.2f}")
draws = torch.rand(20_000, 160, generator=torch.Generator().manual_seed(0)).topk(6).indices // 20
drawn_touched = torch.zeros(20_000, 8).scatter_(1, draws, 1.0).sum(1).mean().item()
assert abs(drawn_touched - touched(160, 6, 8)) < 0.05
print(f"drawn at random 20,000 times: {drawn_touched:.2f}")

# %% [markdown]
# Four and a half journeys a token and layer. V2 allows three. What else it changes in the layer of experts, the spine
# says in full:

# %%
for name, value in vars(v2).items():
    print(f"{name:>10}: {value}")

# %% [markdown]
# (The scale of 16 is in the released configuration, not in the report. Six of 160 softmax weights sum to very little.)
#
# Our layer has V2's eight devices and six experts a token, and four experts a device instead of twenty: small enough to
# draw and to train.
#
# ## 2 · The idea in one picture
#
# **Device-limited routing** (section 2.2.1): a device is judged by its best expert. Only the three best devices take part;
# among *their* experts the best six are chosen. One token, its 32 affinities, eight devices side by side:

# %%
N, K, DEVICES, LIMIT = 32, 6, 8, 3
logits = torch.randn(1000, N, generator=torch.Generator().manual_seed(3)) * 1.2
scores = logits.softmax(-1)


def choose(scores, limit):  # (T, N) -> (T, K) experts, best first
    devices = scores.unflatten(-1, (DEVICES, -1))  # (T, D, N/D)
    best = devices.amax(-1).topk(limit).indices  # judged by their best expert
    allowed = torch.zeros(len(scores), DEVICES).scatter_(1, best, 1.0)
    return (devices * allowed[..., None]).flatten(1).topk(K).indices


# %%
def panel(token, chosen=None):
    shown = scores[token] if chosen is None else torch.zeros(N).index_copy(0, chosen, scores[token, chosen])
    return shown.view(DEVICES, -1).T


def picture(token=0, limit=3):
    free, limited = choose(scores, DEVICES)[token], choose(scores, limit)[token]
    used = [len(set((chosen // 4).tolist())) for chosen in (free, limited)]
    return viz.matrices(
        {"affinity of 32 experts": panel(token), f"best six: {used[0]} devices": panel(token, free),
         f"of the best {limit}: {used[1]} devices": panel(token, limited)},
        xlabel="device", ylabel="expert", title="A device is judged by its best expert, and only the best take part",
    )  # fmt: skip


viz.knob(picture, token=(0, 9), limit=(2, 8))

# %% [markdown]
# ## 3 · The idea in four lines, and what it costs
#
# `choose` above is the whole of it. The package's [`best_groups_only`](../minideepseek/layers/router.py) hides the
# others with $-\infty$ rather than zero: in V3 scores may turn negative.

# %%
for limit in (2, 3, 4, 8):
    router = layers.TopK(k=K, groups=layers.Groups(n=DEVICES, limit=limit))
    assert torch.equal(router.route(logits).experts, choose(scores, limit))
    assert (router.route(logits).experts // 4).sort(1).values.diff(dim=1).ne(0).sum(1).max() < limit
print("the same experts as the package, for every limit, and never more devices than allowed")

# %% [markdown]
# A limit means that sometimes a better expert stays at home. How much affinity is lost? With scores drawn at random, the
# worst case, because nothing has been learnt about devices:

# %%
limits = [2, 3, 4, 5, 6, 8]
kept = torch.zeros(5, len(limits))
for seed in range(5):
    drawn = (torch.randn(2000, N, generator=torch.Generator().manual_seed(seed)) * 1.2).softmax(-1)
    free = drawn.topk(K).values.sum()
    kept[seed] = torch.tensor([100 * drawn.gather(1, choose(drawn, limit)).sum() / free for limit in limits])
assert kept[:, 1].min() > 85
viz.curves(
    {"6 of 32 on 8 devices": kept}, x=limits, title=f"Three devices keep {kept[:, 1].mean():.0f} % of the affinity",
    xlabel="devices allowed, M", ylabel="affinity of the chosen,\n% of a free choice", marks={"V2": 3},
)  # fmt: skip

# %% [markdown]
# ### Trained: does the limit cost anything?
#
# The report says that from $M = 3$ on the limit does no harm (section 2.2.1). We trained half a mini of V2's kind with
# four limits, every arm of a seed on the same text, with the first two balance losses of section 4
# ([script](../benchmarks/training_v2.py), [table](../benchmarks/results/training_v2.csv)).

# %%
runs = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/training_v2.csv", newline="") as file:
    for row in csv.DictReader(file):
        for name in row.keys() - {"arm", "seed"}:
            runs[row["arm"]][name].append(float(row[name] or "nan"))
runs = {arm: {name: torch.tensor(values) for name, values in columns.items()} for arm, columns in runs.items()}


def paired(arm, other, name="valid_loss"):  # mean difference of the pairs, and two standard errors
    gap = runs[arm][name] - runs[other][name]
    return gap.mean().item(), 2 * gap.std().item() / len(gap) ** 0.5


def verdict(gap, noise):  # of a claim that says: less, or no more
    return "tie" if abs(gap) < noise else "shown" if gap < 0 else "contradicted"


# %%
cost = {arm: paired(arm, "any device") for arm in ("4 devices", "3 devices", "2 devices")}
for arm, (gap, noise) in cost.items():
    print(f"{arm}: touches {runs[arm]['touched'].mean():.2f}, loss {gap:+.3f} ± {noise:.3f} against any device")
print(f"any device: touches {runs['any device']['touched'].mean():.2f} (at random {touched(N, K, DEVICES):.2f})")
for arm, allowed in (("4 devices", 4), ("3 devices", 3), ("2 devices", 2)):
    assert runs[arm]["touched"].max() <= allowed
assert runs["any device"]["touched"].min() > 4

# %% [markdown]
# Even two devices cost less than the noise of our seeds, and they more than halve the traffic. Training adapts: experts that are
# needed together come to live together. At our size the limit is free; the report's finding at its size has three.
#
# ## 4 · Three balance losses
#
# A limit on what a token *sends* does not say what a device *receives*. V2 adds three losses of one form: a count, which
# carries no gradient, times a probability, which does. With $f_i$ the share of expert $i$'s work in the fair one, and $P_i$
# its mean affinity (lesson 05):
#
# $$\underbrace{\alpha_1 \sum_i f_i P_i}_{\text{experts}} \qquad
# \underbrace{\alpha_2 \sum_j \bar f_j \sum_{i \in j} P_i}_{\text{devices' work}} \qquad
# \underbrace{\alpha_3 \sum_j f''_j \sum_{i \in j} P_i}_{\text{devices' mail}}$$
#
# $\bar f_j$ is the mean of $f_i$ over device $j$; $f''_j = \frac{D}{MT} \cdot$ (tokens sent to $j$), where a token counts *once*,
# however many of its experts live there (eq. 23-31). In code, each a line, and equal to
# [balance.py](../minideepseek/layers/balance.py):


# %%
def three_losses(routing):  # (T, K) experts, (T, N) scores -> the sums, 1 when all is even
    T, P = len(routing.experts), routing.scores.mean(0)
    f = load(routing.experts, N) * N / (K * T)
    sent = torch.zeros(T, DEVICES).scatter_(1, routing.experts // 4, 1.0).sum(0)  # once a device
    per_device = P.view(DEVICES, -1).sum(1)
    mail = sent * DEVICES / (LIMIT * T)
    return torch.stack([(f * P).sum(), (f.view(DEVICES, -1).mean(1) * per_device).sum(), (mail * per_device).sum()])


settings = {"alpha": 1.0, "over": "batch"}
package = [
    layers.ExpertBalance(**settings), layers.DeviceBalance(**settings, devices=DEVICES),
    layers.CommunicationBalance(**settings, devices=DEVICES, limit=LIMIT),
]  # fmt: skip
routing = layers.TopK(k=K, groups=layers.Groups(n=DEVICES, limit=LIMIT)).route(logits)
assert_close(three_losses(routing), torch.stack([term.loss(routing, 1) for term in package]))
print("experts, work, mail:", [f"{term:.3f}" for term in three_losses(routing).tolist()])

# %% [markdown]
# The gradient on an expert's mean affinity is the count itself: who is busy is pushed down, in proportion. So what a loss
# *sees* is what its count tells apart:

# %%
affinity = torch.full((N,), 1 / N, requires_grad=True)
f = load(routing.experts, N) * N / (K * len(routing.experts))
(f * affinity).sum().backward()
assert_close(affinity.grad, f)
print(f"pushed down hardest: expert {affinity.grad.argmax()}, with {f.max():.2f} times its share of the work")

# %% [markdown]
# ### Why three? What each of them sees
#
# Three cases, made by hand: for each token, how many of its six experts lie on which device, taken in turn.
#
# - *Lazy experts*: every device does its share, but two of its four experts do all of it.
# - *Busy device*: device 0 takes part in everything.
# - *Split mail*: every expert and every device does exactly its share. But the tokens of device 0 want a single expert
#   there, those of other devices two or three: device 0 gets more letters for the same work.


# %%
def case(tokens, used=4):  # each token: device -> how many of its experts, taken in turn from the first `used`
    spent, rows = [0] * DEVICES, []
    for token in tokens:
        rows.append([4 * at + (spent[at] + i) % used for at, count in token.items() for i in range(count)])
        for at, count in token.items():
            spent[at] += count
    return torch.tensor(rows)


ring = [{d: 2, (d + 1) % 8: 2, (d + 2) % 8: 2} for d in range(8)] * 2
cases = {
    "even": case(ring),
    "lazy experts": case(ring, used=2),
    "busy device": case([{0: 2, 1 + i % 7: 2, 1 + (i + 3) % 7: 2} for i in range(14)]),
    "split mail": case([{0: 1, 1 + i // 4: 3, 4 + i // 3: 2} for i in range(12)] + [{4: 3, 5: 3}, {6: 3, 7: 3}] * 2),
}  # fmt: skip


# %%
def counts(experts):  # MaxVio of what the three losses count: experts' work, devices' work, devices' mail
    sent = torch.zeros(len(experts), DEVICES).scatter_(1, experts // 4, 1.0).sum(0)
    return [max_violation(c).item() for c in (load(experts, N), load(experts // 4, DEVICES), sent)]


seen = {name: [round(value, 2) for value in counts(experts)] for name, experts in cases.items()}
for name, (experts, work, mail) in seen.items():
    print(f"{name:>12}: unevenness of experts {experts:.2f}, of devices' work {work:.2f}, of their mail {mail:.2f}")
assert seen["even"] == [0, 0, 0]
assert seen["lazy experts"] == [1, 0, 0]  # only the first loss sees it
assert seen["split mail"][:2] == [0, 0]  # only the third
assert seen["split mail"][2] > 1

# %% [markdown]
# The first loss sees the busy device too, but spread thin: the second may be weighted much more ($\alpha_2 = 0.05$ against
# $\alpha_1 = 0.003$), because evening *devices* leaves experts free to specialise. That is the point of having it.
#
# ### Trained: what each loss evens
#
# The same small model with three devices allowed, without a loss, with the first, the first two, all three; the report's
# factors. Unevenness is measured on held-out text as MaxVio, 0 when even.

# %%
arms = {"none": "no loss", "experts": "expert loss", "experts, work": "3 devices", "all three": "all three"}
for label, arm in arms.items():
    uneven = ", ".join(f"{name} {runs[arm][name].mean():.2f}" for name in ("experts", "compute", "received"))
    loss, noise = paired(arm, "no loss")
    print(f"{label:>13}: uneven {uneven}; held-out loss {loss:+.3f} ± {noise:.3f}")
before, work = runs["no loss"]["compute"], runs["3 devices"]["compute"]
assert work.max() < 0.5 * before.min()
viz.bars(
    {f"losses: {label}": runs[arm]["compute"].mean().item() for label, arm in arms.items()}, digits=".2f",
    unit="MaxVio of the devices' work (0: even)", emphasis=["losses: experts, work"],
    title="The device loss evens the devices, the expert loss alone does less",
)  # fmt: skip

# %% [markdown]
# What the third loss adds on top is within the noise here: with work even and a limit of three, mail is nearly even too.
# And the held-out loss? All differences lie within their noise. Watch it happen, in 60 steps with and without:

# %%
from minideepseek.train import TrainConfig, train

data = prepare("stories", progress=False)
three = (
    layers.ExpertBalance(alpha=0.003), layers.DeviceBalance(alpha=0.05, devices=8),
    layers.CommunicationBalance(alpha=0.02, devices=8, limit=3),
)  # fmt: skip
router = layers.TopK(k=K, groups=layers.Groups(n=DEVICES, limit=LIMIT), scale=3.2)
mixture = layers.MoE(n_experts=N, n_shared=2, hidden=16, router=router)
attention = layers.MLA(n_heads=4, d_latent=24, d_rope=8, d_nope=16, d_value=16)
half = replace(mds.generations["v2-mini"], d_model=64, n_layers=2, attention=attention, ffn=mixture)
brief = TrainConfig(steps=60, batch_size=4, lr=8e-3, eval_every=0, dtype="fp32")
models = {
    name: train(replace(half, ffn=replace(mixture, balance=balance)), data, brief, progress=False).model
    for name, balance in (("no loss", ()), ("three losses", three))
}

# %%
text = next(Loader(data.valid, batch_size=16, seq_len=128, seed=0))
loads, devices = {}, {}
for name, model in models.items():
    model.train()  # counts its loads
    with torch.no_grad():
        model(text)
    counted = torch.stack([block.ffn.load for block in model.blocks]).double()
    loads[name] = counted / counted.mean(1, keepdim=True)
    devices[name] = [max_violation(layer.view(8, 4).sum(1)).item() for layer in counted]
    model.eval()
assert max(devices["three losses"]) < max(devices["no loss"])
viz.load_map(
    loads, title="After 60 steps: every four columns are a device", xlabel="expert", rows=["layer 1", "layer 2"]
)

# %% [markdown]
# ## 5 · Token dropping
#
# Losses persuade, they do not guarantee, and the slowest device sets the pace of all. So while training each device has
# a budget: its fair share of the work, capacity factor 1.0. What goes beyond it is **dropped**, lowest affinity first
# (section 2.2.4): that expert is skipped, the token lives on in the stream. Naively, beside
# [capacity.py](../minideepseek/layers/capacity.py):


# %%
def keep_within(routing, budget):
    keep = torch.ones(routing.experts.shape, dtype=torch.bool)
    affinity = routing.scores.gather(1, routing.experts)
    for device in range(DEVICES):
        here = (routing.experts // 4 == device).nonzero()  # (assignments, 2): token, and which of its six
        order = affinity[here[:, 0], here[:, 1]].argsort(descending=True, stable=True)
        dropped = here[order[budget:]]
        keep[dropped[:, 0], dropped[:, 1]] = False
    return keep


ids = torch.zeros(10, 100, dtype=torch.int64)  # ten sequences of a hundred tokens
package = layers.Capacity(devices=DEVICES, spared=0.0).keep(routing, ids)
assert torch.equal(package, keep_within(routing, budget=1000 * K // DEVICES))
print(f"{(~package).float().mean():.1%} of the assignments fall, with devices {counts(routing.experts)[1]:.0%} uneven")

# %% [markdown]
# How much falls is a matter of balance: all that lies above the fair share. We make devices more and more unequal:

# %%
strengths = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0]
fallen, uneven = torch.zeros(5, len(strengths)), torch.zeros(5, len(strengths))
for seed in range(5):
    draw = torch.Generator().manual_seed(seed)
    noise, favour = torch.randn(2000, N, generator=draw), torch.randn(DEVICES, generator=draw).repeat_interleave(4)
    for i, strength in enumerate(strengths):
        biased = layers.TopK(k=K, groups=layers.Groups(n=DEVICES, limit=LIMIT)).route(noise + strength * favour)
        keep = layers.Capacity(devices=DEVICES, spared=0.0).keep(biased, torch.zeros(20, 100, dtype=torch.int64))
        fallen[seed, i], uneven[seed, i] = 100 * (~keep).float().mean(), counts(biased.experts)[1]
assert (fallen[:, 0] < 5).all()
assert (fallen.diff(dim=1) > 0).all()
viz.curves(
    {"dropped": fallen}, x=uneven.mean(0), title="What falls is what lies above the fair share",
    xlabel="MaxVio of the devices' work, mean of 5 seeds", ylabel="dropped assignments (%)",
)  # fmt: skip

# %% [markdown]
# Reading must not depend on who else is in the batch, so nothing is dropped *outside* of training. Does the model miss
# what it learnt under dropping? V2 spares the tokens of a tenth of the sequences, so that it knows both. We ask the
# trained models both ways:

# %%
for arm in ("all three, dropping", "no loss, dropping"):
    found_here = runs[arm]
    both = found_here["valid_loss_dropping"] - found_here["valid_loss"]
    print(
        f"{arm}: {100 * found_here['dropped'].mean():.1f} % fall; dropping at reading changes the loss by {both.mean():+.4f}"
    )
    assert both.abs().max() < 0.01
dropped = paired("all three, dropping", "all three")
print(f"trained with dropping against without: {dropped[0]:+.3f} ± {dropped[1]:.3f} nats")
assert runs["all three, dropping"]["dropped"].mean() < runs["no loss, dropping"]["dropped"].mean()

# %% [markdown]
# What falls is what weighed least, one of six experts at the end of the list. Here it costs nothing that our seeds could
# tell. (A practical trap: in training mode a token's output depends on its batch. Call `model.eval()` before you compare
# logits.)
#
# ## 6 · Long texts: which rotations are in the way?
#
# V2 is trained on rows of 4,096 tokens, and shall read 128 K. Attention has no limit of its own; the rotary key has.
# Count how many full turns each pair of channels makes within a text (V2: $d_r = 64$, so 32 pairs, $\theta = 10{,}000$):

# %%
speeds = layers.RoPE().frequencies(64, torch.float64)
turns = {n: n * speeds / (2 * math.pi) for n in (4096, 131_072)}
never = int((turns[4096] < 1).sum())
viz.curves(
    {"in 4,096 tokens": turns[4096], "in 131,072 tokens": turns[131_072]}, x=range(32), log="y",
    title=f"{never} of 32 pairs never completed a turn while training", xlabel="pair of channels, fastest first",
    ylabel="full turns", levels={"one turn": 1.0, "β = 32 turns": 32.0},
)  # fmt: skip

# %% [markdown]
# A fast pair has been everywhere on its circle, many times; a longer text shows it nothing new. A slow pair has seen
# one arc of its circle and no more; in a longer text it meets angles for which no weight was ever trained. Slow pairs
# down by the factor of the length, and they stay on their arc. But slow *all* pairs down (**position interpolation**,
# Chen et al., arXiv 2306.15595), and neighbours, which the fast pairs tell apart, become blurred.
#
# **YaRN** (Peng et al., arXiv 2309.00071) does each what is right for it: pairs with more than $\beta = 32$ turns stay, pairs
# with less than $\alpha = 1$ are slowed by the whole factor $s$, a ramp blends between. In ten lines:


# %%
def yarn(speeds, dim, original, s, theta=10_000.0, alpha=1.0, beta=32.0):
    def pair_with(turns):  # the pair (a fraction) that turns so often in the original length
        return dim * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = max(math.floor(pair_with(beta)), 0), min(math.ceil(pair_with(alpha)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / (high - low)).clamp(0, 1)  # 0: stays, 1: slowed by s
    return speeds * (1 - ramp) + speeds / s * ramp, low, high


stretched, low, high = yarn(speeds, dim=64, original=4096, s=40)
package = layers.YaRN(factor=40, original_len=4096)
assert_close(stretched, layers.RoPE(yarn=package).frequencies(64, torch.float64))
assert (low, high) == (10, 23)
print(f"V2 and V3: pairs 0-{low} stay, {low + 1}-{high - 1} are blended, {high}-31 are slowed 40 times")

# %% [markdown]
# A second part of YaRN: over more keys a softmax is flatter. Scores are sharpened by $(0.1\,m \ln s + 1)^2$; V2 takes
# $m = 0.707$, V3 $m = 1$ (section 3.1.4; V3 report, section 4.3). In both, only the rotary half of MLA is touched: the content
# half has no positions.

# %%
sharper = {
    m: math.sqrt(layers.YaRN(factor=40, original_len=4096, mscale_all_dim=m).softmax_scale) for m in (0.707, 1.0)
}
assert [round(value, 4) for value in sharper.values()] == [1.2608, 1.3689]
print({f"m = {m}": f"{value:.4f} for query and key each, {value**2:.3f} for the score" for m, value in sharper.items()})


# %%
def speeds_of(s=40, beta=32, alpha=1):
    ways = {"as trained": speeds, "all slowed": speeds / s}
    ways["YaRN"] = yarn(speeds, dim=64, original=4096, s=s, alpha=alpha, beta=beta)[0]
    return viz.curves(
        {name: 4096 * s * values / (2 * math.pi) for name, values in ways.items()}, x=range(32), log="y",
        title=f"YaRN follows the old speeds where pairs are fast, the slowed ones where not (s = {s})",
        xlabel="pair of channels, fastest first", ylabel="turns in the long text", levels={"one turn": 1.0},
    )  # fmt: skip


viz.knob(speeds_of, s=[4, 8, 16, 32, 40], beta=(4, 64, 4), alpha=(1, 3))

# %% [markdown]
# ## 7 · Train short, read long
#
# The test is **planted recall** (lesson 06, section 7): twelve pairs of a key and a value hidden in noise, questions at
# the end. A model of two layers learns it on rows of 64 tokens and is asked in rows of 64 to 512. The base of its
# rotations is scaled with its length, $\theta = 156$, so that its slowest pair makes as small a part of a turn in 64 tokens
# as V2's in 4,096. We stretch by $s = 4$. Nothing is trained again.

# %%
SHORT, LONG = 64, 256
task = Recall()
plain = layers.RoPE(theta=10_000 * SHORT / 4096, layout="adjacent")
rope = {"as trained": plain, "YaRN": replace(plain, yarn=layers.YaRN(factor=LONG / SHORT, original_len=SHORT))}
finder = replace(
    half, ffn=layers.SwiGLU(hidden=128), vocab_size=task.vocab_size, max_seq_len=SHORT,
    attention=layers.MLA(n_heads=2, d_latent=48, d_rope=16, d_nope=16, d_value=32, rope=plain),
)  # fmt: skip
reader = mds.Transformer(finder, seed=0)
curve = teach(reader, task, length=SHORT, pairs=12)
print(f"200 steps: {curve[0]:.2f} nats an answer at first, {curve[-1]:.3f} at last; guessing costs {math.log(32):.2f}")


# %%
def turned(model, rope):  # the same weights, other rotations
    cfg = replace(model.cfg, attention=replace(model.cfg.attention, rope=rope))
    other = mds.Transformer(cfg)
    other.load_state_dict(model.state_dict())
    return other.eval()


def rows_of(length):
    return task.rows(64, length, pairs=12, questions=4, generator=torch.Generator().manual_seed(99))


live = {
    way: [100 * found(turned(reader, r), rows_of(n)).float().mean().item() for n in (SHORT, LONG)]
    for way, r in rope.items()
}
assert live["as trained"][0] > 95
assert live["as trained"][1] < 85
assert min(live["YaRN"]) > 95
print({way: f"{short:.0f} % found in {SHORT} tokens, {long:.0f} % in {LONG}" for way, (short, long) in live.items()})

# %% [markdown]
# The same weights. Nothing but eight numbers has changed, the speeds of the pairs, and a ninth, the sharpness of the
# scores. Five seeds, more lengths, and position interpolation for comparison ([script](../benchmarks/long_context.py),
# [table](../benchmarks/results/long_context.csv)):

# %%
asked = defaultdict(list)
with open("../benchmarks/results/long_context.csv", newline="") as file:
    for row in csv.DictReader(file):
        asked[row["way"], int(row["more_steps"]), int(row["length"]), int(row["seed"])].append(float(row["found"]))
lengths = sorted({key[2] for key in asked})
seeds = sorted({key[3] for key in asked})


def shares(way, more=0):  # (seeds, lengths) % found
    mean = [[100 * sum(asked[way, more, n, seed]) / 8 for n in lengths] for seed in seeds]
    return torch.tensor(mean)


# %%
ways = {way: shares(way) for way in ("as trained", "all slowed", "YaRN")}
at = lengths.index(LONG)
assert ways["as trained"][:, at].max() < 75
assert ways["YaRN"][:, [0, at]].min() > 99
assert ways["all slowed"][:, 0].max() < 75
viz.curves(
    ways, x=lengths, marks={" ": SHORT, "  ": LONG},
    xlabel=f"tokens in the row (dotted: taught {SHORT}, stretched to {LONG})",
    ylabel="questions answered (%)",
    title="YaRN reads four times as far as it was taught, and forgets nothing of the short rows",
)  # fmt: skip

# %% [markdown]
# Position interpolation has the opposite problem of doing nothing: it reads far, and fails where the model was *trained*,
# because the neighbours are blurred (lesson 06: the first layer must look exactly one back). Where in a row do answers
# get lost? By the place at which a pair was planted, in rows of 256 and 512:

# %%
depth = {
    f"{way}, {n} tokens": torch.tensor([asked[way, 0, n, seed] for seed in seeds]) * 100
    for way in ("as trained", "YaRN")
    for n in (256, 512)
}
viz.curves(
    depth, x=[6.25 + 12.5 * i for i in range(8)], title="Without YaRN what stands far back is lost",
    xlabel="where the pair stands in the haystack (%)", ylabel="questions answered (%)",
)  # fmt: skip

# %% [markdown]
# Beyond the length for which it was stretched, YaRN too begins to lose what stands first. And the paper's last step:
# V2 trains on for 1,000 steps on longer rows (section 3.1.4). We gave every way 40 more steps on rows of 256:

# %%
for way in ("as trained", "all slowed", "YaRN, no temperature", "YaRN"):
    then, now = shares(way)[:, at], shares(way, 40)[:, at]
    print(
        f"{way:>21}: {then.mean():5.1f} ± {2 * then.std():4.1f} % at once, {now.mean():5.1f} ± {2 * now.std():3.1f} % after 40 steps"
    )
trained_on = shares("as trained", 40)[:, at]
assert trained_on.min() > 90
gap = shares("YaRN")[:, at] - shares("YaRN, no temperature")[:, at]
assert gap.abs().max() < 2

# %% [markdown]
# Two honest findings. First, a model that may *train* on long rows hardly needs YaRN here: 40 steps repair the raw
# rotations almost as well. What YaRN buys is that no long training is needed, and that is what matters when a long
# step costs 32 times a short one's attention. Second, the temperature makes no difference at our size.
#
# ### Myth check: "MLA solved long context"
#
# MLA makes long texts *affordable*; it does not make them *readable*. The reader above has MLA, and was lost at four times
# its length. The rotary key is the only part with positions, so it is the only part that had to be repaired.
#
# ## 8 · The ledger

# %%
viz.ledger(f"""
free routing touches 4.46 of 8 devices | a calculation | {touched(160, 6, 8):.2f}, and {drawn_touched:.2f} of 20,000 draws | exact
three devices cost no quality | V2, section 2.2.1 | {cost["3 devices"][0]:+.3f} ± {cost["3 devices"][1]:.3f} nats, {len(work)} pairs | {verdict(*cost["3 devices"])}
two devices do | V2, section 2.2.1 | {cost["2 devices"][0]:+.3f} ± {cost["2 devices"][1]:.3f} nats | {verdict(-cost["2 devices"][0], cost["2 devices"][1])}
each loss sees what the others do not | V2, section 2.2.3 | lazy experts, split mail: counts of 1 and {seen["split mail"][2]:.1f} against 0 | exact
the device loss evens devices | V2, eq. 26-28 | MaxVio of work {before.mean():.2f} to {work.mean():.2f} | shown
the communication loss evens mail | V2, eq. 29-31 | {runs["3 devices"]["received"].mean():.2f} to {runs["all three"]["received"].mean():.2f} beside the other two | {verdict(*paired("all three", "3 devices", "received"))}
dropping does no harm | V2, section 2.2.4 | {dropped[0]:+.3f} ± {dropped[1]:.3f} nats, {100 * runs["all three, dropping"]["dropped"].mean():.0f} % dropped | {verdict(*dropped)}
YaRN's constants for V2: 10, 23, 1.2608 | V2, section 3.1.4 | recomputed | exact
raw rotations fail beyond the trained length | Peng et al., section 2 | {ways["as trained"][:, at].mean():.0f} % found at 4 times the length, 5 seeds | shown
YaRN reads four times as far | V2, section 3.1.4 | {ways["YaRN"][:, at].mean():.1f} %, without training on | shown
slowing all pairs blurs neighbours | Peng et al., section 3.2 | {ways["all slowed"][:, 0].mean():.0f} % at the trained length | shown
the temperature helps | Peng et al., section 3.4 | {gap.mean():+.1f} points | tie
""")

# %% [markdown]
# ## 9 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell. Then solve the exercises of this lesson.
#
# **A. V3's journeys.** V3 sends a token to at most four nodes, and inside a node to any number of GPUs. Why judge a node by
# its best *two* experts, where V2 took the best one? Guess which rule keeps more affinity for random scores, then count.
#
# **B. A planted bug.** A colleague hides experts of other devices with 0 instead of $-\infty$. In V2 nobody notices. What
# happens in a router with V3's bias, when a bias is $-0.9$?
#
# **C. A fair budget?** Losses have made the devices even to within 10 %. How much is dropped if one device has 10 % too
# much, one 10 % too little? And if all eight experts of one layer collapse onto one device?
#
# **D. Stretch further.** Which pairs of V2 would stay if the factor were 320 instead of 40 (a million tokens and more)?
#
# Then go on to lesson 08: balance without a loss.

# %% jupyter={"source_hidden": true}
drawn = torch.randn(4000, 256, generator=torch.Generator().manual_seed(0)).sigmoid()
sums = {}
for judged_by in (1, 2):
    chosen = layers.TopK(k=8, affinity="sigmoid", groups=layers.Groups(n=8, limit=4, judged_by=judged_by))
    picked = chosen.route(drawn.logit())
    sums[judged_by] = picked.weights.sum(1).mean().item()
free = drawn.topk(8).values.sum(1).mean().item()
assert abs(sums[1] - sums[2]) < 0.001 * free
viz.answer(
    "A",
    "Eight experts on four nodes are two a node, so one would think that a node is worth its best two. Counted: "
    f"{sums[1] / free:.2%} of the free choice judged by the best, {sums[2] / free:.2%} by the best two. For scores without any order "
    "it makes no difference; the report does not say what it brings.",
)

# %% jupyter={"source_hidden": true}
biased = torch.tensor([[0.5, 0.4, 0.7, 0.6]]) + torch.tensor([-0.9, -0.9, 0.0, 0.0])  # two devices of two experts
allowed = torch.tensor([[1.0, 1.0, 0.0, 0.0]])  # say the first device was chosen
wrong = (biased * allowed).topk(2).indices.tolist()[0]
right = biased.masked_fill(allowed == 0, -torch.inf).topk(2).indices.tolist()[0]
assert wrong == [2, 3]
assert right == [0, 1]
viz.answer(
    "B",
    f"With biases of -0.9 the allowed experts score -0.4 and -0.5, below the 0 of the hidden ones: experts {wrong} are chosen, on "
    f"the device that was to be hidden, instead of {right}. Softmax scores are positive, so V2 never meets it.",
)

# %% jupyter={"source_hidden": true}
work = torch.tensor([1.1, 0.9, 1, 1, 1, 1, 1, 1])
little, all_on_one = (work - 1).clamp(min=0).sum().item() / 8, 7 / 8
viz.answer(
    "C",
    f"{little:.2%} of all assignments: what lies above the budget, an eighth of a tenth. If everything goes to one device, "
    f"{all_on_one:.1%} fall: its budget is an eighth. Dropping is a safety net, not a balance.",
)

# %% jupyter={"source_hidden": true}
_, low_far, high_far = yarn(speeds, dim=64, original=4096, s=320)
assert (low_far, high_far) == (low, high)
viz.answer(
    "D",
    f"The same ones, 0 to {low}. Which pairs stay depends on how often they turned in the *original* length, not on how far one "
    "wants to go; the factor only says how much the slow ones are slowed. For another start, train on longer texts first.",
)
