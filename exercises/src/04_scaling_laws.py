# %% [markdown]
# # Exercises 04 · Scaling laws
#
# Six tasks on [lesson 04](../../notebooks/04_scaling_laws.ipynb), about 80 minutes. Each has a statement, a cell for your
# answer, and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs
# belongs into its cell.
#
# `hint("scaling.flops")` helps in three steps, `solution("scaling.flops")` shows ours once you have tried, and `status()`
# at the end tells where you are.

# %% tags=["given"]
import math

import torch

# %% [markdown]
# ## 1. What does a token cost?
#
# V1 (arXiv 2401.02954, section 3.2) compares three measures of a model's size, all in FLOPs for a training token:
#
# - `6N1`: six for each weight in the blocks. A block of width $d$ has four square matrices in attention, and in SwiGLU
#   three between $d$ and $\frac83 d$ channels;
# - `6N2`: the same with the table of the vocabulary, $V d$ weights, taken once;
# - `M`: the blocks with attention's scores, and nothing of the vocabulary. Forward, each query meets all $s$ keys of its
#   sequence and then weighs $s$ values: $2sd$ FLOPs each. (The whole square: the mask's half is not taken off.) A
#   backward pass costs twice a forward pass.
#
# Return them as whole numbers.


# %% task="scaling.flops" title="What does a token cost?" kind="implement" difficulty=1 minutes=10
def measures(n_layers, d_model, seq_len, vocab_size):
    """Four whole numbers -> {"6N1": ..., "6N2": ..., "M": ...}, FLOPs for a training token."""
    ### BEGIN SOLUTION
    n1 = 12 * n_layers * d_model**2
    scores = 4 * n_layers * d_model * seq_len
    return {"6N1": 6 * n1, "6N2": 6 * (n1 + vocab_size * d_model), "M": 6 * n1 + 3 * scores}
    ### END SOLUTION


# %% tags=["driver"]
def beyond_weights(n_layers, d_model, seq_len, vocab_size):
    """What M counts and 6N1 does not."""
    found = measures(n_layers, d_model, seq_len, vocab_size)
    return found["M"] - found["6N1"]


# %% tags=["judge"]
from minideepseek.judge.author import (
    Between,
    Differs,
    Equals,
    Part,
    Same,
    Untouched,
    call,
    checks,
    contract,
    invariant,
    value,
)


def measures_by_products(n_layers, d_model, seq_len, vocab_size):
    """(rows, columns) of every matrix that a token meets: 2 FLOPs an entry forward, three times that in all."""
    weights = [(d_model, d_model)] * 4 + [(d_model, 8 * d_model)]  # three of 8/3 d are as many entries as one of 8 d
    scores = [(seq_len, d_model)] * 2

    def cost(*matrices):
        return sum(3 * 2 * rows * columns for rows, columns in matrices)

    blocks = n_layers * cost(*weights)
    return {
        "6N1": blocks,
        "6N2": blocks + cost((vocab_size, d_model)),
        "M": blocks + n_layers * cost(*scores),
    }


def _measures(weights=72, scores=12, table=6, extra=0, power=1, n2=1):
    """Measures with one number wrong."""

    def measures(n_layers, d_model, seq_len, vocab_size):
        blocks = weights * n_layers * d_model**2
        return {
            "6N1": blocks,
            "6N2": (blocks + table * vocab_size * d_model) // n2,
            "M": blocks + scores * n_layers * d_model * seq_len**power + extra * vocab_size * d_model,
        }

    return measures


