# %% [markdown]
# # Exercises 13 · Hyper-connections and the Birkhoff polytope
#
# Five tasks on [lesson 13](../../notebooks/13_hyper_connections.ipynb), about 80 minutes. Each has a statement, a cell for
# your answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer
# needs belongs into its cell.
#
# `hint("streams.maps")` helps in three steps, `solution("streams.maps")` shows ours once you have tried, and `status()` at
# the end tells where you are.

# %% tags=["given"]
import torch


def sub_layer(h):
    """A stand-in for attention or a feed-forward layer: (..., D) -> (..., D)."""
    return torch.tanh(h.roll(1, -1)) + h.square().mean(-1, keepdim=True)


# %% [markdown]
# ## 1. The numbers of a token
#
# Each token has $n$ streams of $D$ channels. Of all of them together mHC makes the numbers that mix a sub-layer (arXiv
# 2512.24880, section 4; DeepSeek-V4 report, section 2.2). With $v$ the streams of a token one after the other, $n D$ numbers:
#
# $$r = \mathrm{base} + g \cdot W \frac{v}{\sqrt{\mathrm{mean}(v^2) + \epsilon}}$$
#
# The first $n$ numbers of $r$ are for reading: $a = \sigma(r) + 10^{-6}$. The next $n$ are for writing: $c = 2\sigma(r)$. The
# last $n^2$ are the logits of a matrix, row by row. Each of the three parts has a gate $g$ of its own.
#
# - `x` is $(B, T, n, D)$, `weight` is $(2n + n^2, nD)$, `base` is $(2n + n^2,)$, `gate` is $(3,)$.
# - Return $a$ $(B, T, n)$, $c$ $(B, T, n)$ and the logits $(B, T, n, n)$. $\epsilon$ is $10^{-6}$.


# %% task="streams.maps" title="The numbers of a token" kind="implement" difficulty=2 minutes=20 forbid=["rms_norm", "RMSNorm"]
def maps(x, weight, base, gate):
    """(B, T, n, D), (2n + n², nD), (2n + n²,), (3,) -> (B, T, n), (B, T, n), (B, T, n, n)."""
    ### BEGIN SOLUTION
    n = x.shape[-2]
    v = x.flatten(-2)
    normal = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6)
    sizes = (n, n, n * n)
    parts = zip((normal @ weight.T).split(sizes, -1), base.split(sizes), gate, strict=True)
    a, c, logits = (b + g * r for r, b, g in parts)
    return a.sigmoid() + 1e-6, 2 * c.sigmoid(), logits.unflatten(-1, (n, n))
    ### END SOLUTION


# %% tags=["driver"]
def in_a_row(x, weight, base, gate):
    """All numbers of a token beside each other."""
    a, c, logits = maps(x, weight, base, gate)
    return torch.cat([a, c, logits.flatten(-2)], -1)


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


def maps_token_by_token(x, weight, base, gate):
    """One number after the other, with the gate of its part."""
    n = x.shape[2]
    which = [0] * n + [1] * n + [2] * n * n
    rows = []
    for tokens in x:
        for streams in tokens:
            v = torch.cat(list(streams))
            size = ((v * v).sum() / len(v) + 1e-6) ** 0.5
            rows.append(torch.stack([base[i] + gate[which[i]] * (weight[i] @ v) / size for i in range(len(base))]))
    r = torch.stack(rows).view(*x.shape[:2], -1)
    return (
        1 / (1 + (-r[..., :n]).exp()) + 1e-6,
        2 / (1 + (-r[..., n : 2 * n]).exp()),
        r[..., 2 * n :].view(*x.shape[:2], n, n),
    )


def _maps(
    over=(-1,), eps_outside=False, gates=(0, 1, 2), gate_base=False, double=2.0, mean=True, turn=False, norm=True
):
    """The numbers with one thing wrong."""

    def maps(x, weight, base, gate):
        n = x.shape[-2]
        if over == (-1,):
            v = x.flatten(-2)
            square = v.square().mean(-1, keepdim=True) if mean else v.square().sum(-1, keepdim=True)
        else:  # each stream by itself
            square = x.square().mean(-1, keepdim=True).expand_as(x).flatten(-2)
            v = x.flatten(-2)
        divisor = square.sqrt() + 1e-6 if eps_outside else (square + 1e-6).sqrt()
        r = (v / divisor if norm else v) @ weight.T
        scale = torch.cat([gate[g].expand(size) for g, size in zip(gates, (n, n, n * n), strict=True)])
        r = (base + r) * scale if gate_base else base + scale * r
        a, c, m = r.split((n, n, n * n), -1)
        m = m.unflatten(-1, (n, n))
        return torch.sigmoid(a) + 1e-6, double * torch.sigmoid(c), m.mT if turn else m

    return maps


