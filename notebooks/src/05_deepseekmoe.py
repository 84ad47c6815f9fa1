# %% [markdown]
# # 05 · DeepSeekMoE
#
# V1 is *dense*: every token passes through every weight. A week after the V1 report DeepSeek published another kind of
# layer (Dai et al., arXiv 2401.06066): many small **experts**, of which a token uses a few. Every later DeepSeek is
# built on it. This lesson takes it apart.
#
# Afterwards you can
#
# - write a mixture of experts from nothing, and prove it right;
# - cut experts finer and set some aside for all tokens, without changing parameters or work;
# - say what these two ideas bring at our size, with seeds, and what they do not;
# - find out what the experts of a trained model specialise in, and what happens when the best ones are missing.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it.

# %%
import copy
import csv
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, viz
from minideepseek.data import prepare
from minideepseek.data.loader import validation_batches
from minideepseek.layers.probe import WithoutBest, recorded, routed
from minideepseek.train import TrainConfig, evaluate, prepare_cpu, train

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: who knows more, computes more
#
# What a model *knows* sits in its weights; most of them are in the feed-forward layers. In a dense model every token
# pays for all of them: who wants to know twice as much, computes twice as much, for every single comma.

# %%
dense_7b, moe_16b = mds.generations["v1-7b"], mds.generations["moe-16b"]
attention, ffn = dense_7b.layers[0]
inner, other = ffn.n_params(4096), attention.n_params(4096)
assert inner > 2 * other
print(f"V1-7B: {inner / (inner + other):.0%} of a block's weights are in the feed-forward layer")

# %% [markdown]
# A **mixture of experts** (Shazeer et al., arXiv 1701.06538) breaks the bond. It has $N$ feed-forward networks, and a
# **router** that sends each token to the best $K$ of them: it *knows* $N$ and *computes* $K$. DeepSeekMoE 16B:

# %%
bill = {name: mds.report(cfg) for name, cfg in (("V1-7B", dense_7b), ("DeepSeekMoE 16B", moe_16b))}
for name, found in bill.items():
    touched = found.activated["everything"] / 1e9
    print(f"{name:>16}: {found.parameters / 1e9:.1f}B parameters, {touched:.1f}B of them for each token")
assert bill["DeepSeekMoE 16B"].parameters > 2 * bill["V1-7B"].parameters

# %% [markdown]
# (How many are "activated" is a matter of counting: this is everything that a token touches, the tables of the
# vocabulary included. The papers of the family count in three ways; `mds.accounting.activated_table()` has them all.)
#
# ## 2 · The idea in one picture
#
# GShard (Lepikhin et al., arXiv 2006.16668) had shown how: a few experts, each as large as a usual layer, two for each
# token. DeepSeekMoE sees two faults in that (section 1). With few experts each one has to know many unlike things
# (*knowledge hybridity*). And what all tokens need, such as grammar, must be learnt by every expert again (*knowledge
# redundancy*). Two remedies:
#
# - **Fine-grained segmentation** (section 3.1): cut each expert into $m$, and use $m$ times as many.
# - **Shared experts** (section 3.2): set some of them aside for all tokens, so that the others need not repeat it.

# %%
cuts = {
    "0 + 8, uses 2": viz.Slices(routed=8, used=2),
    "0 + 32, uses 8": viz.Slices(routed=32, used=8),
    "1 + 31, uses 1 + 7": viz.Slices(routed=31, used=7, shared=1),
}
viz.expert_slices(cuts, title="The same parameters, the same work, many more choices")

# %% [markdown]
# All strips are equally long: equal parameters. The coloured parts are equally long: equal work. What explodes is the
# number of ways to combine experts. The paper's own example has 16 experts cut into 4 (section 3.1):

# %%
coarse_ways, fine_ways = math.comb(16, 2), math.comb(64, 8)
assert (coarse_ways, fine_ways) == (120, 4_426_165_368)
print(f"2 of 16: {coarse_ways} combinations; 8 of 64: {fine_ways:,}")