@checks(
    "scaling.flops",
    oracle=measures_by_products,
    mistakes={
        "only the forward pass is counted; the backward pass costs twice as much again": _measures(24, 4, 2),
        "the scores are counted forward only; the backward pass costs twice as much again": _measures(scores=4),
        "M lacks the scores; it is more than 6N1": _measures(scores=0),
        "half of the scores is missing: keys and values both cost, and the mask takes nothing off": _measures(scores=6),
        "these are the scores of a whole sequence; a token has its share of them": _measures(power=2),
        "M counts the blocks alone; the vocabulary is no part of it": _measures(extra=6),
        "the vocabulary is counted twice; 6N2 takes it once": _measures(table=12),
        "6N2 is N2 without the six": _measures(n2=6),
        "the table of the vocabulary is not multiplied by six": _measures(table=1),
        "the SwiGLU is too large: three matrices between d and 8/3 d are 8 d² weights together": _measures(weights=96),
    },
    alternatives=[
        lambda n_layers, d_model, seq_len, vocab_size: {
            "M": n_layers * d_model * (72 * d_model + 12 * seq_len),
            "6N1": 72 * n_layers * d_model * d_model,
            "6N2": d_model * (72 * n_layers * d_model + 6 * vocab_size),
        }
    ],
    hints=(
        "How many weights has a block, attention and SwiGLU together, in units of d²?",
        "A block has 4 d² + 8 d² weights; six FLOPs each. The scores cost 2sd + 2sd forward in each block, three times "
        "that with the backward pass.",
        "6N1 = 72·L·d². Add 6·V·d for 6N2. For M add 12·L·d·s to 6N1 instead.",
    ),
)
def _(draw):
    def shape():
        return draw.integer(2, 90), 64 * draw.integer(2, 99), 2 ** draw.integer(8, 14), draw.integer(5_000, 150_000)

    layers, width, tokens, vocabulary = shape()
    plain = call("measures", layers, width, tokens, vocabulary)
    yield contract(
        "gives the three measures by name",
        1,
        [plain],
        [
            Between(part=Part(path=(name,)), low=1, says=f"{name} is not a positive number")
            for name in ("6N1", "6N2", "M")
        ],
    )
    yield value(
        "equals a count of all matrix products",
        2,
        [plain, call("measures", 32, 4096, 4096, 102_400), call("measures", *shape())],
    )
    yield invariant(
        "what M adds is proportional to layers, width and length",
        1,
        [
            call("beyond_weights", layers, width, 2 * tokens, vocabulary),
            call("beyond_weights", layers, 2 * width, tokens, vocabulary),
            call("beyond_weights", 2 * layers, width, tokens, 3 * vocabulary),
            call("beyond_weights", layers, width, tokens, vocabulary),
        ],
        [
            Same(left=Part(), right=Part(step=1), says="twice the length and twice the width do not add the same"),
            Same(left=Part(), right=Part(step=2), says="twice the length and twice the layers do not add the same"),
            Differs(left=Part(), right=Part(step=3), says="the length of a sequence makes no difference to M"),
        ],
    )


# %% [markdown]
# ## 2. The floor of a valley
#
# Models of several scales $M$ were trained with the same compute. Their losses form a valley: to a good approximation a
# parabola in $\ln M$. Fit it by least squares, and return its lowest point.
#
# - `scales` and `losses` are float64 of shape $(n,)$, $n \geq 3$, in any order.
# - The result is float64 of shape $(2,)$: the scale at the lowest point of the *parabola*, and the loss there.


# %% task="scaling.valley" title="The floor of a valley" kind="implement" difficulty=2 minutes=15
def lowest(scales, losses):
    """Scales and losses, (n,) each -> (2,): the best scale and its loss."""
    ### BEGIN SOLUTION
    x = scales.log()
    middle = x.mean()  # keeps the three columns apart from each other
    table = torch.stack([(x - middle) ** 2, x - middle, torch.ones_like(x)], dim=1)
    a, b, c = torch.linalg.lstsq(table, losses[:, None]).solution[:, 0]
    return torch.stack([(middle - b / (2 * a)).exp(), c - b**2 / (4 * a)])
    ### END SOLUTION


# %% tags=["driver"]
def lowest_in_units(scales, losses, unit, more):
    """With scales in another unit and something added to all losses; the result in the old ones."""
    scale, loss = lowest(scales * unit, losses + more)
    return torch.stack([scale / unit, loss - more])


