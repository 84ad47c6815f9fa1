# %% [markdown]
# # Exercises 02 · A V1 block from bricks
#
# Six tasks on [lesson 02](../../notebooks/02_v1_block.ipynb), about 90 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("block.rms_norm")` helps in three steps, `solution("block.rms_norm")` shows ours once you have tried, and
# `status()` at the end tells where you are.

# %% tags=["given"]
import math

import torch
import torch.nn.functional as F
from torch import nn


def turn(x, places, theta=10_000.0):
    """The lesson's RoPE for one head: neighbouring channels of x (T, Dh) turn by the places (T,)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    half = pairs.shape[-1]
    angle = places[:, None] * theta ** (-torch.arange(half, dtype=x.dtype) / half)
    return torch.view_as_real(pairs * torch.exp(1j * angle)).flatten(-2)


# %% [markdown]
# ## 1. RMSNorm
#
# Write the norm at the entrance of every branch (Zhang & Sennrich, arXiv 1910.07467, eq. 4):
#
# $$\mathrm{RMSNorm}(x)_i = \frac{x_i}{\sqrt{\frac1D\sum_j x_j^2 + \epsilon}}\; g_i$$
#
# - `x` has any shape $(\dots, D)$, the gain $g$ has shape $(D,)$; the result has the shape and the dtype of `x`.
# - `x` may be of 16 bits. A sum of squares does not fit into them: compute in float32, and come back at the end.
# - `x` may be tiny. V1's embeddings start at a size of 0.006, and there $\epsilon$ counts.


# %% task="block.rms_norm" title="RMSNorm" kind="implement" difficulty=1 minutes=10 forbid=["rms_norm", "RMSNorm"]
def rms_norm(x, gain, eps=1e-6):
    """x: (..., D), gain: (D,) -> (..., D), in the dtype of x."""
    ### BEGIN SOLUTION
    wide = x.float()
    root = torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide / root * gain.float()).to(x.dtype)
    ### END SOLUTION


# %% tags=["judge"]
from minideepseek.judge.author import (
    Mostly,
    Part,
    Picks,
    Reaches,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    outcome,
    value,
)


def rms_norm_by_rows(x, gain, eps=1e-6):
    """Row by row, from the definition."""
    rows = [row / (row.square().sum() / len(row) + eps) ** 0.5 * gain for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(x.shape)


def _wide(norm):
    """A mistake of the formula, made by somebody who otherwise minds the dtypes."""
    return lambda x, gain, eps=1e-6: (norm(x.float(), eps) * gain.float()).to(x.dtype)


def _in_its_own_dtype(x, gain, eps=1e-6):
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


@checks(
    "block.rms_norm",
    oracle=rms_norm_by_rows,
    mistakes={
        "eps stands outside the root; it belongs under it, beside the mean": _wide(
            lambda x, eps: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps)
        ),
        "eps is missing": _wide(lambda x, eps: x * x.pow(2).mean(-1, keepdim=True).rsqrt()),
        "this is LayerNorm: RMSNorm does not subtract the mean": _wide(
            lambda x, eps: (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True, correction=0) + eps).rsqrt()
        ),
        "the squares are summed; divide by D, or take their mean": _wide(
            lambda x, eps: x * (x.pow(2).sum(-1, keepdim=True) + eps).rsqrt()
        ),
        "the mean runs over all entries; each vector has its own": _wide(
            lambda x, eps: x * (x.pow(2).mean() + eps).rsqrt()
        ),
        "the root is missing": _wide(lambda x, eps: x / (x.pow(2).mean(-1, keepdim=True) + eps)),
        "the squares are summed in 16 bits: go to float32 first": _in_its_own_dtype,
        "the result stays in float32: return the dtype of x": lambda x, gain, eps=1e-6: (
            x.float() * (x.float().pow(2).mean(-1, keepdim=True) + eps).rsqrt() * gain.float()
        ),
    },
    alternatives=[
        lambda x, gain, eps=1e-6: (
            x.float()
            * torch.rsqrt(torch.linalg.vecdot(x.float(), x.float())[..., None] / x.shape[-1] + eps)
            * gain.float()
        ).type_as(x),
        lambda x, gain, eps=1e-6: (x.double() * (x.double().square().mean(-1, True) + eps) ** -0.5 * gain).to(x.dtype),
    ],
    hints=(
        "Over which dimension does the mean run, and which shape must it have so that x can be divided by it?",
        "Square, take the mean over the last dimension with keepdim=True, add eps, take the root. Divide, multiply by "
        "the gain. Do all of it on x.float().",
        "wide = x.float(); root = torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps); what is left is the division, "
        "the gain, and .to(x.dtype).",
    ),
)
def _(draw):
    width = draw.integer(5, 24)
    x, gain = draw.normal(draw.integer(2, 4), draw.integer(2, 8), width), draw.normal(width)
    plain = call("rms_norm", x, gain, grad=True)
    one = call("rms_norm", x[0, 0], gain)
    yield contract("keeps shape and dtype, changes no input", 1, [plain, one], [Untouched(), Reaches()])
    ragged = [
        call("rms_norm", draw.normal(*shape, width), draw.normal(width), grad=True) for shape in [(3,), (2, 1, 4)]
    ]
    yield value("equals the formula, gradients too", 2, [plain, *ragged])
    tiny = [
        call("rms_norm", draw.normal(3, width, scale=scale), gain, eps=eps)
        for scale, eps in [(6e-3, 1e-6), (1e-4, 1e-6), (1e-2, 1e-3)]
    ]
    zeros = call("rms_norm", torch.zeros(2, width), gain)
    yield value("is right for tiny vectors, and for zeros", 1, [*tiny, zeros])
    half = [
        call("rms_norm", draw.normal(4, 256, scale=scale, dtype=dtype), draw.normal(256, dtype=dtype))
        for scale, dtype in [(300.0, torch.float16), (1.0, torch.bfloat16)]
    ]
    yield value("computes 16-bit inputs in float32", 1, half)


# %% [markdown]
# ## 2. RoPE, as in V1's weights
#
# Turn queries and keys by their place (Su et al., arXiv 2104.09864, section 3.4.2). Pair $i$ of a head with $D_h$
# channels turns by the angle $t\,\omega_i$ at position $t$, with
#
# $$\omega_i = \theta^{-2i/D_h}, \qquad i = 0, \dots, \tfrac{D_h}2 - 1, \qquad
# (a, b) \mapsto (a\cos - b\sin,\; a\sin + b\cos).$$
#
# - Layout `half_split`: pair $i$ is made of the channels $i$ and $i + D_h/2$.
# - `x` has the shape $(B, T, H, D_h)$, `positions` the shape $(B, T)$: a row may start anywhere.
# - `x` may be of 16 bits, and 16 bits cannot tell position 4,001 from 4,000: turn in float32, and come back.


# %% task="block.rope" title="RoPE" kind="implement" difficulty=2 minutes=20
def rope(x, positions, theta=10_000.0):
    """x: (B, T, H, Dh), positions: (B, T) -> like x, each head turned by the place of its token."""
    ### BEGIN SOLUTION
    half = x.shape[-1] // 2
    speed = theta ** (-torch.arange(half, device=x.device) / half)
    angle = (positions[..., None].float() * speed)[:, :, None]  # (B, T, 1, Dh/2)
    a, b = x.float().split(half, dim=-1)
    turned = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
    return turned.to(x.dtype)
    ### END SOLUTION


# %% tags=["driver"]
def score(q, k, query_at, key_at):
    """Of one query and one key, at two places."""
    at = torch.tensor([[query_at]]), torch.tensor([[key_at]])
    return (rope(q, at[0]) * rope(k, at[1])).sum(-1)


def length(x, positions):
    """Of every head, after it was turned."""
    return rope(x, positions).norm(dim=-1)


# %% tags=["judge"]
def rope_by_complex_numbers(x, positions, theta=10_000.0):
    """A pair is a complex number, turning it is multiplying by e^(it)."""
    half = x.shape[-1] // 2
    speed = torch.tensor([theta ** (-2 * i / x.shape[-1]) for i in range(half)], dtype=torch.float64)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * positions[..., None, None] * speed)
    return torch.cat([turned.real, turned.imag], dim=-1)


def _rope(speed=lambda i, half, theta: theta ** (-i / half), turn=None, places=lambda p: p.float()):
    """RoPE with one part of it wrong."""
    turn = turn or (lambda a, b, c, s: torch.cat([a * c - b * s, a * s + b * c], dim=-1))

    def rope(x, positions, theta=10_000.0):
        half = x.shape[-1] // 2
        angle = (places(positions)[..., None] * speed(torch.arange(half), half, theta))[:, :, None]
        a, b = x.float().split(half, dim=-1)
        return turn(a, b, angle.cos(), angle.sin()).to(x.dtype)

    return rope


def _adjacent(x, positions, theta=10_000.0):
    half = x.shape[-1] // 2
    angle = (positions[..., None].float() * theta ** (-torch.arange(half) / half))[:, :, None]
    a, b = x.float()[..., ::2], x.float()[..., 1::2]
    turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _in_16_bits(x, positions, theta=10_000.0):
    half = x.shape[-1] // 2
    angle = (positions[..., None].to(x.dtype) * (theta ** (-torch.arange(half) / half)).to(x.dtype))[:, :, None]
    a, b = x.split(half, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


def _rotate_half(x, positions, theta=10_000.0):
    """The way of many libraries."""
    inverse = 1.0 / (theta ** (torch.arange(0, x.shape[-1], 2).float() / x.shape[-1]))
    angles = torch.einsum("bt,i->bti", positions.float(), inverse).repeat(1, 1, 2).unsqueeze(2)
    a, b = x.float().chunk(2, dim=-1)
    return (x.float() * angles.cos() + torch.cat((-b, a), dim=-1) * angles.sin()).type_as(x)


@checks(
    "block.rope",
    oracle=rope_by_complex_numbers,
    mistakes={
        "neighbouring channels are paired; here pair i is made of the channels i and i + Dh/2": _adjacent,
        "the pairs turn the other way: a·cos - b·sin comes first": _rope(
            turn=lambda a, b, c, s: torch.cat([a * c + b * s, b * c - a * s], dim=-1)
        ),
        "a sign is wrong: this mirrors the pairs, it does not turn them": _rope(
            turn=lambda a, b, c, s: torch.cat([a * c + b * s, a * s - b * c], dim=-1)
        ),
        "the speeds fall half as fast as they should: the exponent is -2i/Dh": _rope(
            speed=lambda i, half, theta: theta ** (-i / (2 * half))
        ),
        "the speeds fall twice as fast as they should: the exponent is -2i/Dh": _rope(
            speed=lambda i, half, theta: theta ** (-2 * i / half)
        ),
        "the speeds grow from pair to pair; the exponent is negative": _rope(
            speed=lambda i, half, theta: theta ** (i / half)
        ),
        "theta is taken for granted; it is an argument": lambda x, positions, theta=0.0: _rope()(x, positions),
        "positions are counted from 0; they are an argument, and rows may start anywhere": _rope(
            places=lambda p: torch.arange(p.shape[1]).expand(p.shape).float()
        ),
        "every row is given the positions of the first": _rope(places=lambda p: p[:1].expand(p.shape).float()),
        "the angles are computed in 16 bits: go to float32 before you multiply": _in_16_bits,
    },
    alternatives=[
        _rotate_half,
        lambda x, positions, theta=10_000.0: rope_by_complex_numbers(x.double(), positions, theta).to(x.dtype),
    ],
    hints=(
        "Which channels belong together, and which shape must the table of angles have so that all H heads of a token "
        "turn alike?",
        "Speeds (Dh/2,) from theta; angles (B, T, 1, Dh/2) from positions and speeds; split x into its first and "
        "second half of channels, turn the two, and join them. All in float32.",
        "half = Dh // 2; speed = theta ** (-torch.arange(half) / half); angle = (positions[..., None] * "
        "speed)[:, :, None]; a, b = x.float().split(half, -1); then torch.cat of the two turned halves.",
    ),
)
def _(draw):
    tokens, heads, dim = draw.integer(3, 7), draw.integer(1, 4), 2 * draw.integer(2, 9)
    x = draw.normal(2, tokens, heads, dim)
    start = draw.integers(1, 20, 2, 1) + torch.tensor([[0], [30]])
    places = torch.arange(tokens) + start
    plain = call("rope", x, places, grad=True)
    yield contract("keeps shape and dtype, changes no input", 1, [plain], [Untouched(), Reaches()])
    single = call("rope", draw.normal(1, 1, 1, 4), draw.integers(0, 9, 1, 1))
    other = call("rope", x, places, theta=draw.choice([300.0, 500_000.0]), grad=True)
    yield value("turns each pair by its angle", 2, [plain, single, other])
    # float32 knows an angle of 4,000 to within 0.0002, so that is how exact an answer can be
    far = draw.integers(2000, 4000, 1, tokens)
    wide = call("rope", draw.normal(1, tokens, heads, dim), far)
    short = call("rope", draw.normal(1, tokens, heads, dim, dtype=torch.bfloat16), far)
    yield value("is right at far positions, in 16 bits too", 1, [wide, short], rtol=1e-2, atol=1e-2)
    q, k = draw.normal(1, 1, heads, dim), draw.normal(1, 1, heads, dim)
    query_at, key_at, shift = draw.integer(5, 20), draw.integer(0, 5), draw.integer(10, 90)
    here, there = call("score", q, k, query_at, key_at), call("score", q, k, query_at + shift, key_at + shift)
    yield invariant(
        "a score depends on the distance alone",
        1,
        [here, there, call("length", x, places), call("length", x, places + 7)],
        [
            Same(left=Part(), right=Part(step=1), says="moving query and key together changes their score", atol=1e-4),
            Same(left=Part(step=2), right=Part(step=3), says="turning changes the length of a vector", atol=1e-4),
        ],
    )


# %% [markdown]
# ## 3. Grouped-query attention with a causal mask
#
# $H$ query heads share $G$ key/value heads (Ainslie et al., arXiv 2305.13245): query head $h$ reads key/value head
# $\lfloor h\,G/H \rfloor$, so neighbours share. Scores are divided by $\sqrt{D_h}$, and no query sees the future.
#
# There may be more keys than queries: with a cache, the $T$ queries are the *last* $T$ of $S$ places. Query $t$ stands
# at place $S - T + t$ and sees the keys up to there, its own included.


# %% task="block.gqa" title="Grouped-query attention" kind="implement" difficulty=3 minutes=25 seconds=30 forbid=["scaled_dot_product_attention", "MultiheadAttention", "multi_head_attention_forward"]
def attend(q, k, v):
    """q: (B, T, H, Dh), k and v: (B, S, G, Dh), S >= T, H a multiple of G -> (B, T, H, Dh)."""
    ### BEGIN SOLUTION
    queries, keys = q.shape[1], k.shape[1]
    k, v = (heads.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for heads in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    future = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)
    ### END SOLUTION


# %% tags=["driver"]
def train_to_repeat(questions, width=32, steps=120):
    """Train one block, with learned places, on rows that say seven tokens twice; its guess of what comes next."""
    embed, places = nn.Embedding(16, width), nn.Embedding(14, width)
    to_heads, head = nn.Linear(width, 2 * width), nn.Linear(width, 16)  # two query heads share one of keys and values
    optimiser = torch.optim.Adam([p for part in (embed, places, to_heads, head) for p in part.parameters()], lr=1e-2)

    def logits(ids):
        x = embed(ids) + places.weight[: ids.shape[1]]
        q, k, v = to_heads(x).unflatten(-1, (4, width // 2)).split([2, 1, 1], dim=2)
        return head(attend(q, k, v).flatten(2))

    for _ in range(steps):
        batch = torch.randint(0, 16, (64, 7)).repeat(1, 2)
        loss = F.cross_entropy(logits(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return logits(questions)[:, -1].argmax(-1)


# %% tags=["judge"]
def attend_one_by_one(q, k, v):
    """For each query its own softmax over the keys that it may see."""
    out = torch.empty_like(q)
    shared, behind = q.shape[2] // k.shape[2], k.shape[1] - q.shape[1]
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            for h in range(q.shape[2]):
                seen = slice(0, behind + t + 1)
                scores = k[b, seen, h // shared] @ q[b, t, h] * q.shape[-1] ** -0.5
                weights = (scores - scores.max()).exp()
                out[b, t, h] = weights @ v[b, seen, h // shared] / weights.sum()
    return out


def _attend(
    share=lambda heads, n: heads.repeat_interleave(n, dim=2),
    scale=lambda q: q.shape[-1] ** -0.5,
    future=lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t + 1),
    weigh=lambda scores, future: scores.masked_fill(future, -torch.inf).softmax(-1),
):
    """Attention with one part of it wrong."""

    def attend(q, k, v):
        n = q.shape[2] // k.shape[2]
        k, v = share(k, n), share(v, n)
        scores = torch.einsum("bthd,bshd->bhts", q, k) * scale(q)
        return torch.einsum("bhts,bshd->bthd", weigh(scores, future(q.shape[1], k.shape[1])), v)

    return attend


def _grouped(q, k, v):
    """Without copying keys or values: the shared heads become a dimension."""
    (batch, queries, heads, dim), keys, shared = q.shape, k.shape[1], k.shape[2]
    q = q.reshape(batch, queries, shared, heads // shared, dim).permute(0, 2, 3, 1, 4)
    scores = q @ k.permute(0, 2, 3, 1)[:, :, None] / dim**0.5
    place = torch.arange(keys - queries, keys)
    scores = scores + torch.where(place[:, None] >= torch.arange(keys), 0.0, float("-inf"))
    out = scores.softmax(dim=-1) @ v.permute(0, 2, 1, 3)[:, :, None]
    return out.permute(0, 3, 1, 2, 4).reshape(batch, queries, heads, dim)


@checks(
    "block.gqa",
    oracle=attend_one_by_one,
    mistakes={
        "the causal mask is missing": _attend(future=lambda t, s: torch.zeros(t, s, dtype=torch.bool)),
        "the mask hides each query's own key; only later ones are the future": _attend(
            future=lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t)
        ),
        "the mask counts queries from place 0; with S keys the first of T queries stands at S - T": _attend(
            future=lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(1)
        ),
        "the mask shows the future and hides the past": _attend(
            future=lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t - 1)
        ),
        "the scores are not divided by the root of Dh": _attend(scale=lambda q: 1.0),
        "the scores are divided by Dh; take its root": _attend(scale=lambda q: 1 / q.shape[-1]),
        "the scores are divided by the root of H·Dh; each head has Dh channels": _attend(
            scale=lambda q: (q.shape[2] * q.shape[3]) ** -0.5
        ),
        "heads are shared in the wrong order: query head h reads key/value head h // (H/G), not h % G": _attend(
            share=lambda heads, n: heads.repeat(1, 1, n, 1)
        ),
        "the mask comes after the softmax, so that the weights no longer sum to one": _attend(
            weigh=lambda scores, future: scores.softmax(-1).masked_fill(future, 0)
        ),
        "the softmax runs over the queries; each query has its own, over the keys": _attend(
            weigh=lambda scores, future: scores.masked_fill(future, -1e9).softmax(-2)
        ),
    },
    alternatives=[
        _grouped,
        _attend(future=lambda t, s: torch.arange(s)[None, :] > torch.arange(s - t, s)[:, None]),
    ],
    hints=(
        "What must happen to k and v so that there is one of them for every query head? And at which place does the "
        "first of T queries stand when there are S keys?",
        "Repeat each key/value head H/G times in a row; scores (B, H, T, S) divided by the root of Dh; set those of "
        "later places to minus infinity; softmax over S; weights times values.",
        "k.repeat_interleave(H // G, dim=2), the same for v; torch.einsum('bthd,bshd->bhts', q, k); "
        "torch.ones(T, S, dtype=torch.bool).triu(S - T + 1) is the future; masked_fill, softmax(-1), and back with "
        "'bhts,bshd->bthd'.",
    ),
)
def _(draw):
    tokens, shared, dim = draw.integer(4, 8), draw.integer(2, 4), draw.integer(3, 10)
    heads = 2 * shared

    def case(queries, keys, heads, shared, grad=True):
        q, k, v = (draw.normal(2, n, h, dim) for n, h in ((queries, heads), (keys, shared), (keys, shared)))
        return call("attend", q, k, v, grad=grad)

    plain = case(tokens, tokens, heads, shared)
    yield contract("keeps the shape of q, changes no input", 1, [plain], [Untouched(), Reaches()])
    yield value("equals a softmax for each query", 2, [plain, case(tokens, tokens, 3, 3), case(1, 1, 2, 1)])
    yield value("shares heads, and sees the cache", 2, [case(tokens, tokens + 3, 3 * shared, shared), case(1, 9, 4, 1)])
    q, k, v = draw.normal(1, tokens, heads, dim), *(draw.normal(1, tokens, shared, dim) for _ in range(2))
    cut = draw.integer(1, tokens - 1)
    changed = [
        torch.cat([x[:, :cut], x[:, cut:] + draw.normal(1, tokens - cut, x.shape[2], dim)], dim=1) for x in (q, k, v)
    ]
    past, late = ((1, 0, cut),), ((1, cut, None),)
    yield invariant(
        "the past does not feel the future, and a cache changes nothing",
        1,
        [call("attend", q, k, v), call("attend", *changed), call("attend", q[:, cut:], k, v)],
        [
            Same(
                left=Part(cut=past), right=Part(step=1, cut=past), says="outputs change when only later tokens change"
            ),
            Same(
                left=Part(cut=late),
                right=Part(step=2),
                says="the last queries alone, with all keys, give something else",
            ),
        ],
    )
    # Ten draws each: right answers reach 100 %; a hidden own key 5-8 %, a mask upside down 4-10 %, a softmax over the
    # queries 35-72 %. A missing mask reaches 66-100 %: here the past is enough, so that the invariant has to find it.
    rows, asked = draw.integers(0, 16, 200, 7).repeat(1, 2), draw.integer(8, 13)
    yield outcome(
        "a block learns to continue a row that repeats",
        1,
        [call("train_to_repeat", rows[:, :asked])],
        [
            Mostly(
                expected=rows[:, asked], share=0.9, says="a block that was trained with it does not learn to look back"
            )
        ],
    )


# %% [markdown]
# ## 4. A bug in the cache
#
# A colleague has built an attention head with a cache. It turns queries and keys by their place (`turn`, given above),
# keeps the keys and values it has seen, and takes new tokens in pieces of any length. He tested it: a whole text at
# once comes out right, and so does one token after the other. But a prompt of ten tokens, continued token by token,
# ends in nonsense.
#
# Find the line, and repair it. What must hold is simple: *pieces of any lengths give what the whole text gives.*


# %% task="block.cache_bug" title="A bug in the cache" kind="debug" difficulty=2 minutes=15
class CachedHead:
    """One attention head that remembers: call it with the next tokens, (T, D), and it returns their outputs."""

    def __init__(self, to_q, to_k, to_v):
        self.to_q, self.to_k, self.to_v = to_q, to_k, to_v  # each (D, Dh)
        self.keys = self.values = None

    def __call__(self, x):
        q, k, v = x @ self.to_q, x @ self.to_k, x @ self.to_v
        self.values = v if self.values is None else torch.cat([self.values, v])
        ### BEGIN SOLUTION
        start = len(self.values) - len(x)
        ### STUB
        # start = len(self.values)
        ### END SOLUTION
        places = torch.arange(start, start + len(x))
        q, k = turn(q, places), turn(k, places)
        self.keys = k if self.keys is None else torch.cat([self.keys, k])
        future = torch.ones(len(x), len(self.keys), dtype=torch.bool).triu(len(self.keys) - len(x) + 1)
        scores = (q @ self.keys.T / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
        return scores.softmax(-1) @ self.values


# %% tags=["driver"]
def in_pieces(lengths, x, *weights):
    """A text in pieces, through a head of its own; the outputs, joined."""
    head = CachedHead(*weights)
    return torch.cat([head(piece) for piece in x.split(list(lengths))])


# %% tags=["judge"]
def _head(start, future=lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t + 1)):
    """A head that begins a piece of ``t`` tokens, ``seen`` tokens later, at the place ``start(seen, t)``."""

    class CachedHead:
        def __init__(self, *weights):
            self.weights, self.keys, self.values = weights, torch.empty(0), torch.empty(0)

        def __call__(self, x):
            q, k, v = (x @ weight for weight in self.weights)
            places = torch.arange(len(x)) + start(len(self.keys), len(x))
            self.keys = torch.cat([self.keys.to(x.dtype).view(-1, k.shape[-1]), turn(k, places)])
            self.values = torch.cat([self.values.to(x.dtype).view(-1, v.shape[-1]), v])
            scores = turn(q, places) @ self.keys.T * k.shape[-1] ** -0.5
            return scores.masked_fill(future(*scores.shape), -torch.inf).softmax(-1) @ self.values

    return CachedHead


class HeadWithoutCache:
    """Keeps the text, and computes everything again for every piece: as slow as it is safe."""

    def __init__(self, *weights):
        self.weights, self.text = weights, None

    def __call__(self, x):
        self.text = x if self.text is None else torch.cat([self.text, x])
        q, k, v = (self.text @ weight for weight in self.weights)
        q, k = (turn(t, torch.arange(len(t))) for t in (q, k))
        rows = [(k[: t + 1] @ q[t] * q.shape[-1] ** -0.5).softmax(0) @ v[: t + 1] for t in range(len(q))]
        return torch.stack(rows)[-len(x) :]


@checks(
    "block.cache_bug",
    oracle=HeadWithoutCache,
    mistakes={
        "pieces of other lengths give something else than the whole text": _head(lambda seen, t: seen + t),
        "every piece begins at place 0 now, as if nothing stood before it": _head(lambda seen, t: 0),
        "new tokens now begin one place too late": _head(lambda seen, t: seen + (seen > 0)),
        "new tokens now begin one place too early": _head(lambda seen, t: seen - (seen > 0)),
        "the places are right, but the mask is not any more": _head(
            lambda seen, t: seen, future=lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(1)
        ),
    },
    alternatives=[_head(lambda seen, t: seen), _head(lambda seen, t: seen + 100), HeadWithoutCache],
    hints=(
        "Take a prompt of 3 tokens and then one more. Write down, by hand, the place of each of the four keys.",
        "Scores depend on distances. Which distance lies between the last token of the prompt and the first one after "
        "it? Why does that not show when all pieces are equally long?",
        "`start` is computed after the new values were added, so len(self.values) counts them already.",
    ),
)
def _(draw):
    tokens, width, dim = draw.integer(9, 14), draw.integer(4, 9), 2 * draw.integer(2, 5)
    weights = [draw.normal(width, dim, scale=0.7) for _ in range(3)]
    x = draw.normal(tokens, width)
    prompt = draw.integer(3, tokens - 3)
    whole = call("in_pieces", (tokens,), x, *weights, grad=True)
    ragged = call("in_pieces", (2, prompt, tokens - prompt - 2), x, *weights, grad=True)
    one_by_one = call("in_pieces", (prompt, *(1,) * (tokens - prompt)), x, *weights)
    same = "pieces of other lengths give something else than the whole text"
    yield invariant(
        "pieces of any lengths give what the whole text gives",
        2,
        [whole, ragged, one_by_one],
        [Same(left=Part(), right=Part(step=1), says=same), Same(left=Part(), right=Part(step=2), says=same)],
    )
    yield value("whole and in pieces it equals a head without a cache", 2, [one_by_one, ragged, whole])


# %% [markdown]
# ## 5. Predict, then measure: what a cache costs
#
# V1's 7B has 30 layers with 32 heads of 128 channels, and every head keeps its own keys and values (multi-head
# attention). You serve **8 texts of 4,096 tokens** in bfloat16, two bytes a number. How many GiB ($2^{30}$ bytes) does
# the cache take? Decide before you compute: write your number down, check it, and then run the measurement below.


# %% task="block.cache_size" title="What a cache costs" kind="predict" difficulty=1 minutes=5
### BEGIN SOLUTION
cache_gib = 15.0  # 2 · 32 heads · 128 channels · 30 layers · 8 · 4,096 tokens · 2 bytes / 2**30
### STUB
# cache_gib = None  # your number
### END SOLUTION

# %%
import minideepseek as mds

with torch.device("meta"):  # shapes without memory
    served = mds.Transformer(mds.generations["v1-7b"]).bfloat16().new_cache(batch_size=8, max_len=4096)
print(f"predicted {cache_gib} GiB, measured {served.nbytes / 2**30:.2f} GiB")

# %% tags=["judge"]
import minideepseek as mds

with torch.device("meta"):
    measured = mds.Transformer(mds.generations["v1-7b"]).bfloat16().new_cache(batch_size=8, max_len=4096).nbytes


@checks(
    "block.cache_size",
    oracle=measured / 2**30,
    mistakes={
        "one factor of 2 is missing: keys and values, and two bytes a number": 7.5,
        "two factors of 2 are missing: keys and values, and two bytes a number": 3.75,
        "one factor of 2 is too many: a number in bfloat16 has two bytes": 30.0,
        "these are GB of 10**9 bytes; a GiB has 2**30": measured / 1e9,
        "this is one text; 8 are served": 1.875,
        "this is one layer; there are 30": 0.5,
    },
    hints=(
        "What is kept of each token, in each layer?",
        "A key and a value for each of 32 heads, 128 numbers each; in 30 layers; for 8 · 4,096 tokens; two bytes each.",
        "2 · 32 · 128 · 30 = 245,760 numbers a token. Times two bytes, times 32,768 tokens, divided by 2**30.",
    ),
)
def _(draw):
    yield value("the number is right to within a twentieth", 2, [call("cache_gib")], rtol=0.05, atol=0.0)


# %% [markdown]
# ## 6. The papers against the code
#
# Somebody wrote V1's block down from the papers. Every line runs, and the model even trains. But **two** of the six
# lines do not do what the paper beside them says. Which ones?
#
# ```python
# # a  RMSNorm (Zhang & Sennrich, arXiv 1910.07467, eq. 4)
# h = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain
# # b  RoPE (Su et al., arXiv 2104.09864, eq. 14 to 16)
# q, k, v = rope(q, positions), rope(k, positions), rope(v, positions)
# # c  causal attention (Vaswani et al., arXiv 1706.03762, eq. 1)
# weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
# # d  the residual stream, pre-norm (DeepSeek LLM, arXiv 2401.02954, section 2.2)
# x = norm(x + attention(x))
# # e  SwiGLU (Shazeer, arXiv 2002.05202, eq. 6, without biases)
# y = (F.silu(h @ gate.T) * (h @ up.T)) @ down.T
# # f  the width of the feed-forward layer (DeepSeek LLM, section 2.2)
# hidden = 256 * math.ceil(8 * d_model / 3 / 256)
# ```
#
# Write the two letters down, and for yourself what each line should say.


# %% task="block.papers" title="The papers against the code" kind="compare" difficulty=2 minutes=10
### BEGIN SOLUTION
wrong_lines = "bd"  # values are not turned; the norm stands in the branch: x + attention(norm(x))
### STUB
# wrong_lines = None  # two letters, such as "ae"
### END SOLUTION


# %% tags=["judge"]
NEITHER = "neither of the two is wrong, or there are more than two letters"
ONE = "one of your two letters is right, the other line does what its paper says"


@checks(
    "block.papers",
    mistakes={NEITHER: "ac", ONE: "be"},
    alternatives=["D, B", ["b", "d"]],
    hints=(
        "Say in words what each line does, and look the sentence up in the paper. Where does the paper have a norm, "
        "and which vectors does it turn?",
        "One is about attention: what tells places, and what is to be read there? One is about where the stream runs "
        "straight through.",
        "RoFormer's eq. 16 is a product of two turned vectors; count which. And pre-norm means that a branch reads a "
        "normed copy, while the stream itself is only added to.",
    ),
)
def _(draw):
    named, one = [call("wrong_lines")], Picks(right="bd", at_least=1, says=NEITHER)
    yield value("finds one of the two", 1, named, rules=[one])
    yield value("finds both", 1, named, rules=[one, Picks(right="bd", at_least=2, says=ONE)])
