# %% [markdown]
# # Exercises 09 · Multi-token prediction
#
# Four tasks on [lesson 09](../../notebooks/09_mtp.ipynb), about 70 minutes. Each has a statement, a cell for your answer,
# and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs belongs
# into its cell.
#
# `hint("mtp.loss")` helps in three steps, `solution("mtp.loss")` shows ours once you have tried, and `status()` at the end
# tells where you are.

# %% tags=["given"]
import torch
from torch.nn.functional import cross_entropy


def module(hidden, following, matrix):
    """A small stand-in for a module: h (B, n, D), embeddings (B, n, D), matrix (D, 2D) -> (B, n, D), causal."""
    joined = torch.tanh(torch.cat([following, hidden], dim=-1) @ matrix.T)
    return joined + joined.cumsum(1) / torch.arange(1, joined.shape[1] + 1).view(-1, 1)


# %% [markdown]
# ## 1. The loss of a chain
#
# The model has read the tokens $t_1 \dots t_T$ of a row and knows $h^0_i$ at each place. Module $k = 1 \dots K$ takes at
# place $i$ what the module before it knows there, $h^{k-1}_i$, and the embedding of $t_{i+k}$. With its $h^k_i$ the head
# answers $t_{i+k+1}$ (V3, arXiv 2412.19437, equations 21 to 25):
#
# $$\mathcal{L} = \frac{\lambda}{K} \sum_{k=1}^{K} \mathcal{L}^k, \qquad
# \mathcal{L}^k = \text{mean surprise of module } k \text{ at } t_{i+k+1}, \text{ wherever the row has one.}$$
#
# - `hidden` is $h^0$, $(B, T, D)$; `ids` is $(B, T + 1)$, $t_1$ to $t_{T+1}$.
# - `embedding` and `head` are $(V, D)$; `matrices` is $(K, D, 2D)$, one for each module. Use `module`, given above.
# - The result is one number, with gradients to everything. $K < T$.


# %% task="mtp.loss" title="The loss of a chain" kind="implement" difficulty=2 minutes=20
def mtp_loss(hidden, ids, embedding, head, matrices, weight):
    """(B, T, D), (B, T + 1), (V, D), (V, D), (K, D, 2D), a number -> the loss of all modules, ()."""
    ### BEGIN SOLUTION
    losses = []
    for k, matrix in enumerate(matrices, 1):
        n = ids.shape[1] - 1 - k  # places that have a token k + 1 further on
        hidden = module(hidden[:, :n], embedding[ids[:, k : k + n]], matrix)
        logits = hidden @ head.T
        losses.append(cross_entropy(logits.flatten(0, 1), ids[:, k + 1 :].flatten()))
    return weight * torch.stack(losses).mean()
    ### END SOLUTION


# %% tags=["judge"]
from minideepseek.judge.author import (
    Equals,
    Part,
    Reaches,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    value,
)


def loss_place_by_place(hidden, ids, embedding, head, matrices, weight):
    """Row by row and place by place, with softmax written out."""
    total, count = 0.0, len(matrices)
    known = [[hidden[b, i] for i in range(hidden.shape[1])] for b in range(len(ids))]
    for k in range(1, count + 1):
        surprises = []
        for b, row in enumerate(ids.tolist()):
            places = range(len(row) - 1 - k)
            inside = [torch.tanh(matrices[k - 1] @ torch.cat([embedding[row[i + k]], known[b][i]])) for i in places]
            known[b] = [inside[i] + sum(inside[: i + 1]) / (i + 1) for i in places]
            for i in places:
                scores = head @ known[b][i]
                surprises.append(scores.exp().sum().log() - scores[row[i + k + 1]])
        total = total + sum(surprises) / len(surprises)
    return weight * total / count


def _loss(shown=0, asked=1, chain=True, share=True, weigh=True):
    """A loss with one thing wrong; ``shown`` and ``asked`` move what is read and what is answered."""

    def mtp_loss(hidden, ids, embedding, head, matrices, weight):
        first, total = hidden, 0.0
        for k, matrix in enumerate(matrices, 1):
            n = ids.shape[1] - 1 - k
            before = hidden if chain else first
            hidden = module(before[:, :n], embedding[ids[:, k + shown : k + shown + n]], matrix)
            logits = hidden @ head.T
            total = total + cross_entropy(logits.flatten(0, 1), ids[:, k + asked :][:, :n].flatten())
        return (weight if weigh else 1.0) * total / (len(matrices) if share else 1)

    return mtp_loss


