# %% [markdown]
# # 00 · The tour
#
# In two and a half years DeepSeek's models went from a careful copy of LLaMA to architectures of their own, and wrote
# down how. This course rebuilds each of them small enough for a laptop, and checks it against the real thing. This
# first lesson shows the whole family on one page, and then trains its first member while you watch: about a minute
# from random numbers to little stories in English and Chinese.
#
# Runs in about 2 minutes on two cores, without a network. You need some Python; everything else comes in its lesson.

# %%
import dataclasses
import itertools
import lzma
import math
import zlib
from tempfile import TemporaryDirectory

import torch

import minideepseek as mds
from minideepseek import data, viz
from minideepseek.accounting import cache_elements
from minideepseek.train import TrainConfig, prepare_cpu, train
from minideepseek.viz.family import family

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: three bills
#
# A language model reads a row of **tokens** (pieces of text) and says how likely each possible next token is. That is
# all it does; stories, code and answers come from doing it again and again. Whoever runs a large one pays three bills:
#
# - **compute**: every token multiplies with every number, or **parameter**, that is at work for it;
# - **memory for the weights**: all parameters have to lie somewhere, at work or not;
# - **memory for the past**: for each token already read the model keeps a few numbers, its **cache**, or it would have
#   to read the whole text again for each new token.
#
# The history of the family is the history of these bills.
#
# ## 2 · The family in one picture

# %%
family(title="Seven steps in two and a half years, each a small difference from the one before")

# %% [markdown]
# Dates are those of the reports (arXiv 2401.02954, 2401.06066, 2405.04434, 2412.19437, 2501.12948, 2512.02556,
# 2606.19348). The sizes are not typed in: the cell counted them from the configs that the package holds.
#
# | generation | what it changed | and why |
# |---|---|---|
# | **V1** | nothing in LLaMA's block but its shape; its own data, schedule, scaling laws | to know what a large run will give before it starts |
# | **MoE** | the feed-forward layer becomes many small **experts**; a token uses a few | more to know without more to compute |
# | **V2** | attention caches one **latent** vector, from which all heads' keys and values are made | long texts for many users at once |
# | **V3** | experts are kept busy without a loss that disturbs; it also predicts the token after next; 8-bit products | to train 671 billion parameters for a few million dollars |
# | **R1** | no new layers: V3 learns to think first, by trying and being checked | answers that can be verified are a teacher |
# | **V3.2** | each token picks the few thousand it reads | the cost of attention stops growing with the square |
# | **V4** | past tokens are compressed before they are read; several residual streams; another optimiser | a million tokens |

# %% [markdown]
# ## 3 · The idea in ten lines: a generation is a difference
#
# The package holds each model as a **config**, a composition of parts, and each generation as what it changes in the
# one before. [generations](../minideepseek/generations/__init__.py) is that chain. So the question "what is new in V3?" has
# a short answer that a cell can compute:


# %%
def changes(old, new):
    names = [field.name for field in dataclasses.fields(old)]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


chain = ["v1-67b", "moe-16b", "v2", "v3", "v3.2", "v4-pro"]
for before, after in itertools.pairwise(chain):
    print(f"{before:>8} -> {after:8} changes: {', '.join(changes(mds.generations[before], mds.generations[after]))}")

# %% [markdown]
# Width and depth change nearly every time. Besides, the MoE model touches only the feed-forward layers (`ffn`) and goes
# back to plain attention heads; V2 replaces `attention`; V3 adds `mtp`, the look at the token after next, and other
# experts. V3.2 is V3 with an indexer in its attention, and nothing else. V4 leaves hardly a stone on another: even the
# `residual`, the sum that has run through every network since 2015, is new. The parts themselves say what they are:

# %%
v2, v3 = mds.generations["v2"], mds.generations["v3"]
print(v2.attention, "\n")
print("V2 routes with", v2.layers[-1][1].router, "\n")
print("V3 routes with", v3.layers[-1][1].router)
assert v2.attention == v3.attention  # V3 keeps V2's attention, number for number
print()
for layer, (attention, _) in enumerate(mds.generations["v4-pro"].layers[:4]):
    print(f"V4 Pro, layer {layer}, attends with {type(attention).__name__}, {attention.rate} tokens to an entry")

# %% [markdown]
# ## 4 · Look inside: the three bills, computed
#
# `mds.report` counts a model without building it. First the parameters. Since the MoE model there are two numbers: all
# of them, and those at work for one token.

