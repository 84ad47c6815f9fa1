# %% [markdown]
# # 03 · Training V1
#
# Lesson 02 built DeepSeek's first model and filled it with random numbers. This lesson turns random numbers into a
# writer of stories: the loop, the optimiser, the start, the learning rate; then how to stop, go on and extend a run,
# how to let the model write, and what its memory costs.
#
# Afterwards you can
#
# - write a training loop from nothing, optimiser included, and prove it right;
# - say what the loss of an untrained model must be, and debug with that;
# - explain why V1 gave up the cosine, and what that costs and brings;
# - sample from a model, and compute the bill of its cache for any generation.
#
# Runs in 1 minute on two CPU cores, without a network. Take an hour to read it.

# %%
import csv
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.testing import assert_close

import minideepseek as mds
from minideepseek import layers, ops, viz
from minideepseek.data import Loader, prepare
from minideepseek.generate import filter_logits
from minideepseek.train import TrainConfig, evaluate, prepare_cpu, schedule, train

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: a model that knows nothing
#
# The text: short stories in English and Chinese, 2 million tokens of 2,048 kinds, from lesson 01. The model: half of
# `v1-mini`, so that every experiment takes seconds. Its next tokens are as good as dice.

# %%
data = prepare("stories")
mini = mds.generations["v1-mini"]
attention = layers.GQA(n_heads=4, n_kv_heads=2, head_dim=16)
small = replace(mini, d_model=64, n_layers=2, attention=attention, ffn=layers.SwiGLU(hidden=176))
model = mds.Transformer(small, seed=0)
print(f"{mds.report(small).parameters:,} parameters, {len(data.train):,} tokens to learn from")

# %% [markdown]
# A **batch** is $B$ rows of $T + 1$ tokens. Every token but the last is a question, *what comes next?*, and the token
# after it is the answer. One row is $T$ questions at once, because nothing looks ahead (lesson 02, section 4).

# %%
ids = next(Loader(data.train, batch_size=16, seq_len=128, seed=0))  # (B, T + 1) int64
pieces = data.tokenizer.tokens(data.train[:19].tolist())
viz.cuts({"question": pieces[:-1], "answer": pieces[1:]}, note="the same text twice, the answers one token further on")

# %% [markdown]
# The model answers with a probability for each of the $V$ tokens. The **loss** is the mean surprise at the right
# answer, $-\ln p$, in *nats*: 0 for a model that is certain and right, $\ln 2$ for a fair coin.
#
# $$\mathcal{L} = -\frac{1}{BT} \sum_{b,t} \ln p\,(\text{answer}_{b,t})$$

# %%
with torch.no_grad():
    logits = model(ids[:, :-1])  # (B, T, V) scores; a softmax makes them probabilities
    surprise = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])  # (B, T, 1)
    first = model.loss(ids).total
assert_close(surprise.mean(), first)
print(
    f"{first:.2f} nats: as if it guessed among {first.exp():,.0f} equally likely tokens; there are {small.vocab_size:,}"
)

# %% [markdown]
# ### What must the first loss be?
#
# A model without an opinion gives every token $1/V$, a loss of $\ln V$. Ours is a little worse than having no opinion:
# it has a random one. Its scores are sums of $D$ random numbers, normal with some standard deviation $\sigma$, and for
# many tokens the mean of $e^{\text{score}}$ is $e^{\sigma^2/2}$. So
#
# $$\mathcal{L}_\text{first} \approx \ln V + \frac{\sigma^2}{2}, \qquad \sigma = s\,\sqrt{D},$$
#
# where $s$ is the standard deviation of the head's weights: the last norm hands the head a vector of $D$ numbers of
# size 1. Is that right? Five seeds for each of eight sizes:

# %%
sigmas = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6]
measured = torch.zeros(5, len(sigmas))
for seed in range(5):
    for i, sigma in enumerate(sigmas):
        fresh = mds.Transformer(small, seed=seed)
        fresh.head.weight.data *= sigma / 0.4  # a mini starts with 0.4
        measured[seed, i] = fresh.loss(ids).total.item()
theory = math.log(small.vocab_size) + torch.tensor(sigmas) ** 2 / 2
assert (measured.mean(0) - theory).abs().max() < 0.1

# %%
viz.curves(
    {"measured, 5 seeds": measured, "theory: ln V + σ²/2": theory}, x=sigmas, log="x",
    title="The first loss is known before the first step", xlabel="standard deviation σ of the first scores",
    ylabel="loss (nats)", levels={"ln V": math.log(small.vocab_size)},
)  # fmt: skip

# %% [markdown]
# This is the cheapest test in deep learning. V1 must start at $\ln 102{,}400 + 0.384^2/2 \approx 11.6$. A first loss of
# 13 says that something is too large; a first loss of 5 says that the answers leak into the questions.
#
# ## 2 · The idea in one picture

# %%
viz.loop_diagram(title="One step: read a batch, be surprised, change every weight a little")

