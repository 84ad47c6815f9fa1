"""Window, HCA and CSA: each is its definition, in one pass, in pieces, packed, and token by token from fixed memory."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minideepseek as mds
from minideepseek.accounting import cache_elements
from minideepseek.layers import CSA, HCA, MTP, Indexer, RoPE, SharedKV, SwiGLU, YaRN, shared_kv
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.ring import SPARE
from minideepseek.model import ModelConfig, Transformer

V, T, D = 61, 45, 32
WINDOW = SharedKV(
    n_heads=4, head_dim=12, d_rope=4, d_query_latent=10, window=8, out_groups=2, d_out_latent=6
)  # fmt: skip
YARN = YaRN(factor=16, original_len=16, mscale=0, mscale_all_dim=0)
FAR = replace(WINDOW, rope=RoPE(layout="adjacent", theta=160_000, yarn=YARN))
INDEXER = Indexer(n_heads=16, head_dim=8, top_k=2)
KINDS = {"window": WINDOW, "hca": HCA(mqa=FAR, rate=8), "csa": CSA(mqa=FAR, rate=4, indexer=INDEXER)}
each_kind = pytest.mark.parametrize("kind", KINDS)


def model(*attention, seed=0, mtp=None) -> Transformer:
    cfg = ModelConfig(
        d_model=D,
        n_layers=len(attention),
        attention=attention,
        ffn=SwiGLU(hidden=48),
        vocab_size=V,
        init_std=0.2,
        mtp=mtp,
    )
    net = Transformer(cfg, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():  # nothing may hide behind how it starts
            if name.endswith(("sink", "place")) or "norm" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    return net


def stack(**changes) -> Transformer:
    return model(*(replace(KINDS["csa"], **changes) if kind == "csa" else KINDS[kind] for kind in [*KINDS, "csa"]))


def tokens(batch=2, length=T, seed=0):
    return torch.randint(0, V, (batch, length), generator=torch.Generator().manual_seed(seed))


def layer_and_input(kind, length=T, batch=2):
    net = model(KINDS[kind])
    ids = tokens(batch, length)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, length, D, generator=generator, dtype=torch.float64)
    return net.blocks[0].attention, x, net.context(ids)


# --- the definition, one query at a time ------------------------------------------------------------------------------


def norm(x, weight=None):
    y = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return y if weight is None else y * weight


def turned(x, position, rope):
    frequencies = rope.frequencies(4, torch.float64)
    pairs = torch.view_as_complex(x[..., -4:].unflatten(-1, (2, 2)).contiguous())
    pairs = pairs * torch.polar(torch.ones_like(frequencies), position * frequencies)
    return torch.cat([x[..., :-4], torch.view_as_real(pairs).flatten(-2)], -1)


def entry(x, compressor, i):
    """Block i of x (T, D), by the equations."""
    rate, width, streams = compressor.rate, compressor.width, 2 if compressor.overlap else 1
    values, scores = (x @ compressor.down.weight.T).split(streams * width, -1)
    found = torch.zeros(width, dtype=x.dtype)
    for channel in range(width):
        offers = []  # (score, value)
        for j in range(rate * (i - 1), rate * (i + 1)):
            own = j >= rate * i
            if j < 0 or (streams == 1 and not own):
                continue
            column = channel + (width if own and streams == 2 else 0)
            offers.append((scores[j, column] + compressor.place[j % rate, column], values[j, column]))
        weights = torch.stack([score for score, _ in offers]).softmax(0)
        found[channel] = (weights * torch.stack([value for _, value in offers])).sum()
    return turned(norm(found, compressor.norm.weight), rate * i, compressor.rope)


@torch.no_grad()
def by_definition(layer, x):
    """x (T, D) -> (T, D)."""
    mqa = getattr(layer, "mqa", layer)
    cfg, rope = mqa.cfg, mqa.cfg.rope
    latent, kv = (x @ mqa.down.weight.T).split([cfg.d_query_latent, cfg.head_dim], -1)
    latent = norm(latent, mqa.query_norm.weight)
    window = [turned(row, t, rope) for t, row in enumerate(norm(kv, mqa.kv_norm.weight))]
    rate = getattr(layer.cfg, "rate", len(x) + 1)
    entries = [entry(x, layer.compressor, i) for i in range(len(x) // rate)]
    found = []
    for t in range(len(x)):
        visible = [i for i in range(len(entries)) if i < (t + 1) // rate]
        if hasattr(layer, "indexer") and visible:
            indexer = layer.indexer
            queries = (indexer.query.weight @ latent[t]).view(16, 8)
            weights = indexer.weights.weight @ x[t] / 4
            scores = {}
            for i in visible:
                key = entry(x, indexer.compressor, i)
                products = [turned(query, t, rope) @ key for query in queries]
                scores[i] = sum(w * p.clamp(min=0) / math.sqrt(8) for w, p in zip(weights, products, strict=True))
            visible = sorted(scores, key=lambda i: -scores[i])[: indexer.cfg.top_k]
        seen = torch.stack(window[max(0, t - cfg.window + 1) : t + 1] + [entries[i] for i in visible])
        heads = []
        for h, query in enumerate((mqa.query_up.weight @ latent[t]).view(cfg.n_heads, -1)):
            scores = seen @ turned(norm(query), t, rope) / math.sqrt(cfg.head_dim)
            weights = torch.cat([scores, mqa.sink[h : h + 1]]).softmax(0)[:-1]
            heads.append(turned(weights @ seen, -t, rope))
        groups = torch.stack(heads).view(cfg.out_groups, -1)
        found.append(mqa.out_up.weight @ torch.cat([w @ g for w, g in zip(mqa.out_down, groups, strict=True)]))
    return torch.stack(found)


@each_kind
@pytest.mark.parametrize("length", [1, 3, 4, 21])
def test_a_layer_is_its_definition(kind, length):
    layer, x, ctx = layer_and_input(kind, length, batch=1)
    expected = by_definition(layer, x[0])
    with torch.no_grad():
        assert (layer(x, ctx)[0] - expected).abs().max() <= 1e-11 * expected.abs().max()


@each_kind
@pytest.mark.parametrize(("at_once", "piece"), [(2**24, 7), (4 * 2 * 19 * 3, 128), (1, 128)])
def test_pieces_make_the_same_whole(kind, at_once, piece, monkeypatch):
    layer, x, ctx = layer_and_input(kind)
    whole = layer(x, ctx)
    monkeypatch.setattr(shared_kv, "AT_ONCE", at_once)
    monkeypatch.setattr(shared_kv, "PIECE", piece)
    assert torch.allclose(layer(x, ctx), whole, atol=1e-13)


@each_kind
def test_gradients_are_those_of_differences(kind):
    layer, x, ctx = layer_and_input(kind, length=11, batch=1)
    names = ["out_down", "sink", "place"]
    weights = [
        value for name, value in layer.named_parameters() if name.split(".")[-1] in names and "indexer" not in name
    ]
    torch.autograd.gradcheck(lambda x, *_: layer(x, ctx), (x.requires_grad_(), *weights), fast_mode=True)


@each_kind
def test_a_query_sees_nothing_that_comes_after_it(kind):
    layer, x, ctx = layer_and_input(kind)
    with torch.no_grad():
        before = layer(x, ctx)
        for j in range(T):
            other = x.clone()
            other[:, j] += 1
            after = layer(other, ctx)
            assert torch.equal(before[:, :j], after[:, :j])
            assert not torch.equal(before[:, j], after[:, j])


def test_the_last_token_of_a_block_is_the_first_to_see_it():
    layer, x, ctx = layer_and_input("hca", length=40)
    other = x.clone()
    other[:, 8] += 1  # in block 1, tokens 8 to 15; the window reaches up to token 15
    with torch.no_grad():
        changed = (layer(x, ctx) != layer(other, ctx)).any(-1).any(0)
    assert changed.tolist() == [False] * 8 + [True] * 32
    narrow = replace(KINDS["hca"], mqa=replace(FAR, window=1))
    layer = model(narrow).blocks[0].attention
    with torch.no_grad():
        changed = (layer(x, ctx) != layer(other, ctx)).any(-1).any(0)
    assert changed.tolist() == [False] * 8 + [True] + [False] * 6 + [True] * 25  # itself, then the closed block


def test_blocks_of_csa_overlap():
    _, x, ctx = layer_and_input("csa", length=8)
    compressor = model(KINDS["csa"]).blocks[0].attention.compressor
    other = x.clone()
    other[:, 0] += 1
    with torch.no_grad():
        changed = (compressor(x, ctx, None).vectors != compressor(other, ctx, None).vectors).any(-1).any(0)
    assert changed.tolist() == [True, True]


@each_kind
@pytest.mark.parametrize("own", [False, True])
def test_only_distances_count(kind, own):
    net, ids = model(KINDS[kind]), tokens()
    positions = torch.arange(T) + torch.tensor([[1000], [1000 if not own else 77]])
    with torch.inference_mode():
        assert torch.allclose(net(ids, positions=positions), net(ids), atol=1e-9)


@each_kind
def test_a_sink_takes_everything_or_nothing(kind):
    layer, x, ctx = layer_and_input(kind)
    mqa = getattr(layer, "mqa", layer)
    with torch.no_grad():
        mqa.sink.fill_(1e4)
        assert layer(x, ctx).abs().max() == 0
        mqa.sink.fill_(-1e4)
        _, query, vectors = mqa.project(x, ctx)
        _, shares = mqa.read(query, mqa.near(vectors, ctx, None), ctx, slice(0, T))
        assert torch.allclose(shares[0].sum(-1), torch.ones(()).double())


@pytest.mark.parametrize("kind", ["hca", "csa"])
def test_a_text_shorter_than_a_block_has_its_window_alone(kind):
    layer, x, ctx = layer_and_input(kind, length=3)
    with torch.no_grad():
        assert torch.equal(layer(x, ctx), layer.mqa(x, ctx))


def test_where_all_blocks_are_chosen_sparse_is_dense():
    layer, x, ctx = layer_and_input("csa")
    with torch.no_grad():
        sparse = layer(x, ctx)
        layer.cfg = replace(layer.cfg, indexer=replace(INDEXER, top_k=T // 4))
        every = layer(x, ctx)
        layer.cfg = replace(layer.cfg, stage="dense")
        assert torch.equal(layer(x, ctx), every)
    assert not torch.allclose(sparse, every)


def test_packed_documents_are_each_alone():
    net, ids = stack(), tokens(2, 42)
    ends = [[0, 7, 26, 42], [0, 15, 16, 42]]
    segments = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(row).diff()) for row in ends])
    with torch.inference_mode():
        together = net(ids, segments=segments)
        for row, cuts in enumerate(ends):
            for a, b in itertools.pairwise(cuts):
                alone = net(ids[row : row + 1, a:b])[0]
                assert (together[row, a:b] - alone).abs().max() <= 1e-9 * alone.abs().max()


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_token_by_token_equals_the_full_forward_at_every_position():
    net, ids = stack(), tokens(3)
    cache = net.new_cache(3, T)
    with torch.inference_mode():
        full = net(ids)
        found = torch.cat([net(ids[:, t : t + 1], cache=cache) for t in range(T)], 1)
    assert (found - full).abs().max() <= 1e-10 * full.abs().max()


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, T - 1), max_size=T - 1), room=st.integers(1, T), top_k=st.sampled_from([1, 2, 40]))
def test_decoding_in_chunks_of_any_size_equals_the_full_forward(cuts, room, top_k):
    net, ids = stack(indexer=replace(INDEXER, top_k=top_k)), tokens()
    cache = net.new_cache(2, room)  # it grows
    with torch.inference_mode():
        full = net(ids)
        found = torch.cat([net(ids[:, a:b], cache=cache) for a, b in itertools.pairwise([0, *sorted(cuts), T])], 1)
    assert (found - full).abs().max() <= 1e-10 * full.abs().max()


def test_an_indexer_that_rounds_decodes_as_it_reads():
    net, ids = stack(indexer=replace(INDEXER, rounding=FP8())), tokens()
    cache = net.new_cache(2, T)
    with torch.inference_mode():
        full = net(ids)
        found = torch.cat([net(ids[:, t : t + 1], cache=cache) for t in range(T)], 1)
        assert (found - full).abs().max() <= 1e-10 * full.abs().max()
        assert not torch.allclose(full, stack()(ids), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=3, max_size=3), chunk=st.integers(1, 5))
def test_rows_of_different_lengths_share_a_cache(lengths, chunk):
    net, ids = stack(), tokens(3)
    starts = torch.tensor(lengths)
    cache = net.new_cache(3, 4)
    rows = torch.arange(3)[:, None]
    with torch.inference_mode():
        full = net(ids)
        prompts = ids[:, : max(lengths)]
        net.hidden(prompts, net.context(prompts, cache=cache, lengths=starts))  # beyond its length a row is padding
        for _ in range(13 // chunk):
            at = starts[:, None] + torch.arange(chunk)
            found = net(ids[rows, at], cache=cache, positions=at)
            assert (found - full[rows, at]).abs().max() <= 1e-10 * full.abs().max()
            starts = starts + chunk


def test_ragged_prompts_continue_as_each_would_alone():
    net = stack()
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (2, 23, 40)]
    together = mds.generate(net, prompts, max_new_tokens=19, temperature=0.0)
    assert together == [mds.generate(net, [prompt], max_new_tokens=19, temperature=0.0)[0] for prompt in prompts]


@pytest.mark.parametrize("depth", [1, 2])
def test_speculation_writes_the_same_text(depth):
    net = model(*KINDS.values(), mtp=MTP(depth=depth))
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (3, 29)]
    plain = mds.generate(net, prompts, max_new_tokens=30, temperature=0.0)
    assert mds.generate(net, prompts, max_new_tokens=30, temperature=0.0, speculative=True) == plain


@pytest.mark.parametrize("back", range(1, SPARE + 1))
def test_the_last_tokens_may_be_taken_back(back):
    net, ids, wrong = stack(), tokens(), tokens(seed=5)
    with torch.inference_mode():
        full = net(ids)
        for t in range(20, 37):
            cache = net.new_cache(2, T)
            net(ids[:, : t - back], cache=cache)
            net(wrong[:, t - back : t], cache=cache)
            cache.length = t - back
            found = net(ids[:, t - back : t + 1], cache=cache)
            assert (found - full[:, t - back : t + 1]).abs().max() <= 1e-10 * full.abs().max()


def test_more_than_is_kept_cannot_be_taken_back():
    net, ids = stack(), tokens()
    cache = net.new_cache(2, T)
    with torch.inference_mode():
        net(ids[:, :30], cache=cache)
        cache.length = 30 - SPARE - 1
        with pytest.raises(ValueError, match="row 0 of the cache goes on at position 21, but has read 30 tokens"):
            net(ids[:, :1], cache=cache)
        cache.length = 0  # from the beginning nothing is missing
        assert torch.allclose(net(ids, cache=cache), net(ids), atol=1e-10)


@pytest.mark.parametrize("length", [1, 4, 45, 128])
def test_memory_is_the_formula(length):
    net = stack()
    cache = net.new_cache(3, length)
    assert cache.nbytes == 3 * 8 * cache_elements(net.cfg, length)
    with torch.inference_mode():
        for _ in range(length // 40 + 1):
            net(tokens(3, min(length, 40)), cache=cache)
            cache.length = 0
    assert cache.nbytes == 3 * 8 * cache_elements(net.cfg, length)


def test_a_text_four_times_as_long_takes_blocks_and_nothing_else():
    hca, csa = KINDS["hca"], KINDS["csa"]
    assert WINDOW.cache_elements(10**6) == WINDOW.cache_elements(1) == (8 + SPARE) * 12
    assert hca.cache_elements(800) - hca.cache_elements(400) == 400 // 8 * 12
    assert csa.cache_elements(800) - csa.cache_elements(400) == 400 // 4 * (12 + 8)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(found) if isinstance(x, torch.Tensor))])
        return found


@each_kind
def test_a_long_prompt_never_makes_a_matrix_of_all_by_all(kind):
    length = 4096
    net = model(KINDS[kind])
    ids = tokens(1, length)
    with torch.inference_mode(), Largest() as largest:
        net.hidden(ids, net.context(ids, cache=net.new_cache(1, length)))
    assert largest.numbers < length**2 / 4


# --- learning to choose -----------------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(layer, x, ctx):
    """Scores of all blocks, the joint attention to each with all heads together, and which are visible."""
    latent, query, vectors = layer.mqa.project(x, ctx)
    question, keys = layer.indexer(x, latent, ctx, None)
    products = torch.einsum("bthd,bsd->bths", question.queries, keys).relu()
    scores = torch.einsum("bths,bth->bts", products, question.weights)
    entries = layer.compressor(x, ctx, None)
    visible = entries.visible(ctx, slice(0, T))
    near = layer.mqa.near(vectors, ctx, None)

    def attention(allowed):
        return layer.mqa.read(query, near, ctx, slice(0, T), ((entries.vectors, allowed),))[1][1].sum(2)

    return scores, attention, visible


@pytest.mark.parametrize("stage", ["warm-up", "sparse"])
def test_the_indexer_imitates_the_joint_attention_of_its_stage(stage, monkeypatch):
    monkeypatch.setattr(shared_kv, "PIECE", 10)
    layer, x, ctx = layer_and_input("csa")
    layer.cfg = replace(layer.cfg, stage=stage)
    layer.train()(x, ctx)
    scores, attention, visible = by_hand(layer, x, ctx)
    best = scores.masked_fill(~visible, -torch.inf).topk(2, -1).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True) & visible
    allowed = visible.expand_as(chosen) if stage == "warm-up" else chosen
    losses = []
    for row, t in itertools.product(range(2), range(3, T)):  # before token 3 there is no block
        here = allowed[row, t]
        p = attention(allowed)[row, t][here]
        p = p / p.sum()
        losses.append((p * (p.log() - scores[row, t][here].log_softmax(-1))).sum())
    assert ctx.losses["indexer"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    dense = attention(visible)[:, 11:]  # from token 11 on there are more than two blocks
    recall = ((dense * chosen[:, 11:]).sum(-1) / dense.sum(-1)).mean()
    assert ctx.metrics["recall/0"].item() == pytest.approx(recall.item(), rel=1e-9)


@pytest.mark.parametrize("stage", ["warm-up", "sparse"])
def test_the_two_losses_do_not_meet(stage):
    net = model(replace(KINDS["csa"], stage=stage)).train()
    losses = net.loss(tokens())
    names, values = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(losses.indexer, values, retain_graph=True, allow_unused=True)
    assert {name for name, grad in zip(names, grads, strict=True) if grad is not None and bool(grad.any())} == {
        name for name in names if ".indexer." in name
    }
    grads = torch.autograd.grad(losses.lm, values, allow_unused=True)
    assert {name for name, grad in zip(names, grads, strict=True) if grad is None} == {
        name for name in names if ".indexer." in name
    }


def test_a_warm_up_teaches_the_indexer_what_to_keep():
    net, ids = model(replace(KINDS["csa"], stage="warm-up")).train(), tokens(8, 60)
    optimizer = torch.optim.Adam([value for name, value in net.named_parameters() if ".indexer." in name], lr=1e-2)
    history = []
    for _ in range(60):
        losses = net.loss(ids)
        optimizer.zero_grad()
        losses.indexer.backward()
        optimizer.step()
        history.append((losses.indexer.item(), losses.metrics["recall/0"].item()))
    assert history[-1][0] < 0.6 * history[0][0]
    assert history[-1][1] > history[0][1]


def test_the_dense_stage_leaves_the_indexer_alone():
    losses = model(replace(KINDS["csa"], stage="dense")).train().loss(tokens())
    assert [name for name, _ in losses] == ["lm"]
    assert losses.metrics == {}


def test_outside_of_training_nothing_is_added():
    losses = stack().loss(tokens())
    assert [name for name, _ in losses] == ["lm"]
    assert losses.metrics == {}


# --- shapes -----------------------------------------------------------------------------------------------------------


@each_kind
def test_parameters_are_counted(kind):
    cfg = KINDS[kind]
    assert sum(value.numel() for value in cfg.build(D, 0).parameters()) == cfg.n_params(D)


def test_a_step_far_into_a_text_costs_the_indexer_alone():
    csa, hca = KINDS["csa"], KINDS["hca"]
    each = 4 * 4 * 12  # FLOPs for a vector that is read
    assert WINDOW.score_flops(10**6) == WINDOW.score_flops(8) == each * 8
    assert csa.score_flops(10**6) - INDEXER.score_flops(10**6 / 4) == each * (8 + 2)
    assert hca.score_flops(10**6) == each * (8 + 10**6 / 8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(WINDOW, window=0), "window=0 must be positive"),
        (lambda: replace(WINDOW, d_rope=14), "d_rope=14 channels cannot turn among head_dim=12"),
        (lambda: replace(WINDOW, rope=RoPE(layout="adjacent", dim=2)), "leave it None"),
        (lambda: replace(WINDOW, out_groups=3), "n_heads=4 do not divide into out_groups=3"),
        (lambda: HCA(mqa=FAR, rate=1), "rate=1"),
        (lambda: CSA(mqa=FAR, rate=4, indexer=replace(INDEXER, head_dim=2)), "no room for the mqa.d_rope=4"),
        (lambda: CSA(mqa=FAR, rate=4, indexer=INDEXER, stage="hot"), "stage='hot'"),
    ],
)
def test_nonsense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
