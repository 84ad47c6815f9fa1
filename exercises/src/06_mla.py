# %% [markdown]
# # Exercises 06 · MLA
#
# Five tasks on [lesson 06](../../notebooks/06_mla.ipynb), about 75 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# Names are those of the lesson: $H$ heads, a latent of $d_c$ numbers, a rotary key of $d_r$, heads of $d_h$ channels
# that do not turn and values of $d_v$. `hint("mla.absorb")` helps in three steps, `solution("mla.absorb")` shows ours
# once you have tried, and `status()` at the end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F


def turn(x, places, theta=10_000.0):
    """RoPE: neighbouring channels of x (..., T, Dr) turn by the places (T,)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    half = pairs.shape[-1]
    angle = places[:, None] * theta ** (-torch.arange(half, dtype=x.dtype) / half)
    return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)


# %% [markdown]
# ## 1. What is kept
#
# Write what a layer of MLA puts into its cache (V2 report, arXiv 2405.04434, eq. 9 and 15; section 3.1.2 for the norm):
# for each token the **normed** latent and the **turned** rotary key, side by side.
#
# - `h` is $(T, D)$; `w_latent` is $(d_c, D)$, `w_rope` is $(d_r, D)$: both read `h` itself. `gain` is $(d_c,)$.
# - The norm is RMSNorm with $\epsilon = 10^{-6}$ under the root. It sees the latent alone.
# - `turn(x, places)` is given above. The tokens stand at the places `start`, `start` + 1, ...
# - The result is $(T, d_c + d_r)$, latent first.


# %% task="mla.keep" title="What is kept" kind="implement" difficulty=1 minutes=10 forbid=["rms_norm", "RMSNorm"]
def keep(h, w_latent, w_rope, gain, start=0):
    """h: (T, D) -> (T, d_c + d_r), what the cache of MLA holds of these tokens."""
    ### BEGIN SOLUTION
    latent = h @ w_latent.T
    latent = latent * (latent.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * gain
    places = torch.arange(start, start + len(h), device=h.device)
    return torch.cat([latent, turn(h @ w_rope.T, places)], dim=-1)
    ### END SOLUTION


# %% tags=["driver"]
def keep_in_two(h, cut, w_latent, w_rope, gain):
    """What is kept of a text that comes in two pieces."""
    first, second = keep(h[:cut], w_latent, w_rope, gain), keep(h[cut:], w_latent, w_rope, gain, start=cut)
    return torch.cat([first, second])


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
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


def keep_one_by_one(h, w_latent, w_rope, gain, start=0):
    """Token by token, the rotation as a matrix."""
    rows = []
    for t, token in enumerate(h):
        latent, key = w_latent @ token, w_rope @ token
        latent = latent / (latent.square().sum() / len(latent) + 1e-6) ** 0.5 * gain
        half = len(key) // 2
        angle = (start + t) * torch.tensor([10_000.0 ** (-i / half) for i in range(half)], dtype=h.dtype)
        blocks = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).view(-1, 2, 2)
        rows.append(torch.cat([latent, torch.block_diag(*blocks) @ key]))
    return torch.stack(rows)


def _norm(x, gain):
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * gain


def _keep(
    latent=lambda c, gain: _norm(c, gain),
    key=lambda k, c, places: turn(k, places),
    join=lambda c, k: torch.cat([c, k], dim=-1),
    places=lambda start, n: torch.arange(start, start + n),
):
    """What is kept, with one part of it wrong."""

    def keep(h, w_latent, w_rope, gain, start=0):
        c = h @ w_latent.T
        return join(latent(c, gain), key(h @ w_rope.T, c, places(start, len(h))))

    return keep


def _norm_of_all(h, w_latent, w_rope, gain, start=0):
    both = torch.cat([h @ w_latent.T, turn(h @ w_rope.T, torch.arange(start, start + len(h)))], dim=-1)
    return both * (both.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * torch.cat([gain, torch.ones(len(w_rope))])


@checks(
    "mla.keep",
    oracle=keep_one_by_one,
    mistakes={
        "the latent is kept without its norm": _keep(latent=lambda c, gain: c),
        "the norm has no gain": _keep(latent=lambda c, gain: _norm(c, torch.ones_like(gain))),
        "the rotary key is kept without having been turned": _keep(key=lambda k, c, places: k),
        "the rotary key is normed, too; only the latent is": _keep(
            key=lambda k, c, places: turn(_norm(k, torch.ones(k.shape[-1])), places)
        ),
        "one norm runs over both; it sees the latent alone": _norm_of_all,
        "places are counted from 0; they begin at start": _keep(places=lambda start, n: torch.arange(n)),
        "places begin one too late": _keep(places=lambda start, n: torch.arange(start + 1, start + 1 + n)),
        "the rotary key stands first; the latent does": _keep(join=lambda c, k: torch.cat([k, c], dim=-1)),
        "the latent is turned as well; only the rotary key is": _keep(
            latent=lambda c, gain: turn(_norm(c, gain), torch.arange(len(c)))
        ),
    },
    alternatives=[
        _keep(latent=lambda c, gain: c / (torch.linalg.vecdot(c, c)[:, None] / c.shape[1] + 1e-6).sqrt() * gain),
        _keep(join=lambda c, k: torch.cat([c.T, k.T]).T),
    ],
    hints=(
        "Which of the two parts comes from a matrix and a norm, and which from a matrix and a turn?",
        "latent = h @ w_latent.T, divided by the root of its mean square (plus 1e-6), times the gain. Key = "
        "turn(h @ w_rope.T, places). Join along the last dimension.",
        "places = torch.arange(start, start + len(h)); torch.cat([latent * (latent.pow(2).mean(-1, keepdim=True) + "
        "1e-6).rsqrt() * gain, turn(h @ w_rope.T, places)], dim=-1).",
    ),
)
def _(draw):
    def case(tokens, start):
        width, latent, rope = draw.integer(6, 14), 2 * draw.integer(2, 6), 2 * draw.integer(2, 5)
        weights = draw.normal(latent, width, scale=0.5), draw.normal(rope, width, scale=0.5), draw.normal(latent)
        return draw.normal(tokens, width), *weights, start

    *plain, start = case(draw.integer(4, 8), draw.integer(3, 9))
    here = call("keep", *plain, start=start, grad=True)
    yield contract("keeps d_c + d_r numbers, changes no input", 1, [here], [Untouched(), Reaches()])
    *other, _ = case(draw.integer(4, 8), 0)
    single = case(1, draw.integer(20, 60))
    yield value(
        "is the normed latent and the turned key",
        2,
        [here, call("keep", *other, grad=True), call("keep", *single[:-1], start=single[-1])],
    )
    cut = draw.integer(1, 3)
    yield invariant(
        "a text in two pieces leaves the same behind",
        1,
        [call("keep", *plain), call("keep_in_two", plain[0], cut, *plain[1:])],
        [Same(left=Part(), right=Part(step=1), says="the second piece is kept in another way than within the text")],
    )


# %% [markdown]
# ## 2. Absorb
#
# One new token asks, and $S$ tokens are in the cache. Compute what its heads return **without** making keys or values:
# no tensor of $S \times H$ rows of $d_h$ or $d_v$ channels may appear. Scores are divided by $\sqrt{d_h + d_r}$.
#
# - `q` is $(H, d_h + d_r)$: of each head the part that does not turn, then the turned part.
# - `cache` is $(S, d_c + d_r)$, as task 1 left it. The new token is in it: everything may be seen.
# - `w_uk` is $(H, d_h, d_c)$ and `w_uv` is $(H, d_v, d_c)$; keys are $W^{UK}_i c$, values $W^{UV}_i c$.
# - The result is $(H, d_v)$.


# %% task="mla.absorb" title="Absorb" kind="implement" difficulty=3 minutes=25 forbid=["scaled_dot_product_attention"]
def absorbed_step(q, cache, w_uk, w_uv):
    """q: (H, d_h + d_r), cache: (S, d_c + d_r), w_uk: (H, d_h, d_c), w_uv: (H, d_v, d_c) -> (H, d_v)."""
    ### BEGIN SOLUTION
    d_nope, d_latent = w_uk.shape[1:]
    content, rotary = q[:, :d_nope], q[:, d_nope:]
    down = torch.einsum("he,hec->hc", content, w_uk)  # W^UK meets the query
    scores = torch.cat([down, rotary], dim=-1) @ cache.T / math.sqrt(q.shape[-1])  # (H, S)
    mixed = scores.softmax(-1) @ cache[:, :d_latent]  # (H, d_c)
    return torch.einsum("hc,hec->he", mixed, w_uv)
    ### END SOLUTION


# %% tags=["driver"]
def largest_tensor(heads, keys, latent, rope, nope):
    """How many numbers the largest tensor has that is made on the way: with many keys, expanding them shows."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.found = max(self.found, tensor.numel())
            return out

    given = (torch.zeros(heads, nope + rope), torch.zeros(keys, latent + rope))
    with Largest() as watch:
        absorbed_step(*given, torch.zeros(heads, nope, latent), torch.zeros(heads, nope, latent))
    return float(watch.found)


