# %% [markdown]
# # 15 · V4, and the bill at a million tokens
#
# V4 is what the last four lessons built, put together: attention that reads a window word by word and the rest in blocks,
# four residual streams, another optimiser, experts of which some are chosen by a table. This lesson trains it in miniature
# beside V3, hands it on to `transformers`, and then does what the report's abstract does: it counts what a token costs
# behind a million others, and how much of that V4 saves.
#
# Afterwards you can
#
# - read V4's config layer by layer, and say what each layer keeps and reads;
# - tell what the architecture is worth from what the optimiser is worth, as far as a laptop can see it;
# - recompute the report's 10 % and 27 % from shapes, and say which of the two is a measurement and which a convention.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it; lessons 11 to 14 come first.

# %%
import csv
import json
import time
from collections import Counter, defaultdict
from tempfile import TemporaryDirectory

import torch

import minideepseek as mds
from minideepseek import checkpoint, viz
from minideepseek.accounting import cache_elements, claims, efficiency_table
from minideepseek.data import Loader, prepare
from minideepseek.layers.hyper import composite_gain
from minideepseek.layers.probe import mixed
from minideepseek.train import TrainConfig, prepare_cpu, train

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: what a token costs behind a million others
#
# A model that works for hours writes and reads a lot, and all of it stays before its eyes. Two things grow with the text:
# what must be *kept* of each token, and what each new token must *compute* with it. Both from the configs alone:


# %%
def cost(name, tokens):
    """GB kept of a text (16 bits a number), and GFLOPs of attention for one token more."""
    cfg = mds.generations[name]
    kept = 2 * cache_elements(cfg, tokens) / 1e9
    return kept, sum(attention.score_flops(tokens) for attention, _ in cfg.layers) / 1e9


line = ["v1-67b", "v2", "v3", "v3.2", "v4-flash", "v4-pro"]
lengths = [2**k for k in range(12, 21)]
bills = {name: torch.tensor([cost(name, tokens) for tokens in lengths]).T for name in line}

# %%
viz.curves(
    {name: kept for name, (kept, _) in bills.items()}, x=lengths, log="xy",
    title="V2 made the past small; V4 keeps a million tokens in ten gigabytes",
    xlabel="tokens of the past", ylabel="GB kept for one text (bf16)",
)  # fmt: skip

# %%
viz.curves(
    {name: work for name, (_, work) in bills.items()}, x=lengths, log="xy",
    title="V3.2 stopped reading everything, and still scores everything",
    xlabel="tokens of the past", ylabel="GFLOPs for one token",
)  # fmt: skip

# %%
at_million = {name: (kept[-1].item(), work[-1].item()) for name, (kept, work) in bills.items()}
assert at_million["v4-pro"][0] < 11 < 60 < at_million["v3.2"][0]
assert at_million["v3.2"][1] < at_million["v3"][1] / 4
assert at_million["v4-pro"][1] < at_million["v3.2"][1] / 4
for name, (kept, work) in at_million.items():
    print(f"{name:>8}: {kept:8.1f} GB kept, {work:10,.0f} GFLOPs of attention a token, behind a million")

# %% [markdown]
# V3's latents (lesson 06) made the past small, but every token still reads all of it. V3.2 reads 2,048 tokens of it (lesson
# 11), but its indexer *scores* all of them, and that is what is left of the slope. V4 takes two steps more, both in the
# length of the row: a block of tokens becomes one entry, before anything is kept or scored (lesson 12).
#
# ## 2 · The model in one picture
#
# Three kinds of layers take turns. Which, says the config:

# %%
kinds = {name: Counter(type(attention).__name__ for attention, _ in mds.generations[name].layers)
         for name in ("v4-flash", "v4-pro", "v4-mini")}  # fmt: skip
for name, found in kinds.items():
    print(f"{name:>8}: {dict(found)}")
assert kinds["v4-flash"] == {"SharedKV": 2, "CSA": 21, "HCA": 20}
assert kinds["v4-pro"] == {"CSA": 30, "HCA": 31}

