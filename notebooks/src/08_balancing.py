# %% [markdown]
# # 08 · Balancing without a loss
#
# Experts save work only if they share it. Left alone, a router overworks its favourites; DeepSeekMoE and V2 added
# losses against that (lessons 05 and 07). A loss, however, has a gradient, and that gradient wants something else than
# to predict text. Wang et al. (arXiv 2408.15664) found a way without: a thermostat. V3 is built on it.
#
# Afterwards you can
#
# - measure how uneven a load is, and say what that costs;
# - write V3's router and its correction in ten lines, and prove them right;
# - compare nothing, a loss and a correction: load, MaxVio, loss, with seeds;
# - explain what the correction must never touch, whose load it may look at, and why experts may not choose their tokens.
#
# Runs in 2 minutes on two CPU cores, without a network. Take 45 minutes to read it.

# %%
import csv
import math
from dataclasses import replace

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, viz
from minideepseek.data import prepare
from minideepseek.data.loader import validation_batches
from minideepseek.layers.balance import load, load_variation, max_violation
from minideepseek.layers.probe import counted, recorded
from minideepseek.train import TrainConfig, evaluate, prepare_cpu, train

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: everybody waits for the busiest
#
# The experts of a layer sit on different GPUs and work at the same time. The layer is done when the *last* of them is.
# The measure for that is the **maximal violation** (Wang et al., section 4.1): how far the largest load exceeds the
# mean.
#
# $$\mathrm{MaxVio} = \frac{\max_i \mathrm{load}_i - \overline{\mathrm{load}}}{\overline{\mathrm{load}}}$$

# %%
examples = {"even": [50, 50, 50, 50], "one favourite": [110, 30, 30, 30], "one idle": [66, 66, 66, 2]}
for name, counts in examples.items():
    counts = torch.tensor(counts)
    violation, variation = max_violation(counts).item(), load_variation(counts).item()
    assert math.isclose(counts.max() / counts.double().mean(), 1 + violation)
    print(
        f"{name:>13}: MaxVio {violation:.2f}, so the layer takes {1 + violation:.2f} times as long; variation {variation:.2f}"
    )

# %% [markdown]
# An idle expert wastes a GPU, a busy one delays all of them: MaxVio looks at the second. The *variation* (standard
# deviation over mean) looks at both. How uneven does a router become if nobody interferes? Our model: half of
# `v3-mini`, with 16 routed experts, of which a token uses three, and a shared one; V3's sigmoid scores, weights divided
# by their sum.


# %%
def half(**changes):
    """Half of v3-mini, without groups and drafts; ``changes`` go into its mixture."""
    router = layers.TopK(k=3, affinity="sigmoid", normalise=True, bias="loss_free" in changes)
    ffn = layers.MoE(n_experts=16, n_shared=1, hidden=44, router=router, **changes)
    attention = layers.GQA(n_heads=4, n_kv_heads=2, head_dim=16)
    return replace(mds.generations["v1-mini"], d_model=64, n_layers=2, attention=attention, ffn=ffn)


data = prepare("stories:facts=1000")
triplet = {
    "nothing": half(),
    "a loss": half(balance=(layers.ExpertBalance(alpha=0.01, share=True),)),
    "a correction": half(loss_free=layers.LossFree(speed=0.01)),
}


# %%
def watched(cfg):
    """Train for 160 steps: the model, and the loads of every step over the fair one, (layers, steps, E)."""
    model = mds.Transformer(cfg, seed=7)
    settings = TrainConfig(steps=160, lr=8e-3, seed=7, eval_every=0, checkpoint_every=0, dtype="fp32")
    with counted(model) as notes:
        train(model, data, settings)
    loads = torch.stack([torch.stack(passes) for passes in notes]).double()
    return model, loads / loads.mean(-1, keepdim=True)


alone, loads = watched(triplet["nothing"])
busiest = loads.max(-1).values[:, -40:].mean(-1)  # of each layer, in the last 40 steps
assert busiest.max() > 1.4
print(f"the busiest expert does {busiest[0]:.1f} and {busiest[1]:.1f} times its share, by layer")

# %%
steps = range(1, 161)
viz.load_map(
    {f"layer {i}": found.T for i, found in enumerate(loads, 1)}, columns=steps, xlabel="step", ylabel="expert",
    title="Left alone, some experts stay busy and others idle", height=4.4,
)  # fmt: skip

