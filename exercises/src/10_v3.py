# %% [markdown]
# # Exercises 10 · V3
#
# Five tasks on [lesson 10](../../notebooks/10_v3.ipynb), about 75 minutes. Each has a statement, a cell for your answer,
# and a cell that checks it at once. A check runs your cell alone, with the imports below: what your answer needs belongs
# into its cell.
#
# `hint("v3.activated")` helps in three steps, `solution("v3.activated")` shows ours once you have tried, and `status()` at
# the end tells where you are.

# %% tags=["given"]
import math

import torch

# %% [markdown]
# ## 1. What is at work?
#
# A released checkpoint describes itself in its `config.json`. From these fields count a model's parameters, all of them
# and those at work for one token:
#
# | field | is |
# |---|---|
# | `hidden_size`, `num_hidden_layers`, `vocab_size` | $D$, $L$, $V$ |
# | `num_attention_heads` | $H$ |
# | `q_lora_rank`, `kv_lora_rank` | $d_c'$, $d_c$: the latents of queries and of keys and values |
# | `qk_nope_head_dim`, `qk_rope_head_dim`, `v_head_dim` | $d_h$, $d_r$, $d_v$ |
# | `first_k_dense_replace`, `intermediate_size` | how many layers come first with a plain SwiGLU, and its inner width |
# | `n_routed_experts`, `n_shared_experts`, `num_experts_per_tok` | experts in each other layer, shared ones, and $K$ |
# | `moe_intermediate_size` | the inner width of one expert |
#
# Attention has the matrices $D \to d_c'$, $d_c' \to H(d_h + d_r)$, $D \to d_c + d_r$, $d_c \to H(d_h + d_v)$ and
# $H d_v \to D$. The router is one row of $D$ numbers for each routed expert, and all of it is at work. Norms have a gain for
# each channel: two in each layer, one behind the last, and one on each of the two latents in each layer. Embedding and
# head are two tables, and both count as at work. Nothing has a bias that counts.


# %% task="v3.activated" title="What is at work?" kind="implement" difficulty=2 minutes=20
def parameters(config):
    """Fields of a config.json -> {"total": ..., "activated": ...}, whole numbers."""
    ### BEGIN SOLUTION
    c = config
    d, heads, q, kv = c["hidden_size"], c["num_attention_heads"], c["q_lora_rank"], c["kv_lora_rank"]
    nope, rope, wide = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    layers, dense = c["num_hidden_layers"], c["first_k_dense_replace"]
    attention = d * q + q * heads * (nope + rope) + d * (kv + rope) + kv * heads * (nope + wide) + heads * wide * d
    norms = 2 * d + q + kv
    always = 2 * c["vocab_size"] * d + d + layers * (attention + norms) + dense * 3 * d * c["intermediate_size"]
    expert, router = 3 * d * c["moe_intermediate_size"], d * c["n_routed_experts"]

    def with_experts(n):
        return always + (layers - dense) * (router + (n + c["n_shared_experts"]) * expert)

    return {"total": with_experts(c["n_routed_experts"]), "activated": with_experts(c["num_experts_per_tok"])}
    ### END SOLUTION


# %% tags=["driver"]
def idle(config):
    """Parameters that one token does not touch."""
    found = parameters(config)
    return found["total"] - found["activated"]


# %% tags=["judge"]
from minideepseek.judge.author import Between, Differs, Equals, Part, Same, call, checks, contract, invariant, value