# %% [markdown]
# `SharedKV` reads the last 128 tokens and nothing else; every other layer reads those *too*. And where do the 284 billion
# parameters of Flash lie? Nearly all in experts, as before. So look at the rest alone, at what every token meets:


# %%
def always(name):
    """Parameters at work for every token, in billions, by what they are for."""
    cfg = mds.generations[name]
    found = defaultdict(float)
    for attention, ffn in cfg.layers:
        core = getattr(attention, "mqa", attention)
        found["attention"] += core.n_params(cfg.d_model)
        found["compressors and indexers"] += attention.n_params(cfg.d_model) - core.n_params(cfg.d_model)
        found["experts at work, routers"] += ffn.n_activated(cfg.d_model)
    found["streams"] = cfg.residual.n_params(cfg.d_model, cfg.n_layers)
    found["embedding and head"] = 2 * cfg.vocab_size * cfg.d_model
    return {part: count / 1e9 for part, count in found.items()}


# %%
parts = {name: always(name) for name in ("v4-flash", "v4-pro")}
for name, found in parts.items():
    rest = mds.report(mds.generations[name]).activated["everything"] / 1e9 - sum(found.values())
    assert 0 <= rest < 0.002, (name, rest)  # gains of the norms between layers
assert parts["v4-flash"]["streams"] < 0.003 * sum(parts["v4-flash"].values())

# %%
viz.shares(
    parts,
    unit="billion parameters at work for a token", title="What is new is small: streams, compressors and indexers",
    digits=".2f",
)  # fmt: skip

# %% [markdown]
# The four streams (lesson 13) cost a quarter of a percent of what is at work in Flash.
#
# ## 3 · The idea in ten lines: count what is kept
#
# A layer that makes one entry of $m$ tokens keeps $\lfloor T/m \rfloor$ of them, a CSA layer as many keys for its indexer,
# and every layer its window. (The package keeps a few slots more, and the tokens of blocks that are still open.)

# %%
flash = mds.generations["v4-flash"]
million = 2**20
kept = 0
for attention, _ in flash.layers:
    core = getattr(attention, "mqa", attention)
    kept += core.window * core.head_dim
    if hasattr(attention, "rate"):
        kept += million // attention.rate * core.head_dim
    if hasattr(attention, "indexer"):
        kept += million // attention.rate * attention.indexer.head_dim
exact = cache_elements(flash, million)
assert kept < exact < 1.002 * kept
print(f"{kept:,} numbers by hand, {exact:,} with what waits: {kept / million:,.0f} a token")
print(f"V3.2 keeps {mds.report(mds.generations['v3.2']).cache_elements_per_token:,}")

# %% [markdown]
# ## 4 · Train it: V4 beside V3
#
# In miniature: a window of 32 tokens, blocks of 4 and of 16, top-8 of them. V4 changes architecture *and* optimiser, so a
# fair comparison has four arms, not two. First a glimpse, the same batches in the same order:

# %%
data = prepare("stories")
v3, v4 = mds.generations["v3-mini"], mds.generations["v4-mini"]
at_work = [mds.report(cfg).activated["everything"] for cfg in (v3, v4)]
assert round(100 * at_work[1] / at_work[0]) == 107
settings = {name: TrainConfig(steps=40, batch_size=8, eval_every=8, eval_batches=4, dtype="bf16", optimizer=optimizer)
            for name, optimizer in (("V3", "adamw"), ("V4", "muon"))}  # fmt: skip
runs, spent = {}, {}
for name, cfg in (("V3", v3), ("V4", v4)):
    start = time.process_time()
    runs[name] = train(cfg, data, settings[name], progress=False)
    spent[name] = time.process_time() - start

# %%
for name, run in runs.items():
    print(f"{name}: {', '.join(f'{loss:.2f}' for loss in run.curve('valid_loss')[1])} nats on held-out text")
print(f"a step of V4 takes {spent['V4'] / spent['V3']:.1f} times as long as one of V3")

# %% [markdown]
# One seed tells nothing (lesson 10). Five seeds of each arm, six times the steps, stand in the repository
# ([script](../benchmarks/family.py), [values](../benchmarks/results/family.csv)):