# %% [markdown]
# Not a catastrophe: a small model on stories is patient, and a shared expert takes what all need. On a thousand GPUs it
# would still be the most expensive line of the bill.
#
# ## 2 · The idea in one picture
#
# Give each expert a number $b_i$, and add it to the scores *when experts are chosen*. After each step look at the
# loads: who was busy gets a little less, who was idle a little more. A thermostat for each expert (Wang et al.,
# algorithm 1; DeepSeek-V3, section 2.1.2):
#
# $$b_i \leftarrow b_i + \gamma\;\mathrm{sign}(\overline{\mathrm{load}} - \mathrm{load}_i)$$
#
# Try it on the router that we have just trained, without training it any further. We take its scores for a lot of text,
# and let only $b$ move.

# %%
text = validation_batches(data.valid, batch_size=16, seq_len=128, n=16)
with torch.no_grad(), recorded(alone) as notes:
    for ids in text:
        alone(ids[:, :-1])
scores = [torch.cat([routing.scores for routing in passes]) for passes in notes]  # of each layer (N, E)
uneven = scores[busiest.argmax()]


def thermostat(gamma, steps=300):
    """Loads over the fair one while only the corrections move: (steps, E)."""
    b, found, draw = torch.zeros(16), [], torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = uneven[torch.randint(len(uneven), (2048,), generator=draw)]
        counts = load((batch + b).topk(3).indices, 16).float()
        b += gamma * (counts.mean() - counts).sign()
        found.append(counts / counts.mean())
    return torch.stack(found)


# %%
still, moving = thermostat(0.0), thermostat(0.002)
assert moving[-50:].max(-1).values.mean() < 1.3 < still[-50:].max(-1).values.mean()
viz.load_map(
    {"b = 0": still.T, "b corrected, γ = 0.002": moving.T}, columns=range(1, 301), xlabel="step", ylabel="expert",
    title="The same scores: a correction for each expert evens the load", height=4.4,
)  # fmt: skip

# %% [markdown]
# The whole design is in the word *choose*. The correction moves who is chosen, never how much a chosen expert counts.
# So no output is bent towards an expert that happens to be idle, and no gradient tells the router to lie about its
# scores.
#
# ### How fast?
#
# Turn the knob. The correction must bridge the gap between the scores of favourites and of the idle: that takes about
# gap / $\gamma$ steps. And it never rests: at the goal it jumps by $\gamma$ to and fro.


# %%
def speeds(gamma=0.002):
    found = thermostat(gamma).max(-1).values - 1
    arrived = next((i for i, violation in enumerate(found.tolist()) if violation < 0.2), None)
    news = "not in 300 steps" if arrived is None else f"after {arrived} steps"
    return viz.curves(
        {f"γ = {gamma}": found}, x=range(1, 301), xlabel="step", ylabel="MaxVio", levels={"0.2": 0.2},
        title=f"Below 0.2 {news}; in the end {found[-100:].mean():.2f}",
    )  # fmt: skip


viz.knob(speeds, gamma=[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1])

# %%
end = {gamma: (thermostat(gamma).max(-1).values[-100:] - 1).mean().item() for gamma in (0.0002, 0.002, 0.1)}
assert end[0.002] < min(end[0.0002], end[0.1])
print({gamma: f"{violation:.2f}" for gamma, violation in end.items()}, "too slow, good, and jumping")

# %% [markdown]
# V3 takes $\gamma = 0.001$ for 14.3 of its 14.8 trillion tokens, and 0 for the rest (section 4.2): then the corrections
# rest, and so does the jitter. Wang et al. find the same trade (section 4.3, figure 4): 0.0001 starts slowly, 0.01
# jitters.
#
# ## 3 · The idea in ten lines
#
# V3's router (report, eq. 12 to 16): a sigmoid for each expert by itself, the choice by $s_i + b_i$, the weights from
# $s_i$ alone, divided by their sum.


# %%
def route(logits, b, k):
    s = logits.sigmoid()
    experts = (s + b).topk(k).indices
    weights = s.gather(1, experts)
    return experts, weights / weights.sum(-1, keepdim=True)


def correct(b, experts, gamma):
    counts = torch.bincount(experts.flatten(), minlength=len(b)).float()
    return b + gamma * (counts.mean() - counts).sign()


# %%
draw = torch.Generator().manual_seed(0)
logits, b = torch.randn(500, 16, generator=draw), 0.3 * torch.randn(16, generator=draw)
cfg = layers.TopK(k=3, affinity="sigmoid", normalise=True, bias=True)
experts, weights = route(logits, b, k=3)
packaged, moved = cfg.route(logits, b), b.clone()
layers.LossFree(speed=0.01).correct(moved, load(packaged.experts, 16), progress=0.5)
assert torch.equal(experts, packaged.experts)
assert_close(weights, packaged.weights)
assert_close(correct(b, experts, 0.01), moved)
print("our router and our correction are the package's")