# %% [markdown]
# Everything is in these six boxes. `model.loss` is the upper row (lesson 02), and `loss.backward()` computes the
# **gradient**: for each weight, how the loss would change if the weight grew. We write the rest.
#
# ## 3 · The loop from nothing
#
# **AdamW** (Kingma & Ba, arXiv 1412.6980; Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) keeps two memories for
# each weight $w$: $m$, a running mean of its gradients $g$, and $v$, a running mean of their squares. At step
# $t = 1, 2, \dots$, with learning rate $\eta$:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \quad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2, \quad
# w \leftarrow w - \eta\lambda w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}$$
#
# The divisions by $1-\beta^t$ make up for memories that began at zero. V1 takes $\beta_1 = 0.9$, $\beta_2 = 0.95$ and
# the decay $\lambda = 0.1$ (DeepSeek LLM, section 2.3).


# %%
@torch.no_grad()
def adamw(w, memory, t, lr, decay=0.1):
    m, v = memory
    m += (1 - 0.9) * (w.grad - m)
    v += (1 - 0.95) * (w.grad**2 - v)
    if w.ndim >= 2:  # matrices; the gains of norms are left alone
        w -= lr * decay * w
    w -= lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)


# %% [markdown]
# Long gradients are **clipped**: if all gradients together, taken as one vector, are longer than 1, they are shortened
# to length 1. One strange batch then cannot throw the model far. And the learning rate follows a schedule, of which
# below: it climbs for ten steps, stays, and drops after 80 % and 90 % of the steps. Now the loop:

# %%
settings = TrainConfig(steps=30, warmup=10, lr=8e-3, batch_size=8, seq_len=64, dtype="fp32", eval_every=0)
loader = Loader(data.train, batch_size=8, seq_len=64, seed=0)
weights = list(model.parameters())
memories = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
ours = []
for t in range(1, settings.steps + 1):
    loss = model.loss(next(loader)).total
    model.zero_grad()
    loss.backward()
    length = torch.stack([w.grad.norm() for w in weights]).norm().item()
    lr = 8e-3 * min(1, t / 10) * (1 if t <= 24 else 0.316 if t <= 27 else 0.1)
    for w, memory in zip(weights, memories, strict=True):
        w.grad *= min(1, 1 / length)
        adamw(w, memory, t, lr)
    ours.append(loss.item())

# %% [markdown]
# Fifteen lines. Is it the package's [`train`](../minideepseek/train/loop.py), which has many more, for restarts, logs,
# GPUs and bad luck? Same seed, same data order, same settings:

# %%
theirs = train(small, data, settings, progress=False).metrics
apart = max(abs(a - record["loss"]) for a, record in zip(ours, theirs, strict=True))
assert apart < 1e-3  # other processors round in other ways, and differences grow from step to step
print(f"30 steps, from {ours[0]:.2f} to {ours[-1]:.2f} nats; our losses are the package's")

# %% [markdown]
# ### Why each part is there
#
# **The first step.** With fresh memories $m/(1-\beta_1) = g$ and $v/(1-\beta_2) = g^2$, so the step is
# $\eta\, g/|g|$: every weight moves by exactly $\eta$, whether its gradient is large or tiny. An optimiser that has seen
# one batch knows directions, not sizes. Hence the **warm-up**: V1 climbs to its peak in 2,000 steps.

# %%
fresh = mds.Transformer(small, seed=0)
fresh.loss(ids).total.backward()
w = fresh.blocks[0].ffn.down.weight
before, gradient = w.detach().clone(), w.grad.abs()
adamw(w, (torch.zeros_like(w), torch.zeros_like(w)), t=1, lr=8e-3, decay=0.0)
moved = (w - before).abs()
assert_close(moved[gradient > 1e-6], torch.full_like(moved[gradient > 1e-6], 8e-3), rtol=0.02, atol=0)
print(
    f"gradients differ by {gradient.max() / gradient[gradient > 1e-6].min():,.0f} times; every weight moved by {moved.median():.4f}"
)

# %% [markdown]
# **The decay** pulls every matrix towards zero: what the gradients do not defend is forgotten. V1 does not say what
# decays. We leave the gains of norms alone, as most do, because a gain is not a matrix that could be smaller and still
# say the same: at zero it silences its layer. How hard would V1's decay pull over a whole run?

# %%
steps = 2.0e12 / (2304 * 4096)  # V1-7B: 2.0T tokens in batches of 2,304 rows of 4,096
stages = {1.0: 0.8, 0.316: 0.1, 0.1: 0.1}  # share of the peak rate -> share of the steps
pull = sum(rate * share for rate, share in stages.items()) * steps * 4.2e-4 * 0.1
assert 7 < pull < 8
print(f"{steps:,.0f} steps: what no gradient defends shrinks to exp(-{pull:.1f}) = {math.exp(-pull):.2%}")

# %% [markdown]
# ## 4 · Before the first step: how large?
#
# V1 draws every weight from a normal distribution of standard deviation 0.006 (section 2.3), and people copy the
# number. But a matrix multiplies a signal by about $\text{std}\cdot\sqrt{D}$, its **gain**, so the number means something
# else at another width:

