# %% [markdown]
# # 01 · Text to tokens
#
# A language model never sees text. It sees rows of whole numbers, and what stands in those rows decides most of what
# it will ever know. This lesson follows text from the web page to the batch, the way the DeepSeek LLM report does it at
# scale (V1, arXiv 2401.02954, section 2.1): **deduplicate, filter, remix**; then cut into tokens, pack and load.
#
# Afterwards you can
#
# - find near copies among documents without comparing all pairs, and say how many will be missed;
# - write byte-pair encoding in a dozen lines, and explain why DeepSeek V1 cuts numbers into single digits;
# - say what a larger vocabulary buys, why V1 has 102,400 rows for 100,015 tokens, and in which unit two models with
#   different tokenizers may be compared;
# - stop a run at any batch and go on with the very next one.
#
# Runs in 1 minute on two CPU cores, without a network. Take an hour to read it.

# %%
import json
import math
import zlib
from collections import Counter, defaultdict
from itertools import pairwise, takewhile

import numpy as np
import tokenizers as hf
import torch

import minideepseek as mds
from minideepseek import accounting, viz
from minideepseek.data import bpe, dedup, document, dumps, packing, quality
from minideepseek.data.tokenizer import EOS, FIM_BEGIN, FIM_END, FIM_HOLE, MIN_VOCAB_SIZE, pre_tokenizer

# %% [markdown]
# ## 1 · The problem: what to feed it
#
# Three kinds of text come with the package and need no network: short **stories** in English and in Chinese, made up by
# a grammar from a seed; and the source and manual of the **running Python**, written by thousands of people over thirty
# years. A *document* is one text that is whole in itself.

# %%
library = list(mds.data.open_corpus("python"))
english = document.Document(text=mds.data.story(2, language="en"), source="a story")
chinese = document.Document(text=mds.data.story(5, language="zh"), source="故事")
viz.cards([english, chinese, library[2]], characters=330)

# %% [markdown]
# Real corpora start from Common Crawl: monthly *dumps* of the web. A dump holds the same article many times, with and
# without today's visitor counter, and the next dump holds it again. The package has a small web with these vices: 400
# pages with stories, and a crawler that meets popular pages again and again. Page number $r$ in the order of popularity is
# met in proportion to $r^{-0.9}$ (a *power law*). To make it lifelike, we add some rubbish of our own.

# %%
MENU = ["home", "news", "login", "cart", "help", "about", "contact", "terms", "privacy", "sitemap", "blog", "jobs"]


def rubbish(i):
    """A page that teaches nothing: by turns a menu, a table of numbers, a list of keywords, torn-off snippets."""
    rng = np.random.default_rng(i)
    text = [
        " | ".join(rng.choice(MENU, 70)),
        "\n".join(f"{a:.0f} {b:.2f} {c:+.1f}%" for a, b, c in rng.random((40, 3)) * [9999, 100, 5]),
        " ".join(rng.choice(["cheap", "shoes", "best", "price", "online", "deal", "buy", "free"], 90)),
        "\n".join(" ".join(rng.choice(["of the", "a guide to", *MENU], 9)) + " Read mo" for _ in range(9)),
    ][i % 4]
    return document.Document(text=text, source=f"web/rubbish-{i}")


# %%
crawls = dumps.simulate_dumps(24, dump_size=40, n_pages=400, edited=0.5, seed=0)
web = [page for crawl in crawls for page in crawl] + [rubbish(i) for i in range(60)]
pages = {page.source.split("/")[1] for page in web}  # "dump-3/page-17" -> "page-17"
print(f"{len(web)} documents crawled, {len(pages)} different pages among them; for example:")
print(repr(next(page.text for page in web if page.text.startswith("Visitor"))[:60]))

# %% [markdown]
# ## 2 · The whole way in one picture
#
# The package does all of it in a few lines. `clean` throws documents away, `Tokenizer.train` learns a vocabulary, and a
# token is stored as a number of two bytes. The rest of the lesson takes each step apart and rebuilds it.

# %%
steps = {
    "crawled": mds.data.Cleaning(exact=False),
    "no exact\ncopies": mds.data.Cleaning(),
    "no near\ncopies": mds.data.Cleaning(near=0.8),
    "quality\nfilter": mds.data.Cleaning(near=0.8, quality=True),
}
left = {step: [page.text for page in mds.data.clean(web, cleaning)] for step, cleaning in steps.items()}
size = {step: sum(len(text.encode()) for text in texts) / 1e3 for step, texts in left.items()}

clean_texts = left["quality\nfilter"]
tokens = mds.data.Tokenizer.train(clean_texts, vocab_size=1024).encode_batch(clean_texts)
size["tokens"] = 2 * sum(map(len, tokens)) / 1e3
assert list(size.values()) == sorted(size.values(), reverse=True)
viz.funnel(size, unit="kB", digits=".0f", title="Most of what is crawled is thrown away before a model sees it")

# %% [markdown]
# ## 3 · Deduplicate
#
# Copies cost compute, and text that is seen dozens of times is learnt by heart. **Exact** copies are easy: remember a
# short hash of every text, and drop a text whose hash was met before. Here it is next to the package's
# [`drop_exact_duplicates`](../minideepseek/data/dedup.py).

# %%
seen, once = set(), []
for page in web:
    key = document.text_hash(page.text)  # 64 bits stand for the text
    if key not in seen:
        once.append(page)
    seen.add(key)