# %%
family_now = ["v1-7b", "v1-67b", "moe-16b", "v2", "v3", "v3.2", "v4-flash", "v4-pro"]
reports = {name: mds.report(mds.generations[name]) for name in family_now}
for name, found in reports.items():
    share = found.activated["everything"] / found.parameters
    print(f"{name:>8}: {found.parameters:>15,} parameters, {share:6.1%} at work for a token")
assert reports["v1-67b"].parameters == 67_425_001_472
assert reports["v3"].parameters == 671_026_404_352

# %% [markdown]
# V3 has ten times the parameters of V1's large model, and uses half as many for a token; V4 Pro has 23 times as many. The
# second bill, the cache:

# %%
cache = {name: found.cache_bytes_per_token / 1024 for name, found in reports.items()}
assert cache["v3"] < cache["v1-67b"] / 5
assert cache["v4-pro"] < cache["v3.2"] / 8
viz.bars(
    cache, unit="KiB for each token of the past (bfloat16)", digits=0,
    title="The past became cheap with V2, and much cheaper with V4",
)  # fmt: skip

# %% [markdown]
# And the third: floating-point operations to train on one token, forward and backward, in texts of 4,096 tokens.

# %%
compute = {name: found.flops_per_token["causal"] / 1e9 for name, found in reports.items()}
assert compute["v3"] < compute["v1-67b"]
viz.bars(compute, unit="billion operations for each training token", title="V3 computes less than V1 67B", digits=0)

# %% [markdown]
# The knob asks all three at once, for any text length:


# %%
def bill(generation="v3", tokens=131_072):
    found = mds.report(mds.generations[generation], seq_len=tokens)
    gigabytes = {
        "weights": 2 * found.parameters / 2**30,
        f"cache of {tokens:,} tokens": 2 * cache_elements(mds.generations[generation], tokens) / 2**30,
    }
    return viz.bars(gigabytes, unit="GiB (bfloat16)", title=f"What {generation} needs to hold one text", digits=1)


viz.knob(bill, generation=family_now, tokens=[4096, 32_768, 131_072, 1_048_576])

# %% [markdown]
# ## 5 · Train it, before against after
#
# Now the first member of the family in miniature: `v1-mini`, the same parts as the 67B model (RMSNorm, RoPE, SwiGLU,
# shared key/value heads), 128 channels wide and 4 blocks deep.
#
# It needs something to read. The package makes little stories in two languages, as many as one wants, from a grammar
# and a seed; a **tokenizer** learnt from them cuts them into 2,048 kinds of tokens (lesson 01).

# %%
mini = mds.generations["v1-mini"]
stories = data.prepare("stories", vocab_size=mini.vocab_size, progress=False)
print(data.story(0, language="en"), "\n")
print(data.story(0, language="zh"))
print(f"\n{stories.train_stats.documents:,} stories, {stories.train_stats.tokens:,} tokens to learn from")

# %% [markdown]
# To the model a story is a row of numbers, one for each token:

# %%
tokenizer = stories.tokenizer
ids = tokenizer.encode("One day Mia found a kite.")
print(ids)
print(tokenizer.tokens(ids))
assert tokenizer.decode(ids) == "One day Mia found a kite."

# %% [markdown]
# A model begins as random numbers. It then finds all 2,048 tokens about equally likely, so its surprise at the right
# one, the **loss**, is about $\ln 2048 = 7.62$ **nats** (a nat is 1.44 bits). What it writes is noise:

# %%
model = mds.Transformer(mini, seed=0)
batch = next(data.Loader(stories.train, batch_size=16, seq_len=128))
loss = model.loss(batch).total.item()
print(f"loss {loss:.3f} nats a token; ln {mini.vocab_size} = {math.log(mini.vocab_size):.3f}")
assert abs(loss - math.log(mini.vocab_size)) < 0.4


# %%
def write(seed=1, temperature=0.7, length=90):
    start = [[tokenizer.eos_id, *tokenizer.encode("One day")]]
    (row,) = mds.generate(
        model, start, max_new_tokens=length, temperature=temperature, seed=seed, eos_id=tokenizer.eos_id
    )
    return tokenizer.decode(row)


moments = {0: write()}
print(moments[0])