# %%
for name, peak in (("v1-67b", 3.2e-4), ("v1-7b", 4.2e-4), ("v1-mini", 4e-3)):
    width = mds.generations[name].d_model
    print(
        f"{name:>7}: D = {width:>5,}, gain {0.006 * width**0.5:.3f}; a step at the peak is {peak / 0.006:.0%} of 0.006"
    )
assert 0.38 < 0.006 * 4096**0.5 < 0.39

# %% [markdown]
# The 7B starts with a gain of 0.38. At our width the same 0.006 would mean 0.07, and narrow models want large learning
# rates, beside which weights of 0.006 are tiny. The package therefore draws a mini's matrices with $0.4/\sqrt{D}$, and
# its embedding, which is a lookup and multiplies nothing, with 0.4. Does it matter? We trained `v1-mini` for 100 steps
# from four starts, five seeds each ([script](../benchmarks/training_v1.py),
# [table](../benchmarks/results/starts.csv)).


# %%
def stored(name):
    """arm -> (5 seeds, points) losses on held-out text."""
    table = defaultdict(lambda: defaultdict(list))
    with open(f"../benchmarks/results/{name}.csv", newline="") as file:
        for row in csv.DictReader(file):
            table[row["arm"]][row["seed"]].append(float(row["valid_loss"]))
    return {arm: torch.tensor(list(seeds.values())) for arm, seeds in table.items()}


starts = stored("starts")
after = {arm: found[:, -1] for arm, found in starts.items()}
assert after["plain"].min() > after["plain, lr halved"].max()
assert after["plain, lr halved"].min() > after["scaled"].max() + 0.5
print({arm: f"{found.mean():.2f} ± {2 * found.std():.2f}" for arm, found in after.items()})

# %%
viz.curves(
    {
        "0.006": starts["plain"], "0.006, half the learning rate": starts["plain, lr halved"],
        "0.006, embedding 0.4": starts["plain, embedding scaled"], "0.4/√D, embedding 0.4": starts["scaled"],
    },
    x=range(5, 101, 5), title="A number from a wide model is a bad start for a narrow one",
    xlabel="step (updates of the weights)", ylabel="loss on held-out text (nats)",
)  # fmt: skip

# %% [markdown]
# At 0.006 every step at the peak moves a weight by two thirds of its size: noise, as the wide band says. Half the rate
# learns better, and still far behind. Most of the damage sits in the embedding: give it alone its 0.4 back, and most of
# the gap closes. V1 itself did well with 0.006, with wide matrices and steps of 7 %. So the number is not wrong; it is
# not a constant of nature. What carries over is the gain, and the step beside the weight.
#
# ## 5 · The learning rate over time
#
# The factor on the peak learning rate. V1's **multi-step** schedule stays at the peak for 80 % of the run, drops to
# 31.6 %, after 90 % to 10 % (section 2.3). The **cosine** (Loshchilov & Hutter, arXiv 1608.03983) was everybody's
# habit, LLaMA's too. **Warm-up, stable, decay** (WSD; MiniCPM, arXiv 2404.06395, section 4) came a few months after V1.

# %%
updates = range(600)
rates = {name: [schedule.factor(name, d, steps=600, warmup=20) for d in updates] for name in schedule.SCHEDULES}
for name in ("wsd", "constant"):  # drawn from where they leave the multi-step schedule
    rates[name][:478] = [math.nan] * 478
viz.curves(
    rates, x=updates, title="Only the cosine must know the end from the beginning",
    xlabel="updates made, of 600", ylabel="factor on the peak rate",
)  # fmt: skip

# %% [markdown]
# ### Myth check
#
# Three sentences from the web about V1's schedule: (a) "a cosine falls slowly first and fast late"; (b) "multi-step
# means, for example, `milestones=[30, 80], gamma=0.1`, and does not depend on the total number of steps"; (c) "V1 trained
# like LLaMA 2". Where does a cosine fall? Where are V1's steps?