@checks(
    "streams.maps",
    oracle=maps_token_by_token,
    mistakes={
        "each stream is divided by its own size; mHC divides all streams of a token by one": _maps(over=(-2,)),
        "the streams are divided by the length of v; by the root of the MEAN square": _maps(mean=False),
        "v is not normed at all": _maps(norm=False),
        "the gate multiplies the base as well; it belongs to the dynamic part alone": _maps(gate_base=True),
        "one gate for all; each of the three parts has its own": _maps(gates=(0, 0, 0)),
        "reading and writing have each other's gates": _maps(gates=(1, 0, 2)),
        "writing is twice a sigmoid, so that it starts at one": _maps(double=1.0),
        "the logits fill the matrix column by column; row by row": _maps(turn=True),
    },
    alternatives=[_maps()],
    hints=(
        "How many numbers does the mean of the squares go over: D, or n·D? And what does the gate multiply?",
        "Flatten the last two dimensions, divide by the root of the mean square plus eps, multiply by weight.T, cut into n, n "
        "and n·n numbers, and for each part add its piece of base to gate times its piece.",
        "v = x.flatten(-2); r = (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6)) @ weight.T; then "
        "r.split((n, n, n * n), -1) beside base.split((n, n, n * n)) and the three gates.",
    ),
)
def _(draw):
    def problem(n, scale=1.0):
        rows, length, width = draw.integer(1, 4), draw.integer(2, 6), draw.integer(3, 7)
        x = draw.normal(rows, length, n, width, scale=scale) * (1 + torch.arange(n)).view(-1, 1)  # of different size
        m = 2 * n + n * n
        return x, draw.normal(m, n * width, scale=0.3), draw.normal(m), torch.tensor([0.7, -0.4, 1.1])

    four = problem(4)
    graded = call("in_a_row", *four, grad=True)
    yield contract(
        "gives three tensors, inputs left alone, gradients everywhere",
        1,
        [call("maps", *four), graded],
        [Untouched(), Reaches(step=1)],
    )
    yield value("the numbers and their gradients", 2, [graded], rtol=1e-4, atol=1e-5)
    others = [call("maps", *problem(n)) for n in (1, 2, 3)]
    yield value("any number of streams", 1, others, rtol=1e-4, atol=1e-5)


# %% [markdown]
# ## 2. Sinkhorn
#
# Logits, $n \times n$ for every token, become a matrix whose rows and columns sum to one, in the order of the released code:
#
# 1. a softmax of each row, plus $\epsilon$;
# 2. divide each column by its sum plus $\epsilon$;
# 3. `rounds - 1` times: each row by its sum plus $\epsilon$, then each column by its sum plus $\epsilon$.
#
# - `logits` is $(\dots, n, n)$, any number of dimensions in front; so is the result.


# %% task="streams.sinkhorn" title="Sinkhorn" kind="implement" difficulty=1 minutes=15
def sinkhorn(logits, rounds, eps):
    """(..., n, n) -> (..., n, n), doubly stochastic as far as so many rounds bring it."""
    ### BEGIN SOLUTION
    m = logits.softmax(-1) + eps
    m = m / (m.sum(-2, keepdim=True) + eps)
    for _ in range(rounds - 1):
        m = m / (m.sum(-1, keepdim=True) + eps)
        m = m / (m.sum(-2, keepdim=True) + eps)
    return m
    ### END SOLUTION


# %% tags=["driver"]
def both_sums(logits, rounds):
    """Sums of rows and of columns of the result."""
    m = sinkhorn(logits, rounds, 0.0)
    return m.sum(-1), m.sum(-2)


def again(logits, rounds):
    """The result of the result's logarithm."""
    return sinkhorn(sinkhorn(logits, rounds, 0.0).log(), rounds, 0.0)