# %% tags=["judge"]
def expanded_step(q, cache, w_uk, w_uv):
    """Keys and values of all heads, made and used."""
    d_latent, heads = w_uk.shape[2], []
    for head in range(len(q)):
        key = torch.cat([cache[:, :d_latent] @ w_uk[head].T, cache[:, d_latent:]], dim=1)
        value = cache[:, :d_latent] @ w_uv[head].T
        heads.append(((key @ q[head]) / len(q[head]) ** 0.5).softmax(0) @ value)
    return torch.stack(heads)


def _step(
    scale=lambda q, cache: q.shape[-1] ** 0.5,
    down=lambda content, w_uk: torch.einsum("he,hec->hc", content, w_uk),
    rotary=lambda r: r,
    weigh=lambda scores: scores.softmax(-1),
    up=lambda mixed, w_uk, w_uv: torch.einsum("hc,hec->he", mixed, w_uv),
):
    """An absorbed step with one part of it wrong."""

    def absorbed_step(q, cache, w_uk, w_uv):
        nope, latent = w_uk.shape[1:]
        long = torch.cat([down(q[:, :nope], w_uk), rotary(q[:, nope:])], dim=-1)
        scores = long @ cache.T / scale(q, cache)
        return up(weigh(scores) @ cache[:, :latent], w_uk, w_uv)

    return absorbed_step


