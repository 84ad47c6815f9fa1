# %% [markdown]
# # Exercises 14 · Muon
#
# Five tasks on [lesson 14](../../notebooks/14_muon.ipynb), about 80 minutes. Each has a statement, a cell for your answer,
# and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs belongs
# into its cell.
#
# `hint("muon.iterate")` helps in three steps, `solution("muon.iterate")` shows ours once you have tried, and `status()` at
# the end tells where you are.

# %% tags=["given"]
import torch

STEEP, SETTLE = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)


def orthogonal(x):
    """U V^T of every matrix (..., R, C), by the definition."""
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


# %% [markdown]
# ## 1. Newton and Schulz
#
# Orthogonalise without an SVD, as V4 does (report, section 2.4): divide by the Frobenius norm, then for each $(a, b, c)$ in
# turn
#
# $$X \leftarrow a X + b\,(X X^\top)\,X + c\,(X X^\top)^2 X$$
#
# - `x` is $(\dots, R, C)$, one matrix or many; each is divided by its **own** norm (plus $10^{-7}$).
# - `coefficients` is a list of triples.
# - A tall matrix ($R > C$) is turned before and turned back behind, so that the products are small. For exact arithmetic that
#   changes nothing, and you are checked on it: the largest product may have as many rows as the shorter side.


# %% task="muon.iterate" title="Newton and Schulz" kind="implement" difficulty=2 minutes=20 forbid=["svd", "eigh", "qr", "pinv"]
def iterate(x, coefficients):
    """(..., R, C) -> (..., R, C), all singular values near one."""
    ### BEGIN SOLUTION
    if x.shape[-2] > x.shape[-1]:
        return iterate(x.mT, coefficients).mT
    x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
    ### END SOLUTION


# %% tags=["driver"]
def values_after(x):
    """Singular values after V4's ten iterations."""
    made = iterate(x, [STEEP] * 8 + [SETTLE] * 2)
    return torch.linalg.eigvalsh(made @ made.mT).sqrt()


class Watched(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the sides of what products make."""

    def __init__(self):
        super().__init__()
        self.sides = [0]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.__name__.split(".")[0] in ("mm", "bmm", "addmm", "baddbmm"):
            self.sides.append(min(out.shape[-2:]))
        return out


def shorter_side(x):
    """The shorter side of the largest thing that a product makes."""
    with Watched() as watch:
        iterate(x, [SETTLE])
    return max(watch.sides)


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
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


def iterate_by_values(x, coefficients):
    """The polynomial of each singular value."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / (s.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return u @ (s[..., None] * v)


def _iterate(norm=lambda x: x.square().sum((-2, -1), keepdim=True).sqrt(), turn=True, form=None, upto=None):
    """Iterations with one thing wrong."""

    def iterate(x, coefficients):
        tall = turn and x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / (norm(x) + 1e-7)
        for a, b, c in coefficients[:upto]:
            g = x @ x.mT
            x = a * x + b * g @ x + c * g @ g @ x if form is None else form(x, g, a, b, c)
        return x.mT if tall else x

    return iterate


@checks(
    "muon.iterate",
    oracle=iterate_by_values,
    mistakes={
        "one norm for all matrices together; each has its own": _iterate(norm=lambda x: x.square().sum().sqrt()),
        "each row is divided by its own length; the whole matrix by its Frobenius norm": _iterate(
            norm=lambda x: x.square().sum(-1, keepdim=True).sqrt()
        ),
        "the square of the norm divides; its root": _iterate(norm=lambda x: x.square().sum((-2, -1), keepdim=True)),
        "nothing divides x: singular values above one run away": _iterate(norm=lambda x: 1.0),
        "the last term is one factor X X^T short": _iterate(form=lambda x, g, a, b, c: a * x + b * g @ x + c * g @ x),
        "the gram matrix is squared number by number, not multiplied by itself": _iterate(
            form=lambda x, g, a, b, c: a * x + b * g @ x + c * g.square() @ x
        ),
        "the first coefficients are used in every iteration": lambda x, coefficients: _iterate()(
            x, [coefficients[0]] * len(coefficients)
        ),
        "the last iteration is missing": _iterate(upto=-1),
        "tall matrices are not turned: the products are as large as the longer side": _iterate(turn=False),
    },
    alternatives=[
        _iterate(),
        _iterate(norm=lambda x: torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)),
        _iterate(
            form=lambda x, g, a, b, c: torch.matmul(a * torch.eye(g.shape[-1], dtype=x.dtype) + b * g + c * g @ g, x)
        ),
    ],
    hints=(
        "Over which dimensions goes the norm, if x holds many matrices? And which of X X^T and X^T X is the smaller?",
        "If there are more rows than columns, call yourself with x.mT and turn the result. Otherwise divide, then loop: "
        "gram = x @ x.mT, and (b gram + c gram gram) x plus a x.",
        "x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7); for a, b, c in coefficients: gram = x @ x.mT; "
        "x = a * x + (b * gram + c * gram @ gram) @ x.",
    ),
)
def _(draw):
    recipe = [STEEP, STEEP, SETTLE]
    many = draw.normal(3, 5, 8) * torch.tensor([0.1, 1.0, 30.0]).view(-1, 1, 1)
    plain = call("iterate", many, recipe, grad=True)
    yield contract("keeps the shape, changes no input, gradients arrive", 1, [plain], [Untouched(), Reaches()])
    others = [
        call("iterate", draw.normal(*shape, scale=3.0), recipe) for shape in ((6, 6), (4, 9), (2, 2, 9, 4), (1, 7))
    ]
    yield value("the polynomial of every singular value", 2, [plain, *others], rtol=1e-3, atol=1e-4)
    square = draw.normal(2, 6, 10) * torch.tensor([0.1, 1.0]).view(-1, 1, 1)
    yield invariant(
        "after V4's ten all of them are one",
        1,
        [call("values_after", square)],
        [Equals(expected=torch.ones(2, 6), atol=5e-3)],
    )
    yield invariant(
        "a tall matrix is turned",
        1,
        [call("shorter_side", draw.normal(40, 4))],
        [Between(high=4, says="tall matrices are not turned: the products are as large as the longer side")],
    )