# %% tags=["judge"]
def sinkhorn_by_factors(logits, rounds, eps):
    """Entry by entry, each matrix by itself."""
    flat = logits.reshape(-1, *logits.shape[-2:])
    n, found = logits.shape[-1], []
    for matrix in flat:
        m = [[matrix[i, j].exp() / matrix[i].exp().sum() + eps for j in range(n)] for i in range(n)]
        for step in range(2 * rounds - 1):
            if step % 2 == 0:
                sums = [sum(m[i][j] for i in range(n)) + eps for j in range(n)]
                m = [[m[i][j] / sums[j] for j in range(n)] for i in range(n)]
            else:
                sums = [sum(m[i]) + eps for i in range(n)]
                m = [[m[i][j] / sums[i] for j in range(n)] for i in range(n)]
        found.append(torch.stack([torch.stack(row) for row in m]))
    return torch.stack(found).view(logits.shape)


def _sinkhorn(first=-1, order=(-2, -1), start=None, extra=0, eps_in=True, together=False):
    """Sinkhorn's rounds in another order, or of something else."""

    def sinkhorn(logits, rounds, eps):
        m = (logits.softmax(first) if start is None else start(logits)) + (eps if eps_in else 0.0)
        for step in range(2 * rounds - 1 + extra):
            if together:
                m = m / (m.sum(-1, keepdim=True) * m.sum(-2, keepdim=True) + eps)
            else:
                m = m / (m.sum(order[step % 2], keepdim=True) + eps)
        return m

    return sinkhorn


@checks(
    "streams.sinkhorn",
    oracle=sinkhorn_by_factors,
    mistakes={
        "the softmax is taken of columns; of rows": _sinkhorn(first=-2),
        "rows are divided before columns, so rows come last; the softmax has just done the rows": _sinkhorn(
            order=(-1, -2)
        ),
        "one division too many: it ends with rows. The softmax is the first round's": _sinkhorn(extra=1),
        "one round is missing": _sinkhorn(extra=-2),
        "one round too many: the softmax and the first division of columns are a round already": _sinkhorn(extra=2),
        "eps is not added to what the softmax gives": _sinkhorn(eps_in=False),
        "the softmax goes over the whole matrix; over each row": _sinkhorn(
            start=lambda x: x.flatten(-2).softmax(-1).view_as(x)
        ),
        "rows and columns are divided at once; one after the other, or it does not converge": _sinkhorn(together=True),
    },
    alternatives=[_sinkhorn()],
    hints=(
        "After the softmax all rows sum to one. Which division is next, and which one is the last of all?",
        "Start with softmax(-1) + eps. Divide by sum(-2, keepdim=True) + eps. Then rounds - 1 times: by sum(-1, ...) + eps, "
        "and by sum(-2, ...) + eps.",
        "m = logits.softmax(-1) + eps; m = m / (m.sum(-2, keepdim=True) + eps); and a loop with m.sum(-1, keepdim=True) and "
        "m.sum(-2, keepdim=True).",
    ),
)
def _(draw):
    logits = draw.normal(draw.integer(2, 4), 3, 4, 4, scale=1.5)
    plain = call("sinkhorn", logits, 3, 0.02, grad=True)
    yield contract("keeps the shape, leaves the logits alone, gradients arrive", 1, [plain], [Untouched(), Reaches()])
    ragged = [call("sinkhorn", draw.normal(n, n, scale=2.0), rounds, 0.02) for n, rounds in ((2, 1), (3, 2), (5, 6))]
    yield value("the numbers, after few rounds, with an eps that shows", 2, [plain, *ragged], rtol=1e-4, atol=1e-5)
    mild = draw.normal(6, 4, 4, scale=0.7)
    one = torch.ones(6, 4)
    yield invariant(
        "after many rounds rows and columns sum to one",
        1,
        [call("both_sums", mild, 60)],
        [Equals(part=Part(path=(0,)), expected=one, atol=1e-5), Equals(part=Part(path=(1,)), expected=one, atol=1e-5)],
    )
    yield invariant(
        "what is doubly stochastic already stays as it is",
        1,
        [call("sinkhorn", mild, 60, 0.0), call("again", mild, 60)],
        [
            Same(
                left=Part(step=0),
                right=Part(step=1),
                rtol=1e-4,
                atol=1e-5,
                says="a doubly stochastic matrix was changed",
            )
        ],
    )


