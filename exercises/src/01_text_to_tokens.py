# %% [markdown]
# # Exercises 01 · Text to tokens
#
# Six tasks on [lesson 01](../../notebooks/01_text_to_tokens.ipynb), about 85 minutes. Each has a statement, a cell for
# your answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("text.minhash")` helps in three steps, `solution("text.minhash")` shows ours once you have tried, and `status()`
# at the end tells where you are.

# %% tags=["given"]
import math
from collections import Counter
from itertools import chain, pairwise

import torch

PRIME = 2**31 - 1


def order_of_epoch(epoch, n_windows, seed):
    """(n_windows,) the windows in the order in which this epoch reads them; for task 4."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(n_windows, generator=generator)


# %% [markdown]
# ## 1. MinHash
#
# How alike are two documents? The Jaccard similarity of their sets of shingles says it; MinHash (Broder 1997) estimates
# it from $k$ numbers a document, its *signature*. Hash function $i$ is $h_i(x) = (a_i\,x + b_i) \bmod (2^{31} - 1)$, and
#
# $$\mathrm{signature}_i = \min_{x \in A} h_i(x), \qquad
# J(A, B) \approx \text{share of places in which the two signatures are equal.}$$
#
# - `shingles` are the numbers of a document's shingles, below $2^{31}$: int64 of shape $(n,)$. The order means nothing,
#   and a number may come twice.
# - `a` and `b` are int64 of shape $(k,)$, below $2^{31}$ too: their products fit.


# %% task="text.minhash" title="MinHash" kind="implement" difficulty=2 minutes=15
def signature(shingles, a, b):
    """shingles: (n,), a and b: (k,), all int64 -> (k,) int64."""
    ### BEGIN SOLUTION
    return ((a[:, None] * shingles + b[:, None]) % PRIME).min(dim=1).values
    ### END SOLUTION


def resemblance(one, other):
    """Two signatures (k,) -> the estimated similarity, a number from 0 to 1."""
    ### BEGIN SOLUTION
    return (one == other).double().mean().item()
    ### END SOLUTION


# %% tags=["driver"]
def minima_of_two(shingles, more, a, b):
    """In each place the smaller entry of two signatures."""
    return torch.minimum(signature(shingles, a, b), signature(more, a, b))


def estimate(one, other, a, b):
    """Of the similarity of two sets."""
    return resemblance(signature(one, a, b), signature(other, a, b))


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
    Equals,
    Part,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    outcome,
    value,
)


def signature_by_hand(shingles, a, b):
    """In Python's whole numbers, one hash function after the other."""
    rows = [min((x * i + j) % PRIME for x in shingles.tolist()) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    return torch.tensor(rows)


def resemblance_by_hand(one, other):
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    return sum(x == y for x, y in pairs) / len(pairs)


def _minhash(signature=signature_by_hand, resemblance=resemblance_by_hand):
    """MinHash with one part of it wrong."""
    return {"signature": signature, "resemblance": resemblance}


@checks(
    "text.minhash",
    oracle=_minhash(),
    mistakes={
        "the remainder is taken of the minimum; first hash every shingle to the end, then take the smallest": _minhash(
            lambda x, a, b: (a[:, None] * x + b[:, None]).min(1).values % PRIME
        ),
        "the remainder is missing: without it the smallest shingle wins with every hash function": _minhash(
            lambda x, a, b: (a[:, None] * x + b[:, None]).min(1).values
        ),
        "the largest hash is kept; MinHash keeps the smallest": _minhash(
            lambda x, a, b: ((a[:, None] * x + b[:, None]) % PRIME).max(1).values
        ),
        "the minimum runs over the hash functions; each function has its own, over the shingles": _minhash(
            lambda x, a, b: ((a[:, None] * x + b[:, None]) % PRIME).min(0).values
        ),
        "this is where the smallest hash stands; its value is wanted": _minhash(
            lambda x, a, b: ((a[:, None] * x + b[:, None]) % PRIME).argmin(1)
        ),
        "the offset b is forgotten": _minhash(lambda x, a, b: ((a[:, None] * x) % PRIME).min(1).values),
        "equal places are counted; divide by their number": _minhash(
            resemblance=lambda one, other: (one == other).double().sum().item()
        ),
        "equal numbers in different places count too; hash function i is only compared with hash function i": _minhash(
            resemblance=lambda one, other: torch.isin(one, other).double().mean().item()
        ),
        "this is the share of places that differ": _minhash(
            resemblance=lambda one, other: (one != other).double().mean().item()
        ),
    },
    alternatives=[
        _minhash(
            lambda x, a, b: torch.stack([torch.remainder(x * i + j, PRIME).amin() for i, j in zip(a, b, strict=True)]),
            lambda one, other: int((one == other).sum()) / len(one),
        ),
        _minhash(
            lambda x, a, b: (torch.outer(x.unique(), a) + b).fmod(PRIME).amin(dim=0),
            lambda one, other: sum(map(int.__eq__, one.tolist(), other.tolist())) / one.numel(),
        ),
    ],
    hints=(
        "There are k hash functions and n shingles: which shape has the table of all hashes, and which of its two "
        "dimensions must go?",
        "Give a and b a dimension of length 1, so that a times shingles is a table (k, n). Add b, take the remainder, "
        "then the minimum over the shingles. The estimate is the mean of a comparison.",
        "table = (a[:, None] * shingles + b[:, None]) % PRIME, then its minimum over dim=1 (the .values of it); and "
        "(one == other).double().mean().item().",
    ),
)
def _(draw):
    k, n = draw.integer(5, 9), draw.integer(12, 20)
    a, b = draw.integers(1, PRIME, k), draw.integers(1, PRIME, k)
    x, more = draw.integers(0, PRIME, n), draw.integers(0, PRIME, n + 3)
    plain = call("signature", x, a, b)
    one, other = draw.integers(0, 3, 40), draw.integers(0, 3, 40)
    share = call("resemblance", one, other)
    yield contract(
        "a number for each hash function, inputs left alone",
        1,
        [plain, share],
        [Untouched(), Untouched(step=1), Between(part=Part(step=1), low=0, high=1, says="a share lies from 0 to 1")],
    )
    yield value("a signature holds the smallest hashes", 2, [plain, call("signature", x[:1], a, b)])
    yield value("an estimate is a share of equal places", 1, [share, call("resemblance", one, one)], rtol=1e-5)
    twice = torch.cat([x, x[: n // 2]]).flip(0)
    yield invariant(
        "a signature is that of a set, and of a union it is the smaller of two",
        1,
        [
            plain,
            call("signature", twice, a, b),
            call("signature", torch.cat([x, more]), a, b),
            call("minima_of_two", x, more, a, b),
        ],
        [
            Same(left=Part(step=0), right=Part(step=1), says="the order or the repetition of shingles changes it"),
            Same(
                left=Part(step=2), right=Part(step=3), says="of two sets together it is not the smaller in each place"
            ),
        ],
    )
    # 512 functions, J = 1/2: the standard deviation is 0.022. Right answers, 200 draws: 0.43 to 0.57.
    sets = torch.randperm(10**6, generator=torch.Generator().manual_seed(draw.integer(0, 10**6)))[:400] * 2000
    many = draw.integers(1, PRIME, 512), draw.integers(1, PRIME, 512)
    yield outcome(
        "half shared is estimated as about one half",
        1,
        [call("estimate", sets[:300], sets[100:], *many)],
        [Between(low=0.38, high=0.62, says="two sets of similarity 1/2 are estimated to be something else")],
    )


# %% [markdown]
# ## 2. One merge of byte-pair encoding
#
# Learning byte-pair encoding (Sennrich et al. 2016) is two steps, again and again: find the most frequent pair of
# neighbours, join it everywhere into a new token. Tokens are whole numbers here, in the order of their birth; words are
# pairs `(tokens, count)`, such as `([108, 111, 119], 5)` for a "low" that occurs five times.
#
# - Every place where two neighbours stand counts, times the count of the word: in `[7, 7, 7]` the pair `(7, 7)` counts
#   twice. Pairs do not reach from word to word, and a word may have one token only.
# - Of equally frequent pairs the one with the older (smaller) first token wins, then that with the older second one.
# - Joining goes from left to right, and what has been joined is not joined again: `[7, 7, 7]` becomes `[new, 7]`.


# %% task="text.bpe_merge" title="One merge of BPE" kind="implement" difficulty=2 minutes=20
def best_pair(words):
    """[(tokens, count), ...] -> the pair (first, second) to be joined."""
    ### BEGIN SOLUTION
    counts = Counter()
    for tokens, count in words:
        for pair in pairwise(tokens):
            counts[pair] += count
    return min(counts, key=lambda pair: (-counts[pair], pair))
    ### END SOLUTION


def join(tokens, pair, new):
    """A list of tokens -> a new list, with the token `new` wherever the pair stood."""
    ### BEGIN SOLUTION
    out, i = [], 0
    while i < len(tokens):
        found = tuple(tokens[i : i + 2]) == tuple(pair)
        out.append(new if found else tokens[i])
        i += 2 if found else 1
    return out
    ### END SOLUTION


# %% tags=["driver"]
def learn_merges(words, merges, first=256):
    """So many merges, one after the other: the pairs, and what became of the words."""
    pairs = []
    for new in range(first, first + merges):
        pairs.append(tuple(best_pair(words)))
        words = [(join(tokens, pairs[-1], new), count) for tokens, count in words]
    return [list(pair) for pair in pairs], [list(tokens) for tokens, _ in words]


def joined_from(tokens, pair, new):
    """The list that was given to `join`, as it is afterwards."""
    join(tokens, pair, new)
    return tokens


def taken_apart(tokens, pair, new):
    """Joined, then every new token replaced by its two parts."""
    return list(chain.from_iterable(pair if token == new else [token] for token in join(tokens, pair, new)))


# %% tags=["judge"]
def best_pair_by_sorting(words):
    """Every occurrence is written down, sorted, and counted by its run."""
    occurrences = sorted(pair for tokens, count in words for pair in list(pairwise(tokens)) * count)
    best, most, run = None, 0, 0
    for i, pair in enumerate(occurrences):
        run = run + 1 if i and occurrences[i - 1] == pair else 1
        if run > most:
            best, most = pair, run
    return best


def join_by_recursion(tokens, pair, new):
    if len(tokens) < 2:
        return list(tokens)
    if tokens[0] == pair[0] and tokens[1] == pair[1]:
        return [new, *join_by_recursion(tokens[2:], pair, new)]
    return [tokens[0], *join_by_recursion(tokens[1:], pair, new)]


def _bpe(best_pair=best_pair_by_sorting, join=join_by_recursion):
    """A merge with one part of it wrong."""
    return {"best_pair": best_pair, "join": join}


def _counted(count=lambda n: n, neighbours=pairwise, choose=lambda counts: min(counts, key=lambda p: (-counts[p], p))):
    def best_pair(words):
        counts = Counter()
        for tokens, n in words:
            for pair in neighbours(tokens):
                counts[pair] += count(n)
        return choose(counts)

    return best_pair


def _join_last_first(tokens, pair, new):
    return join_by_recursion(tokens[::-1], pair[::-1], new)[::-1]


def _join_once(tokens, pair, new):
    for i in range(len(tokens) - 1):
        if tuple(tokens[i : i + 2]) == tuple(pair):
            return [*tokens[:i], new, *tokens[i + 2 :]]
    return list(tokens)


def _join_overlapping(tokens, pair, new):
    out, inside = [], False
    for i, token in enumerate(tokens):
        if tuple(tokens[i : i + 2]) == tuple(pair):
            out.append(new)
            inside = True
        else:
            out += [] if inside else [token]
            inside = False
    return out


def _join_drops_the_last(tokens, pair, new):
    out, i = [], 0
    while i < len(tokens) - 1:
        found = tuple(tokens[i : i + 2]) == tuple(pair)
        out.append(new if found else tokens[i])
        i += 2 if found else 1
    return out


def _join_in_place(tokens, pair, new):
    for i in range(len(tokens)):
        if tuple(tokens[i : i + 2]) == tuple(pair):
            tokens[i : i + 2] = [new]
    return tokens


@checks(
    "text.bpe_merge",
    oracle=_bpe(),
    mistakes={
        "each word is counted once; a word that occurs n times counts n times": _bpe(_counted(count=lambda n: 1)),
        "of equally frequent pairs the first one met is taken; the one with the older tokens wins": _bpe(
            _counted(choose=lambda counts: counts.most_common(1)[0][0])
        ),
        "of equally frequent pairs the youngest is taken; the one with the older tokens wins": _bpe(
            _counted(choose=lambda counts: max(counts, key=lambda pair: (counts[pair], pair)))
        ),
        "a pair counts once a word; every place where it stands counts": _bpe(
            _counted(neighbours=lambda tokens: set(pairwise(tokens)))
        ),
        "the rarest pair is taken; the most frequent one is wanted": _bpe(
            _counted(choose=lambda counts: min(counts, key=lambda pair: (counts[pair], pair)))
        ),
        "joining goes from right to left; it starts at the left": _bpe(join=_join_last_first),
        "only the first occurrence is joined": _bpe(join=_join_once),
        "a token is joined twice; go on behind the pair": _bpe(join=_join_overlapping),
        "the last token is lost when it is not part of a pair": _bpe(join=_join_drops_the_last),
        "join changes the list that it was given; make a new one": _bpe(join=_join_in_place),
    },
    alternatives=[
        _bpe(
            lambda words: sorted(
                Counter(chain.from_iterable(list(pairwise(tokens)) * n for tokens, n in words)).items(),
                key=lambda item: (-item[1], item[0]),
            )[0][0],
            lambda tokens, pair, new: _join_in_place(list(tokens), pair, new),
        ),
    ],
    hints=(
        "Which order of pairs, by which key, would put the right one first? And in joining, how far do you go on after "
        "a pair has been found, and how far otherwise?",
        "Counter of pairwise(tokens), adding the word's count each time; then min() over the pairs by (minus the "
        "frequency, the pair). For join: a while loop that goes on by 2 after a pair and by 1 else.",
        "min(counts, key=lambda pair: (-counts[pair], pair)); and: while i < len(tokens): if the two tokens from i are "
        "the pair, append new and i += 2, otherwise append tokens[i] and i += 1.",
    ),
)
def _(draw):
    row = [3, 5, 3, 5, 5, 5, 9, 5, 5, 3]
    pair = call("best_pair", [([4, 2], 1)])
    yield contract(
        "a pair is two tokens, and lists given are left alone",
        1,
        [pair, call("joined_from", row, (5, 5), 300), call("joined_from", row, (1, 1), 300)],  # (1, 1) is not in it
        [
            Between(part=Part(path=(0,)), low=4, high=4, says="the first of the two tokens is not where it belongs"),
            Between(part=Part(path=(1,)), low=2, high=2, says="the second of the two tokens is not where it belongs"),
            Same(left=Part(step=1), right=Part(step=2), says="join changes the list that it was given; make a new one"),
        ],
    )
    small, large = draw.integer(10, 20), draw.integer(30, 40)
    many, few = draw.integer(6, 9), draw.integer(1, 3)
    weighed = call("best_pair", [([1, 2, 3], few), ([1, 2], few), ([8, 9], many)])
    tied = call("best_pair", [([large, large], 2), ([small, 7 + large], 2), ([small, large], 2), ([50, 51], 2)])
    repeated = call("best_pair", [([large, 2, large, 2, large, 2], 2), ([4, 5], 3), ([6], 99)])
    triple = call("best_pair", [([large] * 3, 2), ([4, 5], 3)])
    yield value("the most frequent pair, the oldest of equals", 2, [weighed, tied, repeated, triple])
    joins = [call("join", [t + small for t in row], (5 + small, 5 + small), 300 + k) for k in range(2)]
    ends = [call("join", tokens, (1, 2), 256) for tokens in ([1, 2], [2, 1], [1], [], [1, 2, 1, 2, 3], [3, 1, 2])]
    runs = [call("join", [6] * length, (6, 6), 256) for length in (2, 3, 4, 5)]
    yield value("joins every occurrence, from left to right", 2, [*joins, *ends, *runs])
    letters = [(draw.integers(97, 101, draw.integer(5, 12)).tolist(), draw.integer(1, 9)) for _ in range(12)]
    yield value("learns the right merges, one after the other", 1, [call("learn_merges", letters, 6)])
    line = draw.integers(0, 3, 60).tolist()
    yield invariant(
        "nothing is lost: taken apart again, the tokens are the old ones",
        1,
        [call("taken_apart", line, (1, 2), 9), call("taken_apart", line, (1, 1), 9)],
        [Equals(part=Part(step=i), expected=line) for i in range(2)],
    )


# %% [markdown]
# ## 3. Packing
#
# A model trains on rows of one length, and documents have any. Put them one behind the other, each closed by the token
# `eos`, and cut the row wherever it is full. What is left at the end and fills no row is dropped.
#
# Then say whose a token is: `owners` numbers the documents of a row, counting from 0. An `eos` belongs to the document
# that it closes, and only what comes after it to the next one.


# %% task="text.pack" title="Packing" kind="implement" difficulty=1 minutes=15
def pack(documents, eos, length):
    """Lists of tokens -> (rows, length) int64."""
    ### BEGIN SOLUTION
    stream = torch.tensor([token for document in documents for token in (*document, eos)], dtype=torch.int64)
    rows = len(stream) // length
    return stream[: rows * length].view(rows, length)
    ### END SOLUTION


def owners(row, eos):
    """(n,) tokens -> (n,) int64: the number of the document that each belongs to."""
    ### BEGIN SOLUTION
    closes = (row == eos).long()
    return closes.cumsum(0) - closes
    ### END SOLUTION


# %% tags=["driver"]
def read(documents, eos, length):
    """All packed tokens, one behind the other."""
    return pack(documents, eos, length).flatten()


# %% tags=["judge"]
def pack_by_hand(documents, eos, length):
    rows, row = [], []
    for document in documents:
        for token in [*document, eos]:
            row.append(token)
            if len(row) == length:
                rows, row = [*rows, row], []
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)


def owners_by_hand(row, eos):
    found, number = [], 0
    for token in row.tolist():
        found.append(number)
        number += token == eos
    return torch.tensor(found)


def _pack(pack=pack_by_hand, owners=owners_by_hand):
    """Packing with one part of it wrong."""
    return {"pack": pack, "owners": owners}


def _cut(stream, length, eos=0):
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length], dtype=torch.int64).view(rows, length)


def _a_row_for_each(documents, eos, length):
    rows = [([*document, eos] + [eos] * length)[:length] for document in documents]
    return torch.tensor(rows)


def _padded(documents, eos, length):
    stream = list(chain.from_iterable([*document, eos] for document in documents))
    return _cut(stream + [eos] * (-len(stream) % length), length)


def _front_dropped(documents, eos, length):
    stream = list(chain.from_iterable([*document, eos] for document in documents))
    return _cut(stream[len(stream) % length :], length)


@checks(
    "text.pack",
    oracle=_pack(),
    mistakes={
        "eos is missing between the documents": _pack(
            lambda d, eos, length: _cut(list(chain.from_iterable(d)), length)
        ),
        "eos stands before each document; it closes one": _pack(
            lambda d, eos, length: _cut(list(chain.from_iterable([eos, *x] for x in d)), length)
        ),
        "the last document is not closed by an eos": _pack(
            lambda d, eos, length: _cut(list(chain.from_iterable([*x, eos] for x in d))[:-1], length)
        ),
        "every document has a row of its own; they stand one behind the other": _pack(_a_row_for_each),
        "the rest is padded to a row; it is dropped": _pack(_padded),
        "the rest is dropped at the front; it is dropped at the end": _pack(_front_dropped),
        "eos is counted to the next document; it belongs to the one that it closes": _pack(
            owners=lambda row, eos: (row == eos).long().cumsum(0)
        ),
        "documents are counted from 1; count from 0": _pack(owners=lambda row, eos: owners_by_hand(row, eos) + 1),
    },
    alternatives=[
        _pack(
            lambda d, eos, length: torch.cat([torch.tensor([*x, eos]) for x in d]).unfold(0, length, length).clone(),
            lambda row, eos: torch.cat([torch.zeros(1, dtype=torch.int64), (row[:-1] == eos).cumsum(0)]),
        ),
    ],
    hints=(
        "If all documents were one long row, how many full rows would fit into it? And how many eos stand *before* a "
        "token, itself not counted?",
        "Make one list of all tokens with an eos after each document; keep rows · length of it; view it as a table. "
        "For owners: count the eos up to each place, and do not count the place itself.",
        "rows = len(stream) // length; stream[: rows * length].view(rows, length). And closes = (row == eos).long(); "
        "closes.cumsum(0) counts a place's own eos too: subtract closes.",
    ),
)
def _(draw):
    eos, length = draw.integer(90, 99), draw.integer(5, 9)

    def texts(sizes):
        return [draw.integers(1, 80, size).tolist() for size in sizes]

    documents = texts([draw.integer(1, 12) for _ in range(7)] + [length, 2 * length])
    row = torch.tensor([5, eos, 6, 7, eos, eos, 8])
    yield contract(
        "rows of whole numbers, inputs left alone",
        1,
        [call("pack", documents, eos, length), call("owners", row, eos)],
        [Untouched(step=1)],
    )
    exact = texts([length - 1, 2 * length - 1])  # with their eos they fill three rows and leave nothing
    ragged = texts([length, length, length - 1])
    yield value(
        "one behind the other, each closed, the rest dropped",
        2,
        [call("pack", x, eos, length) for x in (documents, exact, ragged, texts([3 * length + 1]))],
    )
    tokens = draw.integers(eos - 2, eos + 1, 30)
    yield value(
        "an eos belongs to what it closes", 1, [call("owners", x, eos) for x in (row, tokens, row[:1], row[1:])]
    )
    four = texts([draw.integer(1, 9) for _ in range(8)])
    shared = (sum(map(len, four)) + len(four)) // (2 * length) * 2 * length
    yield invariant(
        "the length of a row does not change what is read",
        1,
        [call("read", four, eos, length), call("read", four, eos, 2 * length)],
        [
            Same(
                left=Part(step=0, cut=((0, 0, shared),)),
                right=Part(step=1, cut=((0, 0, shared),)),
                says="longer rows hold other tokens, or the same in another order",
            )
        ],
    )


# %% [markdown]
# ## 4. Debug: a loader that repeats itself
#
# A loader says which windows of the text make up a batch. In each epoch it reads every window exactly once, in a new
# order; the order of an epoch is computed by `order_of_epoch`, which is given and right. The loader below has **one
# planted bug**. It shows in no loss curve; what shows it is an invariant:
#
# - in the first $E$ epochs' worth of batches, every window occurs exactly $E$ times;
# - two processes that share the work read together, one behind the other, what one with twice the batch would read.
#
# Find out which of the two is hurt, and when. Then repair the line.


# %% task="text.loader" title="A loader that repeats itself" kind="debug" difficulty=2 minutes=15
def windows_of_batch(step, n_windows, batch, seed=0, rank=0, world_size=1):
    """(batch,) int64: the windows that process number `rank` reads at this step, both counted from 0."""
    first = (step * world_size + rank) * batch
    count = torch.arange(first, first + batch)  # how many windows were read before each
    ### BEGIN SOLUTION
    orders = {epoch: order_of_epoch(epoch, n_windows, seed) for epoch in (count // n_windows).unique().tolist()}
    return torch.stack([orders[i // n_windows][i % n_windows] for i in count.tolist()])
    ### STUB
    # order = order_of_epoch(first // n_windows, n_windows, seed)
    # return order[count % n_windows]
    ### END SOLUTION


# %% tags=["driver"]
def how_often(steps, n_windows, batch, seed):
    """(n_windows,) how often each window is read."""
    read = torch.cat([windows_of_batch(step, n_windows, batch, seed) for step in range(steps)])
    return torch.bincount(read, minlength=n_windows)


def together(step, n_windows, batch, seed):
    """What two processes read."""
    return torch.cat([windows_of_batch(step, n_windows, batch, seed, rank, 2) for rank in range(2)])


# %% tags=["judge"]
def windows_one_by_one(step, n_windows, batch, seed=0, rank=0, world_size=1):
    first = (step * world_size + rank) * batch
    places = [divmod(i, n_windows) for i in range(first, first + batch)]
    return torch.tensor([order_of_epoch(epoch, n_windows, seed).tolist()[place] for epoch, place in places])


def _all_epochs_in_a_row(step, n_windows, batch, seed=0, rank=0, world_size=1):
    first = (step * world_size + rank) * batch
    epochs = range((first + batch - 1) // n_windows + 1)
    return torch.cat([order_of_epoch(epoch, n_windows, seed) for epoch in epochs])[first : first + batch]


def _loader(epoch=None, seeds=lambda seed: seed, first=lambda step, rank, world, batch: (step * world + rank) * batch):
    """The loader with one part of it wrong; `epoch` of the first count, the batch and the number of windows."""

    def windows_of_batch(step, n_windows, batch, seed=0, rank=0, world_size=1):
        start = first(step, rank, world_size, batch)
        count = torch.arange(start, start + batch)
        if epoch is None:
            places = [divmod(i, n_windows) for i in count.tolist()]
            return torch.stack([order_of_epoch(e, n_windows, seeds(seed))[place] for e, place in places])
        return order_of_epoch(epoch(start, batch, n_windows), n_windows, seeds(seed))[count % n_windows]

    return windows_of_batch


@checks(
    "text.loader",
    oracle=windows_one_by_one,
    mistakes={
        "a batch that begins in one epoch and ends in the next is read in the order of the first alone": _loader(
            epoch=lambda start, batch, n: start // n
        ),
        "a batch that begins in one epoch and ends in the next is read in the order of the second alone": _loader(
            epoch=lambda start, batch, n: (start + batch - 1) // n
        ),
        "every epoch reads in the order of the first": _loader(epoch=lambda start, batch, n: 0),
        "every batch has an order of its own; an order belongs to an epoch": _loader(
            epoch=lambda start, batch, n: start // batch
        ),
        "the seed is forgotten": _loader(seeds=lambda seed: 0),
        "all processes read the same windows: rank is forgotten": _loader(
            first=lambda step, rank, world, batch: step * world * batch
        ),
    },
    alternatives=[_all_epochs_in_a_row, _loader()],
    hints=(
        "Take 10 windows and batches of 4. Which windows does the third batch read, and in which epoch does each of "
        "them lie?",
        "The epoch is computed once, from the batch's first window. At the end of an epoch a batch holds windows of "
        "two: every window needs the epoch of its own count.",
        "For each i in count.tolist(): order_of_epoch(i // n_windows, n_windows, seed)[i % n_windows]; stack them.",
    ),
)
def _(draw):
    seed, batch = draw.integer(1, 99), draw.integer(4, 7)
    n = 3 * batch + draw.integer(1, batch)  # epochs end inside a batch
    inside = [call("windows_of_batch", step, n, batch, seed) for step in (0, 1, 2)]
    later = [call("windows_of_batch", step, n, batch, seed, rank=1, world_size=3) for step in (0, 2)]
    across = [call("windows_of_batch", 3, n, batch, seed), call("windows_of_batch", 0, 3, batch + 3, seed)]
    yield value("reads each window in the order of its own epoch", 3, [*inside, *later, *across])
    yield invariant(
        "in E epochs every window is read E times, by however many processes",
        2,
        [
            call("how_often", n, n, batch, seed),
            call("together", 1, n, batch, seed),
            call("windows_of_batch", 1, n, 2 * batch, seed),
        ],
        [
            Equals(expected=torch.full((n,), batch)),
            Same(left=Part(step=1), right=Part(step=2), says="two processes together read something else than one"),
        ],
    )


# %% [markdown]
# ## 5. Predict: what a model that knows nothing costs
#
# Losses with different tokenizers are compared in bits per byte:
# $\frac{\text{loss}}{\ln 2} \cdot \frac{\text{tokens}}{\text{bytes}}$. Write down three numbers *before* you run
# the cell below the check. They may be off by two percent.
#
# - `untrained`: a fresh model gives all 1,024 tokens of its vocabulary the same chance. One token stands for 2.7 bytes of
#   text. How many bits per byte does it need?
# - `bytewise`: and a fresh model whose tokens are the 256 bytes?
# - `to_match`: a model of bytes has been trained to a loss of 0.8 nats a token. Which loss, in nats per token, must the
#   model with 2.7 bytes a token reach to predict text as well?


# %% task="text.bits_per_byte" title="What a model that knows nothing costs" kind="predict" difficulty=1 minutes=10
### BEGIN SOLUTION
untrained = math.log2(1024) / 2.7
bytewise = 8.0
to_match = 0.8 * 2.7
### STUB
# untrained = None  # bits per byte
# bytewise = None  # bits per byte
# to_match = None  # nats per token
### END SOLUTION

# %% [markdown]
# Now measure: stories, a tokenizer of 1,024 entries, and a model that has learnt nothing. Its bytes per token are not
# exactly 2.7, nor are its chances exactly equal. How can a model that knows nothing be better than 8 bits per byte?

# %%
from dataclasses import replace

import minideepseek as mds
import minideepseek.data

stories = mds.data.prepare("stories", vocab_size=1024, max_tokens=40_000, progress=False)
fresh = mds.Transformer(replace(mds.generations["v1-mini"], vocab_size=1024), seed=0)
with torch.no_grad():
    nats = fresh.loss(torch.tensor(stories.valid[:514].astype("int64")).view(2, 257)).lm.item()
print(f"{stories.valid_stats.bytes / stories.valid_stats.tokens:.2f} bytes a token, {nats:.2f} nats a token:")
print(f"{stories.bits_per_byte(nats):.2f} bits per byte; you said {untrained}")


# %% tags=["judge"]
@checks(
    "text.bits_per_byte",
    oracle={"untrained": 10 / 2.7, "bytewise": 8.0, "to_match": 2.16},
    mistakes={
        "these are nats per byte; divide by ln 2": {
            "untrained": math.log(1024) / 2.7,
            "bytewise": math.log(256),
            "to_match": 2.16,
        },
        "these are bits per token; divide by the bytes of a token": {
            "untrained": 10.0,
            "bytewise": 8.0,
            "to_match": 2.16,
        },
        "you multiplied by the bytes of a token; a byte is a part of it": {
            "untrained": 27.0,
            "bytewise": 8.0,
            "to_match": 2.16,
        },
        "a token of 2.7 bytes may cost 2.7 times as much as a byte, not a part of it": {
            "untrained": 10 / 2.7,
            "bytewise": 8.0,
            "to_match": 0.8 / 2.7,
        },
        "these are bits; nats are asked for on both sides": {
            "untrained": 10 / 2.7,
            "bytewise": 8.0,
            "to_match": 2.16 / math.log(2),
        },
    },
    hints=(
        "How many yes-or-no questions find one of 1,024 equally likely tokens? How many bytes has it then told?",
        "Equal chances among V tokens cost log2(V) bits a token. Divide by the bytes of a token. In nats per byte the "
        "two models of the third question are equal.",
        "10 bits / 2.7 bytes; 8 bits / 1 byte; 0.8 nats a byte times 2.7 bytes.",
    ),
)
def _(draw):
    yield value("bits per byte of equal chances", 1, [call("untrained")], rtol=0.02)
    yield value("the same with bytes for tokens", 1, [call("bytewise")], rtol=0.02)
    yield value("a loss per token that is as good as one per byte", 1, [call("to_match")], rtol=0.02)


# %% [markdown]
# ## 6. Paper against code: 102,400 rows
#
# The V1 report (arXiv 2401.02954, section 2.1) counts 100,000 ordinary tokens and 15 special ones, and gives the model
# 102,400 rows, for speed and as a reserve. Many programs round a vocabulary up like this:
#
# ```python
# rows = -(-n_tokens // 128) * 128  # the next multiple of 128
# ```
#
# - `by_code`: how many rows does that line give V1?
# - `power`: it is not the paper's number. Put a power of two in the place of 128 so that it is. Which one? (The report
#   does not say how its number was chosen: this is the one rounding of the usual kind that explains it.)
# - `idle`: V1 7B has a width of 4,096 and two tables with a row for each token, one at the entrance and one, untied, at
#   the exit. How many of its parameters belong to rows without a token?


# %% task="text.rows" title="102,400 rows" kind="compare" difficulty=1 minutes=10
### BEGIN SOLUTION
by_code = 100_096
power = 4096
idle = 2 * (102_400 - 100_015) * 4096
### STUB
# by_code = None
# power = None
# idle = None
### END SOLUTION

# %% tags=["judge"]
_rows = {"by_code": 782 * 128, "power": 2**12, "idle": 19_537_920}


@checks(
    "text.rows",
    oracle=_rows,
    mistakes={
        "this rounds down: 99,968 rows are too few for 100,015 tokens": _rows | {"by_code": 99_968},
        "100,000 is not a multiple of 128, and 15 more tokens need rows": _rows | {"by_code": 100_000},
        "102,400 is a multiple of 128, but not the next one above 100,015: that is 100,096": _rows
        | {"by_code": 102_400},
        "102,400 is a multiple of 1,024, but the next one above 100,015 is 100,352": _rows | {"power": 1024},
        "102,400 is a multiple of 2,048, but the next one above 100,015 is 100,352": _rows | {"power": 2048},
        "8,192 does not divide 102,400: this gives 106,496": _rows | {"power": 8192},
        "you counted one table; V1 has one at the entrance and another at the exit": _rows | {"idle": 9_768_960},
        "the 15 special tokens have rows too": _rows | {"idle": 2 * 2400 * 4096},
        "these are rows; each has 4,096 parameters": _rows | {"idle": 2 * 2385},
    },
    hints=(
        "Which powers of two divide 102,400? And which of them leave no other multiple between 100,015 and 102,400?",
        "Count up: 128, 256, 512, ... For each, the next multiple above 100,015. For the idle parameters: rows without "
        "a token, times the width, times the number of tables.",
        "102,400 = 25 · 4096, and 24 · 4096 is too few. Idle are (102,400 - 100,015) rows of 4,096 numbers, twice.",
    ),
)
def _(draw):
    yield value("what the line of code gives", 1, [call("by_code")])
    yield value("the rounding that gives the paper's number", 1, [call("power")])
    yield value("parameters that are never used", 1, [call("idle")])