def _by_rolls(hidden, ids, embedding, head, matrices, weight):
    length, found = ids.shape[1] - 1, []
    for k in range(1, len(matrices) + 1):
        valid = length - k
        following = torch.roll(ids, -k, 1)[:, :valid]
        hidden = module(
            hidden.narrow(1, 0, valid), torch.nn.functional.embedding(following, embedding), matrices[k - 1]
        )
        chances = torch.log_softmax(hidden @ head.mT, -1)
        found.append(-chances.gather(2, torch.roll(ids, -k - 1, 1)[:, :valid, None]).mean())
    return weight / len(matrices) * sum(found)


@checks(
    "mtp.loss",
    oracle=loss_place_by_place,
    mistakes={
        "a module is shown the token that it has to answer": _loss(shown=1),
        "a module is shown the token before the one it should be": _loss(shown=-1),
        "a module is asked for the token that it has just been shown": _loss(asked=0),
        "each module starts from the model's h; it should go on from what the one before it knows": _loss(chain=False),
        "the losses are added up; divide by the number of modules": _loss(share=False),
        "lambda is missing": _loss(weigh=False),
    },
    alternatives=[_loss(), _by_rolls],
    hints=(
        "Write down for T = 4, places 1 to 4, which token module 1 is shown at each and which it has to answer. For how "
        "many places are both there? And for module 2?",
        "For module k there are n = ids.shape[1] - 1 - k places. Cut what the one before it knows to n places, give it the "
        "embeddings of ids from k on, and ask for ids from k + 1 on.",
        "hidden = module(hidden[:, :n], embedding[ids[:, k : k + n]], matrix); cross_entropy((hidden @ head.T)"
        ".flatten(0, 1), ids[:, k + 1 :].flatten()); then weight times the mean of these.",
    ),
)
def _(draw):
    def problem(depth):
        rows, length, width, kinds = draw.integer(2, 4), draw.integer(5, 9), draw.integer(3, 7), draw.integer(9, 15)
        return (
            draw.normal(rows, length, width),
            draw.integers(0, kinds, rows, length + 1),
            draw.normal(kinds, width),
            draw.normal(kinds, width),
            draw.normal(depth, width, 2 * width, scale=0.5),
            0.3,
        )

    one, three = problem(1), problem(3)
    plain = call("mtp_loss", *three, grad=True)
    yield contract("gives one number, inputs left alone, gradients everywhere", 1, [plain], [Untouched(), Reaches()])
    yield value(
        "one module: the number and its gradients", 2, [call("mtp_loss", *one, grad=True)], rtol=1e-4, atol=1e-5
    )
    yield value("a chain of three: the number and its gradients", 3, [plain], rtol=1e-4, atol=1e-5)


# %% [markdown]
# ## 2. Which drafts stand
#
# $K$ drafts $x_1 \dots x_K$ were drawn, $x_k$ from $q_k$. The model has read them all and knows its own $p_1 \dots p_K$ at
# their places, and $p_{K+1}$ behind the last. In order, draft $x_k$ stands with probability $\min(1, p_k(x_k)/q_k(x_k))$.
# After the first that falls, the next token is drawn from $\max(p_k - q_k, 0)$, divided by its sum; if all stand, from
# $p_{K+1}$ (Leviathan et al., arXiv 2211.17192, algorithm 1).
#
# So that the result can be checked, the chance is given: `luck[k]` is uniform between 0 and 1, and a draft whose ratio
# is above it stands.
#
# - `p` is $(K + 1, V)$, `q` is $(K, V)$, `drafts` is $(K,)$ of token ids, `luck` is $(K,)$.
# - Return how many drafts stand, an `int`, and the distribution of the next token, $(V,)$.


# %% task="mtp.judge" title="Which drafts stand" kind="implement" difficulty=2 minutes=20
def judge(p, q, drafts, luck):
    """(K + 1, V), (K, V), (K,), (K,) -> (how many stand, (V,) what the next token is drawn from)."""
    ### BEGIN SOLUTION
    for k, x in enumerate(drafts.tolist()):
        if luck[k] * q[k, x] >= p[k, x]:
            rest = (p[k] - q[k]).clamp(min=0)
            return k, rest / rest.sum()
    return len(drafts), p[-1]
    ### END SOLUTION


# %% tags=["driver"]
def written(p, q, grid):
    """One draft: the distribution (V,) of the token that is written, summed over all drafts and over a grid of luck."""
    total = torch.zeros_like(p[0])
    for x in range(p.shape[1]):
        for i in range(grid):
            stood, following = judge(p, q, torch.tensor([x]), torch.tensor([(i + 0.5) / grid]))
            share = torch.eye(p.shape[1], dtype=p.dtype)[x] if stood else following
            total = total + q[0, x] * share / grid
    return total