# %% [markdown]
# ## 2. A step
#
# One step of Muon for one matrix (V4 report, algorithm 1):
#
# $$M \leftarrow \mu M + G, \qquad W \leftarrow (1 - \eta\lambda)\,W - \eta \cdot 0.18 \sqrt{\max(R, C)} \;\mathrm{orthogonal}(\mu M + G)$$
#
# The momentum inside `orthogonal` is the new one: Nesterov's look ahead. `orthogonal` is given above.


# %% task="muon.step" title="A step" kind="implement" difficulty=1 minutes=15
def step(weight, grad, momentum, lr, decay=0.1, mu=0.95):
    """(R, C) each -> the new weight and the new momentum, both (R, C). Nothing is changed in place."""
    ### BEGIN SOLUTION
    momentum = mu * momentum + grad
    update = 0.18 * max(weight.shape) ** 0.5 * orthogonal(mu * momentum + grad)
    return (1 - lr * decay) * weight - lr * update, momentum
    ### END SOLUTION


# %% tags=["driver"]
def travel(weight, grads, lr):
    """Weights after several steps."""
    momentum = torch.zeros_like(weight)
    for grad in grads:
        weight, momentum = step(weight, grad, momentum, lr)
    return weight


def length(weight, grad):
    """Root mean square of a first step without decay, over the learning rate."""
    after, _ = step(weight, grad, torch.zeros_like(weight), 0.01, decay=0.0)
    return ((after - weight) / 0.01).square().mean().sqrt()


# %% tags=["judge"]
def step_by_inverse_root(weight, grad, momentum, lr, decay=0.1, mu=0.95):
    """U V^T as G (G^T G)^(-1/2), by eigenvalues of the smaller gram matrix."""
    new = momentum * mu + grad
    x = new * mu + grad
    tall = x.shape[0] > x.shape[1]
    x = x if tall else x.T
    values, vectors = torch.linalg.eigh(x.T @ x)
    made = x @ (vectors / values.sqrt()) @ vectors.T
    made = made if tall else made.T
    return weight - lr * decay * weight - 0.18 * lr * made * max(weight.shape) ** 0.5, new


def _step(
    look=True,
    old=False,
    size=lambda r, c: max(r, c) ** 0.5,
    gamma=0.18,
    decayed=lambda lr, decay: lr * decay,
    keep=1.0,
    order=True,
):
    def step(weight, grad, momentum, lr, decay=0.1, mu=0.95):
        new = mu * momentum + keep * grad
        inner = (mu * momentum + grad if old else mu * new + grad) if look else new
        inner = orthogonal(inner) if order else mu * new + orthogonal(grad)
        update = gamma * size(*weight.shape) * inner
        return (1 - decayed(lr, decay)) * weight - lr * update, new

    return step