assert once == list(dedup.drop_exact_duplicates(web, Counter()))
print(f"{len(web)} documents, {len(once)} different texts, but only {len(pages)} pages")

# %% [markdown]
# A visitor counter fooled it. We need to say *how alike* two texts are. Take all sequences of 5 consecutive words of a
# text (its *shingles*) as a set. The **Jaccard similarity** of two sets $A$ and $B$ is the share of their common members:
#
# $$J = \frac{|A \cap B|}{|A \cup B|},$$
#
# from 0 (nothing shared) to 1 (equal). Two texts count as copies of each other from $J = 0.8$ on.

# %%
one, copy, other = english.text, "Visitor 4711\n" + english.text, mds.data.story(3, language="en")
print("shingles:", sorted(dedup.shingles(one))[:2], "...")
print(f"the page and its copy: {dedup.jaccard(one, copy):.3f}, two pages: {dedup.jaccard(one, other):.3f}")
assert dedup.jaccard(one, copy) > 0.9
assert dedup.jaccard(one, other) < 0.5

# %% [markdown]
# ### MinHash: a set in 128 numbers
#
# A billion documents make $5 \cdot 10^{17}$ pairs, and each pair is a comparison of two large sets. Broder (1997) found a
# short cut for the second trouble. Let a hash function $h$ give every shingle a random-looking number, and of a set keep
# only the smallest, $\min h(A)$. Of all shingles in $A \cup B$ one gets the smallest number, each with equal chance. The
# two minima agree exactly if that one lies in both sets. So
#
# $$P\big(\min h(A) = \min h(B)\big) = \frac{|A \cap B|}{|A \cup B|} = J .$$
#
# With $k$ hash functions, the share of equal minima estimates $J$ with standard deviation $\sqrt{J(1-J)/k}$. The $k$
# minima are the document's *signature*.

# %%
PRIME = 2**31 - 1
slope, offset = np.random.default_rng(0).integers(1, PRIME, (2, 128, 1))  # hash function i: slope[i]·x + offset[i]


def signature(text):
    """(128,) the minima of 128 hash functions over the text's shingles."""
    x = np.array([zlib.crc32(shingle) for shingle in dedup.shingles(text)]) % PRIME
    return ((slope * x + offset) % PRIME).min(axis=1)


print("equal minima, the page and its copy:", np.mean(signature(one) == signature(copy)))

# %% [markdown]
# Is the estimate good? We need pairs of every similarity: replace more and more of the words at the start of a story by
# those of another one.

# %%
pairs = []
for i in range(0, 60, 2):
    a, b = (mds.data.story(j, language="en").split() for j in (i, i + 1))
    pairs += [(" ".join(a), " ".join(b[:n] + a[n:])) for n in range(0, 90, 4)]
truth = np.array([dedup.jaccard(*pair) for pair in pairs])
agree = np.array([signature(a) == signature(b) for a, b in pairs])  # (pairs, 128)

estimates = {k: agree[:, :k].mean(axis=1) for k in (16, 128)}
error = {k: np.sqrt(np.mean((estimate - truth) ** 2)) for k, estimate in estimates.items()}
inside = np.abs(estimates[128] - truth) <= 2 * np.sqrt(truth * (1 - truth) / 128) + 1e-9
assert inside.mean() > 0.85  # 95 % if the pairs were independent; they share their hash functions
assert error[128] < error[16] / 2  # theory: √8 times smaller
viz.resemblance(truth, estimates, title="Eight times the hash functions: the error shrinks to about a third")

# %% [markdown]
# ### Bands: only those meet who are alike
#
# Signatures make a comparison cheap. To make comparisons *few*, cut the signature into $b$ bands of $r$ numbers. Two
# documents *meet* if they agree in all $r$ numbers of some band; one dictionary look-up per band finds everybody we
# meet. A band agrees with probability $s^r$ at similarity $s$, so two documents meet with probability
# $1 - (1 - s^r)^b$: close to 0 for strangers, close to 1 for copies. This is locality-sensitive hashing (LSH), and it
# makes near-duplicate removal a dozen lines. The package uses the `datasketch` library, with other hash functions; it must
# come to the same documents, and to one copy of every page.

# %%
BANDS, ROWS = 9, 13  # what the library below chooses for 128 hash functions and a threshold of 0.8


def drop_copies(documents):
    """The documents that resemble no earlier one, and how many comparisons that took."""
    shelves, kept, compared = defaultdict(list), [], 0
    for candidate in documents:
        mine = signature(candidate.text)
        keys = [(i, mine[i * ROWS : (i + 1) * ROWS].tobytes()) for i in range(BANDS)]
        met = {number: theirs for key in keys for number, theirs in shelves[key]}
        compared += len(met)
        if all(np.mean(mine == theirs) < 0.8 for theirs in met.values()):
            kept.append(candidate)
            for key in keys:
                shelves[key].append((len(kept), mine))
    return kept, compared


# %%
ours, compared = drop_copies(once)
assert ours == list(dedup.drop_near_duplicates(once, Counter()))
assert {page.source.split("/")[1] for page in ours} == pages
assert len(ours) == len(pages)
all_pairs = math.comb(len(once), 2)
assert compared < all_pairs / 50
print(f"{len(once)} texts, {len(ours)} stay; {compared:,} comparisons instead of {all_pairs:,}")

# %% [markdown]
# Two kinds of mistake are possible. Copies may never meet (then a copy is kept), and strangers may meet (a comparison in
# vain, no harm done: the signatures decide). How often is a matter of $b$ and $r$. The dots are measured on our pairs.
#
# **Turn the knob.** Few rows in a band: everybody meets everybody. Many rows: only twins meet, and copies are missed.