# %% [markdown]
# **Training** shows it a batch of stories, asks how each number should move to be less surprised, moves all of them a
# little, and goes on with the next batch. [loop.py](../minideepseek/train/loop.py) does that; lesson 03 builds it. We
# look over its shoulder: the curve grows while it runs, and at three moments it has to write.


# %%
def look(record):
    watch(record)
    if record["step"] in (25, 100, 300):
        moments[record["step"]] = write()


with viz.live_curve("v1-mini") as watch:
    result = train(model, stories, TrainConfig(steps=300), on_step=look, progress=False)

# %% [markdown]
# Read what it wrote along the way. First it learns which tokens are common, then which follow each other, then
# sentences, and in the end who is in the story and what happened.

# %%
for step, text in moments.items():
    print(f"after {step} updates\n    {text[:330]}\n")

# %%
final = result.metrics[-1]
print(f"loss on text it has never seen: {loss:.2f} -> {final['valid_loss']:.3f} nats a token")
assert final["valid_loss"] < 1.2  # 0.51 to 0.54 for five seeds of weights and order

# %% [markdown]
# ## 6 · How good is that? A model is a compressor
#
# A token that the model expects with probability $p$ can be stored in $-\log_2 p$ bits. So its loss, turned into bits
# and divided by the bytes of text, is the size of the text after an ideal coder has used it: **bits per byte**, a
# ruler that any compressor can be held to. Ordinary ones have read nothing before, so we show them as many stories as
# the model saw (as far as they can remember) and count only what the unseen ones add.

# %%
documents = list(zip(range(4000), data.open_corpus("stories", seed=0), strict=False))
seen = "\n".join(document.text for _, document in documents[:3000]).encode()
unseen = "\n".join(document.text for _, document in documents[3000:]).encode()
bits = {"plain text": 8.0}
for name, pack in (("zlib", zlib.compress), ("lzma", lzma.compress)):
    bits[name] = 8 * (len(pack(seen + unseen)) - len(pack(seen))) / len(unseen)
bits["v1-mini, after a minute"] = final["valid_bits_per_byte"]

# %%
assert bits["v1-mini, after a minute"] < bits["lzma"] < bits["zlib"]
viz.bars(
    bits, unit="bits for each byte of unseen stories", title="A minute of training beats lzma on stories", digits=2
)

# %% [markdown]
# The stories come from a grammar, so there is much to know about them. On real text a model of this size would be
# nowhere near; lesson 01 and lesson 04 use bits per byte where it matters.
#
# ## 7 · Chance, and the temperature
#
# After a prompt the model holds a probability for each token. **Temperature** divides the scores before they become
# probabilities: towards 0 the likeliest always wins, above 1 the unlikely get their turn. Turn it:

# %%
prompt = torch.tensor([[tokenizer.eos_id, *tokenizer.encode("One day a little")]])
scores = model(prompt)[0, -1].detach()
pieces = tokenizer.tokens(range(mini.vocab_size))


def likely(temperature=1.0):
    return viz.next_tokens(pieces, scores, temperature=temperature, rows=8)._repr_html_()


viz.knob(likely, temperature=(0.1, 2.0, 0.1))

# %%
for temperature in (0.0, 0.7, 1.5):
    print(f"temperature {temperature}\n    {write(seed=3, temperature=temperature, length=60)}\n")
assert write(temperature=0.0, seed=1) == write(temperature=0.0, seed=2)  # without chance, no seed matters

# %% [markdown]
# ## 8 · The same three bills, in the flesh
#
# What `mds.report` computed for the large models holds for the small one, and here it can be weighed. The cache of a
# real decode has exactly the bytes that were announced:

# %%
memory = model.new_cache(batch_size=1, max_len=100)
announced = mds.report(mini).cache_elements_per_token * 100 * 4  # this model is in float32: four bytes a number
print(f"{memory.nbytes:,} bytes held, {announced:,} announced")
assert memory.nbytes == announced

# %% [markdown]
# And the later generations are there as minis of the same width. One call trains any of them; here they only count
# themselves and take one look at a batch.

# %%
for name in ("v1-mini", "moe-mini", "v2-mini", "v3-mini", "v3.2-mini", "v4-mini"):
    config, found = mds.generations[name], mds.report(mds.generations[name])
    first = mds.Transformer(config, seed=0).loss(batch).lm.item()
    atwork, kept = found.activated["everything"], found.cache_elements_per_token
    print(
        f"{name:>9}: {found.parameters:>9,} parameters, {atwork:>9,} at work, caches {kept:3} a token, loss {first:.2f}"
    )
    assert abs(first - math.log(2048)) < 0.4