# %% tags=["judge"]
def judge_by_ratios(p, q, drafts, luck):
    """All ratios first, then the first that is too small."""
    index = torch.arange(len(drafts))
    falls = (p[index, drafts] / q[index, drafts] <= luck).nonzero()[:, 0].tolist()
    if not falls:
        return len(drafts), p[len(drafts)]
    k = falls[0]
    rest = torch.stack([torch.relu(a - b) for a, b in zip(p[k], q[k], strict=True)])
    return k, rest / rest.sum()


def _judge(stands=lambda p, q, u: u * q < p, rest=lambda p, q: torch.relu(p - q), norm=True, after=None, leading=True):
    """The rule with one part of it wrong."""

    def judge(p, q, drafts, luck):
        fine = [bool(stands(p[k, x], q[k, x], luck[k])) for k, x in enumerate(drafts.tolist())]
        n = fine.index(False) if False in fine else len(fine)
        if n == len(fine):
            found = p[-1] if after is None else after(p, q)
        else:
            found = rest(p[n], q[n])
            found = found / found.sum() if norm else found
        return (n if leading else sum(fine)), found

    return judge


@checks(
    "mtp.judge",
    oracle=judge_by_ratios,
    mistakes={
        "drafts after the first that fell still count; they were drawn behind a token that is not there": _judge(
            leading=False
        ),
        "a draft less likely than its q always falls; it should stand as often as the ratio says": _judge(
            stands=lambda p, q, u: p >= q
        ),
        "the ratio is upside down: p over q": _judge(stands=lambda p, q, u: u * p < q),
        "the ratio is left out: a draft stands with probability p": _judge(stands=lambda p, q, u: u < p),
        "after a fall this draws from p, which the drafts that stood have partly used up; draw from max(p - q, 0)": _judge(
            rest=lambda p, q: p
        ),
        "the difference is taken absolute; where q is above p nothing is left to give": _judge(
            rest=lambda p, q: (p - q).abs()
        ),
        "the difference is the wrong way round": _judge(rest=lambda p, q: torch.relu(q - p)),
        "what is left does not sum to one": _judge(norm=False),
        "all drafts stood, and the next token is drawn at the last draft's place, not behind it": _judge(
            after=lambda p, q: p[-2]
        ),
    },
    alternatives=[
        _judge(),
        _judge(stands=lambda p, q, u: u < torch.clamp(p / q, max=1.0), rest=lambda p, q: p - torch.minimum(p, q)),
    ],
    hints=(
        "Go through the drafts in order. When may you return, and what has to be known at that moment? What is returned "
        "if you never did?",
        "Draft k falls when luck times q is not below p, both at the token drafted. Then k drafts stand, and the next token "
        "comes from the positive part of p[k] - q[k], divided by its sum. Otherwise go on; behind the last wait p[-1].",
        "for k, x in enumerate(drafts.tolist()): if luck[k] * q[k, x] >= p[k, x]: rest = (p[k] - q[k]).clamp(min=0); "
        "return k, rest / rest.sum(). After the loop: return len(drafts), p[-1].",
    ),
)
def _(draw):
    def problem(depth, kinds, luck=None):
        p, q = draw.normal(depth + 1, kinds).softmax(-1), draw.normal(depth, kinds).softmax(-1)
        drafts = torch.stack([q[k].argmax() for k in range(depth)])
        given = torch.rand(depth, generator=torch.Generator().manual_seed(draw.integer(0, 999)))
        return p, q, drafts, given if luck is None else torch.full((depth,), luck)

    def likely(chances, depth):
        """Drafts that have the chances given, (p, q) for each, and a luck of 0.5 to 0.7."""
        p, q, drafts, _ = problem(depth, kinds)
        for k, pair in enumerate(chances):
            for row, chance in zip((p[k], q[k]), pair, strict=True):
                row *= (1 - chance) / (1 - row[drafts[k]])
                row[drafts[k]] = chance
        return p, q, drafts, torch.full((depth,), 0.5 if depth > 1 else 0.7)

    kinds = draw.integer(5, 9)
    middle = call("judge", *likely([(0.9, 0.8), (0.02, 0.6), (0.9, 0.8)], 3))  # the third would stand
    above, below = (call("judge", *likely([pair], 1)) for pair in ((0.6, 0.5), (0.6, 0.8)))  # both stand
    yield contract("gives a whole number and a distribution, inputs left alone", 1, [middle], [Untouched()])
    cases = [call("judge", *problem(draw.integer(1, 5), draw.integer(4, 12))) for _ in draw.rounds(6)]
    yield value("drafts fall and stand in order", 2, [middle, above, below, *cases])
    yield value(
        "where all stand, the next token is drawn behind them", 1, [call("judge", *problem(3, kinds, luck=0.0))]
    )
    p, q, _, _ = problem(1, 4)
    yield invariant(
        "what is written has the model's own distribution",
        2,
        [call("written", p, q, 150)],
        [Equals(expected=p[0], rtol=0.0, atol=0.03)],
    )