# %%
stored = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/family.csv", newline="") as file:
    for row in csv.DictReader(file):
        stored[row["arm"]][int(row["seed"])].append(float(row["valid_loss"]))
        last = int(row["step"])
arms = ["v3-mini", "v4-mini", "v3-mini, Muon", "v4-mini, Muon"]
losses = {arm: torch.tensor([stored[arm][seed] for seed in sorted(stored[arm])]) for arm in arms}
every = last // losses["v3-mini"].shape[1]
assert all(len(found) >= 5 for found in losses.values())
for arm, found in losses.items():
    print(f"{arm:>13}: {found[:, -1].mean():.3f} nats after {last} steps, two sigma {2 * found[:, -1].std():.3f}")

# %%
viz.curves(
    {arm: losses[arm] - losses["v3-mini"] for arm in arms[1:]}, x=range(every, last + 1, every),
    levels={"v3-mini": 0.0}, title=f"Five seeds, {last} steps: each arm less V3, pair by pair",
    xlabel="step (updates of the weights)", ylabel="loss less V3's, held-out text (nats)",
)  # fmt: skip


# %%
def verdict(better, worse):
    """Difference at the end, pair by pair: mean, two sigma, and what may be said of "better is better"."""
    apart = losses[better][:, -1] - losses[worse][:, -1]
    mean, band = apart.mean().item(), 2 * apart.std().item()
    return mean, band, "tie" if abs(mean) < band else "shown" if mean < 0 else "contradicted"


# %%
questions = {
    "the architecture, with AdamW": ("v4-mini", "v3-mini"),
    "the architecture, with Muon": ("v4-mini, Muon", "v3-mini, Muon"),
    "the optimiser, in V3": ("v3-mini, Muon", "v3-mini"),
    "the optimiser, in V4": ("v4-mini, Muon", "v4-mini"),
    "one generation to the next": ("v4-mini, Muon", "v3-mini"),
}
found = {question: verdict(*pair) for question, pair in questions.items()}
for question, (mean, band, word) in found.items():
    print(f"{question:<29}: {mean:+.3f} nats, two sigma {band:.3f}: {word}")
assert {word for *_, word in found.values()} == {"shown"}
assert all((losses[better] < losses[worse])[:, -1].all() for better, worse in questions.values())  # at every seed

# %% [markdown]
# So here, for once, a laptop can tell: the architecture and the optimiser help, each by itself and both together, at every
# seed. Lessons 07 to 10 ended in ties; what is different now? Not the compression, which has nothing to do with texts of 128
# tokens; of the parts that are left, lesson 13 tries the streams alone and lesson 14 the optimiser alone. Two cautions:
#
# - The arms had equal text and equal steps, not equal *time*. A step of V4's mini takes about twice as long, because
#   streams, compressors and indexers are many small operations; in a large model the matrices hide them. And V4's mini has
#   7 % more at work for a token.
# - One learning rate served all arms, V1's. Lesson 14 found that each optimiser has a valley of its own, and that who is
#   ahead at one rate can be behind at another; there each had its best, and Muon stayed ahead.
#
# What a text of 128 tokens *cannot* show is what V4 is for. A window of 32 and blocks of 16 save nothing there, and the
# stories hardly refer back further than that; lesson 12 planted facts to see what compression does to recall.
#
# ## 5 · Look inside
#
# Three things worth a look in the short run. Do the indexers learn which blocks matter? **Recall** is the share of attention
# on blocks, had all been read, that falls on the chosen eight. Chosen at random, it would be eight of however many there are:

