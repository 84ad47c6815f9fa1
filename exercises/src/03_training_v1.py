# %% [markdown]
# # Exercises 03 · Training V1
#
# Six tasks on [lesson 03](../../notebooks/03_training_v1.ipynb), about 95 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs
# belongs into its cell.
#
# `hint("training.schedule")` helps in three steps, `solution("training.schedule")` shows ours once you have tried, and
# `status()` at the end tells where you are.

# %% tags=["given"]
import copy
import math

import torch


class Reader:
    """A small model with one attention layer; reader(ids, cache) scores what follows each new token.

    Its weights are random: it knows nothing, but it is quick, and what it says depends on every
    token it has read and on their order. reader.read counts the tokens it was given, in all rows.
    """

    def __init__(self, table, keys, values, head):  # (V, D), (D, D), (D, D), (D, V)
        self.table, self.keys, self.values, self.head = table, keys, values, head
        self.read = 0

    def __call__(self, ids, cache):
        """New tokens (B, T) -> scores (B, T, V). cache is a list, at first empty; reading appends."""
        self.read += ids.numel()
        seen = sum(piece.shape[1] for piece in cache)
        places = torch.arange(seen, seen + ids.shape[1])
        waves = torch.sin(places[:, None] * torch.arange(1, self.table.shape[1] + 1))
        new = self.table[ids] + waves
        cache.append(new)
        text = torch.cat(cache, dim=1)  # (B, S, D): all that this cache has seen
        future = torch.arange(text.shape[1]) > places[:, None]  # (T, S)
        weights = (new @ self.keys @ text.mT).masked_fill(future, -torch.inf).softmax(-1)
        return (new + weights @ text @ self.values) @ self.head


# %% [markdown]
# ## 1. The multi-step schedule
#
# V1's learning rate (DeepSeek LLM, arXiv 2401.02954, section 2.3) as a factor on its peak, for the update that comes
# when `done` updates have been made: `done` is 0 for the first one and `steps - 1` for the last.
#
# - The first `warmup` updates climb in a straight line: the first of them at `1 / warmup`, the last at 1. `warmup` may
#   be 0.
# - The factor is 1 until 80 % of all `steps` have been made, 0.316 until 90 % have been made, then 0.1. `steps` can be
#   divided by 10, and the warm-up ends long before the first drop.


# %% task="training.schedule" title="The multi-step schedule" kind="implement" difficulty=1 minutes=10
def rate(done, steps, warmup):
    """Updates made, in the run, in its warm-up -> factor on the peak rate for the next update."""
    ### BEGIN SOLUTION
    if done < warmup:
        return (done + 1) / warmup
    if 10 * done < 8 * steps:
        return 1.0
    return 0.316 if 10 * done < 9 * steps else 0.1
    ### END SOLUTION


# %% tags=["driver"]
def rates(steps, warmup, first=None):
    """The factors of a run, or of its first updates."""
    return [rate(done, steps, warmup) for done in range(first or steps)]


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
    Differs,
    Equals,
    Part,
    Picks,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    outcome,
    value,
)


def rate_from_list(done, steps, warmup):
    """The whole run written out, one factor behind the other."""
    tenth = steps // 10
    run = [(i + 1) / warmup for i in range(warmup)] + [1.0] * (8 * tenth - warmup) + [0.316] * tenth + [0.1] * tenth
    return run[done]


def _rate(at=(0.8, 0.9), to=(0.316, 0.1), climb=lambda done, warmup: (done + 1) / warmup, made=lambda done: done):
    """A schedule with one part of it wrong; ``made`` is what is compared with the two marks."""

    def rate(done, steps, warmup):
        if done < warmup:
            return climb(done, warmup)
        share = made(done) / steps + 1e-12
        return 1.0 if share < at[0] else to[0] if share < at[1] else to[1]

    return rate