def _own_values(q, cache, w_uk, w_uv):
    weights = (
        torch.cat([torch.einsum("he,hec->hc", q[:, : w_uk.shape[1]], w_uk), q[:, w_uk.shape[1] :]], dim=-1) @ cache.T
    )
    return (weights / q.shape[-1] ** 0.5).softmax(-1) @ cache[:, : w_uk.shape[2]] @ w_uv.mean(0).T


def _by_matmul(q, cache, w_uk, w_uv):
    nope, latent = w_uk.shape[1:]
    content = (q[:, None, :nope] @ w_uk)[:, 0] @ cache[:, :latent].T
    place = q[:, nope:] @ cache[:, latent:].T
    weights = F.softmax((content + place) * (w_uk.shape[1] + cache.shape[1] - latent) ** -0.5, dim=1)
    return (w_uv @ (weights @ cache[:, :latent])[..., None])[..., 0]


MADE = "keys or values of all tokens are made on the way: move the matrix to the query, and behind the sum"


@checks(
    "mla.absorb",
    oracle=expanded_step,
    mistakes={
        MADE: lambda q, cache, w_uk, w_uv: (
            expanded_step(q, cache, w_uk, w_uv) + 0 * torch.einsum("sc,hec->hse", cache[:, : w_uk.shape[2]], w_uk).sum()
        ),
        "scores are divided by the root of d_c + d_r; absorbing does not change the scale, it is d_h + d_r": _step(
            scale=lambda q, cache: cache.shape[-1] ** 0.5
        ),
        "scores are not divided by the root of d_h + d_r": _step(scale=lambda q, cache: 1.0),
        "the rotary part of the scores is missing": _step(rotary=torch.zeros_like),
        "the part of the scores that tells content is missing": _step(
            down=lambda content, w_uk: torch.zeros(len(content), w_uk.shape[2], dtype=content.dtype)
        ),
        "the softmax runs over the heads; each head has its own, over the tokens": _step(
            weigh=lambda scores: scores.softmax(0)
        ),
        "all heads share one value matrix; each has its own": _own_values,
        "the mixture of latents goes through the key's matrix; values have their own": _step(
            up=lambda mixed, w_uk, w_uv: F.pad(
                torch.einsum("hc,hec->he", mixed, w_uk), (0, max(0, w_uv.shape[1] - w_uk.shape[1]))
            )[:, : w_uv.shape[1]]
        ),
    },
    alternatives=[_step(), _by_matmul],
    hints=(
        "q · (W c) is the same as (Wᵀ q) · c. Which of the two asks for work on every cached token?",
        "Split q. Take its first part down to d_c numbers with w_uk, put the rotary part behind it again, and let it "
        "meet the rows of the cache. Average the latents with the weights, and only then use w_uv.",
        "down = torch.einsum('he,hec->hc', q[:, :d_h], w_uk); scores = torch.cat([down, q[:, d_h:]], -1) @ cache.T "
        "divided by the root of q.shape[-1]; scores.softmax(-1) @ cache[:, :d_c], and w_uv last.",
    ),
)
def _(draw):
    def case(heads, keys):
        nope, rope, latent, width = draw.integer(3, 7), 2 * draw.integer(1, 4), draw.integer(8, 13), draw.integer(3, 7)
        return (
            draw.normal(heads, nope + rope, scale=2.0),
            draw.normal(keys, latent + rope),
            draw.normal(heads, nope, latent, scale=0.5),
            draw.normal(heads, width, latent, scale=0.5),
        )

    plain = call("absorbed_step", *case(draw.integer(3, 5), draw.integer(5, 9)), grad=True)
    yield contract("gives (H, d_v), changes no input", 1, [plain], [Untouched(), Reaches()])
    yield value(
        "equals a step with all keys and values",
        3,
        [plain, call("absorbed_step", *case(1, 6), grad=True), call("absorbed_step", *case(4, 1))],
    )
    # the cache itself has 1,000 x 6 numbers, scores have 2 x 1,000; keys of both heads would be 2 x 1,000 x 16
    yield value(
        "makes no keys and no values",
        2,
        [call("largest_tensor", 2, 1000, 4, 2, 16)],
        rules=[Between(low=1, high=20_000, says=MADE)],
    )


