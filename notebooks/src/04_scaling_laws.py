# %% [markdown]
# # 04 · Scaling laws
#
# How large should a model be, on how much text should it learn, how fast, in what batches? For a model that costs
# millions these four numbers must be right before it starts. A large part of DeepSeek's first paper (V1, arXiv 2401.02954,
# section 3) is about finding them where mistakes are cheap: on small models, with straight lines to the large one.
#
# Afterwards you can
#
# - count what a token costs in three ways, and say why V1 chose the third;
# - fit an IsoFLOP valley, a power law through its floors, and an honest error bar;
# - read a scaling law critically: what it was fitted to, how far it is stretched, what it leaves out.
#
# Runs in about 1 minute on two CPU cores, without a network. Take an hour to read it. You need logarithms.

# %%
from dataclasses import replace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

import minideepseek as mds
from minideepseek import accounting, viz
from minideepseek.train import isoflop, laws, prepare_cpu, scaling

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: one shot
#
# Call $C$ the compute of a training run in FLOPs (multiplications and additions, counted together), $D$ the number of
# training tokens, $M$ the FLOPs that one token costs. Then
#
# $$C = M \cdot D .$$
#
# A budget buys a large model that reads little or a small one that reads much. Which is better? And V1's 67B model
# cost about $10^{24}$ FLOPs: nobody tries that twice.
#
# The way out: train many small models, at budgets where a run takes minutes; watch how the best choice *moves* as the
# budget grows; follow the movement to the large budget. V1 used 8 budgets from $10^{17}$ to $3\cdot10^{20}$ FLOPs with about
# 10 models each. What did that cost, compared with the run it planned?

# %%
large = laws.RUNS["v1-67b"]
budgets = np.geomspace(*laws.BUDGETS, 8)  # the paper names the first and the last; we assume even steps between
print(f"67B: M = {large.scale:.3g} FLOPs a token, D = {large.tokens:.0e} tokens, C = {large.compute:.2e} FLOPs")
print(f"80 small runs together: {10 * budgets.sum():.1e} FLOPs = {10 * budgets.sum() / large.compute:.2%} of that")
print(f"the line is stretched {large.compute / laws.BUDGETS[1]:,.0f} times beyond the largest of them")
assert 10 * budgets.sum() / large.compute < 0.01

# %% [markdown]
# Less than one percent, for knowing what to do with the other ninety-nine. But a line fitted to a few points and
# drawn three thousand times further deserves questions. By the end you will have asked them.
#
# ## 2 · What is the size of a model?
#
# Kaplan et al. (2020) and Hoffmann et al. (2022, "Chinchilla") measured size in *parameters* $N$ and took the cost of a
# token for $6N$: each weight multiplies and adds once forward (2 FLOPs) and twice backward (4). V1 points out that
# parameters are a poor measure of cost, from both sides (section 3.2):
#
# | measure | formula, $L$ layers of width $d$, vocabulary $V$, sequences of $s$ tokens | what is wrong |
# |---|---|---|
# | $6N_1$ | $72\,L d^2$ | leaves out attention's scores, which have no parameters |
# | $6N_2$ | $72\,L d^2 + 6\,V d$ | adds the vocabulary, which adds little to what a model can do |
# | $M$ | $72\,L d^2 + 12\,L d s$ | V1's choice: everything in the blocks, nothing of the vocabulary |
#
# Where the numbers come from: a block has $4d^2$ weights in attention and $3 \cdot \frac83 d \cdot d = 8d^2$ in SwiGLU, so
# $12d^2$, times 6. A query meets $s$ keys, $2sd$ FLOPs, then weighs $s$ values, $2sd$ again; with the backward pass three
# times that: $12 sd$ a layer.
#
# Formulas can be checked. PyTorch can count the FLOPs of every matrix product; on the device `"meta"`, where tensors have
# shapes but no numbers, it counts without computing.