# %% [markdown]
# ## 3. The gain of a chain
#
# A signal that passes sub-layers $1, 2, \dots, L$ is multiplied by $B_L \cdots B_2 B_1$. The composite gain of a matrix is the
# greatest sum of absolute values of a row or a column of it (mHC, section 3.1). How does it grow with depth?
#
# - `mixes` is $(L, \dots, n, n)$: the matrices of the sub-layers, first to last, for any number of tokens.
# - Return $(L, \dots)$: the gain of $B_1$, of $B_2 B_1$, of $B_3 B_2 B_1$ and so on.


# %% task="streams.gain" title="The gain of a chain" kind="implement" difficulty=1 minutes=15 forbid=["multi_dot", "chain_matmul"]
def gains(mixes):
    """(L, ..., n, n) -> (L, ...), the composite gain of the first matrix, the first two, ..."""
    ### BEGIN SOLUTION
    product, found = torch.eye(mixes.shape[-1], dtype=mixes.dtype), []
    for mix in mixes:
        product = mix @ product
        size = product.abs()
        found.append(torch.maximum(size.sum(-1).amax(-1), size.sum(-2).amax(-1)))
    return torch.stack(found)
    ### END SOLUTION


# %% tags=["judge"]
def gains_by_sums(mixes):
    """Each prefix multiplied anew, as sums over paths through the streams."""
    found = []
    for depth in range(1, len(mixes) + 1):
        product = mixes[depth - 1]
        for mix in reversed(mixes[: depth - 1]):
            product = (product[..., :, :, None] * mix[..., None, :, :]).sum(-2)
        rows, columns = (product.abs().sum(dim).max(-1).values for dim in (-1, -2))
        found.append(torch.where(rows > columns, rows, columns))
    return torch.stack(found)


def _gains(behind=False, sides=(-1, -2), absolute=True, inner=False, over=None):
    """The gain with one thing wrong."""

    def gains(mixes):
        product, found = mixes[0], []
        for i, mix in enumerate(mixes):
            if i:
                product = product @ mix if behind else mix @ product
            if inner:
                product = product.abs()
            size = product.abs() if absolute else product
            sums = torch.stack([size.sum(side).amax(-1) for side in sides])
            found.append(sums.amax(0) if over is None else over(product))
        return torch.stack(found)

    return gains