# %% [markdown]
# ## 3. A checkpoint read wrong
#
# The released weights of V2 and V3 keep $W^{UK}$ and $W^{UV}$ of a layer in one matrix, `kv_b_proj`, of shape
# $(H (d_h + d_v),\; d_c)$. For **each head** its $d_h$ rows of the key come first, then its $d_v$ rows of the value; then
# comes the next head.
#
# A colleague takes the matrix apart. Every shape fits, for in these models $d_h = d_v$; the model writes nonsense. Find
# the mistake and repair it. Sizes where $d_h \neq d_v$ must work as well.


# %% task="mla.checkpoint" title="A checkpoint read wrong" kind="debug" difficulty=2 minutes=15
def take_apart(kv_b, heads, d_nope, d_value):
    """kv_b: (H * (d_h + d_v), d_c) -> W^UK (H, d_h, d_c) and W^UV (H, d_v, d_c)."""
    ### BEGIN SOLUTION
    rows = kv_b.view(heads, d_nope + d_value, -1)
    return rows[:, :d_nope], rows[:, d_nope:]
    ### STUB
    # keys, values = kv_b.split([heads * d_nope, heads * d_value])
    # return keys.view(heads, d_nope, -1), values.view(heads, d_value, -1)
    ### END SOLUTION


# %% tags=["driver"]
def last_head_first(kv_b, heads, d_nope, d_value):
    """A matrix whose heads lie in the opposite order; the result in the old one."""
    other = kv_b.view(heads, d_nope + d_value, -1).flip(0).flatten(0, 1)
    keys, values = take_apart(other, heads, d_nope, d_value)
    return keys.flip(0), values.flip(0)