# %% [markdown]
# ## 9 · Is it the real thing?
#
# A course can teach its own mistakes. So everything here is held to the reference implementation, `transformers`. It
# must read our checkpoint and give the same scores. It knows nothing of this package: it sees a folder that says
# `model_type: llama`, which is how DeepSeek released V1.

# %%
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
with TemporaryDirectory() as folder, torch.inference_mode():
    model.save(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder)(batch).logits
    error = ((theirs - model(batch)).abs().max() / theirs.abs().max()).item()
print(f"largest difference, relative: {error:.1e}")
assert error < 1e-5

# %% [markdown]
# ## 10 · Myth check
#
# Three sentences that one reads about the family, each with a number that settles it.
#
# 1. "DeepSeek was a mixture of experts from the beginning." V1 is dense: all of it is at work for every token.
# 2. "Latent attention shrinks the cache by 93.3 %." V2's report compares with V1 67B, and 93.3 % also counts that V2
#    stores its cache in about 6 bits a number instead of 16 (our reading of the report, section 3.2.3; the arithmetic
#    is exact). Attention alone gives:

# %%
v1, v2 = reports["v1-67b"], reports["v2"]
assert v1.activated["everything"] == v1.parameters
elements = 1 - v2.cache_elements_per_token / v1.cache_elements_per_token
stored = 1 - 6 * v2.cache_elements_per_token / (16 * v1.cache_elements_per_token)
print(f"by numbers kept: {elements:.1%} less; by bits stored: {stored:.1%} less")
assert round(elements, 4) == 0.8224
assert round(stored, 3) == 0.933

# %% [markdown]
# 3. "V3 activates 37 billion parameters." It depends on whether looking up a row of the embedding counts:

# %%
for convention, count in reports["v3"].activated.items():
    print(f"{count / 1e9:6.2f} B at work, {convention}")

# %% [markdown]
# ## 11 · The ledger: what this shows, what it does not

# %%
viz.ledger(f"""
V1 67B has 67.4 B parameters | DeepSeek LLM, table 2 | {v1.parameters:,} | exact
V3 has 671 B parameters, 37 B at work | V3 report, abstract | {reports["v3"].parameters:,}; 35.7 to 37.6 B | exact
V2 caches 93.3 % less than V1 67B | V2 report, abstract | {elements:.1%} by numbers, {stored:.1%} with 6 bits | exact
the package computes what transformers computes | this course | error {error:.0e} | exact
a small model learns stories in a minute | this course | {loss:.1f} to {final["valid_loss"]:.2f} nats | shown
V4 Pro caches 10 % of V3.2's bytes | V4 report, abstract | {cache["v4-pro"] / cache["v3.2"]:.0%} in numbers of 16 bits; lesson 15 counts bits | shown
V3 is a better model than V1 | V3 report, table 3 | needs trillions of tokens | not at this size
""")

# %% [markdown]
# ## 12 · Try it
#
# **A.** At which text length does the cache of V1 67B need as much memory as its weights? And V3's? Guess first; the
# knob of section 4 brackets it.
#
# **B.** Train again with other stories (`data.prepare("stories:language=zh")`) or with real text
# (`data.prepare("python")`, Python's own library). Which is harder, in bits per byte? Why?
#
# **C.** The same from a terminal: `minideepseek train v1-mini --out runs/first`, then
# `minideepseek generate runs/first --prompt "One day"`. Press Ctrl-C in the middle, and repeat the command with
# `--resume`.
#
# Then go on: [01, from text to tokens](01_text_to_tokens.ipynb), [02, a block from bricks](02_v1_block.ipynb),
# [03, training](03_training_v1.ipynb), [04, scaling laws](04_scaling_laws.ipynb); and from there through the experts and
# the latents to V3 and V4, a lesson for each step.

# %% jupyter={"source_hidden": true}
even = {name: found.parameters / found.cache_elements_per_token for name, found in reports.items()}
viz.answer(
    "A",
    f"V1 67B: {even['v1-67b']:,.0f} tokens, a shelf of books. V3: {even['v3']:,.0f}. The bytes of a number cancel, so it is "
    "parameters over cached numbers. For one text the weights are the larger bill; but a server holds hundreds of texts and one "
    "set of weights, and then the cache decides.",
)