# %% tags=["judge"]
def lowest_by_cramer(scales, losses):
    """The normal equations about the mean, solved by determinants."""
    logs = [math.log(scale) for scale in scales.tolist()]
    middle = sum(logs) / len(logs)
    x, y = [log - middle for log in logs], losses.tolist()
    s = [math.fsum(u**k for u in x) for k in range(5)]
    t = [math.fsum(u**k * v for u, v in zip(x, y, strict=True)) for k in range(3)]
    system = torch.tensor([[s[4], s[3], s[2]], [s[3], s[2], s[1]], [s[2], s[1], s[0]]], dtype=torch.float64)
    right, solved = torch.tensor(t[::-1], dtype=torch.float64), []
    for column in range(3):
        other = system.clone()
        other[:, column] = right
        solved.append((torch.det(other) / torch.det(system)).item())
    a, b, c = solved
    at = -b / (2 * a)
    return torch.tensor([math.exp(middle + at), a * at**2 + b * at + c], dtype=torch.float64)


def _parabola(x, y):
    """Coefficients of 1, x and x²."""
    return torch.linalg.lstsq(torch.stack([torch.ones_like(x), x, x * x], dim=1), y[:, None]).solution[:, 0]


def _lowest(
    to=torch.log, back=torch.exp, at=lambda c, b, a: -b / (2 * a), loss=lambda c, b, a, x: c + b * x + a * x**2
):
    """The floor with one part of it wrong."""

    def lowest(scales, losses):
        c, b, a = _parabola(to(scales), losses)
        x = at(c, b, a)
        return torch.stack([back(x), loss(c, b, a, x)])

    return lowest


def _in_the_scale_itself(scales, losses):
    unit = scales.mean()
    c, b, a = _parabola(scales / unit, losses)
    return torch.stack([-b / (2 * a) * unit, c - b**2 / (4 * a)])


@checks(
    "scaling.valley",
    oracle=lowest_by_cramer,
    mistakes={
        "the parabola was fitted to M; it is one in ln M": _in_the_scale_itself,
        "this is the logarithm of the scale: go back with exp": _lowest(back=lambda x: x),
        "the lowest point lies at -b / (2a); the 2 is missing": _lowest(at=lambda c, b, a: -b / a),
        "the logarithm has base 10 on the way there and e on the way back": _lowest(to=torch.log10),
        "the best of the runs is not the floor of the parabola": lambda scales, losses: torch.stack(
            [scales[losses.argmin()], losses.min()]
        ),
        "the loss is that of the best run; the parabola has its own lowest value": lambda scales, losses: torch.stack(
            [lowest_by_cramer(scales, losses)[0], losses.min()]
        ),
        "the constant of the parabola is its value at ln M = 0, far from the floor": _lowest(loss=lambda c, b, a, x: c),
    },
    alternatives=[
        _lowest(),
        _lowest(to=torch.log2, back=torch.exp2),
        _lowest(to=torch.log10, back=lambda x: 10**x, loss=lambda c, b, a, x: c - b * b / (4 * a)),
    ],
    hints=(
        "Where does a x² + b x + c have a slope of zero? And what is x, when the loss is a parabola in ln M?",
        "Make a table with the columns x², x and 1 for x = ln M, solve for a, b, c by least squares, put "
        "x = -b / (2a) into the parabola, and return exp(x) with the value there.",
        "torch.linalg.lstsq(torch.stack([x * x, x, torch.ones_like(x)], dim=1), losses[:, None]).solution[:, 0] gives "
        "a, b, c; the loss at the floor is c - b²/(4a).",
    ),
)
def _(draw):
    def valley(n, noise=0.01):
        middle, width, base = (
            10 ** (7 + 0.1 * draw.integer(1, 30)),
            0.1 + 0.02 * draw.integer(0, 5),
            2.0 + 0.1 * draw.integer(0, 9),
        )
        x = torch.linspace(-1.7, 1.1, n, dtype=torch.float64)[
            torch.randperm(n, generator=torch.Generator().manual_seed(n))
        ]
        return middle * x.exp(), base + width * x**2 + draw.normal(n, scale=noise, dtype=torch.float64)

    one, other, three = valley(draw.integer(6, 9)), valley(draw.integer(10, 14)), valley(3, 0.001)
    plain = call("lowest", *one)
    close = {"rtol": 1e-6, "atol": 1e-12}
    yield contract("gives two numbers, inputs left alone", 1, [plain], [Untouched()])
    yield value(
        "is the lowest point of the parabola", 2, [plain, call("lowest", *other), call("lowest", *three)], **close
    )
    moved = call("lowest_in_units", *one, float(draw.integer(3, 9)), 0.5)
    yield invariant(
        "the unit of the scale makes no difference",
        1,
        [plain, moved],
        [
            Same(
                left=Part(),
                right=Part(step=1),
                says="scales in another unit, or losses with a constant added, have another floor",
                rtol=1e-6,
                atol=1e-12,
            )
        ],
    )