# %% [markdown]
# ## 3. Debug: a text that is not the model's
#
# A toy with a memory of two tokens: `model[a, b]` is the token that the model would write after $a, b$, and `module[a, b]`
# the token that the module drafts there. `write` decodes greedily with drafts. Each pass of the model reads the last
# known token and the draft, and so gives two opinions: what belongs *in the draft's place*, and what comes *behind the
# draft*.
#
# There is no error, and most texts look reasonable. Yet with a bad drafter the text changes, and it must not. What shows
# the bug are laws:
#
# - whatever the drafts are worth, the text is the one that plain decoding gives;
# - with drafts that are all wrong, every pass writes one token; with drafts that are all right, two.


# %% task="mtp.write" title="A text that is not the model's" kind="debug" difficulty=1 minutes=15
def write(start, length, model, drafter):
    """Two tokens and how many to add; tables (V, V) of tokens -> (the text as a list, passes of the model)."""
    text, passes = list(start), 0
    while len(text) < len(start) + length:
        guess = int(drafter[text[-2], text[-1]])
        opinions = [int(model[text[-2], text[-1]]), int(model[text[-1], guess])]
        passes += 1
        ### BEGIN SOLUTION
        text += opinions if opinions[0] == guess else opinions[:1]
        ### STUB
        # text += opinions[-2:] if guess in opinions else opinions[-1:]
        ### END SOLUTION
    return text[: len(start) + length], passes


# %% tags=["driver"]
def text_of(start, length, model, drafter):
    """The text alone."""
    return write(start, length, model, drafter)[0]


# %% tags=["judge"]
def write_and_count(start, length, model, drafter):
    """Plain decoding; the passes are counted afterwards, from the text."""
    text = list(start)
    for _ in range(length + 1):
        text.append(int(model[text[-2], text[-1]]))
    at, passes = len(start), 0
    while at < len(start) + length:
        at += 2 if int(drafter[text[at - 2], text[at - 1]]) == text[at] else 1
        passes += 1
    return text[: len(start) + length], passes


def _write(extend):
    """Decoding with another idea of what a pass adds: (guess, opinions) -> tokens."""

    def write(start, length, model, drafter):
        text, passes = list(start), 0
        while len(text) < len(start) + length:
            guess = int(drafter[text[-2], text[-1]])
            opinions = [int(model[text[-2], text[-1]]), int(model[text[-1], guess])]
            text += extend(guess, opinions)
            passes += 1
        return text[: len(start) + length], passes

    return write


@checks(
    "mtp.write",
    oracle=write_and_count,
    mistakes={
        "after a refused draft the opinion behind it is written; it is about a text that does not exist": _write(
            lambda guess, opinions: opinions if opinions[0] == guess else opinions[1:]
        ),
        "the draft is kept although the model disagrees": _write(lambda guess, opinions: [guess, opinions[1]]),
        "the draft is compared with the opinion behind it, not with the one in its place": _write(
            lambda guess, opinions: opinions if opinions[1] == guess else opinions[:1]
        ),
        "both opinions are written whether the draft stands or not": _write(lambda guess, opinions: opinions),
        "drafts that stand bring nothing: the opinion behind them is a second token": _write(
            lambda guess, opinions: opinions[:1]
        ),
    },
    alternatives=[
        _write(lambda guess, opinions: opinions[: 1 + (opinions[0] == guess)]),
        _write(lambda guess, opinions: [guess, opinions[1]] if guess == opinions[0] else [opinions[0]]),
    ],
    hints=(
        "Which of the two opinions can tell whether the draft is right? And which one is worth anything when it is wrong?",
        "The first opinion stands in the draft's place: compare it with the draft. If they agree both opinions are good; if "
        "not only the first is, because the second was formed after reading a wrong token.",
        "Extend the text by all of `opinions` where its first entry equals `guess`, and otherwise by its first entry alone.",
    ),
)
def _(draw):
    kinds, length = draw.choice([11, 13, 17, 19]), draw.integer(24, 33)
    before, last = torch.meshgrid(torch.arange(kinds), torch.arange(kinds), indexing="ij")
    model = (draw.integer(2, kinds) * before + draw.integer(2, kinds) * last + 1) % kinds  # a text that hardly repeats
    wrong, half = (model + 1) % kinds, torch.where((before + last) % 2 > 0, model, (model + 2) % kinds)
    case = [0, 1], length, model
    yield value("half of the drafts wrong: text and passes", 2, [call("write", *case, half)])
    yield value("all drafts wrong: one token a pass", 1, [call("write", *case, wrong)])
    yield invariant(
        "drafts do not change the text",
        2,
        [call("text_of", *case, half), call("text_of", *case, wrong), call("text_of", *case, model)],
        [
            Same(left=Part(step=2), right=Part(step=0), says="drafts that are sometimes wrong change the text"),
            Same(left=Part(step=2), right=Part(step=1), says="drafts that are always wrong change the text"),
        ],
    )