# %% tags=["judge"]
def take_row_by_row(kv_b, heads, d_nope, d_value):
    """Each row by its number."""
    size = d_nope + d_value
    keys = [torch.stack([kv_b[head * size + row] for row in range(d_nope)]) for head in range(heads)]
    values = [torch.stack([kv_b[head * size + d_nope + row] for row in range(d_value)]) for head in range(heads)]
    return torch.stack(keys), torch.stack(values)


def _swapped(kv_b, heads, d_nope, d_value):
    rows = kv_b.view(heads, d_value + d_nope, -1)
    return rows[:, d_value:], rows[:, :d_value]


def _across(kv_b, heads, d_nope, d_value):
    rows = kv_b.view(d_nope + d_value, heads, -1).transpose(0, 1)
    return rows[:, :d_nope], rows[:, d_nope:]


def _halves(kv_b, heads, d_nope, d_value):
    keys, values = kv_b.split([heads * d_nope, heads * d_value])
    return keys.view(heads, d_nope, -1), values.view(heads, d_value, -1)


def _in_two_equal_parts(kv_b, heads, d_nope, d_value):
    half = (d_nope + d_value) // 2
    rows = kv_b.view(heads, d_nope + d_value, -1)
    return F.pad(rows[:, :half], (0, 0, 0, d_nope - half)), F.pad(
        rows[:, half:], (0, 0, d_value - (d_nope + d_value - half), 0)
    )


@checks(
    "mla.checkpoint",
    oracle=take_row_by_row,
    mistakes={
        "keys of all heads are expected before all values; they alternate, head by head": _halves,
        "the value's rows are taken for the key's: in each head the key comes first": _swapped,
        "heads are expected to change fastest; each head's rows lie together": _across,
        "each head is cut in the middle; d_h and d_v may differ": _in_two_equal_parts,
    },
    alternatives=[
        take_row_by_row,
        lambda kv_b, heads, d_nope, d_value: tuple(kv_b.unflatten(0, (heads, -1)).split([d_nope, d_value], dim=1)),
    ],
    hints=(
        "Write down, for two heads with d_h = 2 and d_v = 1, what each of the six rows is.",
        "First bring the heads apart, then key and value within each head.",
        "kv_b.view(heads, d_nope + d_value, -1) has a head in each entry of its first dimension.",
    ),
)
def _(draw):
    def case(heads, d_nope, d_value):
        rows = draw.normal(heads * (d_nope + d_value), draw.integer(3, 8))
        return call("take_apart", rows, heads, d_nope, d_value)

    even, heads = draw.integer(2, 5), draw.integer(2, 5)
    plain = case(heads, even, even)
    yield value("each row goes where it belongs", 2, [plain, case(3, 4, 2), case(2, 2, 5), case(1, 3, 3)])
    rows = draw.normal(3 * (even + 2), 4)
    yield invariant(
        "heads do not mix",
        1,
        [call("take_apart", rows, 3, even, 2), call("last_head_first", rows, 3, even, 2)],
        [
            Same(
                left=Part(path=(i,)),
                right=Part(step=1, path=(i,)),
                says="heads in another order give other matrices, not the same ones in another order",
            )
            for i in (0, 1)
        ],
    )


# %% [markdown]
# ## 4. Predict, then measure: from where does expanding pay?
#
# A layer of MLA has $d_c = 256$, $d_r = 32$, $d_h = 64$ and $d_v = 128$. There are 100,000 tokens in its cache, and $T$ new ones
# arrive at once. Absorbed, every score meets longer vectors; expanded, the whole cache must be expanded first. From
# **how many new tokens** on does expanding need fewer multiplications? Write your number down, check it, then run the
# measurement below.


# %% task="mla.crossing" title="From where does expanding pay?" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
new_tokens = 154  # 256 · (64 + 128) = 49,152 products saved a token, 2 · 256 - (64 + 128) = 320 more a score
### STUB
# new_tokens = None  # your number
### END SOLUTION

# %%
from minideepseek.layers import MLA

with torch.device("meta"):  # shapes without memory
    layer = MLA(n_heads=8, d_latent=256, d_rope=32, d_nope=64, d_value=128).build(512, 0)
measured = next(n for n in range(1, 1000) if layer.cheaper_form(n, 100_000) == "expanded")
print(f"predicted {new_tokens} new tokens, measured {measured}")