# %% [markdown]
# ## 3. A power law, and how sure it is
#
# Fit $y = k\,x^p$ to points that all lie near it: a straight line through $\ln y$ against $\ln x$, by least squares. How
# sure is $p$? With the deviations $r_i$ from the line, in $\ln y$, its standard error is
#
# $$\sigma_p = \sqrt{\frac{\sum_i r_i^2}{n - 2} \Big/ \sum_i (\ln x_i - \overline{\ln x})^2} .$$
#
# - `x` and `y` are positive, float64 of shape $(n,)$, $n \geq 3$; the result is float64 of shape $(3,)$: $k$, $p$, $\sigma_p$.
# - The points may span many powers of ten: $x$ is compute, and $k$ the value at *one* FLOP.


# %% task="scaling.power_law" title="A power law, and how sure it is" kind="implement" difficulty=2 minutes=20
def power_law(x, y):
    """Positive x and y, (n,) each -> (3,): coefficient, exponent, standard error of the exponent."""
    ### BEGIN SOLUTION
    u, v = x.log(), y.log()
    away = u - u.mean()
    exponent = (away * v).sum() / away.square().sum()
    off = v - v.mean() - exponent * away
    error = (off.square().sum() / (len(x) - 2) / away.square().sum()).sqrt()
    return torch.stack([(v.mean() - exponent * u.mean()).exp(), exponent, error])
    ### END SOLUTION


# %% tags=["driver"]
def exponent_in_units(x, y, of_x, of_y):
    """Exponent and error with both axes in other units."""
    return power_law(x * of_x, y * of_y)[1:]