@checks(
    "streams.gain",
    oracle=gains_by_sums,
    mistakes={
        "a later matrix multiplies from the left: B2 B1, not B1 B2": _gains(behind=True),
        "rows alone are the way forward; the gradient's way back needs the columns too": _gains(sides=(-1,)),
        "columns alone are the gradient's way back; the way forward needs the rows too": _gains(sides=(-2,)),
        "signs cancel in the sums; absolute values first": _gains(absolute=False),
        "absolute values are taken before multiplying; a product may cancel, and only then is its size asked for": _gains(
            inner=True
        ),
        "that is the spectral norm; the composite gain is a sum of absolute values": _gains(
            over=lambda m: torch.linalg.matrix_norm(m, 2)
        ),
        "the greatest entry is not the greatest sum of a row or a column": _gains(
            over=lambda m: m.abs().amax((-1, -2))
        ),
    },
    alternatives=[
        _gains(),
        _gains(over=lambda m: torch.maximum(torch.linalg.matrix_norm(m, 1), torch.linalg.matrix_norm(m, torch.inf))),
    ],
    hints=(
        "X passes B1 first. From which side does B2 multiply what B1 made of it?",
        "Keep a running product; each new matrix multiplies from the left. Of its absolute values sum rows and columns, take "
        "the greatest of all these sums.",
        "product = mix @ product; size = product.abs(); torch.maximum(size.sum(-1).amax(-1), size.sum(-2).amax(-1)); stack.",
    ),
)
def _(draw):
    def chain(depth, *tokens, n=3):
        return torch.eye(n) + draw.normal(depth, *tokens, n, n, scale=0.4)

    plain = call("gains", chain(5, 2, 3), grad=True)
    yield contract("gives a gain for every depth and token", 1, [plain], [Untouched()])
    cases = [call("gains", chain(draw.integer(2, 7), n=n)) for n in (2, 4) for _ in draw.rounds(2)]
    tall = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])  # rows sum to 2, a column to 4
    signs = torch.tensor([[[1.0, -1.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]])  # the product is the identity
    yield value(
        "the gains", 2, [plain, *cases, call("gains", tall), call("gains", tall.mT), call("gains", signs)], rtol=1e-4
    )


# %% [markdown]
# ## 4. Debug: a sub-layer that reads too late
#
# A sub-layer on streams: $X' = M^\top X + c\,F(a X)$. The code below runs, trains, and keeps every stream in bounds. But a
# checkpoint of somebody else gives nonsense. What shows the two bugs are laws:
#
# - if nothing is written ($c = 0$), stream $k$ becomes $\sum_j M_{jk} X_j$: row $j$ of $M$ says where stream $j$ goes;
# - what a sub-layer reads does not depend on how the streams are mixed: with $a$ all on stream 1, $F$ gets $X_1$.


# %% task="streams.layer" title="A sub-layer that reads too late" kind="debug" difficulty=2 minutes=15
def layer(x, a, mix, c):
    """Streams (..., n, D), a (..., n), M (..., n, n), c (..., n) -> (..., n, D); F is ``sub_layer``."""
    ### BEGIN SOLUTION
    read = torch.einsum("...j,...jd->...d", a, x)
    mixed = torch.einsum("...jk,...jd->...kd", mix, x)
    return mixed + c[..., None] * sub_layer(read)[..., None, :]
    ### STUB
    # x = torch.einsum("...kj,...jd->...kd", mix, x)
    # read = torch.einsum("...j,...jd->...d", a, x)
    # return x + c[..., None] * sub_layer(read)[..., None, :]
    ### END SOLUTION


# %% tags=["driver"]
def what_is_written(x, a, mix, c):
    """The result less that of a layer that writes nothing."""
    return layer(x, a, mix, c) - layer(x, a, mix, torch.zeros_like(c))


# %% tags=["judge"]
def layer_stream_by_stream(x, a, mix, c):
    """Sums written out."""
    n = x.shape[-2]
    y = sub_layer(sum(a[..., j, None] * x[..., j, :] for j in range(n)))
    rows = [sum(mix[..., j, k, None] * x[..., j, :] for j in range(n)) + c[..., k, None] * y for k in range(n)]
    return torch.stack(rows, dim=-2)


def _layer(turned=True, late=False, write=lambda c, a: c, mixed_write=False):
    def layer(x, a, mix, c):
        m = mix.mT if turned else mix
        mixed = m @ x
        y = sub_layer((a[..., None, :] @ (mixed if late else x))[..., 0, :])
        w = write(c, a)[..., None]
        return m @ (x + w * y[..., None, :]) if mixed_write else mixed + w * y[..., None, :]

    return layer


@checks(
    "streams.layer",
    oracle=layer_stream_by_stream,
    mistakes={
        "the sub-layer still reads the mixed streams; it reads X as it came in": _layer(late=True),
        "M multiplies, where its transpose should: row j says where stream j goes": _layer(turned=False),
        "what is written is mixed as well; it joins the streams behind the mixing": _layer(mixed_write=True),
        "the answer is written with the factors of reading": _layer(write=lambda c, a: a),
    },
    alternatives=[_layer()],
    hints=(
        "Set c to zero and M to a permutation that is not its own transpose, a turn of three streams. Where does stream 1 go? Then "
        "look at which x the sub-layer is given.",
        "Two lines use the wrong thing: the first einsum sums over the second index of M, and it overwrites x before x is read.",
        "Read first: einsum('...j,...jd->...d', a, x). Then mix: einsum('...jk,...jd->...kd', mix, x). Then add.",
    ),
)
def _(draw):
    def problem(*tokens, n=3, d=4):
        mix = draw.normal(*tokens, n, n).softmax(-1)
        return draw.normal(*tokens, n, d), draw.normal(*tokens, n).sigmoid(), mix, 2 * draw.normal(*tokens, n).sigmoid()

    x, a, mix, c = problem(2, 5)
    yield value(
        "any streams, any numbers, gradients too", 2, [call("layer", x, a, mix, c, grad=True)], rtol=1e-4, atol=1e-5
    )
    turn = torch.eye(3)[[1, 2, 0]].expand(2, 5, 3, 3)
    nothing = torch.zeros(2, 5, 3)
    yield invariant(
        "a permutation sends stream j where row j has its one",
        1,
        [call("layer", x, a, turn, nothing)],
        [Equals(expected=x[..., [2, 0, 1], :])],
    )
    same = torch.eye(3).expand(2, 5, 3, 3)
    yield invariant(
        "what is read does not depend on how streams are mixed",
        1,
        [call("what_is_written", x, a, turn, c), call("what_is_written", x, a, same, c)],
        [
            Same(
                left=Part(step=0),
                right=Part(step=1),
                rtol=1e-4,
                atol=1e-5,
                says="with other mixing the sub-layer reads something else",
            )
        ],
    )


# %% [markdown]
# ## 5. Predict: what streams cost and do
#
# Write down, before you run the cell below the check, each to within three percent:
#
# - `parameters`: of one sub-layer's mixing (static numbers, $W$, gates) in V4-Flash: four streams of 4,096 channels.
# - `explodes`: two streams are mixed by $\begin{pmatrix}0.9 & 0.2\\ 0.2 & 0.9\end{pmatrix}$ in each of 100 sub-layers. What is
#   the composite gain of the whole?
# - `forgets`: and by $\begin{pmatrix}0.9 & 0.1\\ 0.1 & 0.9\end{pmatrix}$: the gain is one. Which share of the *difference* between
#   the two streams is left after 10 sub-layers?
# - `corners`: how many corners has the Birkhoff polytope of V4's four streams?


# %% task="streams.predict" title="What streams cost and do" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
parameters = (4 + 4 + 16) * (4 * 4096 + 1) + 3
explodes = 1.1**100
forgets = 0.8**10
corners = 4 * 3 * 2
### STUB
# parameters = None  # numbers
# explodes = None  # times
# forgets = None  # a share, between 0 and 1
# corners = None  # a whole number
### END SOLUTION

# %% [markdown]
# Measure the second and the third:

# %%
for off in (0.2, 0.1):
    product = torch.linalg.matrix_power(
        torch.tensor([[0.9, off], [off, 0.9]], dtype=torch.float64), 100 if off > 0.1 else 10
    )
    print(f"gain {product.abs().sum(1).max():,.6g}, of the difference {product[0, 0] - product[0, 1]:.4f} is left")

# %% tags=["judge"]
_told = {"parameters": 393_243, "explodes": 13_780.6, "forgets": 0.10737, "corners": 24}


@checks(
    "streams.predict",
    oracle=_told,
    mistakes={
        "W reads all streams: 4 · 4096 channels": _told | {"parameters": 24 * 4097 + 3},
        "reading, writing and mixing are 4 + 4 + 16 numbers": _told | {"parameters": 16 * 16_385 + 3},
        "that is a whole layer, of two sub-layers; one of them was asked for": _told | {"parameters": 786_486},
        "gains multiply, they do not add up": _told | {"explodes": 11.0},
        "0.9 is only the diagonal: what comes over from the other stream adds to it": _told | {"explodes": 0.9**100},
        "the difference is multiplied by 0.9 - 0.1 each time": _told | {"forgets": 0.9**10},
        "it does not sink by a fifth of the first difference each time, but of what is left": _told | {"forgets": 0.0},
        "the corners are the permutations of four streams, not pairs of streams": _told | {"corners": 16},
        "that is the number of matrices' entries that are free, not of corners": _told | {"corners": 9},
    },
    hints=(
        "How many numbers does a token need, and from how many channels is each made? What do the matrices do to a vector of "
        "equal entries, and to one of opposite entries?",
        "24 numbers from 16,384 channels, a static one each, three gates. Equal entries are multiplied by the row sum, opposite "
        "ones by the difference of the entries. Permutations of four.",
        "24 · 16,385 + 3; 1.1 to the hundredth; 0.8 to the tenth; 4!.",
    ),
)
def _(draw):
    yield value("parameters of a sub-layer's mixing", 1, [call("parameters")], rtol=0.03, atol=0.0)
    yield value("the gain of a hundred free matrices", 1, [call("explodes")], rtol=0.03, atol=0.0)
    yield value("what is left of a difference", 1, [call("forgets")], rtol=0.03, atol=0.0)
    yield value("corners of the polytope", 1, [call("corners")], rtol=0.01, atol=0.0)