@checks(
    "muon.step",
    oracle=step_by_inverse_root,
    mistakes={
        "the new momentum is orthogonalised; Nesterov adds the gradient once more to mu times it": _step(look=False),
        "the gradient of this step is orthogonalised before the momentum is added": _step(order=False),
        "the momentum averages: (1 - mu) G; Muon's adds the whole gradient": _step(keep=0.05),
        "0.18 is missing": _step(gamma=1.0),
        "the root of rows alone; a wide matrix is longer than it is high": _step(size=lambda r, c: r**0.5),
        "the root of the shorter side; of the longer": _step(size=lambda r, c: min(r, c) ** 0.5),
        "the longer side itself; its root": _step(size=max),
        "the decay is not multiplied by the learning rate": _step(decayed=lambda lr, decay: decay),
    },
    alternatives=[_step()],
    hints=(
        "In which order: momentum, look ahead, orthogonalise, scale? Which momentum is in the look ahead, the old or the new?",
        "First momentum = mu * momentum + grad. Then orthogonal(mu * momentum + grad), times 0.18 and the root of the longer side.",
        "return (1 - lr * decay) * weight - lr * 0.18 * max(weight.shape) ** 0.5 * orthogonal(mu * momentum + grad), momentum",
    ),
)
def _(draw):
    def case(rows, columns):
        return tuple(draw.normal(rows, columns) for _ in range(3))

    wide, tall = case(5, 9), case(8, 3)
    yield contract("gives weight and momentum, changes no input", 1, [call("step", *wide, 0.3)], [Untouched()])
    yield value(
        "one step", 2, [call("step", *tall, 0.2, decay=0.4, mu=0.8), call("step", *wide, 0.3)], rtol=1e-3, atol=1e-4
    )
    yield value("four steps", 1, [call("travel", draw.normal(6, 4), draw.normal(4, 6, 4), 0.3)], rtol=1e-3, atol=1e-4)
    yield invariant(
        "every shape moves by 0.18 times the learning rate",
        1,
        [call("length", *case(4, 11)[:2]), call("length", *case(7, 7)[:2]), call("length", *case(12, 3)[:2])],
        [Equals(part=Part(step=i), expected=torch.tensor(0.18), rtol=1e-3) for i in range(3)],
    )


# %% [markdown]
# ## 3. What is a matrix?
#
# A parameter may hold several matrices: experts in its first dimensions, and in its rows, one below the other, a gate and
# an up matrix, or queries, keys and values. Each is a matrix of its own to Muon (V4 report, section 4.2), with its own
# directions and its own length.
#
# - `x` is $(\dots, R, C)$; `heights` says how many rows each of the matrices has, they add up to $R$.
# - Return what Muon subtracts, learning rate apart: $0.18 \sqrt{\max(r, C)} \cdot \mathrm{orthogonal}$ of each, where it was.


# %% task="muon.apart" title="What is a matrix?" kind="implement" difficulty=1 minutes=15
def apart(x, heights):
    """(..., R, C), whole numbers that add up to R -> (..., R, C)."""
    ### BEGIN SOLUTION
    parts = x.split(list(heights), dim=-2)
    return torch.cat([0.18 * max(part.shape[-2:]) ** 0.5 * orthogonal(part) for part in parts], dim=-2)
    ### END SOLUTION


# %% tags=["driver"]
def first_part(x, heights):
    """What the first of the matrices gets."""
    return apart(x, heights)[..., : heights[0], :]


# %% tags=["judge"]
def apart_one_by_one(x, heights):
    """Matrix by matrix, with the polar factor from eigenvalues."""
    flat = x.reshape(-1, *x.shape[-2:])
    found = torch.zeros_like(flat)
    for i, stack in enumerate(flat):
        top = 0
        for height in heights:
            m = stack[top : top + height]
            small = m if height <= m.shape[1] else m.T
            values, vectors = torch.linalg.eigh(small @ small.T)
            made = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ small
            found[i, top : top + height] = 0.18 * max(m.shape) ** 0.5 * (made if small is m else made.T)
            top += height
    return found.view(x.shape)