# %%
group = np.round(truth * 8)  # pairs of nearly equal similarity together


def bands_of(rows=13):
    bands = 128 // rows
    met = agree[:, : bands * rows].reshape(-1, bands, rows).all(axis=2).any(axis=1)
    dots = np.array([(truth[group == g].mean(), met[group == g].mean()) for g in np.unique(group)])
    return viz.band_curve(bands, rows, measured=(dots[:, 0], dots[:, 1]))


viz.knob(bands_of, rows=(1, 32))

# %% [markdown]
# ### Why one dump at a time is not enough
#
# The V1 report makes a point of deduplicating *across* dumps (section 2.1, table 1): of one dump alone 22.2 % of the
# documents go, of 91 dumps together 89.8 %. Our web shows why. If a draw meets page $i$ with probability $p_i$, then $n$
# draws meet it at all with probability $1 - (1 - p_i)^n$. All further copies can go, an expected share of
#
# $$1 - \frac{1}{n} \sum_i \big(1 - (1 - p_i)^n\big) .$$
#
# We simulate 91 dumps with each of five seeds and count what the package removes from the first 1, 2, 3, ... of them.


# %%
def rates(near):
    """(5 seeds, 91) shares removed from the first so many dumps."""
    crawled = [dumps.simulate_dumps(91, dump_size=40, n_pages=400, edited=0.5, seed=seed) for seed in range(5)]
    return np.array([dumps.removal_rates(crawl, near=near) for crawl in crawled])


removal = {"near copies too": rates(0.8), "exact copies only": rates(None)}

# %%
p = np.arange(1, 401) ** -0.9
p /= p.sum()
expected = np.array([1 - (1 - (1 - p) ** n).sum() / n for n in range(40, 91 * 40 + 1, 40)])

near, exact = removal.values()
assert np.abs(near.mean(0) - expected).max() < 0.06
assert (near[:, -1] > near[:, 0] + 0.4).all()  # for every seed
assert (near[:, -1] > exact[:, -1] + 0.2).all()
viz.pooling(
    removal, expected, dumps.PUBLISHED_REMOVAL, title="The more dumps are pooled, the larger the share that goes"
)

# %% [markdown]
# What may be read from this, and what not: we *chose* ten times as many pages as fit into a dump, and an exponent of 0.9.
# With these two numbers the ends of the curve lie near the paper's. The shape between them, fast at first and then ever
# slower, follows from popularity alone. From 2 to 22 dumps the paper's points lie above ours: real dumps share more than
# chance draws do. And without near-duplicate detection half of the effect is gone.
#
# ## 4 · Filter
#
# Next, quality. The report speaks of linguistic and semantic assessments without listing them. The package uses seven
# signals that a person can check, in the spirit of Gopher's rules (Rae et al. 2021, arXiv 2112.11446, appendix A1.1).
# Each is a number with a range; outside the range it objects.

# %%
judged = {"story": english.text, "故事": chinese.text, "library": library[2].text}
assert not any(quality.objections(text) for text in (english.text, chinese.text))
for i, kind in enumerate(("menu", "numbers", "keywords", "snippets")):
    judged[kind] = rubbish(i).text
    assert quality.objections(judged[kind])
viz.verdicts({name: quality.assess(text) for name, text in judged.items()})

# %%
removed = Counter()
kept = list(mds.data.clean(web, mds.data.Cleaning(near=0.8, quality=True), removed))
assert {page.source.split("/")[1] for page in kept} == {name for name in pages if name.startswith("page")}
print(len(kept), "pages stay: every page with a story, and no rubbish. Removed:")
print(*(f"{n:5} {reason}" for reason, n in removed.most_common()), sep="\n")

dropped = np.mean([bool(quality.objections(file.text)) for file in library[:150]])
assert dropped > 0.05
print(f"Run over the library, it would drop {dropped:.0%} of the files.")

# %% [markdown]
# The last line is a warning. A filter has an opinion on what text is, and ours was made for prose: it objects to good code.
# So a filter belongs to a domain, and one for web pages must not run over code. That is why `Cleaning` leaves it off unless
# asked.
#
# ## 5 · Remix
#
# What is left has the proportions of the web, which are nobody's intention. The third stage gives more weight to domains
# that are thin. The rule needs no chance: the next document comes from the domain that lags most behind its share of the
# bytes. Here are the lines, and the package's [`remix`](../minideepseek/data/remix.py).

# %%
en, zh = (mds.data.open_corpus(f"stories:language={language}") for language in ("en", "zh"))
streams, weights, written, order = [iter(en), iter(zh)], [0.7, 0.3], [0, 0], []
while sum(written) < 100_000:
    behind = max((0, 1), key=lambda i: weights[i] * sum(written) - written[i])
    order.append(next(streams[behind]))
    written[behind] += len(order[-1].text.encode())

assert order == list(mds.data.remix([(en, 0.7), (zh, 0.3)], total_bytes=100_000))
print("shares of the bytes:", [round(size / sum(written), 3) for size in written])

# %% [markdown]
# A domain with less text than its weight asks for comes round again: so a weight is also a number of repetitions. From
# here on we work with two megabytes of all three domains. How does one find good weights? By training small models on
# many mixtures; lesson 04 shows how to compare them. To measure on later, we put aside text that is not in the mixture.