def _rate_after_warmup(done, steps, warmup):
    if done < warmup:
        return (done + 1) / warmup
    return rate_from_list((done - warmup) * steps // (steps - warmup), steps, 0)


def _rate_in_line(done, steps, warmup):
    share = done / steps
    return (done + 1) / warmup if done < warmup else min(1.0, 1 - 0.9 * (share - 0.8) / 0.2)


@checks(
    "training.schedule",
    oracle=rate_from_list,
    mistakes={
        "each drop is by a factor of ten; V1 drops twice by the root of ten": _rate(to=(0.1, 0.01)),
        "the drops come one update late: when done is 80 % of steps, 80 % have been made": _rate(
            made=lambda done: done - 1
        ),
        "the drops come one update early: done counts the updates before this one": _rate(made=lambda done: done + 1),
        "the warm-up begins at zero, and its first update changes nothing": _rate(climb=lambda d, w: d / w),
        "the shares are taken of what follows the warm-up; they count from the first update": _rate_after_warmup,
        "the second drop is missing": _rate(to=(0.316, 0.316)),
        "the first drop goes to 10 % at once; it goes to 31.6 %": _rate(to=(0.1, 0.1)),
        "the warm-up is missing": _rate(climb=lambda d, w: 1.0),
        "the first drop comes too early: at 60 % it is V2's schedule": _rate(at=(0.6, 0.9)),
        "the rate falls in a straight line; V1's has two steps": _rate_in_line,
        "this is a cosine; V1 replaced it by steps": lambda done, steps, warmup: (
            (done + 1) / warmup if done < warmup else 0.55 + 0.45 * math.cos(math.pi * done / steps)
        ),
    },
    alternatives=[
        _rate(),
        lambda done, steps, warmup: (
            min(1.0, (done + 1) / max(warmup, 1)) * 0.1 ** (((done >= steps * 8 // 10) + (done >= steps * 9 // 10)) / 2)
        ),
    ],
    hints=(
        "Three questions decide, in this order: is it still the warm-up? Are 80 % made? Are 90 % made?",
        "Before the update number done + 1, exactly done updates have been made. Compare done with warmup, with "
        "0.8 · steps and with 0.9 · steps; each comparison is a plain <.",
        "if done < warmup: return (done + 1) / warmup. Else 1.0 if done < 0.8 * steps, else 0.316 if done < "
        "0.9 * steps, else 0.1.",
    ),
)
def _(draw):
    steps, warmup = 100 * draw.integer(1, 4), draw.integer(15, 30)
    first = call("rate", 0, steps, warmup)
    yield contract(
        "gives a factor between 0 and 1",
        1,
        [first, call("rate", steps - 1, steps, warmup), call("rate", steps // 2, steps, 0)],
        [
            Between(part=Part(step=step), low=1e-9, high=1.0, says="the factor is not above 0 and at most 1")
            for step in range(3)
        ],
    )
    plain, without = call("rates", steps, warmup), call("rates", 200, 0)
    yield value("climbs, stays and drops when it should", 2, [plain, without], rtol=2e-3, atol=0.0)
    yield invariant(
        "a longer run begins like a shorter one, up to its first drop",
        1,
        [call("rates", n * steps, warmup, 8 * steps // 10) for n in (1, 2)]
        + [call("rates", n * steps, warmup, steps) for n in (1, 2)],
        [
            Same(
                left=Part(),
                right=Part(step=1),
                says="runs of different length have different rates long before the first drop: no run can be extended",
            ),
            Differs(left=Part(step=2), right=Part(step=3), says="a run that ends sooner should drop sooner"),
        ],
    )


# %% [markdown]
# ## 2. One update
#
# Everything between a gradient and the next weights, as V1 has it (section 2.3): clip, remember, step. The model is a
# list of tensors; so are the gradients, and the memories are a list of pairs $(m, v)$.
#
# 1. **Clip.** If all gradients together, taken as one long vector, are longer than 1, shorten them to length 1.
# 2. **AdamW** (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) with the clipped gradients $g$, $\beta_1 = 0.9$,
#    $\beta_2 = 0.95$, $\epsilon = 10^{-8}$, the decay $\lambda = 0.1$, the rate $\eta$ and the number of this update,
#    $t = 1, 2, \dots$:
#
# $$m \leftarrow \beta_1 m + (1-\beta_1)\,g, \quad v \leftarrow \beta_2 v + (1-\beta_2)\,g^2, \quad
# w \leftarrow w - \eta\lambda w - \eta\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}$$
#
# Only matrices decay: tensors with one dimension, such as the gains of norms, do not. Return new tensors, and leave the
# old ones as they are.


# %% task="training.update" title="One update" kind="implement" difficulty=2 minutes=20
def update(weights, grads, memories, t, lr):
    """Lists of tensors, pairs (m, v) in the third -> (new weights, new memories), two lists."""
    ### BEGIN SOLUTION
    length = torch.stack([grad.norm() for grad in grads]).norm()
    shorter = 1 / length.clamp(min=1)
    new_weights, new_memories = [], []
    for w, grad, (m, v) in zip(weights, grads, memories, strict=True):
        g = grad * shorter
        m = 0.9 * m + 0.1 * g
        v = 0.95 * v + 0.05 * g**2
        decay = 0.1 if w.ndim >= 2 else 0.0
        step = m / (1 - 0.9**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        new_weights.append(w - lr * decay * w - lr * step)
        new_memories.append((m, v))
    return new_weights, new_memories
    ### END SOLUTION


# %% tags=["driver"]
def first_moves(weights, grads, lr):
    """By how many rates each weight moves in the first update."""
    fresh = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    after, _ = update(weights, grads, fresh, 1, lr)
    return torch.cat([(new - old).abs() / lr for new, old in zip(after, weights, strict=True)])


def learn_by_heart(weights, ids, answers, steps):
    """Fit a table and a gain to what follows each token; the probabilities it gives in the end."""
    memories = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for t in range(1, steps + 1):
        leaves = [w.detach().requires_grad_() for w in weights]
        loss = torch.nn.functional.cross_entropy(leaves[0][ids] * leaves[1], answers)
        weights, memories = update(leaves, list(torch.autograd.grad(loss, leaves)), memories, t, 0.2)
        weights = [w.detach() for w in weights]
    return (weights[0] * weights[1]).softmax(-1)


# %% tags=["judge"]
def update_number_by_number(weights, grads, memories, t, lr):
    """Every weight by itself, in Python's numbers."""
    length = math.sqrt(sum(g * g for grad in grads for g in grad.flatten().tolist()))
    after, kept = [], []
    for w, grad, memory in zip(weights, grads, memories, strict=True):
        rows = []
        for now, g, m, v in zip(*(x.flatten().tolist() for x in (w, grad, *memory)), strict=True):
            g = g / length if length > 1 else g
            m, v = m + (g - m) * 0.1, v + (g * g - v) * 0.05
            kept_share = 1 - lr * 0.1 if w.dim() > 1 else 1
            rows.append((kept_share * now - lr * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.95**t)) + 1e-8), m, v))
        new, m, v = (torch.tensor(column, dtype=w.dtype).view_as(w) for column in zip(*rows, strict=True))
        after.append(new)
        kept.append((m, v))
    return after, kept


def _clip(grads):
    length = torch.cat([grad.flatten() for grad in grads]).norm()
    return [grad / max(1.0, float(length)) for grad in grads]


def _corrected(m, v, t):
    return m / (1 - 0.9**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)


def _update(
    clip=_clip,
    step=_corrected,
    decay=lambda w, lr: 0.1 * lr * w if w.ndim > 1 else 0 * w,
    penalty=0.0,
    betas=(0.9, 0.95),
    square=lambda g: g * g,
):
    """An update with one part of it wrong."""

    def update(weights, grads, memories, t, lr):
        after, kept = [], []
        for w, g, (m, v) in zip(weights, clip(grads), memories, strict=True):
            g = g + penalty * w * (w.ndim > 1)
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * square(g)
            after.append(w - decay(w, lr) - lr * step(m, v, t))
            kept.append((m, v))
        return after, kept

    return update


def _update_in_place(weights, grads, memories, t, lr):
    after, kept = update_number_by_number(weights, grads, memories, t, lr)
    for old, new in zip(weights, after, strict=True):
        old.data.copy_(new)
    return weights, kept


@checks(
    "training.update",
    oracle=update_number_by_number,
    mistakes={
        "the memories began at zero, and nothing makes up for it: divide by 1 - β^t": _update(
            step=lambda m, v, t: m / (v.sqrt() + 1e-8)
        ),
        "only v is corrected; m began at zero too: divide it by 1 - β₁^t": _update(
            step=lambda m, v, t: m / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        ),
        "only m is corrected; v began at zero too: divide it by 1 - β₂^t": _update(
            step=lambda m, v, t: m / (1 - 0.9**t) / (v.sqrt() + 1e-8)
        ),
        "t counts from 1; you treat this update as the next one": _update(step=lambda m, v, t: _corrected(m, v, t + 1)),
        "each tensor is clipped by itself; all gradients together are one vector": _update(
            clip=lambda grads: [grad / max(1.0, float(grad.norm())) for grad in grads]
        ),
        "each number is clipped by itself; it is the length of all of them that counts": _update(
            clip=lambda grads: [grad.clamp(-1, 1) for grad in grads]
        ),
        "short gradients are made longer; clipping only shortens": _update(
            clip=lambda grads: [grad / torch.cat([g.flatten() for g in grads]).norm() for grad in grads]
        ),
        "nothing is clipped": _update(clip=list),
        "the decay is part of the gradient; in AdamW it stands beside it": _update(
            decay=lambda w, lr: 0 * w, penalty=0.1
        ),
        "the decay is not multiplied by the rate": _update(decay=lambda w, lr: 0.1 * w if w.ndim > 1 else 0 * w),
        "gains decay too; only matrices do": _update(decay=lambda w, lr: 0.1 * lr * w),
        "nothing decays": _update(decay=lambda w, lr: 0 * w),
        "ε stands under the root; it belongs beside it": _update(
            step=lambda m, v, t: m / (1 - 0.9**t) / (v / (1 - 0.95**t) + 1e-8).sqrt()
        ),
        "the root of v is missing": _update(step=lambda m, v, t: m / (1 - 0.9**t) / (v / (1 - 0.95**t) + 1e-8)),
        "β₂ is 0.999, the usual one; V1 takes 0.95": _update(
            betas=(0.9, 0.999), step=lambda m, v, t: m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        ),
        "it changes an input in place; make a new tensor instead": _update_in_place,
    },
    alternatives=[
        _update(),
        _update(
            clip=lambda grads: [
                grad * min(1.0, 1 / math.sqrt(sum(float((g * g).sum()) for g in grads))) for grad in grads
            ],
            step=lambda m, v, t: m * (1 - 0.95**t) ** 0.5 / (v.sqrt() + 1e-8 * (1 - 0.95**t) ** 0.5) / (1 - 0.9**t),
        ),
    ],
    hints=(
        "How long are several tensors, taken as one vector? And by what must they be multiplied, if that is 5? If it "
        "is 0.5?",
        "First one number for all: the root of the sum of all squares, and 1 / max(1, that). Then tensor by tensor: "
        "new m, new v, the decay (only if it has two dimensions), the step.",
        "length = torch.stack([g.norm() for g in grads]).norm(); g = g / length.clamp(min=1); then w - lr * decay * w "
        "- lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8).",
    ),
)
def _(draw):
    def case(t, size, rows=None):
        shapes = [(rows or draw.integer(2, 5), draw.integer(2, 6)), (draw.integer(2, 6),), (2, 2, draw.integer(1, 4))]
        weights, grads = ([draw.normal(*shape, scale=scale) for shape in shapes] for scale in (1.0, size))
        if t == 1:
            memories = [(torch.zeros(shape), torch.zeros(shape)) for shape in shapes]
        else:
            memories = [(draw.normal(*shape, scale=0.1), draw.normal(*shape, scale=0.1) ** 2) for shape in shapes]
        return call("update", weights, grads, memories, t, 0.01 * draw.integer(1, 9))

    late, first, short = case(draw.integer(3, 9), 3.0), case(1, 2.0), case(draw.integer(3, 9), 0.02)
    yield contract("keeps shapes and dtypes, changes no input", 1, [late], [Untouched()])
    yield value("long gradients are clipped, all together", 1, [late, case(draw.integer(20, 90), 3.0)])
    yield value("short gradients stay as they are", 1, [short])
    # gradients of 1e-8: here it shows whether ε stands beside the root or under it
    yield value("the first update, and one with tiny gradients", 1, [first, case(1, 1e-8)])
    gains, grads = [draw.normal(7), draw.normal(5)], [draw.normal(n, scale=0.01).abs() + 0.001 for n in (7, 5)]
    far = "in its first update AdamW moves every weight by the rate, however large or small its gradient"
    moves = [call("first_moves", gains, grads, 0.01)]
    yield invariant(
        "the first update moves every weight by the rate",
        1,
        moves,
        [Between(reduce="min", low=0.999, says=far), Between(reduce="max", high=1.001, says=far)],
    )
    # Five draws each, the least probability of a right successor: right answers 1.000; a decay within the gradient 0.913
    # to 0.918; short gradients made longer, NaN. Most mistakes learn this too: AdamW forgives, so the values above count.
    tokens = 9
    order = draw.integers(0, 10**9, tokens).argsort()
    table = [draw.normal(tokens, tokens, scale=0.1), torch.ones(tokens)]
    yield outcome(
        "a table learns by heart what follows each token",
        1,
        [call("learn_by_heart", table, torch.arange(tokens), order, 40)],
        [Equals(expected=torch.eye(tokens)[order], rtol=0.0, atol=0.05)],
    )


# %% [markdown]
# ## 3. Write with a cache
#
# Let a model write: take the likeliest token, append it, go on (*greedy* decoding). `reader(ids, cache)`, given above,
# reads new tokens `ids` of shape $(B, T)$ and returns the scores of what follows *each* of them, $(B, T, V)$. `cache` is
# a list, empty in the beginning, and the reader appends to it what it has read.
#
# - Return the prompts with exactly `count` ($\geq 1$) tokens behind each row: int64, $(B, T + \text{count})$.
# - A row that has written the token `stop` writes nothing but `stop` from there on. The others go on. (In a prompt `stop`
#   does not count.)
# - Read every token once, and none for nothing: the prompt is read in one go, and then each token that was written, but
#   not the last one, for nobody asks what follows it.


# %% task="training.decode" title="Write with a cache" kind="implement" difficulty=3 minutes=25
def write(reader, prompts, count, stop):
    """prompts (B, T) int64 -> (B, T + count): the greedy continuation of each row."""
    ### BEGIN SOLUTION
    cache, text, new = [], prompts, prompts
    stopped = torch.zeros(len(prompts), 1, dtype=torch.bool)
    for _ in range(count):
        likeliest = reader(new, cache)[:, -1].argmax(-1, keepdim=True)
        new = likeliest.masked_fill(stopped, stop)
        stopped = stopped | (new == stop)
        text = torch.cat([text, new], dim=1)
    return text
    ### END SOLUTION


# %% tags=["driver"]
def written(prompts, count, stop, *weights):
    """What a reader with these weights writes."""
    return write(Reader(*weights), prompts, count, stop)


def in_two_parts(prompts, count, more, stop, *weights):
    """The same in two calls: what the first has written is the prompt of the second."""
    return written(written(prompts, count, stop, *weights), more, stop, *weights)


def tokens_read(prompts, count, stop, *weights):
    """How many tokens the reader was given on the way, in each row."""
    reader = Reader(*weights)
    write(reader, prompts, count, stop)
    return reader.read / len(prompts)


# %% tags=["judge"]
def write_row_by_row(reader, prompts, count, stop):
    """Reads everything again for every token, and each row by itself: as slow as it is safe."""
    rows = []
    for prompt in prompts.tolist():
        text, ended = list(prompt), False
        for _ in range(count):
            token = stop if ended else int(reader(torch.tensor([text]), [])[0, -1].argmax())
            text, ended = [*text, token], ended or token == stop
        rows.append(text)
    return torch.tensor(rows)


def _write(
    prompt=lambda ids: ids,
    feed=lambda text, new: new,
    scores=lambda found: found[:, -1],
    ended=lambda stopped, new, stop: stopped | (new == stop),
    fresh=False,
    after=0,
    cut=0,
):
    """A continuation with one part of it wrong."""

    def write(reader, prompts, count, stop):
        cache, text, new = [], prompts, prompt(prompts)
        stopped = torch.zeros(len(prompts), 1, dtype=torch.bool)
        for _ in range(count):
            token = scores(reader(new, [] if fresh else cache)).argmax(-1, keepdim=True).masked_fill(stopped, stop)
            stopped = ended(stopped, token, stop)
            text = torch.cat([text, token], dim=1)
            new = feed(text, token)
        if after:
            reader(new, cache)
        return text[:, cut and prompts.shape[1] :]

    return write


def _write_until_all_stop(reader, prompts, count, stop):
    text = torch.full((prompts.shape[0], prompts.shape[1] + count), stop)
    text[:, : prompts.shape[1]] = prompts
    cache, begin, going = [], 0, torch.ones(len(prompts), dtype=torch.bool)
    for place in range(prompts.shape[1], text.shape[1]):
        scores = reader(text[:, begin:place], cache)
        text[going, place] = scores[going, -1].max(-1).indices
        begin, going = place, going & (text[:, place] != stop)
        if not going.any():
            break
    return text


AGAIN = "it reads tokens again that the cache holds already"
IDLE = "it reads the last token too, and nobody asks what follows it"


@checks(
    "training.decode",
    oracle=write_row_by_row,
    mistakes={
        AGAIN: _write(feed=lambda text, new: text, fresh=True),
        IDLE: _write(after=1),
        "the whole text is given to a cache that holds it already": _write(feed=lambda text, new: text),
        "only the last token of the prompt is read; what stands before it is unknown": _write(
            prompt=lambda ids: ids[:, -1:]
        ),
        "the cache is new in every step, so that the model sees one token only": _write(fresh=True),
        "what follows the first token of the prompt is written; the scores of the last one are needed": _write(
            scores=lambda found: found[:, 0]
        ),
        "after its stop a row goes on writing": _write(ended=lambda stopped, new, stop: stopped),
        "all rows end as soon as one has stopped": _write(
            ended=lambda stopped, new, stop: stopped | (new == stop).any()
        ),
        "the new tokens alone are returned; the prompt belongs before them": _write(cut=1),
        "the least likely token is written": _write(scores=lambda found: -found[:, -1]),
    },
    alternatives=[_write(), _write_until_all_stop],
    hints=(
        "Which tokens has the model not read yet when it is asked for the first new token? Which for the second?",
        "Before the loop, the tokens to read are the whole prompt; in each round, read them, take the scores of the "
        "last one, choose a token for each row, and that column is what is to be read next. A column of booleans "
        "remembers who has stopped.",
        "new = prompts; in the loop: token = reader(new, cache)[:, -1].argmax(-1, keepdim=True), "
        "new = token.masked_fill(stopped, stop), stopped = stopped | (new == stop), text = torch.cat([text, new], dim=1).",
    ),
)
def _(draw):
    tokens, width = 17, 6

    def weights():
        shapes = ((tokens, width, 1.0), (width, width, 0.5), (width, width, 1.0), (width, tokens, 1.0))
        return [draw.normal(n, m, scale=scale, dtype=torch.float64) for n, m, scale in shapes]

    def with_stops(rows, length, count):
        """Weights, prompts and a stop that ends one row early and another one late or not at all."""
        while True:
            own, prompts = weights(), draw.integers(0, tokens, rows, length)
            free = write_row_by_row(Reader(*own), prompts, count, -1)[:, length:]
            stop = int(free[0, draw.integer(1, count // 2)])
            ends = [row.index(stop) if stop in row else count for row in free.tolist()]
            if ends[0] > 0 and max(ends) > ends[0] + 2 and (free[0, ends[0] + 1 :] != stop).any():
                return prompts, count, stop, *own

    prompts, count = draw.integers(0, tokens, 3, draw.integer(4, 8)), draw.integer(7, 12)
    own = weights()
    plain = call("written", prompts, count, -1, *own)
    yield contract("gives the prompt and count more tokens", 1, [plain], [Untouched()])
    yield value(
        "equals reading everything again",
        2,
        [plain, *(call("written", draw.integers(0, tokens, 2, n), 9, -1, *weights()) for n in (1, 5, 9))],
    )
    yield value("a row that has stopped stays so, and the others go on", 1, [call("written", *with_stops(3, 4, 12))])
    half = count // 2
    yield invariant(
        "written in two parts it is the same text",
        1,
        [plain, call("in_two_parts", prompts, half, count - half, -1, *own)],
        [Same(left=Part(), right=Part(step=1), says="a text written in two parts is another text")],
    )
    once = prompts.shape[1] + count - 1
    yield invariant(
        "every token is read once, and none for nothing",
        1,
        [call("tokens_read", prompts, count, -1, *own)],
        [
            Between(high=once + 1, says=AGAIN),
            Between(high=once, says=IDLE),
            Between(low=once, says="it has not read all that stands before the tokens it writes"),
        ],
    )


# %% [markdown]
# ## 4. A bug in the checkpoint
#
# A colleague has built a small trainer that can stop and go on. His test: train 10 steps, take the state, give it to a
# new trainer, train 10 more; the result is that of 20 steps, bit for bit. Then the machine failed at step 17, he went on
# from the state of step 10, and the run was a different one.
#
# Find the bug, and repair it. What must hold: *a run that goes on from its checkpoint is the unbroken run*, whenever it
# stopped, and however often somebody goes on from the same checkpoint.


# %% task="training.resume_bug" title="A bug in the checkpoint" kind="debug" difficulty=2 minutes=15
class Trainer:
    """Fits y = x @ w by AdamW without decay, one batch a step."""

    def __init__(self, w):
        self.w, self.m, self.v, self.t = w.clone(), torch.zeros_like(w), torch.zeros_like(w), 0

    def step(self, x, y, lr=0.05):
        gradient = x.T @ (x @ self.w - y) / len(x)
        self.t += 1
        self.m += 0.1 * (gradient - self.m)
        self.v += 0.05 * (gradient**2 - self.v)
        self.w -= lr * self.m / (1 - 0.9**self.t) / ((self.v / (1 - 0.95**self.t)).sqrt() + 1e-8)

    def state(self):
        """What a checkpoint holds."""
        ### BEGIN SOLUTION
        return {"w": self.w.clone(), "m": self.m.clone(), "v": self.v.clone(), "t": self.t}
        ### STUB
        # return {"w": self.w, "m": self.m, "v": self.v, "t": self.t}
        ### END SOLUTION

    def load(self, state):
        """Go on from a checkpoint."""
        self.w, self.m, self.v = (state[name].clone() for name in ("w", "m", "v"))
        self.t = state["t"]


# %% tags=["driver"]
def unbroken(w, x, y):
    """The weights after a run over the batches x (N, B, D), y (N, B, K)."""
    trainer = Trainer(w)
    for batch in zip(x, y, strict=True):
        trainer.step(*batch)
    return trainer.w


def broken(w, x, y, saved, failed, times=1):
    """The same run, but it failed after so many steps and went on from the state that was saved before."""
    trainer, state = Trainer(w), None
    for done, batch in enumerate(zip(x[:failed], y[:failed], strict=True)):
        state = trainer.state() if done == saved else state
        trainer.step(*batch)
    for _ in range(times):
        trainer = Trainer(torch.zeros_like(w))
        trainer.load(state)
        for batch in zip(x[saved:], y[saved:], strict=True):
            trainer.step(*batch)
    return trainer.w


# %% tags=["judge"]
class TrainerWithDiary:
    """Remembers every batch it was given, and computes the weights from the whole list when somebody asks."""

    def __init__(self, w):
        self.first, self.batches = w.clone(), ()

    def step(self, x, y, lr=0.05):
        self.batches = (*self.batches, (x, y, lr))

    @property
    def w(self):
        w, gradients = self.first, []
        for t, (x, y, lr) in enumerate(self.batches, 1):
            gradients.append((x.T @ x @ w - x.T @ y) / x.shape[0])
            weigh = [(0.1 * 0.9 ** (t - 1 - i), 0.05 * 0.95 ** (t - 1 - i)) for i in range(t)]
            m = sum(a * g for (a, _), g in zip(weigh, gradients, strict=True)) / sum(a for a, _ in weigh)
            v = sum(b * g.square() for (_, b), g in zip(weigh, gradients, strict=True)) / sum(b for _, b in weigh)
            w = w - lr * m / (v.sqrt() + 1e-8)
        return w

    def state(self):
        return {"first": self.first, "batches": self.batches}

    def load(self, state):
        self.first, self.batches = state["first"], state["batches"]


def _trainer(save, load, in_place=True):
    """A trainer that saves and loads as given."""

    class Trainer:
        def __init__(self, w):
            self.w, self.m, self.v, self.t = w.clone(), torch.zeros_like(w), torch.zeros_like(w), 0

        def step(self, x, y, lr=0.05):
            gradient = x.T @ (x @ self.w - y) / len(x)
            self.t += 1
            m = 0.9 * self.m + 0.1 * gradient
            v = 0.95 * self.v + 0.05 * gradient**2
            w = self.w - lr * m / (1 - 0.9**self.t) / ((v / (1 - 0.95**self.t)).sqrt() + 1e-8)
            if in_place:
                for old, new in ((self.w, w), (self.m, m), (self.v, v)):
                    old.copy_(new)
            else:
                self.w, self.m, self.v = w, m, v

        def state(self):
            return {name: save(name, getattr(self, name)) for name in "wmvt"}

        def load(self, state):
            for name in "wmvt":
                setattr(self, name, load(name, state[name], self))

    return Trainer


def _same(name, item, *_):
    return item


def _copy(name, item, *_):
    return item if name == "t" else item.clone()


OTHER = "a run that goes on from its checkpoint is another run"
SPOILT = "going on from a checkpoint changes the checkpoint: the second time it gives something else"


@checks(
    "training.resume_bug",
    oracle=TrainerWithDiary,
    mistakes={
        OTHER: _trainer(_same, _copy),
        SPOILT: _trainer(_copy, _same),
        "the weights are safe now, but the memories in the checkpoint still change with the run": _trainer(
            lambda name, item: item.clone() if name == "w" else item, _copy
        ),
        "the memories are safe now, but the weights in the checkpoint still change with the run": _trainer(
            lambda name, item: item if name in "wt" else item.clone(), _copy
        ),
        "the memories begin at zero again": _trainer(
            _copy, lambda name, item, trainer: getattr(trainer, name) if name in "mv" else _copy(name, item)
        ),
        "the number of the step begins at zero again": _trainer(
            _copy, lambda name, item, trainer: 0 if name == "t" else item.clone()
        ),
    },
    alternatives=[
        _trainer(_copy, _copy),
        _trainer(_same, _same, in_place=False),
        _trainer(lambda name, item: copy.deepcopy(item), _copy),
        _trainer(
            lambda name, item: item if name == "t" else item.tolist(),
            lambda name, item, trainer: item if name == "t" else torch.tensor(item, dtype=trainer.w.dtype),
        ),
    ],
    hints=(
        "What is different between his test and the accident? In the test, what did the first trainer do after the "
        "state was taken?",
        "Take a state, look at state['m'], train one more step with the same trainer, and look at it again.",
        "state() hands out the trainer's own tensors, and step() changes them in place (`+=`): the checkpoint runs on. "
        "A checkpoint needs copies: tensor.clone().",
    ),
)
def _(draw):
    steps, rows, width, out = draw.integer(12, 18), draw.integer(3, 6), draw.integer(3, 6), draw.integer(1, 4)
    w, x = draw.normal(width, out), draw.normal(steps, rows, width)
    y = x @ draw.normal(width, out) + 0.1 * draw.normal(steps, rows, out)
    saved = draw.integer(3, steps // 2)
    failed = draw.integer(saved + 2, steps)
    whole, resumed = call("unbroken", w, x, y), call("broken", w, x, y, saved, failed)
    twice = call("broken", w, x, y, saved, failed, times=2)
    exact = {"rtol": 0.0, "atol": 0.0}
    yield invariant(
        "a run that goes on from its checkpoint is the unbroken run, bit for bit",
        2,
        [whole, resumed],
        [Same(left=Part(), right=Part(step=1), says=OTHER, **exact)],
    )
    yield invariant(
        "a checkpoint can be used twice",
        1,
        [whole, resumed, twice],
        [
            Same(left=Part(), right=Part(step=1), says=OTHER, **exact),
            Same(left=Part(step=1), right=Part(step=2), says=SPOILT, **exact),
        ],
    )
    yield value("it equals a trainer that remembers every batch", 1, [resumed, whole], rtol=1e-4, atol=1e-4)


# %% [markdown]
# ## 5. Predict, then measure: three numbers
#
# Decide before you compute, write your numbers down, check them, and then run the measurement below.
#
# - `first_loss`: a model of width 256 with 8,000 tokens, whose head has weights of standard deviation 0.05. What is its
#   loss before the first step, in nats? (To half a percent: its scores matter.)
# - `moved`: the first update of AdamW, without decay, at a rate of 0.001. By how much does a weight move whose gradient
#   is 0.00002?
# - `summed`: you add 0.005 to 1, a hundred times, and every sum is kept in bf16. What comes out?


# %% task="training.predict" title="Three numbers" kind="predict" difficulty=2 minutes=10
### BEGIN SOLUTION
first_loss = math.log(8000) + (0.05 * 256**0.5) ** 2 / 2
moved = 0.001  # m / sqrt(v) is g / |g|
summed = 1 + 100 / 128  # 0.005 is more than half of 1/128, so each sum is rounded up to the next number
### STUB
# first_loss = None
# moved = None
# summed = None
### END SOLUTION

# %%
from dataclasses import replace

import minideepseek as mds

fresh = mds.Transformer(replace(mds.generations["v1-mini"], d_model=256, vocab_size=8000), seed=0)
with torch.no_grad():
    fresh.head.weight.normal_(std=0.05, generator=torch.Generator().manual_seed(7))
    ids = torch.randint(0, 8000, (8, 65), generator=torch.Generator().manual_seed(1))
    loss = fresh.loss(ids).lm.item()

weight = torch.nn.Parameter(torch.ones(()))
weight.grad = torch.tensor(0.00002)
torch.optim.AdamW([weight], lr=0.001, betas=(0.9, 0.95), weight_decay=0.0).step()

total = torch.tensor(1.0, dtype=torch.bfloat16)
for _ in range(100):
    total += 0.005

print(f"first loss: {loss:.2f} measured, you said {first_loss}")
print(f"moved:      {1 - weight.item():.6f} measured, you said {moved}")
print(f"summed:     {total.item()} measured, you said {summed}")

# %% tags=["judge"]
_three = {"first_loss": math.log(8000) + 0.32, "moved": 0.001, "summed": 1.78125}


@checks(
    "training.predict",
    oracle=_three,
    mistakes={
        "ln V is the loss of a model without an opinion; this one has a random one": _three
        | {"first_loss": math.log(8000)},
        "half of σ² is added, not all of it": _three | {"first_loss": math.log(8000) + 0.64},
        "half of σ² is added, not half of σ": _three | {"first_loss": math.log(8000) + 0.4},
        "σ is 0.05 times the root of the width, not times the width": _three
        | {"first_loss": math.log(8000) + (0.05 * 256) ** 2 / 2},
        "these are bits; a nat is a natural logarithm": _three | {"first_loss": math.log2(8000)},
        "this is plain gradient descent; AdamW divides by the size of the gradient": _three | {"moved": 2e-8},
        "the memories began at zero, and AdamW makes up for it": _three | {"moved": 0.001 * 0.1 / 0.05**0.5},
        "only m is corrected here; v began at zero too": _three | {"moved": 0.001 / 0.05**0.5},
        "exact numbers would give this; in bf16 every sum is rounded to a multiple of 1/128": _three | {"summed": 1.5},
        "0.005 is more than half of 1/128, so that it is not lost": _three | {"summed": 1.0},
        "from 1 to 2 the numbers of bf16 are 1/128 apart, not 1/256": _three | {"summed": 1 + 100 / 256},
    },
    hints=(
        "Where in the lesson was the loss known before the first step? What are m and v after one batch? What is the "
        "number after 1 in bf16?",
        "ln V + σ²/2 with σ = 0.05 · √256. After one update m/(1-β₁) is g and v/(1-β₂) is g². And from 1 to 2, bf16 "
        "knows multiples of 1/128 only: is 1.005 nearer to 1 or to 1 + 1/128?",
        "σ = 0.8. g/|g| is 1, whatever g is. 1.005 is rounded up to 1 + 1/128, and so is every later sum to the next "
        "number.",
    ),
)
def _(draw):
    yield value("the first loss, to half a percent", 1, [call("first_loss")], rtol=0.005, atol=0.0)
    yield value("the first step of AdamW", 1, [call("moved")], rtol=0.01, atol=0.0)
    yield value("a hundred sums in bf16", 1, [call("summed")], rtol=0.005, atol=0.0)


# %% [markdown]
# ## 6. The paper against the code
#
# Somebody wrote down how V1-7B was trained, from the report (arXiv 2401.02954, sections 2.3 and 2.4, and table 2). The
# code runs. But **two** of the six pieces do not do what the report says. Which ones?
#
# ```python
# # a  the optimiser
# adamw = torch.optim.AdamW(model.parameters(), lr=4.2e-4, betas=(0.9, 0.95), weight_decay=0.1)
# # b  the first weights
# for weight in matrices:
#     torch.nn.init.normal_(weight, std=0.006)
# # c  the drops of the learning rate, after 80 % and 90 % of the training tokens
# drops = torch.optim.lr_scheduler.MultiStepLR(adamw, [8 * steps // 10, 9 * steps // 10], gamma=0.1)
# # d  the warm-up
# climb = torch.optim.lr_scheduler.LambdaLR(adamw, lambda done: min(1, (done + 1) / 2000))
# # e  one batch in many pieces, computed in bf16: gradients are added up before the step
# total = [torch.zeros_like(weight, dtype=torch.bfloat16) for weight in weights]
# for piece in batch.split(rows_that_fit):
#     for sum_, grad in zip(total, gradients(model, piece)):
#         sum_ += grad
# # f  the length of the run: 2.0T tokens, in batches of 2,304 rows of 4,096
# steps = round(2.0e12 / (2304 * 4096))
# ```
#
# Write the two letters down, and for yourself what each piece should be.


# %% task="training.papers" title="The paper against the code" kind="compare" difficulty=2 minutes=15
### BEGIN SOLUTION
wrong_pieces = "ce"  # gamma is the root of 0.1: to 31.6 %, then to 10 %; and gradients are added up in fp32
### STUB
# wrong_pieces = None  # two letters, such as "ab"
### END SOLUTION


# %% tags=["judge"]
NEITHER = "neither of the two is wrong, or there are more than two letters"
ONE = "one of your two letters is right, the other piece does what the report says"


@checks(
    "training.papers",
    mistakes={NEITHER: "ab", ONE: "cf"},
    alternatives=["E, C", ["c", "e"]],
    hints=(
        "Say in words what each piece does, and look the sentence up in the report. At which factor does a run end?",
        "One of the two is about the size of a drop, and two of them together. The other is about small numbers that "
        "are added to larger ones, as in section 9 of the lesson.",
        "Two drops by 0.1 end at one percent. And in which precision does section 2.4 add gradients up?",
    ),
)
def _(draw):
    named, one = [call("wrong_pieces")], Picks(right="ce", at_least=1, says=NEITHER)
    yield value("finds one of the two", 1, named, rules=[one])
    yield value("finds both", 1, named, rules=[one, Picks(right="ce", at_least=2, says=ONE)])