def _apart(split=True, size=None, equal=False, flat=False):
    def apart(x, heights):
        if flat:
            return _apart()(x.flatten(0, -2), [x.flatten(0, -2).shape[0]]).view(x.shape)
        n = x.shape[-2]
        parts = x.split([n // len(heights)] * len(heights) if equal else list(heights) if split else [n], dim=-2)
        longer = [max(part.shape[-2:]) if size is None else size(part, x) for part in parts]
        return torch.cat([0.18 * m**0.5 * orthogonal(part) for part, m in zip(parts, longer, strict=True)], dim=-2)

    return apart


@checks(
    "muon.apart",
    oracle=apart_one_by_one,
    mistakes={
        "the whole parameter is one matrix here; cut its rows": _apart(split=False),
        "all experts are one tall matrix here; each is its own": _apart(flat=True),
        "the length comes from the parameter's shape; from each matrix's own": _apart(
            size=lambda part, x: max(x.shape[-2:])
        ),
    },
    alternatives=[_apart()],
    hints=(
        "Which dimension are the matrices stacked along, and which function of torch cuts a tensor into pieces of given sizes?",
        "Cut with split along dim=-2, orthogonalise and scale each piece by its own longer side, put them together with cat.",
        "torch.cat([0.18 * max(p.shape[-2:]) ** 0.5 * orthogonal(p) for p in x.split(list(heights), dim=-2)], dim=-2)",
    ),
)
def _(draw):
    stack, fused = draw.normal(3, 14, 8), draw.normal(15, 6)
    experts = call("apart", stack, [7, 7], grad=False)
    yield contract("keeps the shape, changes no input", 1, [experts], [Untouched()])
    several = [
        call("apart", fused, [9, 3, 3]),
        call("apart", draw.normal(2, 2, 6, 4), [6]),
        call("apart", draw.normal(2, 10, 4), [8, 2]),
    ]
    yield value("every matrix by itself", 2, [experts, *several], rtol=1e-3, atol=1e-4)
    loud = fused.clone()
    loud[9:] *= 100
    yield invariant(
        "a loud neighbour changes nothing",
        1,
        [call("first_part", fused, [9, 3, 3]), call("first_part", loud, [9, 3, 3])],
        [
            Same(
                left=Part(step=0),
                right=Part(step=1),
                rtol=1e-3,
                atol=1e-4,
                says="another matrix of the parameter changes this one's step",
            )
        ],
    )


# %% [markdown]
# ## 4. Debug: a batch with side effects
#
# Small matrices are orthogonalised together, in batches. The code below has two bugs. It runs, and each matrix comes out as
# some mixture of its own directions. Two laws show what is wrong:
#
# - what becomes of a matrix does not depend on the others in its batch;
# - the singular *vectors* stay: $\langle X, \mathrm{result} \rangle$ is the sum of the singular values of $X$.


# %% task="muon.batch" title="A batch with side effects" kind="debug" difficulty=2 minutes=15
def together(x):
    """(N, R, C) -> (N, R, C), each matrix orthogonalised by ten iterations."""
    ### BEGIN SOLUTION
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in [STEEP] * 8 + [SETTLE] * 2:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
    ### STUB
    # x = x / (torch.linalg.vector_norm(x) + 1e-7)
    # for a, b, c in [STEEP] * 8 + [SETTLE] * 2:
    #     gram = x @ x.mT
    #     x = a * x + (b * gram + c * gram) @ x
    # return x
    ### END SOLUTION


# %% tags=["driver"]
def second(x):
    """What becomes of the second matrix."""
    return together(x)[1]


def agreement(x):
    """<X, result> of every matrix, over the sum of its singular values."""
    return (x * together(x)).sum((-2, -1)) / torch.linalg.svdvals(x).sum(-1)


# %% tags=["judge"]
def together_by_svd(x):
    """V4's polynomial of the singular values of one matrix after the other."""
    found = []
    for m in x:
        u, s, v = torch.linalg.svd(m, full_matrices=False)
        s = s / (s.square().sum().sqrt() + 1e-7)
        for a, b, c in [STEEP] * 8 + [SETTLE] * 2:
            s = a * s + b * s**3 + c * s**5
        found.append(u @ torch.diag(s) @ v)
    return torch.stack(found)


def _together(own=True, square=True, settle=SETTLE):
    def together(x):
        norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) if own else torch.linalg.vector_norm(x)
        x = x / (norm + 1e-7)
        for a, b, c in [STEEP] * 8 + [settle] * 2:
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram if square else gram)) @ x
        return x

    return together