# %%
python = mds.data.corpus_of([file.text for file in library if len(file.text) < 30_000], name="python")
mixed = list(mds.data.remix([(en, 0.3), (zh, 0.3), (python, 0.4)], total_bytes=2_000_000))
texts, known = [part.text for part in mixed], {part.text for part in mixed}
code = sum(len(part.text.encode()) for part in mixed if part.source.startswith("python"))
share = code / sum(len(text.encode()) for text in texts)
assert abs(share - 0.4) < 0.02
print(f"{len(mixed)} documents, {share:.1%} of the bytes are Python")

fresh = {
    "English stories": [mds.data.story(i, seed=1, language="en") for i in range(200)],
    "Chinese stories": [mds.data.story(i, seed=1, language="zh") for i in range(200)],
    "Python code": [file.text for file in python if file.text not in known][:100],
}

# %% [markdown]
# ## 6 · Bytes
#
# Now letters must become numbers. Unicode has some 150,000 characters, more every year; a table of all of them would be
# large and never finished. But every text is a row of **bytes**, of which there are 256, by the rule called UTF-8: an
# English letter takes one byte, most other alphabets two, a Chinese character three, an emoji four.

# %%
sentence = "A café, 猫 🐱"
rows = {"characters": list(sentence), "bytes": [bytes([byte]) for byte in sentence.encode()]}
assert [len(character.encode()) for character in "aé猫🐱"] == [1, 2, 3, 4]

for kind, documents in fresh.items():
    ratio = sum(len(text.encode()) for text in documents) / sum(map(len, documents))
    assert 2.5 < ratio < 3 if kind == "Chinese stories" else 1 <= ratio < 1.1
    print(f"{kind}: {ratio:.2f} bytes a character")
viz.cuts(rows, note="hexadecimal numbers: bytes that are part of a character")

# %% [markdown]
# Bytes would do: nothing is ever unknown, and the vocabulary has 256 entries. But rows get long. A story of 500 bytes
# would be 500 steps of the model, and attention compares every step with every earlier one. We want common sequences of
# bytes to be one step.
#
# ## 7 · Byte-pair encoding in a dozen lines
#
# The idea (Sennrich et al. 2016): count how often each two neighbours occur, join the most frequent pair into a new
# token, repeat. The list of joins, the *merges*, is the tokenizer. To encode new text, replay them in order.


# %%
def learn(words, n_merges):
    """The merges learnt from words: a Counter of tuples of tokens (bytes). Older tokens win ties."""
    words, rank, merges = dict(words), {token: i for i, token in enumerate(bpe.ALPHABET)}, []
    for _ in range(n_merges):
        counts = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                counts[pair] += n
        best = max(counts, key=lambda pair: (counts[pair], -rank[pair[0]], -rank[pair[1]]))
        rank.setdefault(best[0] + best[1], len(rank))
        words = {bpe.join(word, best): n for word, n in words.items()}
        merges.append(best)
    return merges


def in_bytes(word):
    return tuple(bytes([byte]) for byte in word.encode())


# %% [markdown]
# On four words one can follow it with a finger. (`bpe.join` glues every occurrence of the pair in a word.)

# %%
toy = Counter({in_bytes(word): n for word, n in {"low": 5, "lowest": 2, "newest": 6, "widest": 3}.items()})
replay = {"start": [token for word in toy for token in (*word, b" ")]}
for i, pair in enumerate(learn(toy, 6), 1):
    toy = {bpe.join(word, pair): n for word, n in toy.items()}
    replay[f"{i}: {pair[0].decode()} + {pair[1].decode()}"] = [token for word in toy for token in (*word, b" ")]
assert (b"w", b"i", b"d", b"est") in toy
viz.cuts(replay)

# %% [markdown]
# "est" has become a token, although nobody told the algorithm about endings. Is this the real thing? On the mixture, our
# dozen lines, the package's [`train_bpe`](../minideepseek/data/bpe.py) (quicker, because it counts again only what a merge
# changed), and the `tokenizers` library, which DeepSeek used, must learn the same merges. `pre_tokenizer` first cuts text
# into the pieces that no merge may cross; section 8 looks into it.

# %%
pieces = [text[a:b] for text in texts[:300] for _, (a, b) in pre_tokenizer().pre_tokenize_str(text)]
merges = bpe.train_bpe(pieces, 200)
assert learn(Counter(map(in_bytes, pieces)), 40) == merges[:40]


def merges_of(tokenizer):
    """The merges of a tokenizer from its tokenizer.json, where bytes are spelled by printable characters."""
    spelled = json.loads(tokenizer.to_json())["model"]["merges"]
    return [tuple(bytes(bpe.CHARACTER_TO_BYTE[c] for c in part) for part in pair) for pair in spelled]


trained = mds.data.Tokenizer.train(texts[:300], MIN_VOCAB_SIZE + 200)
assert merges_of(trained) == merges
viz.cuts(
    {"the first 30 merges": [a + b for a, b in merges[:30]]}, note=f"all {len(merges)} are equal, in all three ways"
)

# %% [markdown]
# **Turn the knobs** to replay the merges on three kinds of text. Which words are whole first? A Chinese character needs
# only two merges: why are so few of them whole after 100?

# %%
quick = merges_of(mds.data.Tokenizer.train(texts, 2048))
lines = {
    "English": english.text[:230],
    "中文": chinese.text[:75],
    "Python": "def mean(values):\n    return sum(values)\n",
}