# %% [markdown]
# ([router.py](../minideepseek/layers/router.py), [balance.py](../minideepseek/layers/balance.py).) Three laws follow
# from the form, and a test of the package holds them for ever:

# %%
everything = cfg.route(logits, b + 5.0)  # 1. the same number for all changes nothing
assert torch.equal(everything.experts, packaged.experts)
plain = cfg.route(logits, torch.zeros(16))
same = (plain.experts.sort(-1).values == packaged.experts.sort(-1).values).all(-1)
assert_close(
    plain.weights[same].sort(-1).values, packaged.weights[same].sort(-1).values
)  # 2. same choice, same weights
leaf = b.clone().requires_grad_()
assert not cfg.route(logits, leaf).weights.requires_grad  # 3. no gradient reaches b
print(f"b changed the choice of {1 - same.float().mean():.0%} of the tokens, and no weight of the others")

# %% [markdown]
# ### Myth check: "adjusted by hand, and added to the gate value"
#
# Two slips in one popular sentence about V3. Nobody adjusts anything by hand: the rule runs after each step. And added
# to the gate value, the correction would do damage. How much would the output's weights change?

# %%
bent = (logits.sigmoid() + b).gather(1, packaged.experts)
bent = bent / bent.sum(-1, keepdim=True)
wrong = (bent - packaged.weights).abs().sum(-1).mean() / 2
assert wrong > 0.02
print(f"with b in the weights too, {wrong:.0%} of the weight would move to other experts, for reasons of traffic")

# %% [markdown]
# ## 4 · What a loss does to the gradient
#
# The balance loss (lesson 05) for V3's sigmoids: shares of choices times mean shares of scores, per sequence (report,
# eq. 17 to 20). It is part of the objective, so its gradient is added to that of the text. To the router, and through
# the router's input to everything below. How large is it there, and does it at least point the same way?

# %%
torn = mds.Transformer(triplet["a loss"], seed=7)
torn.load_state_dict(alone.state_dict())
losses = dict(torn.train().loss(text[0]))
assert set(losses) == {"lm", "balance"}