# %%
def counted(cfg, seq_len):
    """FLOPs a token of all matrix products in the blocks, forward and backward."""
    with torch.device("meta"):
        model, ids = mds.Transformer(cfg), torch.zeros(1, seq_len, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.hidden(ids, model.context(ids)).sum().backward()
    return counter.get_total_flops() / seq_len


blocks = counted(isoflop.Trial(compute=2e10, d_model=24).model, seq_len=64)
assert blocks == accounting.non_embedding_flops(24, 2, 64) == 72 * 2 * 24**2 + 12 * 2 * 24 * 64
print(f"a V1 of 2 layers and width 24, 64 tokens: {blocks:,.0f} FLOPs a token in its blocks, exactly M")

# %% [markdown]
# For a model of the formula's proportions $M$ is no approximation: it is the sum of all matrix products in the blocks, to
# the last FLOP. (It counts the scores of the *whole* square, although the causal mask throws half of them away. Later
# DeepSeek papers halve.) And the two models that were released?

# %%
for name in ("v1-7b", "v1-67b"):
    cfg = mds.generations[name]
    real = cfg.n_layers * counted(replace(cfg, n_layers=1), 4096)  # all layers are alike: one is enough
    formula = accounting.non_embedding_flops(cfg.d_model, cfg.n_layers, 4096)
    print(f"{name}: counted {real / 1e9:.1f} GFLOPs a token, M {formula / 1e9:.1f}: {real / formula - 1:+.1%}")
assert real < 0.9 * formula

# %% [markdown]
# The 7B's feed-forward is a little wider than $\frac83 d$. The 67B shares keys and values among its heads (GQA, [lesson
# 02](02_v1_block.ipynb)), which the formula does not know: it charges for multi-head attention. The paper's own budgets
# are in the formula's currency, so we keep to it.
#
# How much do the three measures differ? This is the paper's table 3, from nothing but depths and widths:

# %%
print(f"{'layers':>6} {'width':>6} {'N1':>9} {'N2':>9} {'M':>9} {'6N1/M':>7} {'6N2/M':>7}")
for n_layers, width in laws.TABLE_3:
    n1, n2 = accounting.n1(width, n_layers), accounting.n2(width, n_layers)
    M = accounting.non_embedding_flops(width, n_layers)
    print(f"{n_layers:6} {width:6} {n1:9.3g} {n2:9.3g} {M:9.3g} {6 * n1 / M:7.3f} {6 * n2 / M:7.3f}")

# %% [markdown]
# For the smallest model $6N_1$ is less than half of $M$, and $6N_2$ a third more; for the largest all three agree within
# eight percent. A law fitted at the small end in the wrong unit bends on its way to the large end.
#
# Compare with the paper's own table: it prints 0.85 for the model of 32 layers. Is that right? With $d = s$ it can be
# done in the head: $6N_1/M = 72d^2 / (72d^2 + 12d^2) = 6/7$.

# %%
ratio = 6 * accounting.n1(4096, 32) / accounting.non_embedding_flops(4096, 32)
assert ratio == 6 / 7
assert round(ratio, 2) == 0.86
print(f"{ratio:.4f}: rounded it is 0.86. The table's 0.85 is cut off where its neighbours are rounded")

# %% [markdown]
# Where do a token's FLOPs go? The share of attention's scores and of the vocabulary shrinks as models widen. At the
# top of the picture stand two of the models that this lesson trains.

# %%
ours = {f"ours: 2 × {width}": (2, width, isoflop.SEQ_LEN, isoflop.VOCAB_SIZE) for width in (16, 64)}
papers = {f"V1's table: {n} × {width:,}": (n, width, 4096, 102_400) for n, width in laws.TABLE_3[::2]}
parts = {
    name: {"weights of the blocks": 72 * n * d * d, "attention's scores": 12 * n * d * s, "vocabulary": 6 * V * d}
    for name, (n, d, s, V) in (ours | papers).items()
}
viz.shares(
    parts, unit="FLOPs a token", digits=".2g", title="The smaller a model, the more of its bill is not for its weights"
)

# %% [markdown]
# ### Myth check: "$C = MD$ includes attention's quadratic cost"
#
# Half true. Per *token* the scores cost $12 L d s$: linear in the length $s$. Per *sequence* of $s$ tokens that becomes
# quadratic. And what $M$ leaves out, the vocabulary, is larger than the scores for small models (picture above). Nor is
# "$M = C/D$" a definition, as one reads: it would be a circle. $M$ comes from the model's shape; the budget then says
# how many tokens $D = C/M$ it may read.

# %%
lengths = np.array([4096, 8192, 16384])
scores = np.array([accounting.non_embedding_flops(4096, 30, s) - 72 * 30 * 4096**2 for s in lengths])
assert (scores[1:] == 2 * scores[:-1]).all()  # a token: twice the length, twice the cost
assert ((scores * lengths)[1:] == 4 * (scores * lengths)[:-1]).all()  # a sequence: four times
for s, cost in zip(lengths, scores, strict=True):
    print(f"7B, {s:6,} tokens: scores are {cost / (cost + 72 * 30 * 4096**2):.0%} of M")

# %% [markdown]
# ## 3 · The idea in one picture
#
# Fix the budget. Train models of several sizes, each on the tokens that it can afford. Too small a model cannot hold
# what it reads; too large a model hardly reads. Between lies a **valley**, and its floor is the best model for the
# budget: all runs in one valley cost the same (*IsoFLOP*).
#
# We first look at a world of our own making, where the truth is known. Hoffmann et al. (arXiv 2203.15556, eq. 2) found
# that loss falls with size and with data like
#
# $$\mathrm{loss}(M, D) = E + \frac{a}{M^{\alpha}} + \frac{b}{D^{\beta}} .$$
#
# $E$ is what no model gets below, the second term is what a small model lacks, the third what little data lack. (They
# wrote $N$ where we write $M$. For a made-up world any positive numbers will do.)

# %%
world = scaling.Surface(floor=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)
budgets = np.repeat([1e18, 1e19, 1e20, 1e21], 9)
scales = world.m_opt(budgets) * np.tile(np.geomspace(1 / 5, 5, 9), 4)
losses = world.loss(scales, budgets / scales)
known = scaling.fit_isoflop(budgets, scales, losses)
viz.valleys(
    budgets, scales, losses, known.valleys, ylabel="loss of the made-up world",
    title="A valley for each budget; the more compute, the larger the best model",
)  # fmt: skip

# %% [markdown]
# ## 4 · The idea in ten lines
#
# A parabola in $\ln M$ for each budget, its lowest point, and a straight line through those points, with both axes
# logarithmic. `np.polyfit` does all of it.


# %%
def exponent_of(budgets, scales, losses):
    """Slope of ln(best scale) against ln(compute)."""
    floors = {}
    for budget in np.unique(budgets):
        here = budgets == budget
        c2, c1, _ = np.polyfit(np.log(scales[here]), losses[here], 2)
        floors[budget] = -c1 / (2 * c2)
    return np.polyfit(np.log(list(floors)), list(floors.values()), 1)[0]


naive = exponent_of(budgets, scales, losses)
assert np.isclose(naive, known.model.exponent)
print(f"M_opt grows like C^{naive:.4f}")

# %% [markdown]
# That is the package's [`scaling.fit_isoflop`](../minideepseek/train/scaling.py), which adds error bars and refuses a
# valley without a floor. Is 0.45 the truth? In this world the best size can be had with pencil and paper. Put
# $D = C/M$, set the derivative to zero, and out comes
#
# $$M_{opt}(C) = \left(\frac{\alpha a}{\beta b}\right)^{\frac1{\alpha+\beta}} C^{\frac{\beta}{\alpha+\beta}},
# \qquad D_{opt}(C) = C / M_{opt}(C).$$
#
# The exponents of model and data always add up to one, because $C = MD$.

# %%
assert world.m_opt.exponent == 0.28 / (0.34 + 0.28)
assert np.isclose(known.model.exponent, world.m_opt.exponent, atol=1e-4)
assert np.isclose(known.model.exponent + known.data.exponent, 1)
print(f"truth {world.m_opt.exponent:.4f}, fitted {known.model.exponent:.4f}; for data {known.data.exponent:.4f}")

# %% [markdown]
# ### How sure is an exponent?
#
# Real losses are noisy: another seed, another loss. Two ways to turn that into an error of the exponent:
#
# - **closed form**: the scatter of the runs about their parabola gives the error of its lowest point, and the errors of
#   the lowest points give the error of the slope (the delta method, twice);
# - **bootstrap**: shuffle the deviations among the runs of a budget, fit everything again, do that two thousand times, and
#   look at the exponents that come out.
#
# In a made-up world both can be checked: repeat the whole experiment, and see how the exponent really scatters.


# %%
def experiment(seed, noise, budgets=budgets, scales=scales):
    """The runs of the made-up world, with noise."""
    luck = np.random.default_rng(seed).standard_normal(len(scales))
    return budgets, scales, world.loss(scales, budgets / scales) + noise * luck


for noise in (0.002, 0.005, 0.02):
    repeats = np.std([scaling.fit_isoflop(*experiment(seed, noise)).model.exponent for seed in range(200)])
    closed = np.mean([scaling.fit_isoflop(*experiment(seed, noise)).model.error for seed in range(20)])
    boot = np.mean([scaling.bootstrap(*experiment(seed, noise), resamples=300).exponents.std() for seed in range(20)])
    print(f"noise {noise}: closed form ± {closed:.4f}, bootstrap ± {boot:.4f}, 200 experiments ± {repeats:.4f}")
    assert abs(closed / repeats - 1) < 0.3
    assert abs(boot / repeats - 1) < 0.3

# %% [markdown]
# All three agree. Now turn the knob: how many budgets, how far apart, how noisy? The picture shows 300 experiments
# each. What helps most is the **span** of the budgets, the lever arm of the line: twice the span of $\ln C$ halves the
# error, and so would four times as many runs. V1's budgets span a factor of 3,000. Ours, in a moment, a factor of 27.


# %%
def spread_of_exponents(budgets=4, span=27, noise=0.005):
    C = np.repeat(np.geomspace(1e18, 1e18 * span, budgets), 6)
    M = world.m_opt(C) * np.tile(np.geomspace(1 / 4, 4, 6), budgets)
    found = [exponent_of(*experiment(seed, noise, C, M)) for seed in range(300)]
    figure, (axes,) = viz.canvas(f"The exponent comes out at {np.mean(found):.3f} ± {np.std(found):.3f}", height=2.9)
    axes.hist(found, bins=np.linspace(0.2, 0.7, 101))
    axes.axvline(world.m_opt.exponent, color="#c43d14", linestyle="-")
    axes.set(xlabel="exponent of the best model (red: the truth)", ylabel="experiments of 300", xlim=(0.2, 0.7))
    return figure


viz.knob(spread_of_exponents, budgets=(2, 8), span=[9, 27, 100, 3000], noise=[0.001, 0.005, 0.02])

# %% [markdown]
# ### What moves the exponent: the data
#
# The paper's most quoted finding is table 4. The same procedure on different corpora gives different exponents:

# %%
for row in laws.TABLE_4:
    print(f"{row.corpus:38} M_opt ~ C^{row.model:<5} D_opt ~ C^{row.data}")

# %% [markdown]
# Of the last three corpora V1 trusted OpenWebText2 most (small, cleaned with care), then its current data, then its
# early data. In that order the model's exponent falls: **the better the data, the more of additional compute should go
# into the model**, and the less into more text. Hoffmann et al. had found an even split, Kaplan et al. three quarters
# for the model; part of that old dispute may have been a difference of corpora.
#
# Our made-up world can show *a* mechanism. Say that better text teaches more a token: the data term falls faster,
# $\beta$ is larger. Then the exponent $\beta/(\alpha+\beta)$ grows.

# %%
C = np.repeat(np.geomspace(*laws.BUDGETS, 8), 10)
fitted = {}
for beta in (0.24, 0.28, 0.32, 0.36, 0.40):
    corpus = scaling.Surface(beta=beta)
    M = corpus.m_opt(C) * np.tile(np.geomspace(1 / 5, 5, 10), 8)
    luck = 0.002 * np.random.default_rng(0).standard_normal(80)
    fitted[beta] = scaling.fit_isoflop(C, M, corpus.loss(M, C / M) + luck)
    print(f"beta {beta:.2f}: model {fitted[beta].model.exponent:.3f} ± {fitted[beta].model.error:.3f}, data "
          f"{fitted[beta].data.exponent:.3f}; ten times the compute: model × {fitted[beta].model.growth(10):.2f}")  # fmt: skip
exponents = [fit.model.exponent for fit in fitted.values()]
assert np.all(np.diff(exponents) > 0.01)

# %% [markdown]
# ### Myth check: "better data supports a larger model, or needs fewer tokens"
#
# A summary says so. The table is about *exponents*: how to divide compute that is **added**. On every corpus both the
# best model and the best amount of text grow with compute; on better text the model grows faster and the text slower,
# not backwards.

# %%
for row in laws.TABLE_4[2:]:
    print(f"{row.corpus:35} 1000 times the compute: model × {1000**row.model:4.1f}, tokens × {1000**row.data:4.1f}")
early, current, best = laws.TABLE_4[2:]
assert early.model < current.model < best.model
assert early.data > current.data > best.data > 0  # more compute always wants more tokens

# %% [markdown]
# ## 5 · Train it
#
# Now with real models. Ours are V1 in everything but size: two layers, widths from 8 to 96, sequences of 64 tokens, 512
# tokens in the vocabulary. They learn from the source code and manual of the running Python, about nine million bytes,
# and hardly one of them sees a byte twice. The measure is **bits per byte** of text that was held out, as in the paper: a loss in
# nats per token would depend on the tokenizer ([lesson 01](01_text_to_tokens.ipynb)).
#
# Learning rate and batch? V1 found laws for these too (section 7 below). We simply use them, five to seven orders of
# magnitude below the budgets they were fitted to, and check later how bad that is.
#
# One budget, $2\cdot10^{10}$ FLOPs, five widths, one seed, now:

# %%
data = isoflop.corpus()
trials = [isoflop.Trial(compute=2e10, d_model=width) for width in (12, 16, 24, 32, 48)]
live = [isoflop.run(trial, data) for trial in tqdm(trials, desc="training", unit="model", leave=False)]
for outcome in live:
    trial, settings = outcome.trial, outcome.trial.settings
    print(f"width {trial.d_model}: M {trial.scales['M']:8,.0f}, {settings.steps:4} steps of {settings.tokens_per_step} "
          f"tokens, lr {settings.lr:.4f} -> {outcome.bits_per_byte:.3f} bits a byte")  # fmt: skip

# %% [markdown]
# Every one of these models cost the same. The widest has made 70 steps, the narrowest 725.
#
# One valley says little. The same code, [`benchmarks/scaling_grid.py`](../benchmarks/scaling_grid.py), has trained a
# whole grid beforehand: four budgets, five or six widths, up to three seeds. The results are in a small table that
# comes with the lesson. Our fresh models are the rings.

# %%
stored = isoflop.read("../benchmarks/results/isoflop.csv")
runs = isoflop.columns(stored)
fit = scaling.fit_isoflop(*runs)
minutes = sum(outcome.cpu_seconds for outcome in stored) / 60
print(f"{len(stored)} stored runs, {minutes:.0f} CPU minutes")
viz.valleys(
    *runs, fit.valleys, live=isoflop.columns(live)[1:], title="Real runs: four valleys, and their floors move right"
)

# %% [markdown]
# Look at the marks before the lines. Is there a valley, or only luck? First the luck: how much does the loss change when
# nothing changes but the seed?

# %%
cells = {}
for outcome in stored:
    cells.setdefault((outcome.trial.compute, outcome.trial.d_model), []).append(outcome.bits_per_byte)
noise = np.sqrt(np.mean([np.var(losses, ddof=1) for losses in cells.values() if len(losses) > 1]))
print(f"seeds of one model scatter by ± {noise:.3f} bits a byte (one standard deviation)")
assert noise < 0.03

# %% [markdown]
# Then the walls. In each budget, how far do the smallest and the largest model stand above the model nearest to the
# floor, in standard errors of the difference?

# %%
for valley in fit.valleys:
    row = {width: np.array(losses) for (budget, width), losses in cells.items() if budget == valley.compute}
    near = min(row, key=lambda width: abs(np.log(isoflop.Trial(compute=1, d_model=width).scales["M"] / valley.scale)))
    walls = [(row[width] - row[near]).mean() for width in (min(row), max(row))]
    error = noise * np.sqrt(2 / len(row[near]))
    print(f"C = {valley.compute:.1e}, {len(row[near])} seeds: width {min(row)} is {walls[0]:.3f} above width {near} "
          f"({walls[0] / error:.0f} σ), width {max(row)} {walls[1]:.3f} ({walls[1] / error:.0f} σ)")  # fmt: skip
    assert min(walls) > 3 * error

# %% [markdown]
# Every wall stands, at every budget: it *is* a valley. And do the stored runs belong to this machine at all?

# %%
fresh = [cells[2e10, outcome.trial.d_model][0] - outcome.bits_per_byte for outcome in live]
print("stored minus live, same seed:", " ".join(f"{gap:+.4f}" for gap in fresh))
assert max(map(abs, fresh)) < 0.3

# %% [markdown]
# Zeros only where nothing has changed at all. Another processor, or a quicker matrix product, rounds a last digit
# differently, and after a few hundred steps two such runs are as far apart as two seeds. Another Python also brings
# another corpus: its own library.
#
# ### Two laws from four floors

# %%
spread = scaling.bootstrap(*runs)
low, high = spread.interval(0.9)
for valley in fit.valleys:
    print(f"C = {valley.compute:.1e}: best M = {valley.scale:9,.0f} ± {100 * valley.log_error:.0f} %, D = "
          f"{valley.compute / valley.scale:9,.0f} tokens, {valley.loss:.3f} bits a byte")  # fmt: skip
print(f"model exponent {fit.model.exponent:.3f} ± {fit.model.error:.3f}; bootstrap, 90 %: {low:.3f} to {high:.3f}")
print(f"data exponent {fit.data.exponent:.3f}; together {fit.model.exponent + fit.data.exponent:.6f}")
assert np.all(np.diff([valley.scale for valley in fit.valleys]) > 0)
assert spread.lost == 0
assert spread.exponents.min() > 0  # in every resample the floor moves to larger models
assert np.isclose(fit.model.exponent + fit.data.exponent, 1)

# %%
viz.laws_of(fit, spread, title="Four floors and their line; V1's law, drawn far below its range, passes near")

# %% [markdown]
# The grey line was fitted to runs of at least a hundred thousand times our compute, on other text, with another
# vocabulary, sequences sixty-four times as long and many layers. That it passes so near is pleasant, and no proof of
# anything.
#
# Does our interval exclude the paper's 0.524? As arithmetic, look at the numbers above. But the interval knows only what
# the *runs* know: seeds, and how badly a parabola fits. It does not know that all our models have two layers, that
# budgets span a factor of 27, or that the learning rate came from a law. One thing we can test without new runs: leave
# something out that should not matter.

# %%
budget_of, scale_of = runs[0], runs[1]
edge = {valley.compute: (valley.low, valley.high) for valley in fit.valleys}
left_out = {f"without C = {budget:.1e}": budget_of != budget for budget in edge}
left_out["without the narrowest models"] = np.array([m > edge[c][0] for c, m in zip(budget_of, scale_of, strict=True)])
left_out["without the widest models"] = np.array([m < edge[c][1] for c, m in zip(budget_of, scale_of, strict=True)])
exponents = []
for name, kept in left_out.items():
    law = scaling.fit_isoflop(*(column[kept] for column in runs)).model
    exponents.append(law.exponent)
    print(f"{name:30} exponent {law.exponent:.3f} ± {law.error:.3f}")
assert min(exponents) > 0.3

# %% [markdown]
# What we *chose* moves the exponent further than the seeds do: compare these lines with the bootstrap's interval. The
# honest error is the wider of the two.

# %% [markdown]
# ## 6 · Look inside: rulers and forecasts
#
# ### Three rulers
#
# What if we had counted like Kaplan ($6N_1$) or like Chinchilla ($6N_2$)? The runs stay what they are; only their cost is
# called something else. Each column of ours then leans, and to the side that the small models pull it to: without
# attention's scores they look cheaper than they are, with the vocabulary dearer.

# %%
viz.three_axes(
    {name: isoflop.columns(stored, name) for name in ("6N1", "M", "6N2")}, budgets=runs[0],
    title="Runs planned as columns in M lean in the other rulers (small dots: small models)",
)  # fmt: skip

# %%
shapes = [isoflop.Trial(compute=1e10, d_model=width).scales for width in (8, 12, 16, 24, 32, 48, 64, 96)]
floors = np.array([(valley.compute, valley.scale, valley.loss) for valley in fit.valleys]).T
forecasts = {}
for name in ("6N1", "M", "6N2"):
    scale = np.exp(np.interp(np.log(floors[1]), *np.log([[s["M"] for s in shapes], [s[name] for s in shapes]])))
    cost = floors[0] * scale / floors[1]  # the tokens stay what they are
    law = scaling.fit_power_law(cost[:3], floors[2][:3])
    forecasts[name] = law(cost[3])
    print(f"{name:>3}: {scale[0] / floors[1][0]:.2f} M to {scale[3] / floors[1][3]:.2f} M at the floors, model exponent "
          f"{scaling.fit_power_law(cost, scale).exponent:.3f}, last floor predicted at {law(cost[3]):.3f} bits")  # fmt: skip

# %% [markdown]
# The same four floors give three exponents: **an exponent without its ruler means nothing**. Much of the old dispute
# between Kaplan and Chinchilla has been traced to what was counted, and to how the smallest runs were tuned (Pearce &
# Song, arXiv 2406.12907; Porian et al., arXiv 2406.19146). The paper's appendix says that $6N_1$ overrates large models, $6N_2$ underrates them, and $M$
# predicts best. Our three predictions differ by less than their common miss: at our size that claim cannot be seen.
#
# ### The forecast, and the miss
#
# That is what scaling laws are for. The first three budgets see the law; the fourth has to be predicted.

# %%
spent, _, best = floors
law = scaling.fit_power_law(spent[:3], best[:3])
miss = law(spent[3]) - best[3]
title = f"Predicted {law(spent[3]):.3f}, measured {best[3]:.3f} bits a byte"
viz.forecast(spent, best, law, used=3, errors=2 * noise * np.ones(4), title=title)

# %%
print(f"miss {miss:+.3f} bits ({miss / best[3]:+.1%}); seeds scatter by ± {noise:.3f}; "
      f"to expect no progress at all would miss by {best[2] - best[3]:+.3f}")  # fmt: skip
steps = np.diff(np.log(best)) / np.diff(np.log(spent))
print("slope from budget to budget:", " ".join(f"{slope:.3f}" for slope in steps))
assert abs(miss) < 0.5 * (best[2] - best[3])

# %% [markdown]
# Much better than nothing, a few percent off, and yet wrong by several times what seeds explain: the slope is not
# constant. Power laws describe models that have left the beginnings behind; ours are just learning to spell, and each new
# trick bends the curve. The paper's smallest run is five million times our smallest, and it reports that its line still
# held a thousandfold beyond the runs. Always ask for the points, not only for the line.
#
# ### How flat is a floor?
#
# A valley's walls say what a wrong size costs. (A parabola is symmetric: half the best size costs as much as double.)

# %%
for valley in fit.valleys:
    double, four = (float(valley(valley.scale * times)) / valley.loss - 1 for times in (2, 4))
    print(f"C = {valley.compute:.1e}: wrong by a factor of two costs {double:.1%} of the loss, of four {four:.1%}")
    assert double < 0.06

# %% [markdown]
# ## 7 · Learning rate and batch
#
# The second half of the paper's section 3. For each budget it trained models on a grid of learning rates and batches, and
# kept not *the* best pair but all pairs whose loss was within 0.25 % of it: a broad basin, in which the choice hardly
# matters. Through the basins it drew
#
# $$\eta_{opt} = 0.3118 \cdot C^{-0.1250}, \qquad B_{opt} = 0.2920 \cdot C^{0.3271} \text{ tokens.}$$

# %%
print(f"{'C':>8} {'learning rate':>14} {'batch, tokens':>14}")
for compute in (2e10, 5.4e11, 1e17, 2e19, 1e20, 3e20):
    print(f"{compute:8.1e} {laws.lr_opt(compute):14.3g} {laws.batch_opt(compute):14,.0f}")
print(f"ten times the compute: learning rate × {laws.lr_opt.growth(10):.2f}, batch × {laws.batch_opt.growth(10):.2f}")

# %% [markdown]
# Larger budgets want larger batches and gentler steps. Batch grows slower than the number of tokens, so the number of
# updates grows too.
#
# We used these laws far below their range. Was that foolish? A stored sweep answers: five learning rates by five batches,
# at two budgets a factor of nine apart, in multiples of what the law says. Golden frames mark the paper's 0.25 %.

# %%
sweep = isoflop.read("../benchmarks/results/lr_batch.csv")
factors, names = (0.25, 0.5, 1.0, 2.0, 4.0), ["¼", "½", "1", "2", "4"]
seeds = {}
for outcome in sweep:
    trial = outcome.trial
    seeds.setdefault((trial.compute, trial.lr_factor, trial.batch_factor), []).append(outcome.bits_per_byte)
maps = {
    budget: np.array([[np.mean(seeds[budget, lr, batch]) for batch in factors] for lr in factors])
    for budget in sorted({budget for budget, _, _ in seeds})
}
viz.near_optimal(maps, lr=names, batch=names, title="The laws' own choice lies in the basin")

# %%
scatter = np.sqrt(
    np.mean([np.var(losses, ddof=1) / np.mean(losses) ** 2 for losses in seeds.values() if len(losses) > 1])
)
excess = {budget: table / table.min() - 1 for budget, table in maps.items()}
for budget, table in excess.items():
    print(f"C = {budget:.1e}, {len(seeds[budget, 1, 1])} seed(s): the law ends {table[2, 2]:.1%} above the best of 25; "
          f"{np.sum(table <= 0.02)} pairs are within 2 %, {np.sum(table <= 0.0025)} within 0.25 %, the worst is {table.max():.0%} above")  # fmt: skip
law_excess = max(table[2, 2] for table in excess.values())
print(f"seeds scatter by ± {scatter:.1%}")
small, large = maps
print(f"from map to map the law moves: learning rate × {laws.lr_opt.growth(large / small):.2f}, "
      f"batch × {laws.batch_opt.growth(large / small):.2f}")  # fmt: skip
assert law_excess < 0.03

# %% [markdown]
# It was not foolish. Tens of millions of times below the smallest run they were fitted to, the laws pick a pair inside the
# basin, no further from the best than one seed from another. The maps show two things more. The basin is broad: a factor
# of two costs one to three percent, which is why the paper could fit a *band*. And it is slanted: with a larger batch goes
# a larger learning rate, so the two must be searched together.
#
# What they do not show are the exponents. Drawn in multiples of the law, both maps look alike, and that agrees with the
# law. But between them the law itself moves by one cell of batch and less than half a cell of learning rate, and the
# paper's 0.25 % is finer than our seeds can tell apart.
#
# ### Myth check: "DeepSeek was the first to put learning rate and batch into scaling laws"
#
# The paper itself cites earlier ones. McCandlish et al. (2018) tied the useful batch to the noise of the gradient; Kaplan
# et al. (2020) gave a batch as a power of the *loss*, and a learning rate that depends on *size*:
# $0.003239 - 0.0001395 \ln N$ (their appendix D.6). V1's contribution is to put both as powers of the *compute*, from
# sweeps of its own. What would the rule of 2020 have told V1?

# %%
for name, run in laws.RUNS.items():
    n1 = accounting.n1(run.cfg.d_model, run.cfg.n_layers)
    kaplan = 0.003239 - 0.0001395 * np.log(n1)
    print(f"{name}: Kaplan et al. {kaplan:+.1e}, V1's law {laws.lr_opt(run.compute):.1e}, used {run.lr:.1e}")
assert kaplan < 0 < laws.lr_opt(run.compute)

# %% [markdown]
# A negative learning rate for the 67B: a rule of thumb outside its range. V1's law cannot turn negative, which does not
# make it right everywhere. Its authors add a warning of their own: the best settings also depend a little on how a budget
# is *split* between model and data, and their law does not see that.
#
# ## 8 · V1 against its own laws
#
# Now the two models that DeepSeek really trained, both on 2 trillion tokens.

# %%
for name, run in laws.RUNS.items():
    print(
        f"{name}: C = {run.compute:.2e}; the law wants M = {laws.m_opt(run.compute):.2e} and {laws.d_opt(run.compute):.2e} tokens"
    )
    print(f"   M {run.scale:.2e} ({run.scale / laws.m_opt(run.compute):.2f} of the best), tokens × {run.tokens / laws.d_opt(run.compute):.2f}, "
          f"lr × {run.lr / laws.lr_opt(run.compute):.2f}, batch × {run.batch_tokens / laws.batch_opt(run.compute):.2f}")  # fmt: skip
    assert abs(run.lr / laws.lr_opt(run.compute) - 1) < 0.03
    assert abs(run.batch_tokens / laws.batch_opt(run.compute) - 1) < 0.09

# %% [markdown]
# Learning rate and batch are the laws', within a few percent; and they only fit if the law's batch is in *tokens*, which
# the paper does not say. (A batch of 2,304 sequences of 4,096 tokens.)
#
# The sizes are another matter. The 67B is near the optimum, a little small and a little long-trained. The 7B is **four
# times too small for its budget**, on purpose: a small model is cheap each time it is *used*, and the law minimises the
# cost of training alone.
#
# Turn the knob: a budget from $10^{16}$ to $10^{26}$ FLOPs, and the plan that the laws make of it. An H100 delivers about
# $4\cdot10^{14}$ FLOPs a second, so a day of eight of them is $10^{20.4}$.


# %%
def plan(log10_C=20.4):
    return viz.budget_plan(10**log10_C, laws.RUNS)


viz.knob(plan, log10_C=(16.0, 26.0, 0.1))

# %% [markdown]
# ## 9 · The ledger

# %%
gap = max(forecasts.values()) - min(forecasts.values())
assert gap < abs(miss)
viz.ledger(f"""
M is every FLOP of the blocks and none of the vocabulary | V1 section 3.2 | the counter agrees to the last FLOP | exact
6N1 is 0.43 M for the smallest model, 6N2 is 1.32 M | V1 table 3 | recomputed; one entry is cut off, not rounded | exact
at a fixed budget, loss against size is a valley | V1 figure 4 | all {len(fit.valleys)} budgets, walls of more than 3 σ | shown
the best size grows with the budget | V1 section 3.2 | in all {len(spread.exponents):,} resamples | shown
... like a power of C with exponent 0.524 | V1 section 3.2 | {fit.model.exponent:.2f}; by choice of runs {min(exponents):.2f} to {max(exponents):.2f}; other data | not at this size
M predicts large models best, 6N1 and 6N2 worse | V1 appendix A.2 | the three are {gap:.3f} bits apart and miss by {abs(miss):.3f} | not at this size
small runs predict the loss of a large one | V1 figure 5 | a factor of 3 ahead: {miss / best[3]:+.1%}, {abs(miss) / noise:.0f} σ of a run | not at this size
better data want larger models | V1 table 4 | in a made-up world only | not tested
the laws pick a near-optimal learning rate and batch | V1 section 3.1 | far below their range, {law_excess:.1%} above the best of 25 | shown
exponents of learning rate and batch: -0.125, 0.327 | V1 section 3.1 | a factor of 9 in C moves a cell at most | not at this size
V1's own settings follow its laws | V1 table 2 | learning rate within 3 %, batch within 9 % | shown
""")

# %% [markdown]
# **What this shows.** How a scaling law is made, to the last step: runs, valleys, floors, lines, error bars. That valleys
# exist and move, and that two published laws give good settings a very long way outside their range. **What it does not
# show.** The paper's exponents, its forecast, that one ruler is best, that better text changes the split: our lever arm is
# too short, and so would be anyone's who has minutes. For those there is only the paper.
#
# ## 10 · Exercises
#
# Think or compute first; the answers below open with a click.
#
# **A. Your budget.** You have eight H100 for a day, at $4\cdot10^{14}$ FLOPs a second each. By V1's laws: how large, how many
# tokens, which learning rate and batch, how many updates? Which shape of table 3 comes nearest?
#
# **B. A planted bug.** A colleague fits the parabola to the scale $M$ instead of $\ln M$. In the made-up world without
# noise, what exponent comes out, and where do the floors land?
#
# **C. The price of a digit.** How many seeds of our whole grid would it take to know the exponent to ± 0.005? How
# much would V1's span of budgets do instead, with the runs that we have?
#
# **D. Why 7B was made too small.** Take the world of Hoffmann et al. and the budget of A. A model of a quarter of the
# best size can reach the *same* loss if it reads more. What does its training cost in addition, and after how many
# tokens of use has that been saved? (Using a model costs $M/3$ a token: no backward pass.)
#
# Then solve [the exercises](../exercises/04_scaling_laws/04_scaling_laws.ipynb).

# %% jupyter={"source_hidden": true}
budget = 8 * 86_400 * 4e14
nearest = min(
    laws.TABLE_3, key=lambda shape: abs(np.log(accounting.non_embedding_flops(shape[1], shape[0]) / laws.m_opt(budget)))
)
updates = laws.d_opt(budget) / laws.batch_opt(budget)
viz.answer(
    "A",
    f"C = {budget:.2e} FLOPs. M = {laws.m_opt(budget):.2e} FLOPs a token; {nearest[0]} layers of width {nearest[1]:,} have "
    f"{accounting.non_embedding_flops(nearest[1], nearest[0]):.2e}. D = {laws.d_opt(budget):.2e} tokens, learning rate "
    f"{laws.lr_opt(budget):.2g}, batch {laws.batch_opt(budget):.2e} tokens ({laws.batch_opt(budget) / 4096:.0f} sequences of 4,096), "
    f"so {updates:,.0f} updates.",
)

# %% jupyter={"source_hidden": true}
vertex = []
for valley in known.valleys:
    here = scales[budgets == valley.compute]
    c2, c1, _ = np.polyfit(here, world.loss(here, valley.compute / here), 2)
    vertex.append(-c1 / (2 * c2))
wrong = scaling.fit_power_law([v.compute for v in known.valleys], vertex)
off = np.array(vertex) / world.m_opt(np.array([v.compute for v in known.valleys]))
viz.answer(
    "B",
    f"The floors land at {off.min():.2f} to {off.max():.2f} times the truth, and the exponent is {wrong.exponent:.3f}, where the "
    f"truth is {world.m_opt.exponent:.3f}. Each budget's models are spread about its floor in the same proportions, so every "
    "valley is wrong by the same factor, and a factor does not change a slope. The bug hides in the exponent and shows in "
    "the size: plot the parabola over the points.",
)

# %% jupyter={"source_hidden": true}
more = (fit.model.error / 0.005) ** 2
arm = np.log(3000) / np.log(27)
viz.answer(
    "C",
    f"The error of ± {fit.model.error:.3f} has to shrink to ± 0.005, so it takes {more:.1f} times as many runs, "
    f"{more * len(stored):.0f}. A span of 3,000 instead of 27 makes the lever arm {arm:.1f} times as long and the error "
    f"± {fit.model.error / arm:.3f} with the runs we have. Those runs would cost more, of course: span is paid in compute. "
    "And neither cures what all runs have in common.",
)

# %% jupyter={"source_hidden": true}
text = scaling.Surface(a=406.4 * 6**0.34)  # their N is M / 6
best_scale = text.m_opt(budget)
small = best_scale / 4
goal = text.loss(best_scale, budget / best_scale) - text.floor - text.a * small**-text.alpha
needed = (text.b / goal) ** (1 / text.beta)
extra = small * needed - budget
saved = extra / ((best_scale - small) / 3)
assert np.isclose(text.loss(small, needed), text.loss(best_scale, budget / best_scale))
viz.answer(
    "D",
    f"It has to read {needed / (budget / best_scale):.1f} times as many tokens, which costs {extra / budget:.0%} more compute than the "
    f"budget. Each token of use then saves three quarters: after {saved:.1e} tokens, {saved / (budget / best_scale):.1f} times "
    "the best model's training text, the small one has been cheaper. A model that the public will use reads far more than that.",
)