def after(n_merges=60, text="English"):
    pieces = [lines[text][a:b] for _, (a, b) in pre_tokenizer().pre_tokenize_str(lines[text])]
    cut = [token for piece in pieces for token in bpe.encode_bpe(piece, quick[:n_merges])]
    return viz.cuts({f"{len(cut)} tokens": cut}, note=f"after {n_merges} merges, learnt from all three kinds of text")


viz.knob(after, n_merges=(0, 1760, 20), text=list(lines))

# %% [markdown]
# ## 8 · What DeepSeek does not merge
#
# Left alone, BPE would make tokens like ` dog.` and ` dog!` and ` dog,`, three entries for one word. So text is first cut
# into *pieces*, and merges stay inside a piece. GPT-2 cuts into words, numbers and punctuation. DeepSeek V1 draws the
# lines closer (section 2.1): line breaks, punctuation, letters, and Chinese, Japanese or Korean characters do not mix, and
# **every digit stands alone**.

# %%
line = "Since 2024 用Python写 1234.50元!\n\n  return x_1"
gpt2 = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)  # its built-in rule is GPT-2's
rules = {"like GPT-2": gpt2, "like DeepSeek V1": pre_tokenizer()}
rows = {name: [line[a:b] for _, (a, b) in rule.pre_tokenize_str(line)] for name, rule in rules.items()}
assert " 用Python写" in rows["like GPT-2"]
assert {"2", "0", "4", "用", "Python", "写"} <= set(rows["like DeepSeek V1"])
viz.cuts(rows, note="↵ a line break, · a blank by itself")

# %% [markdown]
# GPT-2's rule glues Chinese to the word "Python" and leaves `2024` whole. What becomes of numbers then? We train the same
# BPE with GPT-2's rule on a part of the library, and let it cut every number from 1000 to 9999.

# %%
rival = hf.Tokenizer(hf.models.BPE())
rival.pre_tokenizer = gpt2
settings = hf.trainers.BpeTrainer(vocab_size=4096, show_progress=False)
rival.train_from_iterator([file.text for file in library[:150]], settings)

numbers = [str(n) for n in range(1000, 10_000)]
cuts = {"like GPT-2": [rival.encode(number).tokens for number in numbers], "like DeepSeek V1": list(map(list, numbers))}
for number in numbers[::97]:
    assert [number[a:b] for _, (a, b) in pre_tokenizer().pre_tokenize_str(number)] == list(number)

ways = Counter()
for cut in cuts["like GPT-2"]:
    digits = iter("1234")
    ways["·".join("".join(next(digits) for _ in part) for part in cut)] += 100 / len(numbers)
assert len(ways) >= 4
title = f"GPT-2's rule cuts four-digit numbers in {len(ways)} ways; single digits in one"
viz.bars(dict(ways.most_common()), unit="% of the numbers from 1000 to 9999", digits=".1f", title=title)

# %% [markdown]
# Why care? The value of a digit is its *place*. When each digit is a token, the second token from the right always counts
# tens. When `1234` is `12·34` and `1235` is `12·3·5`, the same place holds now two digits, now one, and a model must learn
# by heart what each means where. A test: can the value of a number be read off its tokens by a *linear* map, one weight
# for each (place, token)? We fit the weights on half of the numbers and ask for the others.


# %%
def misread(cuts):
    """Mean error of a linear reading of the numbers' values, on the half that was not fitted."""
    column = {key: i for i, key in enumerate({key: None for cut in cuts for key in enumerate(cut[::-1])})}
    x = np.zeros((len(cuts), len(column)))
    for i, cut in enumerate(cuts):
        x[i, [column[key] for key in enumerate(cut[::-1])]] = 1
    value, order = np.arange(1000.0, 10_000), np.random.default_rng(0).permutation(len(cuts))
    fitted, asked = order[::2], order[1::2]
    weights = np.linalg.lstsq(x[fitted], value[fitted], rcond=1e-6)[0]
    return np.abs(x[asked] @ weights - value[asked]).mean()


# %%
off = {name: misread(cut) for name, cut in cuts.items()}
assert off["like DeepSeek V1"] < 1e-6
assert off["like GPT-2"] > 50
print({name: f"off by {value:.2g} on average" for name, value in off.items()})

# %% [markdown]
# That is a test for a linear map; a deep model can learn more. And single digits have a price: long numbers become long
# rows. V3's tokenizer, as released, takes up to three digits together, and lets punctuation and the line break after it
# merge (V3 report, arXiv 2412.19437, section 4.1).
#
# ## 9 · How large a vocabulary?
#
# Each further merge makes text a little shorter. As merges are learnt in order, a smaller tokenizer is *contained* in a
# larger one: stop earlier, and you have it. So one training gives all sizes. (First come 8 special tokens and 256 bytes.)

# %%
SIZES = (264, 512, 1024, 2048, 4096, 8192)
state = json.loads(mds.data.Tokenizer.train(texts, SIZES[-1]).to_json())


def first(size):
    """The tokenizer with the first `size` entries of the big one."""
    vocab = {token: i for token, i in state["model"]["vocab"].items() if i < size}
    kept = list(takewhile(lambda pair: "".join(pair) in vocab, state["model"]["merges"]))
    return mds.data.Tokenizer.from_json(
        json.dumps(state | {"model": state["model"] | {"vocab": vocab, "merges": kept}})
    )


family = {size: first(size) for size in SIZES}
assert family[1024].fingerprint == mds.data.Tokenizer.train(texts, 1024).fingerprint

# %% [markdown]
# What does each size buy? The measure is **bytes per token**: how much text one step of the model stands for. We take the
# text that was put aside, in five samples of each kind.