# %% [markdown]
# ## 4. Predict: what drafts are worth
#
# Write down, before you run the cell below the check, each to within two percent:
#
# - `tokens`: two modules in a chain; each of their drafts stands with probability 0.8 *if all before it stood*. How many
#   tokens does a pass of the model write on average?
# - `gain`: how many times as fast is that at best, for a model of 61 layers? (A pass over three tokens costs as much as
#   over one, and a module as much as a layer.)
# - `laptop`: one module, 0.8, four layers; here a pass over two tokens costs 1.2 passes over one, and the module costs 0.3.
# - `break_even`: from which acceptance on does drafting pay on that laptop at all?


# %% task="mtp.worth" title="What drafts are worth" kind="predict" difficulty=1 minutes=15
### BEGIN SOLUTION
tokens = 1 + 0.8 + 0.8**2
gain = tokens / (1 + 2 / 61)
laptop = (1 + 0.8) / (1.2 + 0.3)
break_even = 1.2 + 0.3 - 1
### STUB
# tokens = None  # a pass
# gain = None  # times as fast
# laptop = None  # times as fast
# break_even = None  # a share, between 0 and 1
### END SOLUTION

# %% [markdown]
# Measure the first with dice: a hundred thousand passes.

# %%
dice = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0)) < 0.8
stood = dice.int().cumprod(1).sum(1)
print(f"{1 + stood.float().mean():.3f} tokens a pass; you said {tokens}")

# %% tags=["judge"]
_worth = {"tokens": 2.44, "gain": 2.3625, "laptop": 1.2, "break_even": 0.5}


@checks(
    "mtp.worth",
    oracle=_worth,
    mistakes={
        "the model's own token is missing: a pass writes one more than the drafts that stand": _worth
        | {"tokens": 1.44, "gain": 1.3943},
        "a second draft stands only if the first one did": _worth | {"tokens": 2.6, "gain": 2.5175},
        "each pass writes at most three; these are all of them, as if every draft stood": _worth
        | {"tokens": 3.0, "gain": 2.9048},
        "the modules cost something: a sixty-first of a pass each": _worth | {"gain": 2.44},
        "there are two modules to pay for": _worth | {"gain": 2.44 / (1 + 1 / 61)},
        "the module has to be paid for": _worth | {"laptop": 1.8 / 1.2},
        "a pass over two tokens costs more than one here": _worth | {"laptop": 1.8 / 1.3},
        "this is where the formula's best case breaks even; here a pass over two tokens costs 1.2": _worth
        | {"break_even": 0.3},
    },
    hints=(
        "What does a pass write if the first draft falls? If only the second falls? If both stand? How often is each?",
        "Tokens: one for certain, one more in 80 %, another one in 80 % of those. Speed: tokens a pass, divided by what the "
        "pass and the modules cost, in units of a plain pass.",
        "1 + 0.8 + 0.64; divided by 1 + 2/61; 1.8 divided by 1.5; and 1 + a = 1.5.",
    ),
)
def _(draw):
    yield value("tokens a pass, with two modules", 1, [call("tokens")], rtol=0.02, atol=0.0)
    yield value("what that gains with 61 layers", 1, [call("gain")], rtol=0.01, atol=0.0)
    yield value("what one module gains on the laptop", 1, [call("laptop")], rtol=0.02, atol=0.0)
    yield value("where drafting begins to pay", 1, [call("break_even")], rtol=0.02, atol=0.0)