# %%
record = runs["V4"].metrics
recall = {name: torch.tensor([step[name] for step in record]) for name in record[-1] if name.startswith("recall/")}
chance = torch.tensor([8 / (t // 4) for t in range(36, 129)]).mean().item()  # queries that see more than eight blocks
viz.curves(
    {f"layer {name[-1]}": values.unfold(0, 5, 5).mean(1) for name, values in recall.items()}, x=range(5, 41, 5),
    levels={"chosen at random": chance}, title="Forty steps are few: the indexers hardly know better than chance",
    xlabel="step (means of five)", ylabel="share of the attention on blocks",
)  # fmt: skip

# %% [markdown]
# Do the streams stay in balance? The **gain** is how much the product of all mixing matrices so far can enlarge a signal;
# on the manifold it cannot exceed one by more than rounding (lesson 13):

# %%
model = runs["V4"].model
batch = next(Loader(data.valid, batch_size=4, seq_len=127, seed=0))
with torch.inference_mode(), mixed(model) as notes:
    model(batch)
matrices = [passes[0] for passes in notes if passes]
gains = [composite_gain(matrices[: depth + 1]).max().item() for depth in range(len(matrices))]
assert max(gains) < 1.001
print("gain after each sub-layer:", ", ".join(f"{gain:.4f}" for gain in gains))

# %% [markdown]
# And the experts? Those of the first layer are chosen by a table, so nothing has to be balanced there, from the first step:

# %%
dealt = model.blocks[0].ffn.router.table[batch]
busy = torch.bincount(dealt.flatten(), minlength=16) / dealt.numel() * 16
print(f"busiest expert of the table: {busy.max():.2f} times the mean; idlest: {busy.min():.2f}")
print(f"MaxVio of the learnt routers in the last five steps: {sum(s['max_violation'] for s in record[-5:]) / 5:.2f}")
assert busy.min() > 0

# %% [markdown]
# ## 6 · What it keeps, weighed
#
# The cache of a real decode has the bytes that were announced, at any length; a quarter of it or less grows:

# %%
weighed = {}
for tokens in (128, 1024, 4096):
    bytes_of = {}
    for name, cfg in (("v3-mini", v3), ("v4-mini", v4)):
        bytes_of[name] = mds.Transformer(cfg, seed=0).new_cache(batch_size=1, max_len=tokens).nbytes
        assert bytes_of[name] == 4 * cache_elements(cfg, tokens)
    weighed[tokens] = bytes_of["v4-mini"] / bytes_of["v3-mini"]
    print(f"{tokens:>5} tokens: {bytes_of['v4-mini']:>9,} bytes, {weighed[tokens]:.0%} of V3's {bytes_of['v3-mini']:,}")
assert weighed[4096] < 0.2

# %% [markdown]
# Does it hold at length? Lesson 12 showed `v4-mini` at 131,072 tokens on one core of a CPU
# ([script](../benchmarks/long_decode.py), [table](../benchmarks/results/long_decode.md)):

# %%
with open("../benchmarks/results/long_decode.json") as file:
    long = json.load(file)
first, end = ({name: long[name][place] for name in ("v3-mini", "v4-mini")} for place in (0, -1))
growth = {name: end[name]["write ms/token"] / first[name]["write ms/token"] for name in first}
kept = end["v4-mini"]["formula bytes"] / end["v3-mini"]["formula bytes"]
assert end["v4-mini"]["length"] == 131_072
assert growth["v4-mini"] < 2.5 < 4 < growth["v3-mini"]
assert kept < 0.15
print(f"128 times the text: V3 takes {growth['v3-mini']:.1f} times as long for a token, V4 {growth['v4-mini']:.1f} times; "
      f"it keeps {kept:.0%} of V3's bytes")  # fmt: skip

# %% [markdown]
# A mini writes as quickly as it has calls to make, and V4 has more of them: twenty normalisations of a small matrix in each
# sub-layer alone. What grows is what counts at length: the scores of the indexers, one for four tokens, and the entries of
# the HCA layer, one for sixteen.

# %% [markdown]
# ## 7 · The bill at a million tokens
#
# Now the report's abstract: at a million tokens V4-Pro needs 27 % of V3.2's FLOPs for a token and 10 % of its cache, Flash
# 10 % and 7 %. The **bytes** can be recounted exactly, because the formats in which the models are served are public: 656
# bytes for a latent of V3.2 and 132 for its index key, 584 and 68 in V4, where keys have four bits.

# %%
table = {row.model: row for row in efficiency_table()}
for row in table.values():
    print(f"{row.model:>8}: {row.cache_gb:5.2f} GB, {row.cache_share:5.1f} %; in GFLOPs {row.linear:6.1f} of matrices, "
          f"{row.index:7.1f} to choose, {row.attention:5.1f} of attention; {row.flops_share:5.1f} %")  # fmt: skip
assert round(table["v4-pro"].cache_share) == 10
assert round(table["v4-flash"].cache_share) == 7

# %% [markdown]
# The **FLOPs** are another matter. The report says "equivalent FP8 FLOPs" and not how they are weighed. Unweighted, the
# shares are these; with FP4 counted half and BF16 double, as a reader would guess, they come close to what is printed:

# %%
plain = {name: row.linear + row.index + row.attention for name, row in table.items()}
for name, printed in (("v4-pro", 27), ("v4-flash", 10)):
    print(
        f"{name:>8}: {plain[name] / plain['v3.2']:.1%} unweighted, {table[name].flops_share:.1f} % weighted, {printed} % printed"
    )
assert abs(table["v4-pro"].flops_share - 27) < 1
assert abs(table["v4-flash"].flops_share - 10) < 1
assert table["v3.2"].index / plain["v3.2"] > 0.9

# %% [markdown]
# Agreement to a point, with weights chosen by us: that makes the printed numbers *plausible*, and no more. What does not
# depend on any weight is where the saving comes from. Of V3.2's FLOPs at a million nine tenths are the indexer's scores; V4
# divides those by four (blocks), by two (every other layer), and by two once more (four bits).
#
# So the saving depends on the length. With the same weights, for shorter texts:

# %%
spans = [2**k for k in range(10, 21)]
share = {name: [next(row for row in efficiency_table(n) if row.model == name).flops_share for n in spans]
         for name in ("v4-pro", "v4-flash")}  # fmt: skip
viz.curves(
    share, x=spans, log="x", levels={"V3.2": 100.0}, xlabel="tokens of the past", ylabel="FLOPs of a token, % of V3.2's",
    title="The saving grows with the text; Pro, the larger model, begins near V3.2",
)  # fmt: skip


# %%
def where(tokens=1_048_576):
    rows = efficiency_table(tokens)
    return viz.shares(
        {row.model: {"matrices": row.linear, "to choose": row.index, "attention": row.attention} for row in rows},
        unit="GFLOPs for one token", title=f"One token behind {tokens:,}", digits=".0f",
    )  # fmt: skip


viz.knob(where, tokens=[4096, 32_768, 131_072, 1_048_576])

# %% [markdown]
# ### Myth check
#
# (a) "V4 Pro needs a quarter of V3.2's FLOPs." Behind a million tokens; behind 4,096 it is four fifths, and if every
# operation counts alike nearly as many as V3.2. (b) "49 billion are activated": with the embedding it would be 49.8, and 48.9
# without; the same convention gives Flash's 13. (c) "A million tokens fit since V4": V3.2's cache of a million is 50 GB as
# served, which fits into one large GPU, *once*.

# %%
brief = {row.model: row for row in efficiency_table(4096)}
assert 75 < brief["v4-pro"].flops_share < 85
alike = {name: row.linear + row.index + row.attention for name, row in brief.items()}
assert 0.9 < alike["v4-pro"] / alike["v3.2"] < 1
rows = claims("v4-pro") + claims("v4-flash")
for claim in rows:
    print(f"{claim.printed:>7,.6g} printed, {claim.found:>9,.5g} {claim.unit:<2} {claim.what} ({claim.source})")
at_work_of = {name: mds.report(mds.generations[name]).activated["without embedding"] / 1e9 for name in parts}
assert {name: round(count) for name, count in at_work_of.items()} == {"v4-pro": 49, "v4-flash": 13}

# %% [markdown]
# ## 8 · Hand it on
#
# `minideepseek train v4-mini --out runs/v4` trains it in a few minutes, with Muon unless told otherwise, and writes, as every
# generation does, the layout of the released model:

# %%
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

disable_progress_bar()
set_verbosity_error()  # else it lists the module's weights, which it leaves aside
with TemporaryDirectory() as folder:
    checkpoint.save(model, folder, tokenizer=data.tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    again = mds.load(folder)
prompt = torch.tensor([[data.tokenizer.eos_id, *data.tokenizer.encode("One day")]])
with torch.inference_mode():
    error = ((theirs(batch).logits - again(batch)).abs().max() / theirs(batch).logits.abs().max()).item()
text = theirs.generate(prompt, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
assert error < 1e-5
assert torch.equal(text, mds.generate(again, prompt, max_new_tokens=40, temperature=0.0))
print(f"{type(theirs).__name__}: relative error {error:.0e}; 40 tokens, the same from both")

# %% [markdown]
# The module that looks ahead reads the four streams and drafts, as V3's did:

# %%
drafts = mds.Speculation()
spoken = mds.generate(again, prompt, max_new_tokens=40, temperature=0.0, speculative=drafts)
assert torch.equal(spoken, text)
print(f"with drafts the same text, in {drafts.passes} passes instead of 39")

# %% [markdown]
# ## 9 · The ledger


# %%
def seen(question):
    mean, band, word = found[question]
    return f"{mean:+.3f} nats, two sigma {band:.3f}, {len(losses['v3-mini'])} pairs | {word}"


viz.ledger(f"""
V4-Flash has 284 B parameters, 13 B at work | V4 report, abstract | recounted, {at_work_of["v4-flash"]:.2f} without the embedding | exact
V4-Pro has 1.6 T, 49 B at work | V4 report, abstract | recounted, {at_work_of["v4-pro"]:.2f} without the embedding | exact
its cache of a million tokens is 10 % of V3.2's, Flash's 7 % | V4 report, abstract | {table["v4-pro"].cache_share:.1f} % and {table["v4-flash"].cache_share:.1f} %, in bytes as served | exact
its FLOPs there are 27 % of V3.2's, Flash's 10 % | V4 report, abstract | {table["v4-pro"].flops_share:.1f} % and {table["v4-flash"].flops_share:.1f} % with weights of ours: plausible | not tested
mixing on the manifold does not enlarge | mHC, arXiv 2512.24880 | gain {max(gains):.4f} after {len(gains)} sub-layers | shown
V4's architecture learns better than V3's | V4 report | {seen("the architecture, with Muon")}
Muon learns faster than AdamW | V4 report, section 2.4 | {seen("the optimiser, in V4")}
transformers continues our checkpoint | this package | error {error:.0e}, 40 tokens alike | exact
""")

# %% [markdown]
# ## 10 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. Ten million.** At which length does V4-Pro's cache, as served, need as many bytes as 80 GB of one GPU? And V3.2's?
#
# **B. Without HCA.** What if V4-Flash had CSA in all 41 compressing layers? How many numbers would it keep for each token,
# and by how much would the indexers' work grow?
#
# **C. Who computes at short range?** Behind 4,096 tokens, what share of V4-Flash's FLOPs is attention and choosing together?
#
# **D. From the terminal.** `minideepseek train v4-mini --out runs/v4`, then `minideepseek generate runs/v4 --prompt "One day"`.
# And `minideepseek report v4-pro` prints section 7.
#
# Then solve [the exercises](../exercises/15_v4/15_v4.ipynb).

# %% jupyter={"source_hidden": true}
each = {row.model: row.cache_gb / row.length for row in efficiency_table(2**24)}
viz.answer(
    "A",
    f"V4-Pro: {80 / each['v4-pro'] / 1e6:.0f} million tokens; V3.2: {80 / each['v3.2'] / 1e6:.1f} million. Growth is linear in "
    "both; V4 changed the slope.",
)

# %% jupyter={"source_hidden": true}
now = mds.report(flash).cache_elements_per_token
then = 41 * (512 + 128) / 4
viz.answer(
    "B",
    f"{then:,.0f} numbers instead of {now:,.0f}, {then / now:.1f} times as many, and {41 / 21:.2f} times as many scores: nearly "
    "all of what V4 keeps and scores is CSA's. HCA's layers are there because they cost next to nothing.",
)

# %% jupyter={"source_hidden": true}
short = next(row for row in efficiency_table(4096) if row.model == "v4-flash")
far = (short.index + short.attention) / (short.linear + short.index + short.attention)
viz.answer(
    "C",
    f"{far:.0%}. For a short question the matrices are the bill, and what matters is how many parameters are at work.",
)