# %%
cosine = [schedule.cosine(done, 1000) for done in range(1001)]
quarters = [100 * (cosine[i] - cosine[i + 250]) / (cosine[0] - cosine[-1]) for i in range(0, 1000, 250)]
assert quarters[0] < quarters[1]
assert math.isclose(quarters[0], quarters[3])
print("(a) share of the cosine's fall in each quarter:", ", ".join(f"{q:.0f} %" for q in quarters))
for total in (600, 1200):
    factors = [schedule.multi_step(done, total) for done in range(total)]
    drops = [done for done in range(1, total) if factors[done] < factors[done - 1]]
    assert drops == [total * 8 // 10, total * 9 // 10]
    print(
        f"(b) a run of {total:,} drops after {drops}, to {factors[drops[0]]} and {factors[-1]}; √0.1 = {0.1**0.5:.3f}"
    )

# %% [markdown]
# (a) Slow at *both* ends, and it ends at a tenth of the peak, not at zero. (b) At 80 % and 90 % of the *total*, by
# $\sqrt{0.1}$, so that two drops make a factor of ten. Only the part before the first drop is independent of the total,
# and that is the whole point of section 8. (c) LLaMA 2 used the cosine (arXiv 2307.09288, section 2.2); lesson 02,
# section 9, has other differences.
#
# ## 6 · Train it: steps against cosine
#
# V1 reports that the final loss of steps is "essentially" the cosine's (section 2.3, figure 1a: a model of 1.6 billion
# parameters on 100 billion tokens). We trained our small model with each schedule for 600 steps, five seeds. All
# schedules of a seed start from the same weights and read the same text, so they can be compared in pairs.

# %%
losses = stored("schedules")  # a look every 20 steps
for name, found in losses.items():
    before, end = found[:, 23], found[:, -1]
    print(f"{name:>10}: after 480 steps {before.mean():.3f}, at the end {end.mean():.3f} ± {2 * end.std():.3f}")

# %%
late = {name: found[:, 9:].clone() for name, found in losses.items()}
for name in ("wsd", "constant"):  # until step 480 they are the multi-step run
    late[name][:, :14] = math.nan
viz.curves(
    late, x=range(200, 601, 20), marks={"80 %": 480, "90 %": 540}, xlabel="step (updates of the weights)",
    title="Steps lag behind until the drop, and lose nothing in the end", ylabel="loss on held-out text (nats)",
)  # fmt: skip

# %%
gap = losses["multi-step"] - losses["cosine"]  # (5 seeds, 30 looks), in pairs
behind, final, band = gap[:, 23].mean(), gap[:, -1].mean(), 2 * gap[:, -1].std()
assert gap[:, 23].min() > 0.05  # before the drop: behind, for every seed
assert losses["constant"][:, -1].min() > losses["multi-step"][:, -1].max() + 0.05
assert final < band  # at the end: no worse than pairs of seeds differ
print(
    f"multi-step minus cosine: {behind:+.3f} after 480 steps, {final:+.3f} at the end; two sigma of a pair {band:.3f}"
)

# %% [markdown]
# The robust part is the shape. Before the drop the steps are behind, for every seed; within a few dozen updates of the
# drop they have caught up; a rate that never falls ends clearly above. A picture for why (Wen et al., arXiv
# 2410.05192): a large rate runs fast along the bottom of a valley while bouncing between its walls; a small one stops
# bouncing. What the drop is worth at the very end is a matter of hundredths of a nat. Here the steps finish ahead by a
# little more than pairs of seeds differ; do not read that as "better", for it is one peak rate, one length, one small
# model. That steps cost nothing is all that V1 claims.
#
# ### One run, live
#
# Now yours: 400 steps. The curve grows while you watch; below it, the learning rate.

# %%
settings = TrainConfig(steps=400, lr=8e-3, seed=6, eval_every=20, checkpoint_every=0)
with viz.live_curve("our run") as watch:
    run = train(small, data, settings, on_step=watch)
writer = run.model

# %% [markdown]
# Up to its own drop, at step 320, a run of 400 steps *is* a run of 600: the same learning rates. So our curve must lie
# among the stored ones until then, and leave them downwards when it drops.

# %%
live = torch.tensor(run.curve("valid_loss")[1])
before_drop = losses["multi-step"][:, 15]  # the stored runs after 320 steps
assert abs(live[15] - before_drop.mean()) < 0.15
assert live[-1] < before_drop.min() - 0.05
viz.curves(
    {"stored, 600 steps": losses["multi-step"][:, 4:20], "our run, 400 steps": live[4:]}, x=range(100, 401, 20),
    marks={"our drop": 320}, title="Ours is one of the stored runs until it drops", ylabel="loss on held-out text (nats)",
    xlabel="step (updates of the weights)",
)  # fmt: skip

# %% [markdown]
# ## 7 · Stop and go on
#
# A run of weeks will be interrupted. What must be saved so that it goes on as if nothing had happened? The weights, of
# course; but also both memories of AdamW, the place in the text, and the step, which decides the learning rate. Let
# the power fail at step 37 of 50 and start again. A checkpoint was saved at step 20.

# %%
short = TrainConfig(steps=50, warmup=10, lr=8e-3, batch_size=8, seq_len=64, eval_every=0, checkpoint_every=20)
scratch = TemporaryDirectory()  # gone when the kernel is
folder = Path(scratch.name)
whole = train(small, data, short, out=folder / "whole", progress=False)


def power_cut(record):
    if record["step"] == 37:
        raise RuntimeError("the lights go out")


try:
    train(small, data, short, out=folder / "cut", on_step=power_cut, progress=False)
except RuntimeError as dark:
    print(f"{dark}; saved so far:", *(path.name for path in (folder / "cut/checkpoints").iterdir()))

# %%
again = train(small, data, short, out=folder / "cut", resume=True, progress=False)
assert again.curve("loss") == whole.curve("loss")  # bit for bit, all 50
print("50 losses, and not one bit differs from the run that was never interrupted. In a checkpoint:")
for file in sorted((folder / "cut/checkpoints/step-000040").iterdir()):
    print(f"{file.stat().st_size:>10,} bytes  {file.name}")

# %% [markdown]
# `trainer.safetensors` is twice as large as the weights: $m$ and $v$. So a run needs 16 bytes for each parameter (in
# fp32: weights, gradients and two memories), before the first activation. For the 67B that is a terabyte, spread over
# many GPUs.
#
# ## 8 · Why steps: a run can be extended
#
# You trained for 50 steps, and now wish you had trained for 100. With a cosine you would start again: every one of its
# learning rates depends on the end. With steps, the checkpoint at 80 % lies on the path of *every* longer run.

# %%
longer, middle = replace(short, steps=100), folder / "whole/checkpoints/step-000040"
extended = train(small, data, longer, out=folder / "long", resume=middle, progress=False)
from_scratch = train(small, data, longer, progress=False)
assert extended.curve("loss") == from_scratch.curve("loss")  # bit for bit, all 100
viz.runs(
    {"planned for 50": whole.metrics, "extended to 100 from step 40": extended.metrics},
    title="60 new steps instead of 100, and the same run to the last bit",
)

# %% [markdown]
# Not nearly the same: the same bits as a run of 100 steps from scratch. This is V1's reason (section 2.3): the first
# stage of a run can be reused for others, as the report does for its scaling laws (lesson 04). With a cosine the package
# refuses, as the next cell shows. Then turn the knob: how long shall the longer run be? While the curves of both
# lengths agree, the run of 600 steps has paid for the longer one. The two cosines part at once.

# %%
waved = replace(short, schedule="cosine")
train(small, data, waved, out=folder / "wave", progress=False)
middle = folder / "wave/checkpoints/step-000040"
try:
    train(small, data, replace(waved, steps=100), out=folder / "longer wave", resume=middle, progress=False)
except mds.UserError as error:
    print(str(error).replace(str(folder), "..."))


# %%
def extension(steps=900):
    rates, shared = {}, {}
    for name in ("multi-step", "cosine"):
        for total in (600, steps):
            rate = [schedule.factor(name, done, steps=total, warmup=20) for done in range(total)]
            rates[f"{name}, {total} steps"] = rate + [math.nan] * (1200 - total)
        shared[name] = schedule.agree_until(name, steps=600, other=steps, warmup=20)
    return viz.curves(
        rates, x=range(1200), xlabel="updates made", ylabel="factor on the peak rate",
        title=f"Shared with a run of 600: {shared['multi-step']} steps of multi-step, {shared['cosine']} of the cosine",
    )  # fmt: skip


viz.knob(extension, steps=(620, 1200, 20))

# %% [markdown]
# ## 9 · Half the bits
#
# V1 computes in **bf16** (section 2.4): 16 bits, of which 8 are for precision, so that neighbouring numbers are up to
# 0.8 % apart. Multiplying is much faster. Adding is where it goes wrong. One thousand times 0.001:

# %%
exact, coarse = torch.tensor(1.0), torch.tensor(1.0, dtype=torch.bfloat16)
for _ in range(1000):
    exact += 0.001
    coarse += 0.001
assert coarse == 1.0
print(f"1 + 1000 · 0.001 = {exact:.4f} in fp32, {coarse:.4f} in bf16: the next number after 1 is {1 + 2**-7}")

# %% [markdown]
# Each of the thousand sums was rounded back to 1. Training is exactly this: small updates to larger weights. We take the
# memories of *our* loop of section 3 and ask which of its next updates would survive, if weights were bf16.

# %%
beside = torch.cat([w.detach().flatten() for w in weights if w.ndim == 2])
direction = torch.cat([
    ((m / (1 - 0.9**30)) / ((v / (1 - 0.95**30)).sqrt() + 1e-8)).flatten() for m, v in memories if m.ndim == 2
])  # fmt: skip
seen = direction != 0  # tokens of the embedding that no batch has shown do not move at all
lost, sizes = {}, {}
for label, lr in (("peak rate", 8e-3), ("a tenth of it", 8e-4)):
    w, update = beside[seen], lr * direction[seen]
    sizes[label] = (update / w).abs()
    lost[label] = 100 * (w.bfloat16() - update.bfloat16() == w.bfloat16()).float().mean().item()
print({label: f"{share:.0f} % lost" for label, share in lost.items()})

# %%
assert lost["peak rate"] < 20 < lost["a tenth of it"] < 80
viz.update_sizes(
    sizes, title=f"At a tenth of the peak rate, bf16 would lose {lost['a tenth of it']:.0f} % of all updates"
)

# %% [markdown]
# And lost means lost at every step, as with the 0.001. So the weights live in fp32, the **master weights**, and each
# step computes on a bf16 copy of them (Micikevicius et al., arXiv 1710.03740, section 3.1; ours:
# [precision.py](../minideepseek/train/precision.py)). V1 also adds up gradients in fp32, for the same reason.
#
# ## 10 · Debugging: one batch
#
# The second cheap test: train on *one* batch, again and again. A loop without bugs must learn it by heart. What does
# that prove? We let the model learn a batch of stories, and a batch of noise.

# %%
curve = {"stories": torch.zeros(5, 50), "noise": torch.zeros(5, 50)}
for seed in range(5):
    stories = ids[:4, :65]
    noise = torch.randint(0, small.vocab_size, stories.shape, generator=torch.Generator().manual_seed(seed))
    for name, batch in (("stories", stories), ("noise", noise)):
        pupil = mds.Transformer(small, seed=seed)
        optimiser = torch.optim.AdamW(pupil.parameters(), lr=8e-3, betas=(0.9, 0.95))
        for step in range(50):
            loss = pupil.loss(batch).total
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            curve[name][seed, step] = loss.item()
assert max(values[:, -1].max() for values in curve.values()) < 0.02

# %%
viz.curves(
    {f"one batch of {name}": values for name, values in curve.items()}, log="y", xlabel="step", ylabel="loss (nats)",
    title="One batch is learnt by heart, whether it means anything or not",
)  # fmt: skip

# %% [markdown]
# It proves that gradients flow and the optimiser works: the *plumbing*. It does not prove that anything is understood,
# for noise is learnt as fast. If your loss does not fall to nearly zero here, look for the bug before you look at data.
# Only text that the model has never seen can tell learning from memory.
#
# ## 11 · How good is it? Bits per byte
#
# A loss in nats *per token* depends on how the tokenizer cuts. Divided by $\ln 2$ and by the mean number of bytes in a
# token, it becomes **bits per byte** of text, which can be compared between tokenizers and with any compressor (lesson
# 00 beat `lzma`; lesson 01, section 7). V1 draws its scaling laws in this unit.

# %%
loss = evaluate(writer, data).loss
bytes_per_token = data.valid_stats.bytes_per_token
bits = loss / math.log(2) / bytes_per_token
assert math.isclose(bits, data.bits_per_byte(loss))
chance = math.log(small.vocab_size) / math.log(2) / bytes_per_token
print(f"{loss:.3f} nats a token, {bytes_per_token:.2f} bytes a token: {bits:.3f} bits a byte (dice: {chance:.2f})")

# %% [markdown]
# ## 12 · Let it write
#
# To write, take the probabilities of the next token, draw one, append it, repeat. Two knobs change the draw. The
# **temperature** $\tau$ divides the scores before the softmax: below 1 favourites win more often, above 1 outsiders
# get a chance. **Top-p** (Holtzman et al., arXiv 1904.09751, section 3.1) keeps the smallest set of tokens that
# together hold the probability $p$, and never draws another. In code, beside the package's:

# %%
prompts = ["Once upon a time there was a", "One day the", "从前有一个"]
with torch.no_grad():
    scores = [writer(torch.tensor([data.tokenizer.encode(prompt)]))[0, -1] for prompt in prompts]
ordered, order = (scores[0] / 0.8).softmax(-1).sort(descending=True)
ahead = ordered.cumsum(-1) - ordered  # what the likelier tokens hold together
kept = order[ahead < 0.9]
assert set(kept.tolist()) == set(filter_logits(scores[0] / 0.8, top_p=0.9).isfinite().nonzero()[:, 0].tolist())
print("temperature 0.8, top-p 0.9:", len(kept), "tokens can follow", repr(prompts[0]))


# %%
def choices(prompt=prompts[0], temperature=1.0, top_p=1.0):
    pieces = data.tokenizer.tokens(range(small.vocab_size))
    return viz.next_tokens(pieces, scores[prompts.index(prompt)], temperature=temperature, top_p=top_p)


viz.knob(choices, prompt=prompts, temperature=(0.0, 2.0, 0.1), top_p=(0.05, 1.0, 0.05))

# %% [markdown]
# ## 13 · Write with a cache
#
# The naive way reads the whole text again for every new token. The **cache** keeps each layer's keys and values, so
# that a step only reads the token it has just written. Same tokens? And because nothing looks ahead, a text may arrive
# in pieces of any size (a prompt, an answer, a question): the scores are those of one pass over the whole.

# %%
text = torch.tensor([data.tokenizer.encode(prompts[0])])
naive = text
with torch.no_grad():
    for _ in range(60):
        naive = torch.cat([naive, writer(naive)[:, -1].argmax(-1, keepdim=True)], dim=1)
cached = mds.generate(writer, text, max_new_tokens=60, temperature=0.0)
assert torch.equal(naive, cached)
print("the same 60 tokens, both ways:\n" + data.tokenizer.decode(cached[0].tolist()))

# %%
cache = writer.new_cache(batch_size=1, max_len=16)
with torch.inference_mode():
    at_once, pieces = writer(naive), naive.split([1, 7, 2, 30, naive.shape[1] - 40], dim=1)
    in_pieces = torch.cat([writer(piece, cache=cache) for piece in pieces], dim=1)
assert_close(in_pieces, at_once, rtol=1e-4, atol=1e-4)
print("pieces of", [piece.shape[1] for piece in pieces], "tokens give the scores of one pass, at every position")

# %% [markdown]
# What does it save? Do not trust a clock on a busy machine: count. PyTorch can count the FLOPs (multiplications and
# additions) of every matrix product while it runs. One new token, at growing distance from the start:

# %%
from torch.utils.flop_counter import FlopCounterMode

counting = mds.Transformer(small, seed=0).double().requires_grad_(False)  # float64 takes the calls that are counted
lengths, flops = [16, 32, 64, 128, 256, 512], {"read everything again": [], "with a cache": []}
for length in lengths:
    row = torch.zeros(1, length, dtype=torch.int64)
    cache = counting.new_cache(1, length)
    counting(row[:, :-1], cache=cache)
    for name, known in (("read everything again", None), ("with a cache", cache)):
        with FlopCounterMode(display=False) as counter:
            counting(row if known is None else row[:, -1:], cache=known)
        flops[name].append(counter.get_total_flops())

# %%
saved = torch.tensor(flops["read everything again"]) / torch.tensor(flops["with a cache"])
assert (saved > 0.6 * torch.tensor(lengths)).all()  # T tokens instead of one: nearly T times the work
viz.curves(
    flops, x=lengths, log="xy", xlabel="tokens in the text", ylabel="FLOPs for one new token",
    title=f"At {lengths[-1]} tokens the cache saves a factor of {saved[-1]:.0f}",
)  # fmt: skip

# %% [markdown]
# Nearly a factor $T$; not quite, for the new token still looks at $T$ keys. A whole text takes about $T^2/2$ passes of a
# token without a cache, and $T$ with one.
#
# ### Myth check: "queries are not cached because every result becomes the new q"
#
# One of the popular explanations. Two things are tangled. *Why not queries?* Because under the causal mask a past query
# asks its question once, in its own row, and is never used again; past keys and values are used by every later row.
# *What does the cache save?* Not the key and value products alone: without it the whole prefix must run again, through
# every layer. Test both:

# %%
q, k, v = torch.randn(3, 1, 4, 20, 16, generator=torch.Generator().manual_seed(0))  # (B, H, T, Dh)
past = (torch.arange(20) < 19).view(1, 1, 20, 1)
q2, k2, v2 = (torch.where(past, torch.randn_like(t), t) for t in (q, k, v))  # another past, the same last token
row, *others = (ops.attention(*qkv, causal=True)[:, :, -1] for qkv in ((q, k, v), (q2, k, v), (q, k2, v), (q, k, v2)))
assert torch.equal(others[0], row)
assert min((other - row).abs().max() for other in others[1:]) > 0.1
print("with other past queries the last row is the same, bit for bit; with other past keys or values it is not")

# %%
big = mds.generations["v1-67b"]
key_value = 2 * big.d_model * big.attention.n_kv_heads * big.attention.head_dim  # a layer's weights for keys and values
share = key_value / (big.attention.n_params(big.d_model) + big.ffn.n_params(big.d_model))
assert share < 0.03
print(f"keys and values are {share:.1%} of the products for a past token of the 67B; the cache saves all of them")

# %% [markdown]
# ## 14 · The bill
#
# The price of the cache is memory. With $G$ key/value heads of $D_h$ channels, $L$ layers and $b$ bytes a number, a
# text of $T$ tokens needs $2\,G\,D_h\,L\,T\,b$ bytes (lesson 02, section 6). A live cache reserves room and doubles it
# when it is full:

# %%
cache, sizes = writer.new_cache(batch_size=1, max_len=16), {}
with torch.inference_mode():
    for token in naive.split(1, dim=1):
        writer(token, cache=cache)
        sizes[cache.length] = cache.nbytes
for length, nbytes in sizes.items():
    room = next(16 * 2**n for n in range(9) if 16 * 2**n >= length)
    assert nbytes == 2 * attention.n_kv_heads * attention.head_dim * small.n_layers * room * 4
print("bytes held, by tokens seen:", {length: sizes[length] for length in (1, 16, 17, 32, 33, 64, 65)})

# %%
v1_7b, v1_67b = mds.generations["v1-7b"], mds.generations["v1-67b"]
wide = {"V1-7B, MHA as published": v1_7b, "V1-67B, GQA-8 as published": v1_67b}
for name, groups in (("V1-67B, were it MHA", 64), ("V1-67B, were it MQA", 1)):
    wide[name] = replace(v1_67b, attention=replace(v1_67b.attention, n_kv_heads=groups))
gib = {name: mds.report(cfg).cache_bytes_per_token * 128 * 1024 / 2**30 for name, cfg in wide.items()}
assert list(gib.values())[:3] == [60.0, 47.5, 380.0]
assert 3.0 < 380.0 / (2 * mds.report(v1_67b).parameters / 2**30) < 3.1
viz.bars(
    gib, unit="GiB of cache for one text of 128K tokens, in bf16", emphasis=["V1-67B, GQA-8 as published"], digits=".1f",
    title="As MHA, the 67B's cache of 128K tokens would be three times its weights",
)  # fmt: skip

# %% [markdown]
# And what it costs is not only room. Each new token reads the whole cache once, beside all weights: decoding is a
# matter of memory traffic. That is why V1's 67B shares keys and values among eight heads, and why V2 invented latent
# attention, the subject of a later lesson.
#
# ## 15 · The ledger

# %%
cost = after["plain"].mean() - after["scaled"].mean()
viz.ledger(f"""
fifteen lines are the package's loop | this lesson | 30 losses agree | exact
an untrained model's loss is ln V + σ²/2 | a calculation | 8 sizes, 5 seeds, within 0.1 nats | shown
0.006 is a good size for first weights | DeepSeek LLM, section 2.3 | at D = 128 it costs {cost:.1f} nats after 100 steps, {len(after["plain"])} seeds | not at this size
multi-step costs nothing against the cosine | DeepSeek LLM, section 2.3 | {final:+.3f} nats, two sigma {band:.3f}, 5 pairs | shown
multi-step is behind before its drop | DeepSeek LLM, figure 1a | {behind:+.3f} nats at 80 %, {len(gap)} pairs | shown
a run can be extended from its 80 % point | DeepSeek LLM, section 2.3 | 100 losses, bit for bit | exact
a stopped run goes on as if unbroken | this package | 50 losses, bit for bit | exact
bf16 weights lose small updates | Micikevicius et al., section 3.1 | {lost["a tenth of it"]:.0f} % of them at a tenth of the peak rate | shown
training in bf16 costs no quality | DeepSeek LLM, section 2.4 | | not tested
the cache changes no token | this lesson | 60 tokens, and scores in chunks of any size | exact
the cache saves a factor T | this lesson | {saved[-1]:.0f} at T = {lengths[-1]}, counted | shown
GQA-8 needs an eighth of the cache | Ainslie et al., section 2.2 | {gib["V1-67B, were it MHA"]:.0f} and {gib["V1-67B, GQA-8 as published"]} GiB for 128K tokens | exact
""")

# %% [markdown]
# ## 16 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Read a first loss.** A model of width 128 with 2,048 tokens starts at a loss of 9.6. How large are the weights of
# its head? Build one and see.
#
# **B. A planted bug.** A colleague is proud: after 60 steps the loss is below 0.3, on text the model has *never seen*. The
# samples repeat one token for ever. What is wrong? (He calls `model(ids)` and compares with `ids`.)
#
# **C. Twice as long.** V1-7B was trained on 2.0T tokens. You want 4.0T. How many of the run's FLOPs ($6N$ a token will do)
# does the 80 % checkpoint save, and how many are wasted?
#
# **D. How many readers?** Eight GPUs of 80 GB hold V1-67B in bf16. How many texts of 4,096 tokens fit beside the weights,
# with GQA-8 and with MHA?
#
# Then go on to [lesson 04](04_scaling_laws.ipynb), where such runs become laws.
#
# Then solve [the exercises](../exercises/03_training_v1/03_training_v1.ipynb).

# %% jupyter={"source_hidden": true}
std = ((9.6 - math.log(2048)) * 2 / 128) ** 0.5
model = mds.Transformer(mini, seed=0)
model.head.weight.data *= std / model.head.weight.std()
with torch.no_grad():
    found = model.loss(ids).total.item()
assert abs(found - 9.6) < 0.25
viz.answer(
    "A",
    f"ln 2048 = {math.log(2048):.2f}, so σ²/2 = {9.6 - math.log(2048):.2f} and σ = {std * 128**0.5:.2f}; divided by √128 that is a "
    f"standard deviation of {std:.3f}, five times what it should be. A model built so starts at {found:.2f}.",
)

# %% jupyter={"source_hidden": true}
copier = mds.Transformer(small, seed=0)
optimiser, loader = torch.optim.AdamW(copier.parameters(), lr=8e-3), Loader(data.train, batch_size=8, seq_len=64)
for _ in range(60):
    wrong = torch.nn.functional.cross_entropy(copier(shown := next(loader)).flatten(0, 1), shown.flatten())
    optimiser.zero_grad()
    wrong.backward()
    optimiser.step()
parrot = mds.generate(copier, text, max_new_tokens=8, temperature=0.0)[0, -9:]
assert wrong < 0.5
assert len(set(parrot.tolist())) == 1
viz.answer(
    "B",
    f"The answers are not shifted: the model is asked for the token it has just read, and learns to copy (loss {wrong:.2f} on a batch "
    "it never saw). So it writes its last token for ever. A loss far below that of any such text is a leak, not a success.",
)

# %% jupyter={"source_hidden": true}
flops = 6 * mds.report(v1_7b).activated["without embedding"]
viz.answer(
    "C",
    f"The checkpoint has read 1.6T tokens: {1.6e12 * flops:.1e} of the {4e12 * flops:.1e} FLOPs are done, {1.6 / 4:.0%}. Wasted is what "
    f"the first run did after its drop, 0.4T tokens, {0.4 / 4.4:.0%} of all you pay. Those bought a finished model on the way.",
)

# %% jupyter={"source_hidden": true}
room = 8 * 80e9 - 2 * mds.report(v1_67b).parameters
readers = {name: int(room / (4096 * mds.report(wide[name]).cache_bytes_per_token)) for name in list(wide)[1:3]}
assert list(readers.values()) == [316, 39]
viz.answer(
    "D",
    *(f"{name}: {count} texts." for name, count in readers.items()),
    "The factor is eight, and each of them is a customer.",
)