@checks(
    "muon.batch",
    oracle=together_by_svd,
    mistakes={
        "the norm is still that of the whole batch; each matrix has its own": _together(own=False),
        "c still multiplies the gram matrix, not its square": _together(square=False),
        "the last two iterations are steep as well, and nothing settles": _together(settle=STEEP),
    },
    alternatives=[_together()],
    hints=(
        "Put a matrix into a batch with a very loud one. What is it divided by? And which power of the singular values does each "
        "of the three terms give?",
        "vector_norm needs dim=(-2, -1) and keepdim=True. The third term needs the gram matrix times itself.",
        "x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7), and a * x + (b * gram + c * gram @ gram) @ x.",
    ),
)
def _(draw):
    quiet = draw.normal(3, 5, 7)
    loud = quiet.clone()
    loud[0] *= 1e4
    yield value(
        "the numbers", 2, [call("together", loud), call("together", draw.normal(2, 4, 4))], rtol=1e-2, atol=1e-2
    )
    yield invariant(
        "a loud neighbour changes nothing",
        1,
        [call("second", loud), call("second", quiet), call("agreement", loud)],
        [
            Same(
                left=Part(step=0), right=Part(step=1), rtol=1e-2, atol=1e-2, says="with a loud neighbour another result"
            ),
            Equals(part=Part(step=2), expected=torch.ones(3), rtol=1e-2),
        ],
    )


# %% [markdown]
# ## 5. Predict: lengths, iterations, bills
#
# Write down, before you run the cell below the check:
#
# - `entry`: the root mean square of the entries of an orthogonalised matrix of 2,048 x 512 (to 2 %);
# - `steep`: how many steep iterations (slope 3.4445 at zero) it takes until a singular value of 0.001 is above 0.5;
# - `ratio`: a tall matrix of 4,096 x 512 is iterated without turning it. How many times the FLOPs is that? Three products an
#   iteration: $X X^\top$, its square, and the square's product with $X$ (to 3 %);
# - `saved`: the optimiser of a model with a billion weights in matrices, in float32. How many GB fewer does Muon remember than
#   AdamW?


# %% task="muon.predict" title="Lengths, iterations, bills" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
entry = 1 / 2048**0.5
steep = 6
ratio = (4 * 4096**2 * 512 + 2 * 4096**3) / (4 * 512**2 * 4096 + 2 * 512**3)
saved = 4.0
### STUB
# entry = None
# steep = None  # iterations
# ratio = None  # times
# saved = None  # GB, of 10^9 bytes
### END SOLUTION

# %% [markdown]
# Iterate and see:

# %%
a, b, c = STEEP
s, n = 0.001, 0
while s < 0.5:
    s, n = a * s + b * s**3 + c * s**5, n + 1
print(f"{n} iterations to {s:.3f}")
print(f"{orthogonal(torch.randn(2048, 512)).square().mean().sqrt():.4f} a typical entry")

# %% tags=["judge"]
_told = {"entry": 0.022097, "steep": 6, "ratio": 37.647, "saved": 4.0}


@checks(
    "muon.predict",
    oracle=_told,
    mistakes={
        "the shorter side counts the ones, the longer one is left under the root": _told | {"entry": 0.044194},
        "that is the length of a column, not of an entry": _told | {"entry": 1.0},
        "3.4445 to the fifth is 485, not yet 500; and the cubic term takes some away": _told | {"steep": 5},
        "with a slope of 2 it would be nine; the steep ones have 3.44": _told | {"steep": 9},
        "the square of the gram matrix grows with the cube of the side": _told | {"ratio": 8.0},
        "only the gram matrix's square is 512 times dearer; the two other products are 8 times": _told
        | {"ratio": 512.0},
        "AdamW keeps two numbers a weight, Muon one; the one remains": _told | {"saved": 8.0},
        "a float32 has four bytes": _told | {"saved": 1.0},
    },
    hints=(
        "How many singular values of one are there, and over how many entries is their sum of squares spread? By what is a tiny "
        "singular value multiplied in each iteration?",
        "512 ones over 2048 · 512 entries. 0.001 · 3.4445^n. With side r and length c: 2r²c + 2r³ + 2r²c. One number of four bytes.",
        "1/√2048; 6; (4·4096²·512 + 2·4096³)/(4·512²·4096 + 2·512³); 4 GB.",
    ),
)
def _(draw):
    yield value("the size of an entry", 1, [call("entry")], rtol=0.02, atol=0.0)
    yield value("steep iterations", 1, [call("steep")], rtol=1e-6, atol=0.0)
    yield value("what turning saves", 1, [call("ratio")], rtol=0.03, atol=0.0)
    yield value("memory saved", 1, [call("saved")], rtol=0.02, atol=0.0)