# %%
def bytes_per_token(tokenizer, documents):
    return sum(len(text.encode()) for text in documents) / sum(map(len, tokenizer.encode_batch(documents)))


density = {
    kind: np.array([[bytes_per_token(family[size], documents[i::5]) for size in SIZES] for i in range(5)])
    for kind, documents in fresh.items()
}
# %%
for runs in density.values():
    assert np.allclose(runs[:, 0], 1)
    assert (np.diff(runs, axis=1) > 0).all()
step = 1 / density["Python code"].mean(0)  # steps of the model for a byte
assert step[0] - step[1] > step[1] - step[-1]  # the first 248 merges save more steps than the next 7,680
title = "The first merges save most; then real text goes on gaining slowly"
viz.curves(density, x=SIZES, log="x", xlabel="size of the vocabulary", ylabel="bytes per token", title=title)

# %% [markdown]
# English stories know few words, so nothing is left to merge. The Chinese curve is a trap: Chinese has no blanks, a piece
# is half a sentence, and our grammar repeats its sentences; so whole phrases become tokens. Real Chinese does not do that.
# And each entry costs: a row in the input embedding, a row in the output head, a share of every softmax. DeepSeek V1
# stopped at 100,000, learnt from some 24 GB of text.
#
# **Turn the knobs.** Type a text of your own, and look at what becomes of names, of numbers, of other languages.


# %%
def look(vocabulary=1024, text="小花和 Tom found 3 keys."):
    ids = family[vocabulary].encode(text)
    ratio = len(text.encode()) / max(1, len(ids))
    return viz.cuts({f"{len(ids)} tokens": family[vocabulary].tokens(ids)}, note=f"{ratio:.2f} bytes a token")


viz.knob(look, vocabulary=list(SIZES), text="小花和 Tom found 3 keys, and 3 + 4 = 7.")

# %% [markdown]
# ### 100,015 tokens in 102,400 rows
#
# With 15 special tokens (begin, end, padding, ...) V1 has 100,015 tokens. Its embedding has 102,400 rows. The report gives
# two reasons: computational efficiency, and room for further special tokens. Graphics processors multiply matrices in
# tiles of, say, 128 columns, and a large head is split among several of them; an odd number fits neither.

# %%
v1 = mds.generations["v1-7b"]
assert v1.vocab_size == 102_400
assert v1.vocab_size % (8 * 128) == 0  # tiles of 128 on each of 8 processors
unused = 2 * (v1.vocab_size - 100_015) * v1.d_model  # in the embedding and in the head
print(f"{unused:,} parameters are never used: {unused / accounting.parameters(v1):.2%} of the model")

# %% [markdown]
# ## 10 · Rows of equal length
#
# A model trains on rows of $T$ tokens, and documents have any length. Filling each up with padding wastes the model's
# time on nothing. **Packing** puts documents one behind the other, each closed by an end-of-sentence token (eos), and
# cuts the row wherever it is full. By hand, and by the package's
# [`encode_documents`](../minideepseek/data/packing.py):

# %%
bpe1k = family[1024]
stories = [mds.data.story(i, seed=9) for i in range(60)]
ids = [[*bpe1k.encode(text), bpe1k.eos_id] for text in stories]
assert ids == mds.data.encode_documents(stories, bpe1k)
stream = np.concatenate(ids)
print("documents end at", np.flatnonzero(stream == bpe1k.eos_id)[:5], "...")

# %%
T = 384
padded = np.full((len(ids), T), -1)
for i, row in enumerate(ids):
    padded[i, : len(row)] = i  # what is longer than T would be cut off
