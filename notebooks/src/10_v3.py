# %% [markdown]
# # 10 · V3, and the family side by side
#
# V3 is what came before it, put together: V1's block, DeepSeekMoE's experts, V2's latent attention, balancing without a
# loss, a module that looks ahead. This lesson weighs the whole: V1, MoE, V2 and V3 with the same work for each token, on
# the same text. What each learns, what each must remember, how quickly each writes; and how much of the papers' claims
# can be seen at the size of a laptop.
#
# Afterwards you can
#
# - count what is at work in any model of the family, and read its config like a sentence;
# - compare models fairly: equal work, equal text, several seeds, and a tie called a tie;
# - train V3 in miniature and hand it to anyone, as a checkpoint that `transformers` continues.
#
# Runs in 2 minutes on two CPU cores, without a network. Take an hour to read it.

# %%
import csv
import json
import time
from collections import defaultdict
from dataclasses import fields
from itertools import pairwise
from tempfile import TemporaryDirectory

import torch

import minideepseek as mds
from minideepseek import checkpoint, viz
from minideepseek.accounting import claims
from minideepseek.data import Loader, prepare
from minideepseek.train import TrainConfig, prepare_cpu, train

prepare_cpu()
print("minideepseek", mds.__version__, "on torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## 1 · The problem: better than what?
#
# Each report compares its model with the one before, and each has its own yardstick: DeepSeekMoE reaches a dense 7B with
# 40 % of its compute (arXiv 2401.06066, section 5.2); V2 saves 42.5 % of the training cost of the 67B and 93.3 % of its
# cache (arXiv 2405.04434, abstract); V3 has 671 billion parameters and needs 2.788 million GPU hours (arXiv 2412.19437,
# table 1). Sizes, data and recipes all change between them. To see what an *idea* is worth, hold everything else still:
#
# - the same text in the same order, the same number of tokens;
# - the same work for each token, that is, equal **activated** parameters;
# - several seeds, because two runs of the *same* model differ as well.
#
# ## 2 · The family in one picture
#
# The four minis are made for this. What is at work for a token (dark) is equal; what is idle is the price of experts:

# %%
names = ["v1-mini", "moe-mini", "v2-mini", "v3-mini"]
family = {name: mds.generations[name] for name in names}
reports = {name: mds.report(cfg) for name, cfg in family.items()}
viz.shares(
    {
        name: {
            "at work for a token": found.activated["everything"] / 1e6,
            "idle experts": (found.parameters - found.activated["everything"]) / 1e6,
            "the module that looks ahead": found.mtp_parameters / 1e6,
        }
        for name, found in reports.items()
    },
    unit="million parameters", title="Equal work for a token, and since the MoE twice the memory", digits=".2f",
)  # fmt: skip

# %%
active = {name: found.activated["everything"] for name, found in reports.items()}
assert max(active.values()) / min(active.values()) < 1.04
print({name: f"{count:,}" for name, count in active.items()})

# %% [markdown]
# Equal within 4 %: V2's attention has a few more weights than V1's at this width. Now what is different? A config is a
# composition, so the question can be computed:


# %%
def parts(cfg):
    """What a model is made of: its parts and their settings, flat."""
    attention, ffn = cfg.layers[-1]
    found = {"attention": type(attention).__name__, "feed-forward": type(ffn).__name__, "looks ahead": bool(cfg.mtp)}
    for owner in (ffn, getattr(ffn, "router", None)):
        found |= {field.name: getattr(owner, field.name) for field in fields(owner)} if owner else {}
    found.pop("router", None)
    return found


# %%
for before, after in pairwise(names):
    old, new = parts(family[before]), parts(family[after])
    changed = [name for name, value in new.items() if old.get(name) != value and (name in old or value)]
    print(f"{before} -> {after}: {', '.join(changed)}")

# %% [markdown]
# ## 3 · The idea in ten lines: count what is at work
#
# "Activated" is the word that sells experts, so count it once by hand. A token of `v3-mini` meets, in every layer,
# attention's matrices; in the first layer a plain SwiGLU; in the others the router, $K$ routed experts and the shared one;
# and in the end the head.

# %%
v3 = family["v3-mini"]
attention, experts = v3.layers[-1]
total = 2 * v3.vocab_size * v3.d_model + (2 * v3.n_layers + 1) * v3.d_model  # embedding and head; norms
for attention, ffn in v3.layers:
    total += attention.n_params(v3.d_model)
    if hasattr(ffn, "router"):
        one = 3 * v3.d_model * ffn.hidden
        total += (ffn.router.k + ffn.n_shared) * one + ffn.n_experts * v3.d_model
    else:
        total += 3 * v3.d_model * ffn.hidden
assert total == reports["v3-mini"].activated["everything"]
print(f"{total:,} by hand, and by minideepseek/accounting")

# %% [markdown]
# The same functions count the real one. Here is every number that V3's reports print about its size and cost, beside
# ours:

# %%
rows = claims("v3")
for claim in rows:
    print(f"{claim.printed:>10,.6g} printed, {claim.found:>12,.6g} {claim.unit:<14} {claim.what} ({claim.source})")
assert any(claim.what == "parameters" and abs(claim.found - 671.03) < 0.01 for claim in rows)

# %% [markdown]
# ### Myth check
#
# Four sentences from the web, and the config that settles them: (a) "each token of V3 activates 21B"; (b) "6 of 256
# experts"; (c) "auxiliary losses are completely removed"; (d) "the bias is added to the gate".

# %%
big = mds.generations["v3"]
mixture = big.layers[-1][1]
ids = torch.arange(64).view(1, 64)
assert round(mds.report(big).activated["everything"] / 1e9, 1) == 37.6  # (a) 21 B is V2
assert (mixture.router.k, mixture.n_shared) == (8, 1)  # (b) six are V2's
assert mixture.balance[0].alpha == 1e-4  # (c) a small one within each sequence is left (section 2.1.2)
logits, bias = torch.randn(5, 256), torch.randn(256)
routing = mixture.router.route(logits, bias)
chosen = logits.sigmoid().gather(1, routing.experts)
assert torch.allclose(routing.weights, 2.5 * chosen / chosen.sum(1, keepdim=True))  # (d) it moves the choice alone
print(
    "(a) 37.6 B; (b) 8 routed and 1 shared; (c)", mixture.balance[0], "; (d) weights are those of the unbiased scores"
)

# %% [markdown]
# ## 4 · Train it: four models, one text
#
# Half a minute, and no more than a glimpse: 40 steps each, the same batches in the same order, in nats a token.

# %%
data = prepare("stories")
settings = TrainConfig(steps=40, batch_size=8, eval_every=8, eval_batches=4, dtype="bf16")
runs = {name: train(cfg, data, settings, progress=False) for name, cfg in family.items()}
live = {name: run.curve("valid_loss") for name, run in runs.items()}
viz.curves(
    {name: values for name, (_, values) in live.items()}, x=live["v1-mini"][0],
    title="A glimpse of one seed: the first of many steps",
    xlabel="step (updates of the weights)", ylabel="loss on held-out text (nats)",
)  # fmt: skip

# %% [markdown]
# Who is ahead? One seed cannot tell. The same with five seeds and six times the steps stands in the repository
# ([script](../benchmarks/family.py), [values](../benchmarks/results/family.csv)):

# %%
stored = defaultdict(lambda: defaultdict(list))
with open("../benchmarks/results/family.csv", newline="") as file:
    for row in csv.DictReader(file):
        stored[row["arm"]][int(row["seed"])].append(float(row["valid_loss"]))
        last = int(row["step"])
arms = [*names, "v3-mini, no MTP"]  # V4's are for lesson 15
losses = {arm: torch.tensor([stored[arm][seed] for seed in sorted(stored[arm])]) for arm in arms}
every = last // losses["v1-mini"].shape[1]
assert all(len(found) >= 5 for found in losses.values())
for arm, found in losses.items():
    print(f"{arm:>15}: {found[:, -1].mean():.3f} nats after {last} steps, two sigma {2 * found[:, -1].std():.3f}")

# %% [markdown]
# Seeds differ in their first weights and in the order of the text, and that moves all models together. So compare in
# pairs, seed by seed: what is each generation's loss, less V1's? Bands are two standard deviations of the pairs.

# %%
viz.curves(
    {name: losses[name] - losses["v1-mini"] for name in names[1:]}, x=range(every, last + 1, every),
    levels={"v1-mini": 0.0}, title=f"Five seeds, {last} steps each: at the end every band holds the zero",
    xlabel="step (updates of the weights)", ylabel="loss less V1's, held-out text (nats)",
)  # fmt: skip


# %%
def verdict(better, worse):
    """Difference at the end, pair by pair: mean, two sigma, and what may be said of "better is better"."""
    seeds = stored[better].keys() & stored[worse].keys()
    apart = torch.tensor([stored[better][seed][-1] - stored[worse][seed][-1] for seed in sorted(seeds)])
    mean, band = apart.mean().item(), 2 * apart.std().item()
    return mean, band, "tie" if abs(mean) < band else "shown" if mean < 0 else "contradicted"


pairs = [("moe-mini", "v1-mini"), ("v2-mini", "moe-mini"), ("v3-mini", "v2-mini"), ("v3-mini", "v1-mini")]
found = {pair: verdict(*pair) for pair in pairs}
for (better, worse), (mean, band, word) in found.items():
    print(f"{better:>8} against {worse:<8}: {mean:+.3f} nats, two sigma {band:.3f}: {word}")
assert {word for *_, word in found.values()} == {"tie"}

# %% [markdown]
# Ties. Four generations of a famous family, and a laptop cannot tell which is best; the middle of the band is not even on
# the side that one would like. That is what to expect:
#
# - **Experts** are for knowing more with the same work. Stories from a grammar need little knowledge, so there is little
#   to gain.
# - **Latent attention** puts two narrow matrices in a row where V1 has one wide one; with 48 numbers for the latent that is
#   a real bottleneck. In V2 it has 512, and the report finds MLA *better* than MHA, with models a thousand times ours
#   (table 9).
# - **V2's devices** drop assignments when they are full, as section 5 shows; a large run hardly notices.
#
# What the reports claim about quality needs their size. What they claim about *cost* does not, and that is next. First
# the module: does predicting further help or hinder the model itself? In the report's ablation the loss on text hardly
# moves and benchmarks improve (table 4). Ours, on the same text, step for step (so not with the same work):

# %%
ahead = verdict("v3-mini", "v3-mini, no MTP")
print(f"with the module minus without: {ahead[0]:+.3f} nats, two sigma {ahead[1]:.3f}: {ahead[2]}")
extra = reports["v3-mini"].mtp_activated / active["v3-mini"]
print(f"the price: {extra:.0%} more weights at work for a token while training")

# %% [markdown]
# Each place teaches twice, and early in training that helps. Whether the gain survives a long run, or beats the same work
# spent on more steps, these runs cannot say; the report's long ones say that of the loss nothing is left.

# %% [markdown]
# ## 5 · Look inside: busy experts
#
# Three ways to keep experts busy are in this family: MoE and V2 with losses, V2 also by dropping what is too much, V3 by
# its bias. **MaxVio** says how far the busiest expert is above the mean (0 is perfect; lesson 08). Our live runs logged it
# at every step:

# %%
violation = {name: torch.tensor(runs[name].curve("max_violation")[1]) for name in names[1:]}
smooth = {name: values.unfold(0, 5, 5).mean(1) for name, values in violation.items()}  # of five steps
viz.curves(
    smooth, x=range(5, 41, 5), title="Experts stay busy in all three, in V3 without a loss to speak of",
    xlabel="step (means of five)", ylabel="MaxVio",
)  # fmt: skip

# %%
parts_of_loss = {name: runs[name].metrics[-1] for name in names[1:]}
for name, record in parts_of_loss.items():
    share = record["balance"] / record["loss"]
    dropped = f", {record['dropped']:.1%} of the assignments dropped" if "dropped" in record else ""
    print(f"{name:>8}: balance losses are {share:.2%} of the objective{dropped}")
assert parts_of_loss["v3-mini"]["balance"] < parts_of_loss["v2-mini"]["balance"] / 10

# %% [markdown]
# ## 6 · What it must remember
#
# The cache is exact arithmetic, and every size shows it. A live decode of 100 tokens:

# %%
prompt = torch.tensor([[data.tokenizer.eos_id, *data.tokenizer.encode("One day")]])
held = {}
for name, run in runs.items():
    cache = run.model.new_cache(batch_size=1, max_len=100)
    with torch.inference_mode():
        run.model(prompt, cache=cache)
    held[name] = cache.nbytes / 100
    assert held[name] == 4 * reports[name].cache_elements_per_token  # fp32
assert held["v3-mini"] == held["v1-mini"] / 2
print({name: f"{nbytes:,.0f} bytes a token" for name, nbytes in held.items()})

# %%
published = ["v1-7b", "v1-67b", "moe-16b", "v2-lite", "v2", "v3"]
kib = {name: mds.report(mds.generations[name]).cache_bytes_per_token / 1024 for name in published}
assert kib["v3"] < kib["v1-67b"] / 5
viz.bars(
    kib, unit="KiB a token of the past, bf16", title="Half in the minis, a fifth in the real ones",
    emphasis=["v2-lite", "v2", "v3"], digits=".1f",
)  # fmt: skip

# %% [markdown]
# ## 7 · How quickly it writes
#
# Here a laptop misleads, in both directions. First the clock, on trained minis and on long texts
# ([script](../benchmarks/family.py), [table](../benchmarks/results/family_decode.md)): tokens a second and, in brackets,
# V1's time divided by theirs, the median of rounds in turns.

# %%
with open("../benchmarks/results/family_decode.json") as file:
    samples = json.load(file)["samples"]
cases = list(samples["v1-mini"][0])
speed = defaultdict(dict)
for name in names:
    for case in cases:
        ratios = sorted(a[case] / b[case] for a, b in zip(samples["v1-mini"], samples[name], strict=True))
        speed[name][case] = ratios[len(ratios) // 2]
for case in cases:
    context, batch = case.split()
    line = ", ".join(f"{name} {speed[name][case]:.2f}" for name in names)
    print(f"behind {context:>4} tokens, {batch} at once, times V1's speed: {line}")

# %% [markdown]
# And live, one text at a time, each model with its own cache:

# %%
tokens_per_second = {}
for name, run in runs.items():
    start = time.process_time()
    mds.generate(run.model, prompt, max_new_tokens=100, temperature=0.0)
    tokens_per_second[name] = 100 / (time.process_time() - start)
viz.bars(
    tokens_per_second, unit="tokens a second of processor time, greedy, one text", digits=".0f",
    title="A small model is as quick as it has calls to make",
)  # fmt: skip

# %% [markdown]
# A mini spends its time on *calls*, not on arithmetic: experts mean more and smaller products, latent attention more steps.
# So the simplest model is the quickest here. On a GPU with a large model it is the bytes that count: for each token all
# weights at work, and the whole cache of the text, must come from memory once. That can be computed for the real ones.
# With several texts at once the weights are shared, but the more texts, the more experts somebody needs: of $E$ experts
# with $K$ for each token, $B$ texts wake $E\,(1 - (1 - K/E)^B)$ on average.


# %%
def bytes_per_token(name, context, batch):
    """Bytes of memory traffic for one token of one text, bf16: a share of the weights, and the text's own cache."""
    cfg = mds.generations[name]
    found = mds.report(cfg)
    weights = found.parameters - cfg.vocab_size * cfg.d_model
    for _, ffn in cfg.layers:
        if hasattr(ffn, "router"):
            awake = 1 - (1 - ffn.router.k / ffn.n_experts) ** batch
            weights -= (1 - awake) * 3 * cfg.d_model * ffn.hidden * ffn.n_experts
    return 2 * weights / batch + found.cache_bytes_per_token * context


alone = bytes_per_token("v3", 0, 1) / 2
assert abs(alone / mds.report(big).activated["without embedding"] - 1) < 1e-9


# %%
def traffic(context=32_768, batch=16):
    found = {name: bytes_per_token(name, context, batch) / 1e9 for name in ("v1-67b", "v2", "v3")}
    return viz.bars(
        found, unit="GB of memory traffic for each token (bf16)", digits=".1f",
        title=f"{batch} texts of {context:,} tokens at once: what one token must fetch",
    )  # fmt: skip


viz.knob(traffic, context=[1024, 4096, 32_768, 131_072], batch=[1, 4, 16, 64, 256])

# %% [markdown]
# Play with it. Alone and short, V1 67B fetches 134 GB for a token, and V3, ten times its size, 73. A few texts at once
# wake many experts, and V3's size becomes a burden; it wants *hundreds* of texts at once, spread over
# many GPUs. And with long texts the cache decides, where V1 cannot follow. So V3 is a model for large services.

# %%
short, crowd, long = ((bytes_per_token("v1-67b", *case) / bytes_per_token("v3", *case)) for case in
                      ((1024, 1), (1024, 16), (131_072, 256)))  # fmt: skip
assert short > 1.5
assert crowd < 1
assert long > 3
print(
    f"V1 67B fetches {short:.1f} times V3's bytes alone, {crowd:.2f} times with 16 short texts, {long:.1f} with 256 long ones"
)

# %% [markdown]
# ## 8 · What it costs to make
#
# The one number that everybody knows about V3 is its price. It is a multiplication: 2.664 million GPU hours for 14.8
# trillion tokens, with long context and fine-tuning 2.788 million, at an assumed 2 dollars each (table 1). Is it plausible?
# From the FLOPs of a token follows what each GPU must have done:

# %%
hours, tokens = 2.664e6, 14.8e12
flops = mds.report(big, seq_len=4096).flops_per_token["causal"]
rate = flops * tokens / (hours * 3600)
assert 380e12 < rate < 395e12
assert round(2.788e6 * 2 / 1e6, 3) == 5.576
print(f"{flops / 1e9:.0f} GFLOPs a token: {rate / 1e12:.0f} TFLOP/s on each H800, {rate / 989e12:.0%} of its bf16 peak")

# %%
token_cost = {
    name: mds.report(mds.generations[name], seq_len=4096).flops_per_token["causal"] / 1e9
    for name in ("v1-7b", "v1-67b", "moe-16b", "v2", "v3")
}
assert token_cost["v3"] < 0.65 * token_cost["v1-67b"]
viz.bars(
    token_cost, unit="GFLOPs to train on one token", title="V3 trains a token for less than V1 67B did", digits=".0f"
)

# %% [markdown]
# Plausible, with products in FP8, which the same GPU does twice as fast, and with communication hidden behind them. It is
# the price of *that run*, says the report, without research, failed attempts, data or salaries.
#
# ## 9 · Hand it on
#
# `minideepseek train v3-mini --out runs/v3` trains the default 300 steps in one to two minutes, and writes at its end what
# the next cell writes: config, weights, tokenizer, in the layout of the released model. Anyone can load that without us:

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

disable_progress_bar()
set_verbosity_error()  # else it lists the module's weights, which it leaves aside
with TemporaryDirectory() as folder:
    checkpoint.save(runs["v3-mini"].model, folder, tokenizer=data.tokenizer)
    theirs, words = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    again = mds.load(folder)
print(type(theirs).__name__, f"with {sum(p.numel() for p in theirs.parameters()):,} parameters")

# %%
ids = next(Loader(data.valid, batch_size=2, seq_len=63, seed=0))
with torch.inference_mode():
    error = ((theirs(ids).logits - again(ids)).abs().max() / theirs(ids).logits.abs().max()).item()
text = theirs.generate(prompt, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
assert error < 1e-5
assert torch.equal(text, mds.generate(again, prompt, max_new_tokens=40, temperature=0.0))
print(f"relative error {error:.0e}; 40 tokens, the same from both:\n{words.decode(text[0])}")

# %% [markdown]
# (After 40 steps it babbles. But both babble alike.) Even the module is there, in the place of a layer more, as in the
# release, and drafts:

# %%
drafts = mds.Speculation()
spoken = mds.generate(again, prompt, max_new_tokens=40, temperature=0.0, speculative=drafts)
assert torch.equal(spoken, text)
print(f"with drafts the same text, in {drafts.passes} passes instead of 39")

# %% [markdown]
# ## 10 · The ledger


# %%
def line(pair):
    mean, band, word = found[pair]
    return f"{mean:+.3f} nats, two sigma {band:.3f}, {len(losses['v1-mini'])} pairs | {word}"


# %%
viz.ledger(f"""
V3 has 671 B parameters, 37 B at work | V3 report, abstract | recounted, {len(rows)} numbers | exact
the four minis do equal work for a token | this lesson | within {max(active.values()) / min(active.values()) - 1:.1%} | exact
experts learn more with the same work | DeepSeekMoE, table 1 | {line(("moe-mini", "v1-mini"))}
V2 is a better model than MoE | V2 report, table 6 | {line(("v2-mini", "moe-mini"))}
V3 is a better model than V2 | V3 report, table 3 | {line(("v3-mini", "v2-mini"))}
V3 is a better model than V1 | V3 report, table 3 | {line(("v3-mini", "v1-mini"))}
training with the module makes the model better | V3 report, table 4 | {ahead[0]:+.3f} nats, two sigma {ahead[1]:.3f}, for {extra:.0%} more work | {ahead[2]}
V3's cache is a fraction of V1's | V2 report, section 2.1.4 | a half in the minis, {kib["v3"] / kib["v1-67b"]:.0%} of the 67B's | exact
V3 writes faster | V2 report, section 3.2.3 | {speed["v3-mini"][cases[0]]:.2f} of V1's speed, behind {cases[0].split()[0]} tokens | not at this size
2.664 M GPU hours for 14.8 T tokens | V3 report, table 1 | {rate / 1e12:.0f} TFLOP/s for each GPU: plausible | shown
transformers continues our checkpoint | this package | error {error:.0e}, 40 tokens alike | exact
""")

# %% [markdown]
# ## 11 · Try it yourself
#
# Write down your answer first; each of ours is computed by its cell.
#
# **A. More seeds, or a larger effect?** How many seeds would it take for a true difference of 0.01 nats to lie outside two
# standard errors, with the scatter of the pairs above (V3 against V2)?
#
# **B. A denser V3.** If all 256 experts of V3 were at work for each token, what would a token cost to train, and what
# would the whole run have cost?
#
# **C. Who pays for the vocabulary?** What share of the work for a token is the head, in `v3-mini` and in V3? What does that
# say about minis?
#
# **D. From the terminal.** `minideepseek train v3-mini --out runs/v3`, then `minideepseek generate runs/v3 --prompt "One
# day"`. And `minideepseek report v3` prints section 3.
#
# Then solve [the exercises](../exercises/10_v3/10_v3.ipynb), and go on to [lesson 11](11_dsa.ipynb), where V3.2 reads only what
# an index picks.

# %% jupyter={"source_hidden": true}
scatter = found["v3-mini", "v2-mini"][1] / 2
needed = (2 * scatter / 0.01) ** 2
viz.answer(
    "A",
    f"The pairs scatter by {scatter:.3f}; the mean of n pairs by that over √n. 2·{scatter:.3f}/√n = 0.01 needs n = {needed:.0f} seeds. "
    "Scatter falls with the root of the effort, and an effect does not: look for a question with a larger answer.",
)

# %% jupyter={"source_hidden": true}
idle = mds.report(big).parameters - mds.report(big).activated["everything"]
dense = flops + 6 * idle
viz.answer(
    "B",
    f"{dense / 1e9:,.0f} GFLOPs instead of {flops / 1e9:.0f}: {dense / flops:.0f} times as much, {2.788 * dense / flops:.0f} million GPU "
    f"hours, {5.576 * dense / flops:.0f} million dollars.",
)

# %% jupyter={"source_hidden": true}
head = {name: cfg.vocab_size * cfg.d_model / mds.report(cfg).activated["without embedding"] for name, cfg in
        (("v3-mini", v3), ("V3", big))}  # fmt: skip
assert head["v3-mini"] > 0.2 > 0.05 > head["V3"]
viz.answer(
    "C",
    f"{head['v3-mini']:.0%} and {head['V3']:.1%}. A quarter of a mini's work is the same in all generations, whatever its blocks "
    "are: small models understate what a better block is worth, and overstate what it costs to say a word.",
)