# %% tags=["judge"]
from minideepseek.layers import MLA

with torch.device("meta"):
    layer = MLA(n_heads=8, d_latent=256, d_rope=32, d_nope=64, d_value=128).build(512, 0)
counted = next(n for n in range(1, 1000) if layer.cheaper_form(n, 100_000) == "expanded")


@checks(
    "mla.crossing",
    oracle=float(counted),
    mistakes={
        "only the scores are counted; the weighted sum meets latents, too": 256 * 64 / (256 - 64),
        "only keys are expanded in your count; values are, too": 256 * 64 / 320,
        "the expanded form has scores and sums, too; only the difference to the absorbed ones counts": 49_152 / 544,
        "this is the cost of expanding one token; divide it by what each score costs more": 49_152.0,
        "this is what each score costs more; divide the cost of expanding by it": 320.0,
    },
    hints=(
        "How many products does it take to expand one cached token, in one head? And how many more does one pair of "
        "a new and a cached token cost when absorbed?",
        "Expanding costs d_c (d_h + d_v) for each of S cached tokens. A pair costs d_h + d_r + d_v expanded and "
        "2 d_c + d_r absorbed. With S so large, what absorbing costs for the new tokens hardly counts.",
        "T · S · (2 d_c - d_h - d_v) = S · d_c (d_h + d_v), solved for T.",
    ),
)
def _(draw):
    yield value("the number is right to within a twentieth", 2, [call("new_tokens")], rtol=0.05, atol=0.0)


# %% [markdown]
# ## 5. The paper against the code
#
# Somebody wrote MLA down from the V2 report (arXiv 2405.04434). Every line runs. But **two** of the six lines do not do
# what the equation beside them says. Which ones?
#
# ```python
# # a  the latent (eq. 9, and the norm of section 3.1.2)
# c = rms_norm(h @ w_dkv.T)
# # b  queries by way of their own latent (eq. 12 and 13)
# q_c = rms_norm(h @ w_dq.T) @ w_uq.T
# # c  the rotary key, shared by all heads (eq. 15)
# k_r = turn(c @ w_kr.T, places)
# # d  what is kept for later (section 2.1.3)
# cache = torch.cat([cache, torch.cat([c, k_r], dim=-1)])
# # e  the scores of a head (eq. 18)
# scores = (q_c @ k_c.T + q_r @ k_r.T) / math.sqrt(d_h)
# # f  the output, of all heads side by side (eq. 19)
# u = torch.cat(heads, dim=-1) @ w_o.T
# ```
#
# Write the two letters down, and for yourself what each line should say.


# %% task="mla.papers" title="The paper against the code" kind="compare" difficulty=2 minutes=10
### BEGIN SOLUTION
wrong_lines = "ce"  # the rotary key comes from h, not from the latent; scores are divided by the root of d_h + d_r
### STUB
# wrong_lines = None  # two letters, such as "ad"
### END SOLUTION


# %% tags=["driver"]
def right_letters(letters):
    """How many of these were named; none where more than two were."""
    if wrong_lines is None:
        raise NotImplementedError
    named = set(str(wrong_lines).lower()) & set("abcdef")
    return len(named & set(letters)) if len(named) <= 2 else 0


# %% tags=["judge"]
NEITHER = "neither of the two is wrong, or there are more than two letters"
ONE = "one of your two letters is right, the other line does what its equation says"


@checks(
    "mla.papers",
    mistakes={NEITHER: "bf", ONE: "cd"},
    alternatives=["E, C", ["c", "e"]],
    hints=(
        "Draw the arrows: which boxes read h itself, and which read a latent? And how long is the vector whose dot "
        "product is a score?",
        "One is about where a vector comes from, the other about how wide a head's query is in all.",
        "Look at eq. 15: W^KR is multiplied with h. And under the root of eq. 18 stands a sum.",
    ),
)
def _(draw):
    named = [call("right_letters", "ce")]
    yield value("finds one of the two", 1, named, rules=[Between(low=1, says=NEITHER)])
    yield value("finds both", 1, named, rules=[Between(low=1, says=NEITHER), Between(low=2, says=ONE)])