owner = mds.data.segment_ids(torch.tensor(stream), bpe1k.eos_id).numpy()  # which document each token belongs to
packed = owner[: len(owner) // T * T].reshape(-1, T)
waste = (padded < 0).mean()
assert waste > 0.2
assert stream.size - packed.size < T
title = f"A row for each story: {waste:.0%} is padding. Packed: nothing but the rest of the last row"
viz.rows_of_documents({"padded": padded[:8], "packed": packed[:4]}, title=title)

# %% [markdown]
# A token in a packed row can look back into the document before. V3 does not forbid that in pre-training (section 4.1):
# the model learns that what came before an eos is of no use. `segment_ids` recovers the joins for whoever wants to.
#
# ### Fill in the middle
#
# Who completes code in an editor needs what stands *behind* the cursor too. V3 trains that with 10 % of its documents
# (section 4.1): cut into prefix, middle and suffix, they are told in the order **prefix, suffix, middle** (PSM), marked by
# three special tokens. It is still next-token prediction; only the text is rearranged.

# %%
snippet = "def mean(values):\n    return sum(values) / len(values)\n"
prefix, middle, suffix = packing.split_middle(snippet, 7, rate=1.0)
assert prefix + middle + suffix == snippet
t = bpe1k
row = [t.fim_begin_id, *t.encode(prefix), t.fim_hole_id, *t.encode(suffix), t.fim_end_id, *t.encode(middle), t.eos_id]
assert [row] == mds.data.encode_documents([snippet], t, fim_rate=1.0, first=7)
begin, hole, end, eos = (("special token", text) for text in (FIM_BEGIN, FIM_HOLE, FIM_END, EOS))
told = [begin, ("prefix", prefix), hole, ("suffix", suffix), end, ("middle", middle), eos]
viz.parts(told, note="what the model reads, from left to right")

# %%
many = [mds.data.story(i) for i in range(2000)]
share = np.mean([row[0] == t.fim_begin_id for row in mds.data.encode_documents(many, t, fim_rate=0.1)])
sigma = math.sqrt(0.1 * 0.9 / len(many))
assert abs(share - 0.1) < 4 * sigma
print(f"{share:.3f} of the documents are rearranged (expected 0.100 ± {sigma:.3f})")

# %% [markdown]
# ## 11 · The loader: any batch, again
#
# `prepare` does all of this once and keeps the tokens in a file. The file is *memory-mapped*: it looks like an array, and
# the operating system reads a part of it when somebody touches it. So a corpus may be larger than memory.
#
# The loader cuts the tokens into windows and reads each window once an *epoch*, in shuffled order. The order is
# *computed*, not stored: a formula, keyed by the seed, that permutes the numbers of the windows. So its whole state is how
# many windows were read. And two processes that share the work read what one would have read.

# %%
data = mds.data.prepare("stories", vocab_size=1024, max_tokens=40_000, progress=False)
assert isinstance(data.train, np.memmap)
assert data.train.dtype == np.uint16
print(f"{data.train_stats.documents} stories, {len(data.train):,} tokens:", data.train[:8], "...")

loader = mds.data.Loader(data.train, batch_size=8, seq_len=128, seed=0)
order = loader.windows(np.arange(2 * loader.n_windows))
for epoch in order.reshape(2, -1):
    assert (np.sort(epoch) == np.arange(loader.n_windows)).all()

halves = [mds.data.Loader(data.train, batch_size=4, seq_len=128, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
assert torch.equal(next(loader), torch.cat([next(half) for half in halves]))
print(f"{loader.n_windows} windows; a batch has the shape (rows, tokens + 1) =", tuple(next(loader).shape))

# %% [markdown]
# Now stop in the middle of an epoch, keep the state as text, and start again in what might be another process.

# %%
for _ in range(54):
    next(loader)
kept_state = json.dumps(loader.state_dict())
unbroken = [next(loader) for _ in range(20)]

again = mds.data.Loader(data.train, batch_size=8, seq_len=128, seed=0)
again.load_state_dict(json.loads(kept_state))
assert all(torch.equal(batch, next(again)) for batch in unbroken)
print(kept_state)
viz.reading_order(order, loader.n_windows, stop=56 * 8, title="Every epoch a new permutation; a stop changes nothing")

# %% [markdown]
# ## 12 · Train it: do longer tokens make a better model?
#
# The smallest language model there is: a **bigram** guesses the next token from the present one, by counting. We train
# it on Python files with vocabularies of 264 (bytes) to 8192 tokens and test it on others. Where a pair was never seen it
# falls back to how common the next token is (Witten-Bell smoothing: after a token with many different followers, new
# ones are likely). `loss` is the mean of $-\ln P(\text{next token})$, in *nats*.
#
# But a token of a large vocabulary stands for more text, and guessing more is harder. Dividing by the text that a token
# stands for gives **bits per byte**, which does not know about tokens:
#
# $$\text{bits per byte} = \frac{\text{loss}}{\ln 2} \cdot \frac{\text{tokens}}{\text{bytes}} .$$


# %%
def bigram_loss(train, valid, size):
    """Nats per token on `valid` of a bigram model counted on `train`; both are rows of token ids."""
    common = np.bincount(train, minlength=size) + 1.0
    common /= common.sum()
    pairs, n = np.unique(train[:-1] * size + train[1:], return_counts=True)
    seen, followers = np.bincount(train[:-1], minlength=size), np.bincount(pairs // size, minlength=size)
    now, then = valid[:-1], valid[1:]
    place = np.searchsorted(pairs, now * size + then).clip(max=len(pairs) - 1)
    count = np.where(pairs[place] == now * size + then, n[place], 0)
    chance = (count + followers[now] * common[then]) / np.maximum(1, seen[now] + followers[now])
    return -np.log(np.where(seen[now] > 0, chance, common[then])).mean()


# %%
RULERS = (264, 512, 2048, 8192)
files = {size: mds.data.encode_documents(fresh["Python code"], family[size]) for size in RULERS}
n_bytes = np.array([len(text.encode()) for text in fresh["Python code"]])
loss, bits = np.zeros((2, 5, len(RULERS)))
for seed in range(5):  # another choice of 20 files to test on
    order = np.random.default_rng(seed).permutation(len(n_bytes))
    for j, size in enumerate(RULERS):
        train, valid = (np.concatenate([files[size][i] for i in part]) for part in (order[20:], order[:20]))
        loss[seed, j] = bigram_loss(train, valid, size)
        bits[seed, j] = loss[seed, j] / math.log(2) * len(valid) / n_bytes[order[:20]].sum()

assert (np.diff(loss, axis=1) > 0).all()  # for every seed: more nats for a token ...
assert (np.diff(bits, axis=1) < 0).all()  # ... and fewer bits for a byte
assert math.isclose(data.bits_per_byte(2.0), 2.0 / math.log(2) * data.valid_stats.tokens / data.valid_stats.bytes)
viz.two_rulers(RULERS, loss, bits, title="Measured per token the model gets worse, per byte it gets better")

# %% [markdown]
# The longer tokens win, with every seed: a bigram of long tokens sees further back. But the number that training prints,
# the loss per token, says the opposite. For this reason the V1 report fits its scaling laws in bits per byte (section 3.2),
# and so do we wherever tokenizers differ: `data.bits_per_byte(loss)`.
#
# ## 13 · Myth check
#
# Three sentences that one often reads, computed.
#
# - *"Chinese text costs more tokens than English."* True of a tokenizer that has seen no Chinese, and of no other. (Our
#   Chinese is too easy, see section 9; the factor is not to be taken home, its cause is.)
# - *"A token is a word."* In code a name is several, and each bracket is one.
# - *"DeepSeek V1 has a vocabulary of 102,400."* Those are rows; 100,015 of them have a token (section 9).

# %%
parochial = mds.data.Tokenizer.train([mds.data.story(i, language="en") for i in range(2000)], 2048)
cost = {}
for name, tokenizer in {"both languages": family[2048], "English alone": parochial}.items():
    cost[name] = [
        np.mean([len(tokenizer.encode(text)) for text in fresh[f"{kind} stories"]]) for kind in ("English", "Chinese")
    ]
    print(f"learnt from {name}: {cost[name][0]:.0f} tokens an English story, {cost[name][1]:.0f} a Chinese one")
assert cost["English alone"][1] > 2 * cost["English alone"][0]
assert cost["both languages"][1] < 1.2 * cost["both languages"][0]

script = fresh["Python code"][0]
ids = family[8192].encode(script)
assert len(ids) > 1.5 * len(script.split())
print(f"a Python file: {len(script.split())} words between blanks, {len(ids)} tokens")

# %% [markdown]
# ## 14 · The ledger

# %%
first_dump, all_dumps = (f"{near[:, i].mean():.1%} ± {2 * near[:, i].std(ddof=1):.1%}" for i in (0, -1))
readings = f"{off['like GPT-2']:.0f} against {off['like DeepSeek V1']:.0e}"
gap = max(abs(near.mean(0)[n - 1] - share) for n, share in dumps.PUBLISHED_REMOVAL.items())
nats, per_byte = (f"{runs.mean(0)[0]:.2f} to {runs.mean(0)[-1]:.2f}" for runs in (loss, bits))
viz.ledger(f"""
22.2 % of one dump are copies, 89.8 % of 91 dumps | DeepSeek LLM, table 1 | {first_dump}, {all_dumps}; up to {100 * gap:.0f} points below between | shown
equal minima estimate the Jaccard similarity | Broder 1997 | {inside.mean():.0%} of {len(truth)} pairs within 2 sigma | shown
BPE by hand is what the library does | Sennrich et al. 2016 | {len(merges)} merges equal | exact
single digits keep the place value readable | our reason for section 2.1 | a linear reading is off by {readings} | shown
the unit decides: a larger vocabulary looks worse per token, better per byte | DeepSeek LLM, section 3.2 | {nats} nats, {per_byte} bits | shown
a stopped run goes on with the very next batch | our loader | {len(unbroken)} batches equal | exact
FIM at rate 0.1 does not hurt next-token prediction | DeepSeek-V3, section 4.1 | order and rate rebuilt, nothing trained | not tested
better data deserve a larger model | DeepSeek LLM, section 3.3 | see lesson 04 | not tested
""")

# %% [markdown]
# **What this shows:** each step of the way, rebuilt and equal to the package; why pooling dumps removes so much; that the
# unit of measurement decides which tokenizer looks better.
#
# **What it does not:** that our filter's limits or our mixture's weights are good ones; what a large vocabulary does to a
# large model; anything about the web that our power law leaves out.
#
# ## 15 · Try it yourself
#
# Answer first, then open the answer.
#
# **A. Bands.** You want to catch copies from similarity 0.5 on, with 128 hash functions. How many rows should a band have?
# (At $s = (1/b)^{1/r}$ about two thirds of the pairs meet.)
#
# **B. The middle.** In fill-in-the-middle, both cuts fall anywhere with equal chance. What share of a document is the
# middle, on average?
#
# **C. Two models.** A model with a loss of 2.00 nats per token reads 4.2 bytes a token; its rival has 1.60 and reads 3.1.
# Which one predicts text better?
#
# Then solve [the exercises](../exercises/01_text_to_tokens/01_text_to_tokens.ipynb), and go on to lesson 02, which builds
# the block that reads these numbers.

# %% jupyter={"source_hidden": true}
turn = {rows: (1 / (128 // rows)) ** (1 / rows) for rows in range(1, 33)}
best = min(turn, key=lambda rows: abs(turn[rows] - 0.5))
met = 1 - (1 - 0.5**best) ** (128 // best)
assert best == 5
viz.answer(
    "A",
    f"{best} rows in {128 // best} bands: the curve turns at {turn[best]:.2f}, and a pair of similarity 0.5 meets with "
    f"probability {met:.2f}. To miss fewer, take {best - 1} rows and pay with more comparisons.",
)

# %% jupyter={"source_hidden": true}
middles = [len(packing.split_middle("x" * 1000, number, rate=1.0)[1]) / 1000 for number in range(3000)]
assert abs(np.mean(middles) - 1 / 3) < 4 * np.std(middles) / math.sqrt(len(middles))
viz.answer(
    "B",
    f"A third: {np.mean(middles):.3f} over {len(middles)} cuts. Two random points divide a line into three parts, and by "
    "symmetry none of the three is longer than the others on average.",
)

# %% jupyter={"source_hidden": true}
mine, rivals = 2.00 / math.log(2) / 4.2, 1.60 / math.log(2) / 3.1
assert mine < rivals
viz.answer("C", f"The first, in spite of its higher loss: {mine:.3f} against {rivals:.3f} bits per byte.")