# %% [markdown]
# We name a layer by *shared + routed* experts, as the paper does.
#
# ### Myth check: "more experts, so a smaller share is active, so it costs less"
#
# A popular sentence about DeepSeekMoE. Cutting multiplies the experts there are *and* the experts in use by $m$. So:


# %%
def cut(m, shared=0):
    """Eight standard experts of which a token uses two, each cut into m; ``shared`` of the pieces for all tokens."""
    router = layers.TopK(k=2 * m - shared)
    even = layers.ExpertBalance(alpha=0.01, over="batch")
    return layers.MoE(n_experts=8 * m - shared, n_shared=shared, hidden=88 // m, router=router, balance=(even,))


for m in (1, 2, 4, 8):
    layer = cut(m)
    experts, used = layer.n_experts * 3 * 64 * layer.hidden, layer.router.k * 3 * 64 * layer.hidden
    assert (experts, used) == (135_168, 33_792)
    print(f"m = {m}: {used:,} of {experts:,} weights are used, {used / experts:.0%}; router {layer.n_experts * 64:,}")

# %% [markdown]
# The same share at any $m$. Only the router grows: a row for each expert. What costs less is *sparsity*, $K/N$, and
# that is GShard's.
#
# ## 3 · The idea in ten lines
#
# For a token $u$, with one learned vector $e_i$ for each routed expert (section 3.2, eq. 9 to 11):
#
# $$s_i = \mathrm{softmax}_i(u \cdot e_i), \qquad
# h = u + \sum_{\text{shared}} \mathrm{FFN}_j(u) + \sum_{i \,\in\, \text{top}\,K} s_i\, \mathrm{FFN}_i(u)$$
#
# The router is one matrix with the rows $e_i$. The softmax runs over all routed experts; only then are the best $K$
# picked.


# %%
def mixture(u, rows, gate_up, down, k):
    """u: (N, D), one token after the other: the routed part of the sum."""
    scores = (u @ rows.T).softmax(-1)  # (N, E): who fits?
    out = torch.zeros_like(u)
    for token, score in enumerate(scores):
        for expert in score.argsort(descending=True)[:k]:
            gate, up = (gate_up[expert] @ u[token]).chunk(2)
            out[token] += score[expert] * (down[expert] @ (F.silu(gate) * up))
    return out


# %% [markdown]
# Is that the package's layer ([moe.py](../minideepseek/layers/moe.py), [router.py](../minideepseek/layers/router.py))?
# Sixty tokens through a layer of 1 + 31, all outputs and all gradients:


# %%
def gradients(y, *leaves):
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


model = mds.Transformer(mds.generations["moe-mini"], seed=0).double().eval()
layer, u = model.blocks[1].ffn, torch.randn(2, 30, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
leaves = (layer.router.weight, layer.gate_up, layer.down)
by_hand = mixture(u.flatten(0, 1), *leaves, k=layer.cfg.router.k).view_as(u) + layer.shared(u, None)
for naive, fast in zip(gradients(by_hand, *leaves), gradients(layer(u, None), *leaves), strict=True):
    assert_close(naive, fast)
print("one token after the other, or sorted by expert: the same numbers")

# %% [markdown]
# The package never loops over tokens. It sorts them by expert, so that each expert multiplies all of its tokens at once
# ([experts.py](../minideepseek/ops/experts.py)). An expert that nobody chose costs nothing.
#
# How does a router *learn*? Choosing is not smooth, and gives no gradient. But the chosen experts' outputs are
# multiplied by $s_i$: if an expert helped, the gradient raises its score. An expert that was not chosen learns nothing
# from this token.

# %%
with recorded(model) as notes:
    model(torch.arange(64).view(1, 64))
routing = notes[0][0]
assert (routing.weights.sum(-1) < 1).all()  # not divided by their sum in this generation
loss = (routing.weights * torch.randn(routing.weights.shape, dtype=torch.float64)).sum()
felt = torch.autograd.grad(loss, model.blocks[1].ffn.router.weight)[0].norm(dim=-1)
print(
    f"weights of one token: {[round(w, 3) for w in routing.weights[0].tolist()]}, together {routing.weights[0].sum():.2f}"
)

# %% [markdown]
# Mind the size of these weights. Three of sixteen, in a router that knows nothing: each gets a sixteenth or a little
# more, together a quarter. This generation leaves them so (V3 will divide by the sum). A fine-grained mixture therefore
# starts out *quiet*: seven small weights on seven unlike vectors. The training has to turn it up.
#
# ### Equal work, counted
#
# Do not believe formulas about cost: let PyTorch count each multiplication of a forward pass.

# %%
from torch.utils.flop_counter import FlopCounterMode


def small(ffn):
    """Half a mini, as in lesson 03, with other feed-forward layers."""
    attention = layers.GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    return replace(mds.generations["v1-mini"], d_model=64, n_layers=2, attention=attention, ffn=ffn)


arms = {"dense": layers.SwiGLU(hidden=176), "0+8": cut(1), "1+7": cut(1, 1), "1+15": cut(2, 1), "1+31": cut(4, 1)}
arms |= {"0+32": cut(4), "dense x4": layers.SwiGLU(hidden=704)}

# %%
cost, x = {}, torch.randn(4, 128, 64, dtype=torch.float64)  # float64 takes the calls that are counted
for name, ffn in arms.items():
    layer = mds.Transformer(small(ffn), seed=0).blocks[0].ffn.double().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x, None)
    cost[name] = counter.get_total_flops() / 512
    print(f"{name:>8}: {ffn.n_params(64):>7,} weights, {cost[name]:>7,.0f} FLOPs a token")
assert max(cost[name] for name in list(arms)[:-1]) < 1.07 * cost["dense"]

# %% [markdown]
# The mixtures have four times the weights of the small dense layer and cost what it costs, but for the router. The
# large dense layer has as many weights as they have, and costs four times as much. The promise of a mixture: better
# than the first, at its price, and in the best case as good as the second.
#
# ## 4 · Why experts need a push
#
# Routers love their favourites: who is chosen learns, and who learns is chosen. DeepSeekMoE adds a loss that evens the
# load (section 3.3, eq. 12 to 14). With $f_i$ the share of the tokens that chose expert $i$, relative to a fair one,
# and $P_i$ the mean of its scores:
#
# $$\mathcal{L}_\text{exp} = \alpha \sum_i f_i P_i, \qquad f_i = \frac{N}{K\,T} \#\{t : t \text{ chose } i\}$$
#
# Perfectly even, this is $\alpha$. Counting has no gradient; the gradient flows through $P_i$ and pushes down the
# scores of those who were busy. Take one busy and one idle expert:

# %%
logits = torch.tensor([2.0, 0.0, 0.0, 0.0]).repeat(100, 1).requires_grad_()
decided = layers.TopK(k=1).route(logits)  # all hundred tokens go to expert 0
even = layers.ExpertBalance(alpha=0.01, over="batch").loss(decided, batch_size=1)
push = torch.autograd.grad(even, logits)[0].sum(0)
assert_close(even.item(), 0.01 * 4 * logits.softmax(-1)[0, 0].item())
assert push[0] > 0 > push[1]  # a step goes against the gradient
print(f"loss {even:.4f}, 0.01 if it were even; gradient on the busy one {push[0]:+.4f}, on an idle one {push[1]:+.4f}")

# %% [markdown]
# All mixtures of this lesson train with $\alpha = 0.01$, the paper's value at 2 billion parameters (section 4.1.3).
# What such a loss costs, and how V3 gets rid of it, is lesson 08.
#
# ## 5 · Train it: the ladder
#
# The paper's main experiment has 2 billion parameters and 100 billion tokens (table 1; loss on the Pile):
#
# | | dense | Hash | Switch | GShard, 0+16 | DeepSeekMoE, 1+63 | dense x16 |
# |---|---|---|---|---|---|---|
# | loss | 2.060 | 1.932 | 1.881 | 1.867 | **1.808** | 1.806 |
#
# Its ladder climbs from 0+16 over 1+15 and 1+31 to 1+63, and "most tasks" improve with each step (figure 3).
#
# Ours has half a million parameters, and stories that *tell facts*: a thousand of them, each again and again, since
# facts are what parameters are for. We trained every arm for 400 steps from several seeds
# ([script](../benchmarks/mixtures.py), [table](../benchmarks/results/mixtures.csv)). The arms of a seed read the same
# text in the same order, so they can be compared in pairs.

# %%
with open("../benchmarks/results/mixtures.csv", newline="") as file:
    rows = list(csv.DictReader(file))
runs = {name: [float(row["valid_loss"]) for row in rows if row["arm"] == name] for name in arms}
runs = {name: torch.tensor(found).view(-1, 5) for name, found in runs.items()}  # (seeds, looks)
for name, found in runs.items():
    print(f"{name:>8}: {found[:, -1].mean():.3f} ± {2 * found[:, -1].std():.3f}, {len(found)} seeds")


# %%
def gap(arm, base):
    """(mean, two sigma) of the differences in pairs of one seed; negative: ``arm`` is better."""
    pairs = runs[arm][:, -1] - runs[base][:, -1]
    return pairs.mean().item(), 2 * pairs.std().item()


steps = [("0+8", "dense"), ("1+7", "0+8"), ("1+15", "1+7"), ("1+31", "1+15"), ("0+32", "0+8"), ("1+31", "0+32")]
gaps = {pair: gap(*pair) for pair in [*steps, ("1+31", "0+8"), ("1+31", "dense"), ("1+31", "dense x4")]}
for (arm, base), (mean, band) in gaps.items():
    verdict = "a tie" if abs(mean) < band else "seen"
    print(f"{arm:>5} against {base:<8}: {mean:+.3f}, two sigma of a pair {band:.3f}: {verdict}")
assert all((runs[arm][:, -1] < runs["dense"][:, -1]).all() for arm in list(arms)[1:-1])

# %%
better = {arm: gap(arm, "dense") for arm in list(arms)[1:]}
lengths = {f"{arm}, ± {band:.3f}": -mean for arm, (mean, band) in better.items()}
viz.bars(
    lengths, emphasis=list(lengths)[-1:], unit="nats below the small dense model (± two sigma of a pair)", digits=".3f",
    title="Every mixture beats the dense model of its cost",
)  # fmt: skip

# %% [markdown]
# What do the seeds carry? Every mixture beats the dense model of its cost, for every seed. That is sparsity's gain, and
# GShard has it already. What DeepSeekMoE *adds*, finer pieces and a shared one, stays inside the band: each single rung
# of the ladder is a tie, and so is the whole of it. In the paper it is worth 0.06 nats, with a hundred thousand times
# the tokens; we cannot see it, and a course that claimed otherwise would be reading noise.
#
# And the upper bound? Our large dense model ends *above* the mixtures. That contradicts the paper's table only in
# appearance: 400 steps, at one learning rate for all, do not show what four times the work could do.
#
# ### One of them, live
#
# Now train the top of the ladder yourself, with a seed of your own. It must end where the stored runs end.

# %%
data = prepare("stories:facts=1000")
settings = TrainConfig(steps=400, lr=8e-3, seed=7, eval_every=80, eval_batches=16, checkpoint_every=0)
with viz.live_curve("1+31") as watch:
    run = train(small(arms["1+31"]), data, settings, on_step=watch)
fine, ours = run.model, run.curve("valid_loss")[1][-1]

# %%
theirs = runs["1+31"][:, -1]
assert abs(ours - theirs.mean()) < 0.08
print(f"ours {ours:.3f}; the stored runs {theirs.min():.3f} to {theirs.max():.3f}")

# %% [markdown]
# ## 6 · Who specialises in what?
#
# "One expert for mathematics, one for history": so it is often told. Look. We let our 1+31 read held-out text and note
# where each token goes.

# %%
texts = validation_batches(data.valid, batch_size=16, seq_len=128, n=8)
tokens = torch.cat([ids[:, :-1].flatten() for ids in texts])


@torch.no_grad()
def choices(model):
    """For each layer (N, E): 1 where a token of ``texts`` uses an expert."""
    with recorded(model) as notes:
        for ids in texts:
            model(ids[:, :-1])
    chosen = [torch.cat([routing.experts for routing in passes]) for passes in notes]
    return [torch.zeros(len(tokens), model.cfg.ffn.n_experts).scatter_(1, experts, 1.0) for experts in chosen]


# %%
untrained = mds.Transformer(fine.cfg, seed=7).eval()
used = {"untrained": choices(untrained), "trained": choices(fine)}
loads = [layer.mean(0) / layer.mean() for layer in used["trained"]]
assert max(load.max() for load in loads) < 2
print(
    f"{len(tokens):,} tokens; busiest expert {loads[0].max():.1f} and {loads[1].max():.1f} times a fair share, by layer"
)

# %% [markdown]
# The load is even; that was the loss's work. Now by kind of token. A rare Chinese character falls into several tokens
# (lesson 01), hence the fifth kind.


# %%
def kind(piece):
    if "\\x" in piece:
        return "part of a character"
    if any("\u4e00" <= letter <= "\u9fff" for letter in piece):
        return "Chinese"
    if piece.strip().isalpha():
        return "English, new word" if piece[0] == " " else "English, rest of a word"
    return "punctuation"


pieces = data.tokenizer.tokens(range(2048))
kinds = sorted({kind(piece) for piece in pieces})
kind_of = torch.tensor([kinds.index(kind(piece)) for piece in pieces])[tokens]
print({name: f"{(kind_of == i).float().mean():.0%}" for i, name in enumerate(kinds)})


# %%
def by_kind(chosen):
    """(N, E) -> (kinds, E): how often tokens of a kind use an expert, over the fair share; favourites side by side."""
    table = torch.stack([chosen[kind_of == i].mean(0) for i in range(len(kinds))]) / chosen.mean()
    return table[:, table.argmax(0).argsort(stable=True)]


table = {f"{name}, layer 2": by_kind(found[1]) for name, found in used.items()}
viz.load_map(
    table, rows=kinds, xlabel="expert (sorted by favourite kind)",
    title="Experts prefer kinds of tokens, and some do before they have learnt anything",
)  # fmt: skip


# %%
def preference(chosen):
    """Mean over kinds of the total variation distance from using all experts alike: 0 none, nearly 1 one expert each."""
    return (by_kind(chosen) - 1).abs().mean().item() / 2


for name, found in used.items():
    print(f"{name:>9}: layer 1 {preference(found[0]):.2f}, layer 2 {preference(found[1]):.2f}")
assert preference(used["trained"][1]) > 1.2 * preference(used["untrained"][1])

# %% [markdown]
# Look at the *control*, the left panel: a router of random numbers prefers kinds, too. Why? Two occurrences of `the`
# look much alike on entering a layer, so any router sends them to the same experts. A map like the right one, without
# the left one beside it, proves nothing. How much does the token alone decide? Take two tokens and count the experts
# they share:


# %%
def common(chosen, first, second):
    """Of the K experts of a token here and a token there: the share that is the same, on average over the text."""
    a, b = chosen[tokens == first].mean(0), chosen[tokens == second].mean(0)
    return (a * b).sum().item() / chosen[0].sum().item()


frequent = tokens.bincount(minlength=2048).argsort(descending=True)[:60].tolist()
others = frequent[7:] + frequent[:7]
overlap = {}
for name, found in used.items():
    same = [sum(common(chosen, t, t) for t in frequent) / 60 for chosen in found]
    apart = [sum(common(chosen, t, o) for t, o in zip(frequent, others, strict=True)) / 60 for chosen in found]
    overlap[name] = same
    print(f"{name:>9}, the same token twice: {same[0]:.0%}, {same[1]:.0%}; two tokens: {apart[0]:.0%}, {apart[1]:.0%}")

# %%
assert min(overlap["untrained"]) > 0.8
assert overlap["trained"][0] > overlap["trained"][1] + 0.1
assert overlap["trained"][1] < overlap["untrained"][1] - 0.2
words = {piece: i for i, piece in enumerate(pieces)}
for english, chinese in ((" and", "和"), (" said", "说"), (" not", "不"), (" you", "你"), (" he", "他"), (".", "。")):
    share = common(used["trained"][1], words[english], words[chinese])
    assert share < 0.45
    print(f"{english.strip():>5} and {chinese}: {share:.0%} of their experts in layer 2; chance {7 / 31:.0%}")

# %% [markdown]
# So the story runs the other way round than it is told. Before training the *token* decides almost everything. Training
# loosens that: in layer 2 the same token shares only about half of its experts with itself elsewhere, for by then the
# stream holds what stands around it. Nor do translations meet: in this model the experts know no *meaning* that English
# and Chinese would share. Experts of topics may exist in large models; here there are experts of kinds of tokens and of
# contexts, and the map says no more.
#
# ## 7 · What if the best are missing?
#
# A specialist cannot be replaced. The paper's test (section 4.5, figure 4): take away each token's best experts, let it
# use the next ones, and see how much the loss rises. If experts are redundant, it hardly matters. Turn the knob: how
# many of the 31 may a token not have? The model goes on writing with the rest.

# %%
prompt = torch.tensor([data.tokenizer.encode("One windy day Anna and Sam were playing in the")])


@torch.no_grad()
def without_best(banned=2):
    with routed(fine, lambda cfg: WithoutBest.of(cfg, banned=banned)):
        written = mds.generate(fine, prompt, max_new_tokens=40, temperature=0.0)[0].tolist()
        loss = fine.loss(texts[0]).lm
    note = f"{banned} of 31 experts missing for each token: {loss:.2f} nats"
    return viz.cuts({"it writes": data.tokenizer.tokens(written)}, note=note)


viz.knob(without_best, banned=(0, 24, 1))

# %% [markdown]
# Against GShard's layer: shares of all experts are missing, an eighth of 8 is one, an eighth of 31 is four. Stored runs
# of all seeds, probed when they were trained ([table](../benchmarks/results/mixtures_probes.csv)).

# %%
with open("../benchmarks/results/mixtures_probes.csv", newline="") as file:
    probes = list(csv.DictReader(file))


def probed(arm, probe, value):
    found = [row for row in probes if (row["arm"], row["probe"], row["value"]) == (arm, probe, str(value))]
    return torch.tensor([float(row["valid_loss"]) for row in found])


shares = (4, 8, 16)  # thirty-seconds
risen = {
    arm: torch.stack([probed(arm, "without the best, of 32", n) - runs[arm][:, -1] for n in shares], dim=1)
    for arm in ("0+8", "0+32", "1+31")
}
for arm, found in risen.items():
    print(arm, [f"{mean:+.2f} ± {2 * std:.2f}" for mean, std in zip(found.mean(0), found.std(0), strict=True)])

# %%
viz.curves(
    {arm: torch.cat([torch.zeros(len(found), 1), found], dim=1) for arm, found in risen.items()},
    x=[0, 12.5, 25, 50], xlabel="share of the experts, the best for each token, that is missing (%)",
    ylabel="rise of the loss (nats)",
    title="Without its best experts a mixture is lost; a shared expert breaks the fall",
)  # fmt: skip

# %% [markdown]
# The paper finds DeepSeekMoE *more* sensitive than GShard, hence its experts less replaceable. Compare what can be
# compared. Cutting alone (0+32 against 0+8): yes, when an eighth is missing. With the shared expert (1+31) the rise can
# hardly be told from GShard's at an eighth and a quarter, and at half it is far smaller: what all tokens need is still
# there. At our size the shared expert is a cushion, and the test mixes two things that pull in opposite directions.
#
# ### Fewer experts, afterwards
#
# The same probe the other way: trained with seven routed experts for each token, run with fewer. The paper needs four
# of seven to be as good as GShard (figure 5).

# %%
fewer = torch.stack([probed("1+31", "fewer used", k) for k in range(1, 7)] + [runs["1+31"][:, -1]], dim=1)
viz.curves(
    {"1+31": fewer}, x=range(1, 8), xlabel="routed experts in use, of 7 it was trained with", ylabel="loss on held-out text (nats)",
    levels={"GShard, 0+8, with all its work": runs["0+8"][:, -1].mean().item()},
    title="The last experts of each token add little",
)  # fmt: skip

# %%
behind = fewer - runs["0+8"][:, -1:]  # (seeds, k)
enough = next(k for k in range(1, 8) if behind[:, k - 1].mean() < 2 * behind[:, k - 1].std())
assert enough <= 5
print(f"with {enough} of 7 the difference to GShard is inside the band: {(1 + enough) / 8:.0%} of its expert work")

# %% [markdown]
# ### And the shared one?
#
# Remove the shared expert and let each token use one more routed expert instead: the same work. The paper's loss rises
# from 1.808 to 2.414 (section 4.5).

# %%
swap = probed("1+31", "a routed one for the shared", 1) - runs["1+31"][:, -1]
orphan = copy.deepcopy(fine)
for block in orphan.blocks:
    block.ffn.shared = None
with routed(orphan, lambda cfg: replace(cfg, k=8)):
    here = evaluate(orphan, data, batches=16).loss - ours
assert min(swap.min().item(), here) > 0.05
print(f"stored {swap.mean():+.3f} ± {2 * swap.std():.3f}, ours just now {here:+.3f}: one of 32 experts, used by all")

# %% [markdown]
# What all tokens need sits in the shared expert, and nowhere else: that much of the argument can be seen at any size.
#
# ## 8 · Sixteen billion
#
# What does it buy at scale? DeepSeekMoE 16B against V1-7B, on the same data (table 3): about as good overall,
# weaker where questions are multiple choice, which the authors put down to less attention (16 heads of width 2,048 in
# all). The bill, by the paper's own count of FLOPs for 4,096 tokens:

# %%
from minideepseek.accounting import claims

for claim in (claim for claim in claims("moe-16b") if claim.unit != "B"):
    print(f"{claim.what}: printed {claim.printed}, found {claim.found:.4g} {claim.unit}")
viz.shares(
    {name: {"in use for a token": found.activated["everything"] / 1e9,
            "idle": (found.parameters - found.activated["everything"]) / 1e9} for name, found in bill.items()},
    unit="billion parameters", title="A dense model uses all it has; the 16B rests five sixths of it", digits=".1f",
)  # fmt: skip

# %% [markdown]
# Forty percent of the work, two and a half times the weights: experts buy knowledge with memory. All 16 billion must
# lie ready, though a token asks for a sixth of them.
#
# ## 9 · The ledger

# %%
eighth = (risen["0+32"] - risen["0+8"])[:, 0]
quarter, half = (risen["1+31"] - risen["0+8"])[:, 1:].T
assert half.mean() < -2 * half.std()
kept = overlap["trained"][1]


def told(arm, base):
    mean, band = gaps[arm, base]
    return f"{mean:+.3f} nats, two sigma {band:.3f}, {len(runs[arm])} pairs | {'shown' if mean < -band else 'tie'}"


def side(found):
    return "tie" if found.mean().abs() < 2 * found.std() else "shown" if found.mean() > 0 else "contradicted"


# %%
viz.ledger(f"""
ten lines are the package's layer | DeepSeekMoE, eq. 9-11 | outputs and gradients agree | exact
cutting experts costs nothing but rows of the router | DeepSeekMoE, section 3.1 | weights equal, FLOPs {cost["1+31"] / cost["0+8"] - 1:+.1%} | exact
a mixture beats the dense model of its cost | DeepSeekMoE, table 1 | {told("1+31", "dense")}
finer experts and a shared one beat GShard | DeepSeekMoE, table 1 and figure 3 | {told("1+31", "0+8")}
cutting alone helps | DeepSeekMoE, figure 3 | {told("0+32", "0+8")}
a mixture nearly reaches the dense model of its size | DeepSeekMoE, table 2 | better by {-gaps["1+31", "dense x4"][0]:.3f}: too few steps for the dense one | not at this size
fine experts are harder to replace | DeepSeekMoE, figure 4 | an eighth missing, 0+32 less 0+8: {eighth.mean():+.2f} ± {2 * eighth.std():.2f} | {side(eighth)}
so DeepSeekMoE suffers more than GShard | DeepSeekMoE, figure 4 | a quarter missing, 1+31 less 0+8: {quarter.mean():+.2f} ± {2 * quarter.std():.2f}; half missing {half.mean():+.2f} ± {2 * half.std():.2f} | {side(quarter)}
four of seven routed experts are as good as GShard | DeepSeekMoE, figure 5 | {enough} of 7 are inside the band | shown
the shared expert has no substitute | DeepSeekMoE, section 4.5 | {swap.mean():+.2f} ± {2 * swap.std():.2f} nats without it | shown
each expert has its subject | told everywhere | kinds of tokens; same token, same experts: {kept:.0%}, untrained {overlap["untrained"][1]:.0%} | not tested
the 16B needs 40.5 % of the 7B's compute | DeepSeekMoE, table 3 | see section 8 | exact
the 16B is as good as the 7B | DeepSeekMoE, table 3 | | not tested
""")

# %% [markdown]
# ## 10 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Finer still.** V3 picks 8 of 256 experts in each of 58 layers, the 16B 6 of 64. How many decimal digits has the
# number of choices in *one* layer, for both?
#
# **B. A router that cannot learn.** A colleague uses one expert for each token and divides the weights by their sum,
# "as V3 does". His router never changes. Why?
#
# **C. Many readers.** The 16B answers one user and reads, for each new token, a sixth of its weights. It answers 64
# users at once, each with a token in every pass. How many of the 64 routed experts of a layer does a pass read now, if
# choices were random?
#
# **D. The lonely expert.** No token of a batch chose expert 5. Which of its weights get a gradient: its matrices, its
# row of the router, both, none?
#
# Then solve [the exercises](../exercises/05_deepseekmoe/05_deepseekmoe.ipynb); lesson 08 comes back to the load.

# %% jupyter={"source_hidden": true}
ways = {name: math.comb(n, k) for name, (n, k) in {"V3": (256, 8), "the 16B": (64, 6)}.items()}
viz.answer("A", "; ".join(f"{name}: {count:,}, {len(str(count))} digits" for name, count in ways.items()) + ".")

# %% jupyter={"source_hidden": true}
slopes = {}
for k, normalise in ((1, True), (1, False), (2, True)):
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = layers.TopK(k=k, normalise=normalise).route(logits).weights
    worth = torch.arange(1.0, 51.0)[:, None] * torch.tensor([1.0, -1.0])[:k]  # what each expert's answer is good for
    slopes[k, normalise] = torch.autograd.grad((weights * worth).sum(), logits)[0].abs().max().item()
assert slopes[1, True] < 1e-5 < slopes[1, False]
viz.answer(
    "B",
    f"One weight divided by its sum is 1, whatever the scores: its gradient is {slopes[1, True]:.0e}. Left as it is, {slopes[1, False]:.1f}; "
    f"with two experts there is something to divide between them, {slopes[2, True]:.1f}. V3 uses eight.",
)

# %% jupyter={"source_hidden": true}
awake = 64 * (1 - (1 - 6 / 64) ** 64)
drawn = torch.rand(200, 64, 64, generator=torch.Generator().manual_seed(0)).topk(6).indices  # (passes, users, 6)
found = sum(len(drawn_once.unique()) for drawn_once in drawn) / 200
assert abs(found - awake) < 0.2
viz.answer(
    "C",
    f"{awake:.1f} by the formula, {found:.1f} by drawing: all of them. A mixture saves arithmetic for every user, but reading "
    "weights only for one. That is why it is served to many at once, with its experts on many GPUs.",
)

# %% jupyter={"source_hidden": true}
layer = mds.Transformer(small(arms["1+31"]), seed=0).blocks[0].ffn.eval()
with recorded(layer) as notes:  # three tokens can choose 21 of the 31 at most
    layer(torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0)), None).square().sum().backward()
lonely = min(set(range(31)) - set(notes[0][0].experts.flatten().tolist()))
inside, row = layer.gate_up.grad[lonely].abs().max().item(), layer.router.weight.grad[lonely].norm().item()
assert inside == 0.0 < row
viz.answer(
    "D",
    f"Its matrices get {inside:.0f}: they computed nothing. Its row of the router gets a gradient of length {row:.3f}, for the softmax "
    "divides by the sum over *all* experts: raising its score lowers those that were used. With V3's sigmoid it would get none.",
)