# %% tags=["judge"]
def power_law_by_normal_equations(x, y):
    """Slope and intercept by the sums of the school book, in ln x less its first value."""
    first, n = math.log(x[0]), len(x)
    u, v = [math.log(a) - first for a in x.tolist()], [math.log(b) for b in y.tolist()]
    su, sv, suu = math.fsum(u), math.fsum(v), math.fsum(a * a for a in u)
    suv = math.fsum(a * b for a, b in zip(u, v, strict=True))
    slope = (n * suv - su * sv) / (n * suu - su * su)
    start = (sv - slope * su) / n
    off = math.fsum((b - start - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    error = math.sqrt(off / (n - 2) * n / (n * suu - su * su))
    return torch.tensor([math.exp(start - slope * first), slope, error], dtype=torch.float64)


def _line(u, v, *, spare=2):
    """Intercept, slope and the slope's error of v against u."""
    away = u - u.mean()
    slope = (away * v).sum() / away.square().sum()
    off = v - v.mean() - slope * away
    return v.mean() - slope * u.mean(), slope, (off.square().sum() / (len(u) - spare) / away.square().sum()).sqrt()


def _law(fit=lambda x, y: _line(x.log(), y.log()), finish=lambda start, slope, error: (start.exp(), slope, error)):
    """A power law with one part of it wrong."""
    return lambda x, y: torch.stack(finish(*fit(x, y)))


def _through_one(x, y):
    slope = (x.log() * y.log()).sum() / x.log().square().sum()
    off = y.log() - slope * x.log()
    return torch.stack([torch.ones_like(slope), slope, (off.square().sum() / (len(x) - 2)).sqrt()])


def _by_lstsq(x, y):
    table = torch.stack([torch.ones_like(x), x.log10()], dim=1)
    solved = torch.linalg.lstsq(table, y.log10()[:, None]).solution
    off = y.log10() - (table @ solved)[:, 0]
    covariance = torch.linalg.inv(table.T @ table) * off.square().sum() / (len(x) - 2)
    return torch.stack([10 ** solved[0, 0], solved[1, 0], covariance[1, 1].sqrt()])


@checks(
    "scaling.power_law",
    oracle=power_law_by_normal_equations,
    mistakes={
        "the line was fitted to x and y; take the logarithm of both": _law(lambda x, y: _line(x, y), lambda *f: f),
        "ln y is fitted against x; take the logarithm of both": _law(lambda x, y: _line(x, y.log())),
        "x is fitted as a power of y; y is a power of x": _law(lambda x, y: _line(y.log(), x.log())),
        "the coefficient is still a logarithm: go back with exp": _law(finish=lambda *fitted: fitted),
        "the logarithms have base 10 and the way back has base e": _law(lambda x, y: _line(x.log10(), y.log10())),
        "the line is forced through y = 1 at x = 1; the coefficient is free": _through_one,
        "the squared deviations are divided by n; two numbers were fitted, so n - 2 are left": _law(
            lambda x, y: _line(x.log(), y.log(), spare=0)
        ),
        "the squared deviations are divided by n - 1; two numbers were fitted, so n - 2 are left": _law(
            lambda x, y: _line(x.log(), y.log(), spare=1)
        ),
        "this is the error squared: the root is missing": _law(
            finish=lambda start, slope, error: (start.exp(), slope, error**2)
        ),
        "this is the scatter of the points; divide it by the spread of ln x": lambda x, y: (
            power_law_by_normal_equations(x, y)
            * torch.stack([torch.ones(()), torch.ones(()), (x.log() - x.log().mean()).square().sum().sqrt()])
        ),
    },
    alternatives=[_by_lstsq, _law()],
    hints=(
        "What becomes of y = k·x^p when you take the logarithm of both sides? Which of the two unknowns is then the "
        "slope, and which the height of a line?",
        "With u = ln x and v = ln y: the slope is sum((u - ū)·v) / sum((u - ū)²), the line goes through (ū, v̄), and "
        "ln k is its height at u = 0. The deviations from it give the error.",
        "p = (away * v).sum() / away.square().sum() with away = u - u.mean(); k = (v.mean() - p * u.mean()).exp(); "
        "off = v - v.mean() - p * away goes into the formula of the error.",
    ),
)
def _(draw):
    def points(n, noise):
        exponent, size = 0.01 * draw.integer(30, 70), 0.1 * draw.integer(1, 9)
        x = torch.logspace(17, 20 + 0.1 * draw.integer(1, 9), n, dtype=torch.float64)
        return x, size * x**exponent * draw.normal(n, scale=noise, dtype=torch.float64).exp()

    one, other = points(draw.integer(5, 9), 0.1), points(draw.integer(10, 14), 0.3)
    plain = call("power_law", *one)
    yield contract("gives three numbers, inputs left alone", 1, [plain], [Untouched()])
    yield value(
        "coefficient, exponent and error are those of the line",
        3,
        [plain, call("power_law", *other)],
        rtol=1e-6,
        atol=1e-12,
    )
    yield value(
        "points on a law give that law, and no error", 1, [call("power_law", *points(6, 0.0))], rtol=1e-5, atol=1e-7
    )
    in_units = call("exponent_in_units", *one, 1e-15, 1e-3)
    yield invariant(
        "units do not change an exponent, nor its error",
        1,
        [call("exponent_in_units", *one, 1.0, 1.0), in_units],
        [
            Same(
                left=Part(),
                right=Part(step=1),
                says="x or y in other units have another exponent",
                rtol=1e-6,
                atol=1e-9,
            )
        ],
    )


# %% [markdown]
# ## 4. Debug: budgets that are not equal
#
# The runs of a valley must all cost the same. The function below says how many tokens each of several models may read
# with a budget of $C$ FLOPs, in V1's measure $C = M\,D$. Its author was used to "six FLOPs a parameter, and all parameters
# count". There is no error and no strange number; yet small models end up with too few tokens and the valley tilts. What
# shows it are invariants:
#
# - a counter of FLOPs, run on the blocks of each model, finds the whole budget when its tokens are read;
# - a larger vocabulary changes nothing; longer sequences do.
#
# Find what is paid and should not be, and what is not paid and should be.


# %% task="scaling.tokens" title="Budgets that are not equal" kind="debug" difficulty=2 minutes=10
def tokens_of(compute, shapes, seq_len, vocab_size):
    """shapes: (n, 2) layers and width -> (n,) float64: the tokens that each model may read."""
    layers, width = shapes.double().unbind(1)
    weights = 12 * layers * width**2
    ### BEGIN SOLUTION
    scores = 2 * layers * width * seq_len
    cost = 6 * (weights + scores)
    ### STUB
    # table = vocab_size * width
    # cost = 6 * (weights + table)
    ### END SOLUTION
    return compute / cost


# %% tags=["driver"]
def spent(compute, shapes, seq_len, vocab_size, counted):
    """(n,) what the counter finds in all: FLOPs of the blocks for a token, times the tokens."""
    return tokens_of(compute, shapes, seq_len, vocab_size) * counted


# %% tags=["judge"]
def tokens_one_by_one(compute, shapes, seq_len, vocab_size):
    cost = [measures_by_products(n, d, seq_len, vocab_size)["M"] for n, d in shapes.tolist()]
    return torch.tensor([compute / M for M in cost], dtype=torch.float64)


def _tokens(weights=72, scores=12, table=0):
    """Tokens with a bill of another kind."""

    def tokens_of(compute, shapes, seq_len, vocab_size):
        layers, width = shapes.double().unbind(1)
        bill = weights * layers * width**2 + scores * layers * width * seq_len + table * vocab_size * width
        return compute / bill

    return tokens_of


@checks(
    "scaling.tokens",
    oracle=tokens_one_by_one,
    mistakes={
        "the table of the vocabulary is paid for, and attention's scores are not": _tokens(scores=0, table=6),
        "attention's scores are not paid for": _tokens(scores=0),
        "the table of the vocabulary is still paid for": _tokens(table=6),
        "two tables of the vocabulary are paid for, and attention's scores are not": _tokens(scores=0, table=12),
        "half of attention's scores is not paid for: keys and values both cost": _tokens(scores=6),
        "the scores are not trained: forward and backward are three times the forward pass": _tokens(scores=4),
    },
    alternatives=[
        _tokens(),
        lambda compute, shapes, seq_len, vocab_size: (
            compute / (shapes[:, 0].double() * shapes[:, 1] * (72.0 * shapes[:, 1] + 12 * seq_len))
        ),
    ],
    hints=(
        "Which arguments should the number of tokens depend on, by M's formula? On which does it depend here?",
        "M leaves out the vocabulary, and counts attention's scores, which have no parameters: 12·L·d·s FLOPs a token.",
        "Drop the table. In its place, 2 · layers · width · seq_len behaves like that many more weights.",
    ),
)
def _(draw):
    shapes = torch.tensor([[n, 64 * draw.integer(2, 20) * n] for n in (2, 4, 8, 12)])
    compute, seq_len = 10.0 ** draw.integer(15, 19), 2 ** draw.integer(8, 13)
    case = compute, shapes, seq_len, draw.integer(5_000, 150_000)
    counted = compute / tokens_one_by_one(*case)
    yield invariant(
        "reading the tokens costs the budget, whatever the vocabulary",
        2,
        [
            call("spent", *case, counted),
            call("tokens_of", *case),
            call("tokens_of", *case[:3], 2 * case[3]),
            call("tokens_of", compute, shapes, 2 * seq_len, case[3]),
        ],
        [
            Same(left=Part(step=1), right=Part(step=2), says="a larger vocabulary changes the number of tokens"),
            Differs(left=Part(step=1), right=Part(step=3), says="longer sequences do not change the number of tokens"),
            Equals(expected=torch.full((4,), compute, dtype=torch.float64), rtol=1e-9),
        ],
    )
    yield value(
        "each model reads what it can afford",
        2,
        [call("tokens_of", *case), call("tokens_of", 2 * compute, shapes[1:3], 64, 512)],
        rtol=1e-9,
    )


# %% [markdown]
# ## 5. Predict: what V1 7B was trained with
#
# The published laws (arXiv 2401.02954, section 3) are
#
# $$\eta_{opt} = 0.3118\,C^{-0.1250}, \qquad B_{opt} = 0.2920\,C^{0.3271}, \qquad D_{opt} = 5.8316\,C^{0.4757},$$
#
# batch and data in tokens. V1 7B has 30 layers of width 4,096, read $2\cdot10^{12}$ tokens, and its sequences are 4,096 long.
# Write down, before you run the cell below the check, the compute to within one percent, the others to within five:
#
# - `compute`: the FLOPs of that run, in V1's measure $C = M\,D$;
# - `lr`: the learning rate that the law gives for it;
# - `batch`: the batch, in tokens;
# - `more_updates`: ten times the compute makes how many times as many updates, when data and batch both follow the laws?


# %% task="scaling.settings" title="What V1 7B was trained with" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
compute = (72 * 30 * 4096**2 + 12 * 30 * 4096 * 4096) * 2e12
lr = 0.3118 * compute**-0.1250
batch = 0.2920 * compute**0.3271
more_updates = 10 ** (0.4757 - 0.3271)
### STUB
# compute = None  # FLOPs
# lr = None
# batch = None  # tokens
# more_updates = None  # times as many
### END SOLUTION

# %% [markdown]
# What did DeepSeek really set (table 2 of the report)? How far does it lie from the laws, and from your numbers?

# %%
from minideepseek.train import laws

run = laws.RUNS["v1-7b"]
print(f"learning rate: used {run.lr:.3g}, law {laws.lr_opt(run.compute):.3g}; you said {lr}")
print(f"batch: used {run.batch_tokens:.3g} tokens, law {laws.batch_opt(run.compute):.3g}; you said {batch}")

# %% tags=["judge"]
_settings = {"compute": 8.4559e22, "lr": 4.2459e-4, "batch": 9.224e6, "more_updates": 1.4080}
_by_tokens = {"compute": 2e12, "lr": 0.3118 * 2e12**-0.125, "batch": 0.2920 * 2e12**0.3271}


@checks(
    "scaling.settings",
    oracle=_settings,
    mistakes={
        "C is the compute, M·D; you put in the number of tokens": _settings | _by_tokens,
        "six FLOPs for each of all parameters is not V1's measure: scores count, the vocabulary does not": _settings
        | {"compute": 6 * 6.89e9 * 2e12},
        "six FLOPs for each weight in the blocks lacks attention's scores": _settings
        | {"compute": 72 * 30 * 4096**2 * 2e12},
        "the exponent of the learning rate is negative: larger runs take smaller steps": _settings
        | {"lr": 0.3118 * 8.4559e22**0.125},
        "this batch is in sequences; the law's is in tokens": _settings | {"batch": 9.224e6 / 4096},
        "this is how the batch grows; updates are tokens divided by the batch": _settings
        | {"more_updates": 10**0.3271},
        "this is how the tokens grow; updates are tokens divided by the batch": _settings
        | {"more_updates": 10**0.4757},
        "you multiplied tokens and batch; updates are their quotient": _settings | {"more_updates": 10**0.8028},
        "the quotient is upside down: tokens divided by the batch": _settings | {"more_updates": 10**-0.1486},
    },
    hints=(
        "What is M for this model (task 1), and what is C? A pocket calculator wants log10: C^p is 10^(p · log10 C).",
        "M is 4.23e10, so C is 8.46e22 and log10 C is 22.93. Updates are D / B; divide the two laws.",
        "lr = 0.3118 · 10^(-0.125 · 22.93), batch = 0.2920 · 10^(0.3271 · 22.93), and ten times the compute makes "
        "10^(0.4757 - 0.3271) times as many updates.",
    ),
)
def _(draw):
    yield value("the compute of the run", 1, [call("compute")], rtol=0.01, atol=0.0)
    yield value("the learning rate of the law", 1, [call("lr")], rtol=0.05, atol=0.0)
    yield value("the batch of the law", 1, [call("batch")], rtol=0.05, atol=0.0)
    yield value("how the number of updates grows", 1, [call("more_updates")], rtol=0.05, atol=0.0)


# %% [markdown]
# ## 6. Paper against code: one entry of a table
#
# Table 3 of the V1 report prints how much of $M$ the weights alone would account for. With $s = 4096$:
#
# | layers | 8 | 12 | 24 | 24 | 32 | 40 | 80 |
# |---|---|---|---|---|---|---|---|
# | width | 512 | 768 | 1,024 | 2,048 | 4,096 | 5,120 | 8,192 |
# | $6N_1/M$ as printed | 0.43 | 0.53 | 0.60 | 0.75 | 0.85 | 0.88 | 0.92 |
#
# Compute them. One entry is not what the formula gives, rounded to two digits.
#
# - `layers`: of which model? Its number of layers.
# - `ratio`: what is the entry, to three digits?
# - `seq_len`: could the authors have used another length? Which one would give *exactly* what is printed? (To within a
#   percent. Then judge for yourself: another length, or a digit cut off where the others are rounded?)


# %% task="scaling.table" title="One entry of a table" kind="compare" difficulty=1 minutes=10
### BEGIN SOLUTION
layers = 32
ratio = 72 * 4096 / (72 * 4096 + 12 * 4096)
seq_len = 6 * 4096 * (1 / 0.85 - 1)
### STUB
# layers = None
# ratio = None
# seq_len = None
### END SOLUTION

# %% tags=["judge"]
_table = {"layers": 32, "ratio": 6 / 7, "seq_len": 4336.94}


@checks(
    "scaling.table",
    oracle=_table,
    mistakes={
        "8 layers: 3/7 is 0.4286, and 0.43 is right": _table | {"layers": 8},
        "12 layers: 0.5294, and 0.53 is right": _table | {"layers": 12},
        "24 layers: 0.6 and 0.75, both exact": _table | {"layers": 24},
        "40 layers: 0.8824, and 0.88 is right": _table | {"layers": 40},
        "80 layers: 0.9231, and 0.92 is right": _table | {"layers": 80},
        "that is the printed one, or close to it; three digits of the right one are asked for": _table
        | {"ratio": 0.85},
        "this is 6N2/M: leave out the vocabulary": _table | {"ratio": 0.9129},
        "the fraction is upside down": _table | {"ratio": 7 / 6},
        "4,096 is the length that the table is for, and gives 6/7": _table | {"seq_len": 4096},
    },
    hints=(
        "L cancels in 6N1/M, and one d too. What is left?",
        "6N1/M = 6d / (6d + s). Put in the seven widths; then put in 0.85 on the left side and solve for s.",
        "For d = s it is 6/7. And s = 6d · (1/0.85 - 1), with the width of that model.",
    ),
)
def _(draw):
    yield value("the entry that is not rounded", 1, [call("layers")])
    yield value("what should be printed", 1, [call("ratio")], rtol=0.0007, atol=0.0)
    yield value("the length that would give what is printed", 1, [call("seq_len")], rtol=0.01, atol=0.0)