def pull(part, loss):
    """The gradient of a loss on the weights whose names contain ``part``, as one vector."""
    weights = [w for name, w in torn.named_parameters() if part in name]
    found = torch.autograd.grad(losses[loss], weights, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


# %%
strength = {}
for name, part in (("both routers", "router"), ("attention of layer 1", "blocks.0.attention"), ("embedding", "embed")):
    by_text, by_balance = pull(part, "lm"), pull(part, "balance")
    strength[name] = (by_balance.norm() / by_text.norm()).item()
    angle = torch.cosine_similarity(by_text, by_balance, dim=0)
    print(f"{name:>20}: balance / text {strength[name]:.3f} at α = 0.01, cosine {angle:+.2f}")
assert strength["both routers"] > 3 * strength["embedding"] > 0

# %% [markdown]
# The two gradients stand at a right angle: what evens the load is simply another wish. At the routers it is heard well,
# below them it is a whisper in every step of every weight. A larger $\alpha$ is louder in proportion. That is the
# dilemma of a loss: too small, and the load stays uneven; too large, and it disturbs. A correction does not stand in it
# at all: it adds nothing to the objective.
#
# ## 5 · Train it: nothing, a loss, a correction
#
# The other two of the triplet, live: the same start, the same text in the same order.

# %%
evened, loss_loads = watched(triplet["a loss"])
corrected, corrected_loads = watched(triplet["a correction"])
shown = {"nothing": loads, "a loss, α = 0.01": loss_loads, "a correction, γ = 0.01": corrected_loads}
layer = busiest.argmax()
viz.load_map(
    {name: found[layer].T for name, found in shown.items()}, columns=steps, xlabel="step", ylabel="expert",
    title="A loss and a correction even the load; the correction at once", height=4.4,
)  # fmt: skip

# %%
live = {name: (found[:, -40:].max(-1).values - 1).mean().item() for name, found in shown.items()}
nothing, by_loss, by_correction = live.values()
assert by_correction < 0.7 * nothing
assert [name for name, _ in corrected.train().loss(text[0])] == ["lm"]  # nothing else to learn
for (name, violation), model in zip(live.items(), (alone, evened, corrected), strict=True):
    print(f"{name:>23}: MaxVio {violation:.2f}, held-out loss {evaluate(model, data, batches=16).loss:.3f}")

# %% [markdown]
# One run proves nothing about a loss. So we trained seven arms for 400 steps, with several seeds
# ([script](../benchmarks/mixtures.py), [table](../benchmarks/results/balance.csv)).

# %%
with open("../benchmarks/results/balance.csv", newline="") as file:
    rows = list(csv.DictReader(file))
arms = list(dict.fromkeys(row["arm"] for row in rows))


def column(arm, name):
    """(seeds, places): a column of the table, where it is filled in."""
    seeds = {row["seed"] for row in rows if row["arm"] == arm}
    return torch.tensor([float(row[name]) for row in rows if row["arm"] == arm and row[name]]).view(len(seeds), -1)


final = {arm: column(arm, "valid_loss")[:, -1] for arm in arms}
overall = {arm: column(arm, "global_violation")[:, 0] for arm in arms}
for arm in arms:
    print(
        f"{arm:>10}: MaxVio {overall[arm].mean():.2f} ± {2 * overall[arm].std():.2f}, "
        f"loss {final[arm].mean():.3f} ± {2 * final[arm].std():.3f}, {len(final[arm])} seeds"
    )

# %%
chosen = ("nothing", "loss 0.001", "loss 0.01", "bias 0.001", "bias 0.1")
viz.curves(
    {arm: column(arm, "batch_violation").clamp(min=1e-3) for arm in chosen}, x=range(20, 401, 20), xlabel="step",
    ylabel="MaxVio, mean of 20 batches", title="The small correction evens the load best",
)  # fmt: skip

# %%
best_bias = min((arm for arm in arms if arm.startswith("bias")), key=lambda arm: overall[arm].mean())
pairs = {arm: final[arm] - final["nothing"] for arm in arms if arm != "nothing"}
for arm, found in pairs.items():
    print(f"{arm:>10} minus nothing: {found.mean():+.4f}, two sigma of a pair {2 * found.std():.4f}")
assert overall[best_bias].max() < 0.3 < overall["nothing"].min()
assert max(found.mean().abs() for found in pairs.values()) < 0.02

# %% [markdown]
# Read the table by columns. **Load**: nothing leaves it uneven, and differently so from seed to seed. The loss evens it
# as far as $\alpha$ is large. The correction of 0.001 evens it best of all, within 200 steps; of 0.1 it jumps.
# **Loss**: all arms lie within a few thousandths of a nat. On average the balance losses come out a little worse than
# nothing and the small corrections do not: the papers' direction, but inside the band, and nothing to build upon.
#
# Wang et al. measured it with a billion parameters and 100 billion tokens (table 2): perplexity 9.56 with the loss, at
# a MaxVio of 0.72; 9.50 with the correction, at 0.04. In nats that is a difference of

# %%
nats = math.log(9.56) - math.log(9.50)
assert nats < 0.01
spread = 2 * final["nothing"].std().item()
print(f"{nats:.4f} nats; our seeds differ by {spread:.3f} (two sigma)")

# %% [markdown]
# which no experiment of this size can see. The *load* is what we can see, and there the papers' picture is ours.
#
# ## 6 · Even, but where? Batch and sequence
#
# An even batch may be made of uneven sequences: one expert for the Chinese story, another one for the English. Is that
# so? MaxVio of the corrected model, over a whole batch and over each of its sequences:

# %%
with torch.no_grad(), recorded(corrected) as notes:
    corrected(text[0][:, :-1])
by_sequence = [load(routing.experts[i : i + 128], 16) for (routing,) in notes for i in range(0, 2048, 128)]
whole = sum(max_violation(load(routing.experts, 16)).item() for (routing,) in notes) / 2
each = sum(max_violation(counts).item() for counts in by_sequence) / len(by_sequence)
random = sum(
    max_violation(load(torch.rand(128, 16, generator=draw).topk(3).indices, 16)).item() for _ in range(200)
) / 200  # fmt: skip
assert each > whole + 0.3
assert each > random
print(f"the batch {whole:.2f}, its sequences {each:.2f} on average; 128 tokens that choose at random: {random:.2f}")

# %% [markdown]
# A loss *per sequence* forbids that, and with it some of the specialisation. V3's authors hold this to be the real
# difference (section 4.5.3, 1 billion parameters): a loss per sequence ends at 2.258, the correction at 2.253, and a
# loss *per batch* at 2.253 as well. Not loss against correction, but how wide the window is over which the load is to
# be even.
#
# ### Myth check: "V3 removed all balance losses"
#
# The device and communication losses of V2 are gone. One remains, per sequence and tiny: against a single sequence that
# would go to one expert alone.

# %%
v3 = mds.generations["v3"].layers[-1][1]
kept = v3.balance
assert kept == (layers.ExpertBalance(alpha=0.0001, share=True),)
assert not set(map(type, kept)) & {layers.DeviceBalance, layers.CommunicationBalance}
print(kept, v3.loss_free, sep="\n")

# %% [markdown]
# ## 7 · Whose load? Never that of the text one is writing
#
# Why *after* the step, and why not simply let experts choose their tokens? **Expert choice** (Zhou et al., arXiv
# 2202.09368) is perfectly balanced: each expert takes the $C$ tokens that suit it best. But whether it takes *this*
# token depends on the tokens that come later. Change the last word of a text:


# %%
def expert_choice(s, k):
    """s (T, E): every expert takes its best T·K/E tokens -> (T, E) bool."""
    places = s.topk(len(s) * k // s.shape[1], dim=0).indices
    return torch.zeros_like(s, dtype=torch.bool).scatter(0, places, True)


s = scores[0][:128]
late = s.clone()
late[-16:] = scores[0][5000:5016]  # other words at the end
before, after = expert_choice(s, 3), expert_choice(late, 3)
changed = (before != after)[:-16].any(-1)
chosen_by_tokens = torch.equal(s[:-16].topk(3).indices, late[:-16].topk(3).indices)
assert before.sum(0).unique().tolist() == [24]  # perfectly even
assert chosen_by_tokens
assert changed.sum() > 0
print(f"{changed.sum()} of 112 earlier tokens get other experts, because the end changed; with top-K none does")

# %% [markdown]
# In training that is a leak: an earlier position can learn from its experts what comes later, and at the time of
# writing there is no later. Wang et al. bound what leaks for each token (section 5.2 and appendix): $K
# \log_2\frac{1-R}{R}$ bits a layer with $R = K/N$. For 16 experts, two a token, nine layers:

# %%
R = 2 / 16
bits = 9 * 2 * math.log2((1 - R) / R)
assert 50 < bits < 51
print(f"{bits:.1f} bits a token; naming one of 102,400 tokens takes {math.log2(102_400):.1f}")

# %% [markdown]
# Enough to give the next token away three times over. A correction that followed the load of the *current* sequence
# would leak in the same way. Yesterday's load is no secret.
#
# And the whole batch counts, even if it is computed in pieces or on many machines: sum first, correct once. Who
# corrects after every piece makes four steps of $\gamma$ where one was meant:

# %%
pieces = scores[1][:2048].split(512)
once, often = torch.zeros(16), torch.zeros(16)
for piece in pieces:
    often = correct(often, piece.topk(3).indices, 0.01)
once = correct(once, scores[1][:2048].topk(3).indices, 0.01)
assert once.abs().max() <= 0.0101 < often.abs().max()
print(f"one step moves a correction by {once.abs().max():.3f}; four steps on pieces by up to {often.abs().max():.3f}")

# %% [markdown]
# ## 8 · The ledger

# %%
best, common = overall[best_bias], overall["loss 0.01"]
gain = pairs[best_bias]
viz.ledger(f"""
ten lines are the package's router and correction | DeepSeek-V3, eq. 12-16 | 500 tokens agree | exact
the correction moves choices, never weights or gradients | DeepSeek-V3, section 2.1.2 | three laws | exact
left alone, load is uneven | Wang et al., section 2.2 | MaxVio {overall["nothing"].mean():.2f} ± {2 * overall["nothing"].std():.2f}, {len(gain)} seeds | shown
a correction balances better than a usual loss | Wang et al., table 2 (0.72, 0.04) | α = 0.01: {common.mean():.2f} ± {2 * common.std():.2f}; {best_bias}: {best.mean():.2f} ± {2 * best.std():.2f} | shown
the balance loss pulls in another direction than the text | Wang et al., section 2.2 | at the routers {strength["both routers"]:.0%} as strong, at a right angle | shown
a correction gives a lower loss | Wang et al., table 2 ({nats:.3f} nats) | {gain.mean():+.4f} nats, two sigma {2 * gain.std():.4f} | not at this size
a small γ is slow, a large one jumps | Wang et al., section 4.3 | MaxVio {end[0.0002]:.2f}, {end[0.002]:.2f}, {end[0.1]:.2f} for γ = 0.0002, 0.002, 0.1 | shown
an even batch may hold uneven sequences | DeepSeek-V3, section 4.5.3 | {whole:.2f} the batch, {each:.2f} its sequences, {random:.2f} by chance | shown
batch-wise is better than sequence-wise | DeepSeek-V3, section 4.5.3 (0.005 nats) | | not tested
expert choice lets the past know the future | Wang et al., section 5.2 | {changed.sum()} of 112 tokens | shown
it may leak 50 bits a token | Wang et al., section 5.2 | {bits:.1f} bits | exact
""")

# %% [markdown]
# ## 9 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Eight to a GPU.** One of V3's 256 experts gets three times the mean load, the others share the rest evenly. How
# much longer does the layer take if every expert has a GPU of its own, and if eight neighbours share one?
#
# **B. By how much?** The sign rule pushes an expert at 1.01 times the mean as hard as one at five times. Why not push
# in proportion, $b_i \leftarrow b_i + u\,(\overline{\mathrm{load}} - \mathrm{load}_i)/\overline{\mathrm{load}}$? Try $u
# = 0.002$ on the router of section 2.
#
# **C. Far enough?** V3 makes steps of 0.001 with batches of up to 15,360 sequences of 4,096 tokens, for 14.3 trillion
# tokens. How far can a correction go, and how far must it go at most?
#
# **D. Another diet.** The corrections were found on English and Chinese. They rest after training. Now somebody serves
# the model to readers of Chinese alone. What is its MaxVio?
#
# Then solve [the exercises](../exercises/08_balancing/08_balancing.ipynb).

# %% jupyter={"source_hidden": true}
counts = torch.full((256,), 253 / 255)
counts[0] = 3.0
alone_a, shared_a = max_violation(counts).item(), max_violation(counts.view(32, 8).sum(-1)).item()
viz.answer(
    "A",
    f"Alone: MaxVio {alone_a:.2f}, {1 + alone_a:.2f} times as long. Eight to a GPU: {shared_a:.2f}, {1 + shared_a:.2f} times as "
    "long. What must be even is the load of machines; that is why V2 had a loss for devices, and why V3 places copies of busy experts when it serves.",
)

# %% jupyter={"source_hidden": true}
b, ends = torch.zeros(16), []
for _ in range(300):
    batch = uneven[torch.randint(len(uneven), (2048,), generator=draw)]
    counts = load((batch + b).topk(3).indices, 16).float()
    b += 0.002 * (1 - counts / counts.mean())
    ends.append(max_violation(counts).item())
late_mean = sum(ends[-50:]) / 50
viz.answer(
    "B",
    f"After 300 steps MaxVio is {late_mean:.2f}, against {moving[-50:].max(-1).values.mean() - 1:.2f} by the sign rule. In proportion, "
    "small errors are corrected gently, so it does not jump; how fast it gets there depends on u. Wang et al. find a better "
    "balance and a slightly worse loss (section 4.3), and keep the sign.",
)

# %% jupyter={"source_hidden": true}
updates = 14.3e12 / (15_360 * 4096)
viz.answer(
    "C",
    f"At least {updates:,.0f} steps (the batch was smaller at first), so it can go {0.001 * updates:,.0f} far. Sigmoids lie between 0 and "
    "1: a difference of 1 between two corrections decides every choice. The speed never limits V3; ours, of 400 steps, it does.",
)

# %% jupyter={"source_hidden": true}
tokens = torch.cat([ids[:, :-1].flatten() for ids in text])
pieces = data.tokenizer.tokens(range(2048))
chinese = torch.tensor([any("\u4e00" <= letter <= "\u9fff" for letter in piece) for piece in pieces])[tokens]
with torch.no_grad(), recorded(corrected.eval()) as notes:
    for ids in text:
        corrected(ids[:, :-1])
chosen = [torch.cat([routing.experts for routing in passes]) for passes in notes]
mixed = [max_violation(load(experts, 16)).item() for experts in chosen]
diet = [max_violation(load(experts[chinese], 16)).item() for experts in chosen]
assert sum(diet) > sum(mixed) + 0.5
viz.answer(
    "D",
    f"By layer {diet[0]:.2f} and {diet[1]:.2f} on Chinese tokens alone, {mixed[0]:.2f} and {mixed[1]:.2f} on the mixture. Balance is a "
    "property of model *and* text. Who serves a model watches the load, and copies the experts that are busy that day.",
)