def parameters_matrix_by_matrix(config):
    """The shape of every matrix and vector, one after the other, and whether a token touches it."""
    c, shapes = config, []

    def add(*shape, touched=1.0):
        shapes.append((math.prod(shape), touched))

    d, heads = c["hidden_size"], c["num_attention_heads"]
    for _ in ("embedding", "head"):
        add(c["vocab_size"], d)
    for layer in range(c["num_hidden_layers"]):
        add(c["q_lora_rank"], d)
        add(heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), c["q_lora_rank"])
        add(c["kv_lora_rank"] + c["qk_rope_head_dim"], d)
        add(heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
        add(d, heads * c["v_head_dim"])
        for width in (d, d, c["q_lora_rank"], c["kv_lora_rank"]):
            add(width)
        if layer < c["first_k_dense_replace"]:
            add(3, c["intermediate_size"], d)
            continue
        add(c["n_routed_experts"], d)
        add(c["n_shared_experts"], 3, c["moe_intermediate_size"], d)
        share = c["num_experts_per_tok"] / c["n_routed_experts"]
        add(c["n_routed_experts"], 3, c["moe_intermediate_size"], d, touched=share)
    add(d)
    return {"total": sum(n for n, _ in shapes), "activated": round(sum(n * touched for n, touched in shapes))}


def _parameters(shared=True, router="all", dense=True, norms=True, rope=True, tables=2, matrices=3):
    """A count with one thing wrong."""

    def parameters(config):
        c, found = config, parameters_matrix_by_matrix(config)
        sparse = c["num_hidden_layers"] - c["first_k_dense_replace"]
        d = c["hidden_size"]
        expert = 3 * d * c["moe_intermediate_size"]
        lost = (2 - tables) * c["vocab_size"] * d
        lost += 0 if shared else sparse * c["n_shared_experts"] * expert
        lost += 0 if dense else c["first_k_dense_replace"] * 3 * d * c["intermediate_size"]
        lost += 0 if norms else d + c["num_hidden_layers"] * (2 * d + c["q_lora_rank"] + c["kv_lora_rank"])
        lost += 0 if rope else c["num_hidden_layers"] * d * c["qk_rope_head_dim"]
        thin = {}
        for name, experts in (("total", c["n_routed_experts"]), ("activated", c["num_experts_per_tok"])):
            swiglus = sparse * (experts + c["n_shared_experts"]) * expert
            swiglus += c["first_k_dense_replace"] * 3 * d * c["intermediate_size"]
            thin[name] = swiglus * (3 - matrices) // 3
        idle_rows = sparse * d * (c["n_routed_experts"] - c["num_experts_per_tok"])
        unrouted = {"all": (0, 0), "none": (sparse * d * c["n_routed_experts"],) * 2, "chosen": (0, idle_rows)}[router]
        return {
            "total": found["total"] - lost - thin["total"] - unrouted[0],
            "activated": found["activated"] - lost - thin["activated"] - unrouted[1],
        }

    return parameters


@checks(
    "v3.activated",
    oracle=parameters_matrix_by_matrix,
    mistakes={
        "the shared experts are missing": _parameters(shared=False),
        "the router is missing": _parameters(router="none"),
        "the router is at work as a whole: it scores every expert before it chooses": _parameters(router="chosen"),
        "the first layers are missing, which have a plain SwiGLU": _parameters(dense=False),
        "the gains of the norms are missing": _parameters(norms=False),
        "the rotary key is missing: D to d_c + d_r": _parameters(rope=False),
        "only one table is counted; embedding and head are two": _parameters(tables=1),
        "a SwiGLU has three matrices: gate, up and down": _parameters(matrices=2),
    },
    alternatives=[
        lambda config: {
            "total": parameters_matrix_by_matrix(config)["total"],
            "activated": parameters_matrix_by_matrix(config | {"n_routed_experts": config["num_experts_per_tok"]})[
                "total"
            ]
            + (config["num_hidden_layers"] - config["first_k_dense_replace"])
            * config["hidden_size"]
            * (config["n_routed_experts"] - config["num_experts_per_tok"]),
        }
    ],
    hints=(
        "What is the same in both numbers, and what alone differs between them? In how many layers?",
        "Add up tables, attention, norms, the first layers' SwiGLU, routers and shared experts once: they are always at "
        "work. Then add all routed experts, or K of them, in each of the other layers.",
        "One expert is 3·D·width. Both numbers are always + (L - first)·(D·experts + (n + shared)·expert), with n all routed "
        "experts for the total, and K for what is at work.",
    ),
)
def _(draw):
    def config():
        return {
            "hidden_size": 64 * draw.integer(4, 40),
            "num_hidden_layers": draw.integer(6, 60),
            "vocab_size": draw.integer(5_000, 150_000),
            "num_attention_heads": draw.integer(4, 64),
            "q_lora_rank": 32 * draw.integer(3, 30),
            "kv_lora_rank": 32 * draw.integer(2, 15),
            "qk_nope_head_dim": 32 * draw.integer(1, 4),
            "qk_rope_head_dim": 16 * draw.integer(1, 4),
            "v_head_dim": 32 * draw.integer(1, 5),
            "first_k_dense_replace": draw.integer(1, 4),
            "intermediate_size": 128 * draw.integer(10, 90),
            "n_routed_experts": 8 * draw.integer(3, 30),
            "n_shared_experts": draw.integer(1, 4),
            "num_experts_per_tok": draw.integer(2, 9),
            "moe_intermediate_size": 32 * draw.integer(5, 60),
        }

    v3 = {
        "hidden_size": 7168, "num_hidden_layers": 61, "vocab_size": 129_280, "num_attention_heads": 128,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "first_k_dense_replace": 3, "intermediate_size": 18_432, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
    }  # fmt: skip
    one, other = config(), config()
    yield contract(
        "gives both numbers by name",
        1,
        [call("parameters", one)],
        [
            Between(part=Part(path=(name,)), low=1, says=f"{name} is not a positive number")
            for name in ("total", "activated")
        ],
    )
    yield value("counts any config", 2, [call("parameters", one), call("parameters", other)])
    yield value(
        "finds V3's 671,026,404,352",
        1,
        [call("parameters", v3)],
        [Equals(part=Part(path=("total",)), expected=671_026_404_352)],
    )
    yield invariant(
        "what is idle does not depend on vocabulary, heads or shared experts",
        1,
        [
            call("idle", one),
            call("idle", one | {"vocab_size": 2 * one["vocab_size"], "num_attention_heads": 3, "n_shared_experts": 7}),
        ],
        [Same(left=Part(), right=Part(step=1), says="something besides the routed experts is counted as idle")],
    )


# %% [markdown]
# ## 2. Weights in eight bits
#
# V3 was released in FP8: each matrix as numbers of eight bits, and one scale for each **block** of $128 \times 128$ of them
# (arXiv 2412.19437, section 3.3.2). The matrix is their product, block by block. Where the rows or columns are no multiple
# of the block, the last blocks are smaller.
#
# - `numbers` is $(R, C)$, `scales` $(\lceil R/b \rceil, \lceil C/b \rceil)$, both float32 here; `block` is $b$.
# - The result is the matrix, $(R, C)$ float32. No loop over single numbers: V3 has $6.8 \cdot 10^{11}$ of them.


# %% task="v3.dequantise" title="Weights in eight bits" kind="implement" difficulty=1 minutes=15
def dequantise(numbers, scales, block):
    """(R, C), (ceil(R/block), ceil(C/block)), a whole number -> the matrix (R, C)."""
    ### BEGIN SOLUTION
    rows, columns = numbers.shape
    spread = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return numbers * spread[:rows, :columns]
    ### END SOLUTION


# %% tags=["driver"]
def there_and_back(matrix, block):
    """Through 8 bits: the largest error of a block, in units of its largest number."""
    rows, columns = (math.ceil(n / block) for n in matrix.shape)
    numbers, scales = torch.empty_like(matrix), torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            part = (slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
            scales[i, j] = matrix[part].abs().max() / 448
            numbers[part] = (matrix[part] / scales[i, j]).to(torch.float8_e4m3fn).float()
    back = dequantise(numbers, scales, block)
    return ((back - matrix).abs() / matrix.abs()).max()


# %% tags=["judge"]
def dequantise_number_by_number(numbers, scales, block):
    rows, columns = numbers.shape
    return torch.stack(
        [torch.stack([numbers[i, j] * scales[i // block, j // block] for j in range(columns)]) for i in range(rows)]
    )


def _by_slices(numbers, scales, block):
    out = numbers.clone()
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            out[i * block : (i + 1) * block, j * block : (j + 1) * block] *= scales[i, j]
    return out


def _by_index(numbers, scales, block):
    rows, columns = (torch.arange(n) // block for n in numbers.shape)
    return numbers * scales[rows[:, None], columns]


def _stretched(numbers, scales, block):
    (rows, columns), (down, across) = numbers.shape, scales.shape
    return numbers * scales[torch.arange(rows) * down // rows][:, torch.arange(columns) * across // columns]


def _flipped(numbers, scales, block):
    spread = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return numbers * spread[-numbers.shape[0] :, -numbers.shape[1] :]


def _tiled(numbers, scales, block):
    spread = scales.repeat(block, block)
    return numbers * spread[: numbers.shape[0], : numbers.shape[1]]


@checks(
    "v3.dequantise",
    oracle=dequantise_number_by_number,
    mistakes={
        "the numbers are divided by the scales; they were divided when they were stored": lambda n, s, b: (
            n / dequantise_number_by_number(torch.ones_like(n), s, b)
        ),
        "the blocks are stretched over the matrix; they have a fixed size, and the last ones are smaller": _stretched,
        "the smaller blocks are the last ones, not the first": _flipped,
        "the scales are repeated as a whole, like tiles; each belongs to a block of neighbours": _tiled,
        "one scale is used for all": lambda n, s, b: n * s.max(),
        "one scale is used for all blocks of a row": lambda n, s, b: _by_index(n, s[:, :1].expand_as(s), b),
        "one scale is used for all blocks of a column": lambda n, s, b: _by_index(n, s[:1].expand_as(s), b),
    },
    alternatives=[_by_slices, _by_index],
    hints=(
        "Which scale belongs to the number in row i and column j?",
        "Spread the scales out until there is one for each number: every scale `block` times downwards and across. Cut off "
        "what stands beyond the matrix, and multiply.",
        "repeat_interleave(block, 0) repeats each row of scales in place, repeat_interleave(block, 1) each column; then "
        "[:rows, :columns].",
    ),
)
def _(draw):
    def problem(block, rows, columns):
        shape = math.ceil(rows / block), math.ceil(columns / block)
        return draw.normal(rows, columns), draw.normal(*shape).exp(), block

    ragged = problem(draw.integer(3, 5), draw.integer(13, 15), draw.integer(16, 19))
    yield contract("keeps shape and dtype", 1, [call("dequantise", *ragged)], [])
    yield value(
        "each number has its block's scale",
        2,
        [call("dequantise", *ragged), call("dequantise", *problem(4, 11, 18)), call("dequantise", *problem(4, 18, 9))],
    )
    matrix = (0.5 + draw.normal(40, 50).abs()) * torch.logspace(0, 4, 50)
    yield invariant(
        "a matrix comes back from eight bits with errors of a sixteenth at most",
        1,
        [call("there_and_back", matrix, 16)],
        [Between(low=0.001, high=1 / 16 + 1e-4, says="the matrix does not come back: relative errors are too large")],
    )


# %% [markdown]
# ## 3. Debug: a multiplication in eight bits
#
# V3 is also *trained* in FP8. Weights have a scale for each block, activations one for each token and each $b$ channels
# (a tile of $1 \times 128$; arXiv 2412.19437, section 3.3.2). A tensor core knows nothing of scales: it multiplies $b$
# channels of eight-bit numbers and sums them up. The sum then leaves it, is scaled, and joins the others in float32:
#
# $$y_{n,r} = \sum_c \; p_{n,r,c} \; \sigma^x_{n,c} \; \sigma^w_{\lfloor r/b \rfloor,\, c}, \qquad
# p_{n,r,c} = \sum_{j \,\text{in chunk}\, c} x_{n,j}\, w_{r,j}$$
#
# `x` and `w` hold the eight-bit numbers, as float32 here; last chunks and blocks may be smaller.
#
# Somebody tried it with a single block, and it was exact. With as many blocks across as down it still runs, but **two**
# things are wrong. Two laws show it:
#
# - where a token's last chunk is all zeros, the scale of that chunk must not matter;
# - the scales of the first block of rows of $W$ concern the first $b$ outputs, and no others.


# %% task="v3.multiply" title="A multiplication in eight bits" kind="debug" difficulty=2 minutes=15
def multiply(x, x_scales, w, w_scales, block):
    """x: (N, C), x_scales: (N, ceil(C/b)), w: (R, C), w_scales: (ceil(R/b), ceil(C/b)) -> (N, R), scaled x @ w.T."""
    out = x.new_zeros(len(x), len(w))
    for chunk, (left, right) in enumerate(zip(x.split(block, 1), w.split(block, 1), strict=True)):
        partial = left @ right.T  # what leaves the tensor core
        ### BEGIN SOLUTION
        per_output = w_scales[:, chunk].repeat_interleave(block)[: len(w)]
        out = out + partial * x_scales[:, chunk, None] * per_output
        ### STUB
        # per_output = w_scales[chunk].repeat_interleave(block)[: len(w)]
        # out = (out + partial) * x_scales[:, chunk, None] * per_output
        ### END SOLUTION
    return out


# %% tags=["judge"]
def multiply_number_by_number(x, x_scales, w, w_scales, block):
    """Every number times its own scale, then one sum for each token and output."""
    out = x.new_zeros(len(x), len(w))
    for n in range(len(x)):
        for r in range(len(w)):
            for j in range(x.shape[1]):
                scale = x_scales[n, j // block] * w_scales[r // block, j // block]
                out[n, r] += x[n, j] * w[r, j] * scale
    return out


def _multiply(
    of_token=lambda x_scales, c: x_scales[:, c, None],
    of_blocks=lambda w_scales, c: w_scales[:, c],
    spread=lambda scales, block: scales.repeat_interleave(block),
    join=lambda out, partial, scale: out + partial * scale,
):
    """The multiplication with one part of it wrong."""

    def multiply(x, x_scales, w, w_scales, block):
        out = x.new_zeros(len(x), len(w))
        for c in range(w_scales.shape[1]):
            chunk = slice(c * block, (c + 1) * block)
            scale = of_token(x_scales, c) * spread(of_blocks(w_scales, c), block)[: len(w)]
            out = join(out, x[:, chunk] @ w[:, chunk].T, scale)
        return out

    return multiply


def _spread_out_first(x, x_scales, w, w_scales, block):
    x = x * x_scales.repeat_interleave(block, 1)[:, : x.shape[1]]
    return x @ _by_index(w, w_scales, block).T


def _all_chunks_at_once(x, x_scales, w, w_scales, block):
    tiles = w_scales.shape[1]
    short = tiles * block - x.shape[1]
    x, w = (torch.nn.functional.pad(m, (0, short)).unflatten(1, (tiles, block)) for m in (x, w))
    rows = w_scales[torch.arange(len(w)) // block]
    return torch.einsum("ncj,rcj,nc,rc->nr", x, w, x_scales, rows)


@checks(
    "v3.multiply",
    oracle=multiply_number_by_number,
    mistakes={
        "sums that are scaled already are scaled again, and the weights' scales are read across": _multiply(
            of_blocks=lambda w_scales, c: w_scales[c],
            join=lambda out, partial, scale: (out + partial) * scale,
        ),
        "sums that are scaled already are scaled again with each chunk: scale what is new, then add": _multiply(
            join=lambda out, partial, scale: (out + partial) * scale
        ),
        "the weights' scales are still read across: a chunk is a column of blocks, and outputs are rows": _multiply(
            of_blocks=lambda w_scales, c: w_scales[c]
        ),
        "every chunk is given the scales of the last one; each has its own": _multiply(
            of_token=lambda x_scales, c: x_scales[:, -1:],
            of_blocks=lambda w_scales, c: w_scales[:, -1],
        ),
        "the scales of the activations are missing": _multiply(of_token=lambda x_scales, c: 1.0),
        "the scales of the weights are missing": _multiply(
            of_blocks=lambda w_scales, c: torch.ones_like(w_scales[:, c])
        ),
        "the weights' scales are repeated as a whole, like tiles; each belongs to neighbouring outputs": _multiply(
            spread=lambda scales, block: scales.repeat(block)
        ),
        "it is divided by the scales; the numbers were divided when they were stored": _multiply(
            join=lambda out, partial, scale: out + partial / scale
        ),
    },
    alternatives=[multiply_number_by_number, _multiply(), _spread_out_first, _all_chunks_at_once],
    hints=(
        "Follow the first chunk's sum through the loop: by which scales has it been multiplied in the end? And which index "
        "of w_scales counts blocks of outputs, which one chunks?",
        "A sum gets its own chunk's scales, once, before it joins the others. The scales of a chunk are a column of "
        "w_scales: one for each block of rows of W, that is, of outputs.",
        "w_scales[:, chunk] instead of w_scales[chunk], and out + partial * (both scales) instead of (out + partial) * "
        "(both scales).",
    ),
)
def _(draw):
    def case(tokens, rows, columns, block):
        down, across = math.ceil(rows / block), math.ceil(columns / block)
        numbers, weights = draw.normal(tokens, columns), draw.normal(rows, columns)
        return numbers, draw.normal(tokens, across).exp(), weights, draw.normal(down, across).exp(), block

    # As many blocks across as down: the bug must run to be told what is wrong with it.
    x, x_scales, w, w_scales, block = case(draw.integer(5, 9), draw.integer(13, 16), draw.integer(13, 16), 4)
    x[:, 12:] = 0.0
    other_tile, other_blocks = x_scales.clone(), w_scales.clone()
    other_tile[:, -1] *= 3
    other_blocks[0] *= 3
    own, others = ((1, 0, block),), ((1, block, None),)
    yield invariant(
        "a scale reaches what it belongs to, and nothing else",
        2,
        [
            call("multiply", x, x_scales, w, w_scales, block),
            call("multiply", x, other_tile, w, w_scales, block),
            call("multiply", x, x_scales, w, other_blocks, block),
        ],
        [
            Same(left=Part(), right=Part(step=1), says="the scale of a chunk of zeros changes the result"),
            Same(
                left=Part(cut=others),
                right=Part(step=2, cut=others),
                says="scales of the first block of rows change outputs that are not theirs",
            ),
            Differs(
                left=Part(cut=own),
                right=Part(step=2, cut=own),
                says="the scales of the first block of rows make no difference to its outputs",
            ),
        ],
    )
    yield value(
        "equals every number times its own scale",
        3,
        [
            call("multiply", *case(draw.integer(3, 6), draw.integer(10, 12), draw.integer(10, 12), 4)),
            call("multiply", *case(4, 14, 15, 5)),
        ],
    )


# %% [markdown]
# ## 4. Paper against notes: which billions?
#
# The notes beside V3's weights say: "671 B total parameters, 36.7 B activated, including 0.9 B for the embedding and 0.9 B
# for the output head", and "MTP module: 11.5 B unique parameters". V3's tables have $129{,}280 \times 7{,}168$ numbers each.
# With `parameters` of task 1 a token touches 37.55 B, both tables included. Find out what was counted, in billions:
#
# - `table`: one table, to two percent;
# - `really`: what is 36.7 then, of these? `"with both"`, `"without the embedding"`, `"without the head and the embedding"`;
# - `projection`: the module's matrix that joins $2D$ numbers to $D$, to two percent. (The module has 11.61 B with it.)


# %% task="v3.notes" title="Which billions?" kind="compare" difficulty=1 minutes=10
### BEGIN SOLUTION
table = 129_280 * 7168 / 1e9
really = "without the embedding"
projection = 2 * 7168 * 7168 / 1e9
### STUB
# table = None  # billions
# really = None  # one of the three
# projection = None  # billions
### END SOLUTION

# %% tags=["judge"]
_notes = {"table": 0.92668, "really": "without the embedding", "projection": 0.10276}


@checks(
    "v3.notes",
    oracle=_notes,
    mistakes={
        "that is both tables; one is asked for": _notes | {"table": 1.85336},
        "37.55 is with both; the notes print 36.7": _notes | {"really": "with both"},
        "without both tables it would be 35.7": _notes | {"really": "without the head and the embedding"},
        "this is D times D; it joins two vectors": _notes | {"projection": 0.05138},
        "this is what is printed for the whole module": _notes | {"projection": 11.5},
        "this is a number, not billions": _notes | {"projection": 102_760_448.0},
    },
    hints=(
        "Subtract the table from 37.55 once, and twice. Which comes close to 36.7?",
        "One table is 0.93 B; 37.55 - 0.93 = 36.6, and 37.55 - 1.85 = 35.7. The matrix has 2D columns and D rows.",
        "129,280 times 7,168; the middle one of the three; 2 times 7,168 squared; the numbers in units of a billion.",
    ),
)
def _(draw):
    yield value("one table", 1, [call("table")], rtol=0.02, atol=0.0)
    yield value("what 36.7 B really are", 1, [call("really")])
    yield value("the matrix that is left out", 1, [call("projection")], rtol=0.02, atol=0.0)


# %% [markdown]
# ## 5. Predict: V3 at work
#
# Write down, before you run the cell below the check, each to within three percent:
#
# - `awake`: 16 texts are written at once. Each token uses 8 of 256 routed experts, and we take the choice as even and
#   independent. How many experts of a layer does *some* text need?
# - `gib`: V3 keeps $512 + 64$ numbers in each of 61 layers for a token of the past, in 16 bits. How many GiB ($2^{30}$ bytes) is
#   a text of $128 \cdot 1024$ tokens?
# - `days`: training took 2.664 million hours of H800, and there were 2,048 of them. How many days?
# - `times`: how many times as many GPU hours would V3's 14.8 trillion tokens have cost with all 256 experts at work? A token
#   costs 250 GFLOPs in training; count six FLOPs for each of the 671.0 - 37.6 billion parameters that would wake up.


# %% task="v3.at_work" title="V3 at work" kind="predict" difficulty=2 minutes=15
### BEGIN SOLUTION
awake = 256 * (1 - (1 - 8 / 256) ** 16)
gib = 2 * (512 + 64) * 61 * 128 * 1024 / 2**30
days = 2.664e6 / 2048 / 24
times = (250e9 + 6 * (671.0e9 - 37.6e9)) / 250e9
### STUB
# awake = None  # experts
# gib = None  # GiB
# days = None
# times = None  # times as many hours
### END SOLUTION

# %% [markdown]
# Measure the first: a thousand times sixteen tokens with eight random experts each.

# %%
choices = torch.rand(1000, 16, 256, generator=torch.Generator().manual_seed(0)).topk(8).indices.flatten(1)
needed = torch.zeros(1000, 256).scatter_(1, choices, 1.0).sum(1)
print(f"{needed.mean():.1f} experts awake, between {needed.min():.0f} and {needed.max():.0f}; you said {awake}")

# %% tags=["judge"]
_at_work = {"awake": 101.959, "gib": 8.57812, "days": 54.199, "times": 16.2016}


@checks(
    "v3.at_work",
    oracle=_at_work,
    mistakes={
        "two texts often need the same expert: 16 times 8 counts it twice": _at_work | {"awake": 128.0},
        "this is for one text": _at_work | {"awake": 8.0},
        "this is how many sleep": _at_work | {"awake": 154.041},
        "16 bits are two bytes": _at_work | {"gib": 4.28906},
        "keys and values are made from one latent: there is no factor of two for them": _at_work | {"gib": 17.15624},
        "the rotary key is cached too: 64 numbers more": _at_work | {"gib": 7.625},
        "these are gigabytes of a billion bytes; a GiB has 2 to the 30": _at_work | {"gib": 9.2107},
        "these are hours": _at_work | {"days": 1300.78},
        "what is at work already has to be paid for too: add one": _at_work | {"times": 15.2016},
        "forward and backward are six FLOPs for each parameter, not two": _at_work | {"times": 6.0672},
        "this is how many times as many parameters; attention's scores and the rest do not grow": _at_work
        | {"times": 671.0 / 37.6},
    },
    hints=(
        "With which probability does one text leave a certain expert alone? And sixteen texts? How many bytes does a token of "
        "the past take in all layers?",
        "One text leaves an expert alone with 1 - 8/256, sixteen with the 16th power of it. The cache is 576 numbers of two "
        "bytes, times layers and tokens. Hours by GPUs by 24. And 250 GFLOPs grow by 6 times 633.4 billion.",
        "256 · (1 - 0.96875^16); 2 · 576 · 61 · 131,072 / 2^30; 2.664e6 / 2048 / 24; 1 + 6 · 633.4 / 250.",
    ),
)
def _(draw):
    yield value("experts that somebody needs", 1, [call("awake")], rtol=0.03, atol=0.0)
    yield value("the cache of a long text", 1, [call("gib")], rtol=0.03, atol=0.0)
    yield value("days of training", 1, [call("days")], rtol=0.03, atol=0.0)
    yield value("what a dense V3 would cost", 1, [call("times")], rtol=0.03, atol=0.0)
