"""Mixtures: who is chosen, that the sum over experts is the formula, and what evens the load."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minideepseek as mds
from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers import (
    Capacity,
    CommunicationBalance,
    DeviceBalance,
    ExpertBalance,
    Groups,
    LossFree,
    MoE,
    SwiGLU,
    TopK,
)
from minideepseek.layers.balance import load, load_variation, max_violation
from minideepseek.layers.router import Routing, first_top_k
from minideepseek.model import ModelConfig, Transformer
from minideepseek.ops import reference


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assignments(n, n_experts, k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n_experts, generator=generator)[:k] for _ in range(n)]) if n else torch.zeros(
        0, k, dtype=torch.int64
    )  # fmt: skip


# --- running the experts ----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 20),
    n_experts=st.integers(1, 9) | st.just(40),
    k=st.integers(1, 3),
    limit=st.sampled_from([None, 0.8]),
    seed=st.integers(0, 99),
)
def test_sorted_dispatch_equals_a_loop_over_experts(n, n_experts, k, limit, seed):
    k = min(k, n_experts)
    leaves = [
        draw(n, 6, seed=seed),
        draw(n_experts, 8, 6, seed=seed + 1),
        draw(n_experts, 6, 4, seed=seed + 2),
        draw(n, k, seed=seed + 3),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    indices, grad = assignments(n, n_experts, k, seed), draw(n, 6, seed=seed + 4)
    x, gate_up, down, weights = leaves
    found = []
    for form in (ops.experts, reference.experts):
        y = form(x, gate_up, down, indices, weights, limit)
        # through a product with zero, an expert that nobody chose has a gradient in the loop too
        total = (y * grad).sum() + 0 * sum(leaf.sum() for leaf in leaves)
        found.append([y, *torch.autograd.grad(total, leaves)])
    for quick, slow in zip(*found, strict=True):
        assert torch.allclose(quick, slow, atol=1e-12)
    with torch.no_grad():  # where nothing is kept, few tokens take shorter ways
        assert torch.allclose(ops.experts(x, gate_up, down, indices, weights, limit), found[1][0], atol=1e-12)


@pytest.mark.parametrize("everybody", [0, 3])
def test_all_tokens_may_go_to_one_expert(everybody):
    x, gate_up, down = draw(5, 6), draw(4, 8, 6, seed=1).requires_grad_(), draw(4, 6, 4, seed=2).requires_grad_()
    indices, weights = torch.full((5, 1), everybody), torch.ones(5, 1, dtype=torch.float64)
    y = ops.experts(x, gate_up, down, indices, weights)
    assert torch.allclose(y, ops.swiglu(x @ gate_up[everybody].T) @ down[everybody].T)
    y.sum().backward()
    idle = [expert for expert in range(4) if expert != everybody]
    assert not gate_up.grad[idle].any()
    assert not down.grad[idle].any()
    assert gate_up.grad[everybody].any()


def test_bfloat16_rows_are_filled_up_without_a_trace():
    x, gate_up, down = (
        draw(*shape, dtype=torch.bfloat16, seed=i) for i, shape in enumerate([(70, 32), (5, 64, 32), (5, 32, 32)])
    )
    indices, weights = assignments(70, 5, 2), torch.rand(70, 2)
    wide = reference.experts(x.double(), gate_up.double(), down.double(), indices, weights.double())
    narrow = ops.experts(x, gate_up, down, indices, weights)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.double() - wide).norm() <= 0.02 * wide.norm()


def test_the_order_of_experts_does_not_matter():
    x, gate_up, down, weights = draw(9, 6), draw(4, 8, 6, seed=1), draw(4, 6, 4, seed=2), draw(9, 2, seed=3)
    indices, order = assignments(9, 4, 2), torch.tensor([2, 0, 3, 1])
    renamed = order.argsort()[indices]
    moved = ops.experts(x, gate_up[order], down[order], renamed, weights)
    assert torch.allclose(moved, ops.experts(x, gate_up, down, indices, weights))


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_ties_go_to_the_smaller_index():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.9, 0.5]])
    assert first_top_k(scores, 4).tolist() == [[1, 3, 0, 2]]


def test_softmax_weights_of_the_chosen_are_not_normalised():
    routing = TopK(k=2).route(draw(20, 6))
    assert torch.allclose(routing.scores.sum(-1), torch.ones(20, dtype=torch.float64))
    assert bool((routing.weights.sum(-1) < 1).all())
    assert torch.equal(routing.weights, routing.scores.gather(1, routing.experts))


def test_the_bias_moves_the_choice_and_never_the_weight():
    router = TopK(k=2, affinity="sigmoid", bias=True)
    logits, bias = draw(50, 6), torch.tensor([9.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    plain, biased = router.route(logits, torch.zeros_like(bias)), router.route(logits, bias)
    assert bool((biased.experts[:, 0] == 0).all())
    assert not torch.equal(plain.experts, biased.experts)
    assert torch.equal(biased.weights, logits.sigmoid().gather(1, biased.experts))


def test_normalised_weights_add_up_to_the_scale():
    routing = TopK(k=3, affinity="sigmoid", normalise=True, scale=2.5).route(draw(20, 8))
    assert torch.allclose(routing.weights.sum(-1), torch.full((20,), 2.5, dtype=torch.float64))


@pytest.mark.parametrize("judged_by", [1, 2])
def test_tokens_stay_within_their_groups(judged_by):
    router = TopK(k=4, affinity="sigmoid", groups=Groups(n=4, limit=2, judged_by=judged_by), bias=True)
    logits = draw(200, 16)
    routing = router.route(logits, torch.full((16,), -5.0, dtype=torch.float64))  # masked experts must not win by 0
    for experts, scores in zip(routing.experts, logits.sigmoid(), strict=True):
        groups = set((experts // 4).tolist())
        assert len(groups) <= 2
        judged = scores.view(4, 4).sort(descending=True).values[:, :judged_by].sum(-1)
        assert groups <= set(judged.topk(2).indices.tolist())


def test_the_gradient_of_the_gate_is_the_formulas():
    logits = draw(4, 5).requires_grad_()
    routing = TopK(k=2, affinity="sigmoid", normalise=True, scale=2.0, bias=True).route(logits, draw(5, seed=2))
    grad = draw(4, 2, seed=1)
    (found,) = torch.autograd.grad((routing.weights * grad).sum(), logits)
    expected = torch.zeros_like(logits)
    scores = logits.detach().sigmoid()
    for n in range(4):
        chosen = routing.experts[n]
        s = scores[n, chosen]
        # w_k = 2 s_k / S: dw_k/ds_j = 2 (delta_kj / S - s_k / S²), ds/dlogit = s (1 - s)
        ds = 2 * (grad[n] / s.sum() - (grad[n] * s).sum() / s.sum() ** 2)
        expected[n, chosen] = ds * s * (1 - s)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"router": TopK(k=5)}, "only 4"),
        ({"router": TopK(k=3, groups=Groups(n=2, limit=1))}, "only 2"),
        ({"router": TopK(k=1, groups=Groups(n=3, limit=1))}, "equal groups"),
        ({"loss_free": LossFree()}, "bias=True"),
        ({"hidden": 0}, "no mixture"),
        ({"limit": -1.0}, "limit=-1.0"),
        ({"balance": (DeviceBalance(alpha=0.1, devices=3),)}, "3 equal groups"),
        ({"capacity": Capacity(devices=3)}, "3 equal groups"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        MoE(**{"n_experts": 4, "hidden": 8, "router": TopK(k=1), **fields})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ExpertBalance, {"alpha": -0.1}),
        (ExpertBalance, {"alpha": float("nan")}),
        (ExpertBalance, {"alpha": 0.1, "over": "night"}),
        (DeviceBalance, {"alpha": 0.1, "devices": 0}),
        (CommunicationBalance, {"alpha": 0.1, "devices": 2, "limit": 3}),
        (LossFree, {"speed": -1.0}),
        (LossFree, {"until": 1.5}),
        (Capacity, {"devices": 0}),
        (Capacity, {"devices": 2, "factor": 0.0}),
        (Capacity, {"devices": 2, "spared": 1.5}),
    ],
)
def test_nonsense_is_refused(kind, fields):
    with pytest.raises(ValueError, match=r"must|choose|equal groups|may use"):
        kind(**fields)


# --- balance ----------------------------------------------------------------------------------------------------------


def even_routing(n_experts=8, k=2):
    """Every expert chosen equally often, affinities all alike."""
    experts = torch.arange(n_experts * 4).view(-1, k) % n_experts
    return Routing(experts, torch.ones(len(experts), k), torch.full((len(experts), n_experts), 1 / n_experts))


def test_balanced_losses_have_their_closed_forms():
    routing = even_routing()
    assert ExpertBalance(alpha=0.5, over="batch").loss(routing, 1).item() == pytest.approx(0.5)
    assert ExpertBalance(alpha=0.5, share=True, over="batch").loss(routing, 1) >= 0.5 - 1e-6
    assert DeviceBalance(alpha=0.5, devices=4, over="batch").loss(routing, 1).item() == pytest.approx(0.5)


def test_losses_equal_their_formulas_written_out():
    logits = draw(12, 8)
    routing = TopK(k=2).route(logits)
    f = torch.tensor([(routing.experts == i).sum() * 8 / (2 * 12) for i in range(8)], dtype=torch.float64)
    p = routing.scores.mean(0)
    assert ExpertBalance(alpha=0.1, over="batch").loss(routing, 1).item() == pytest.approx(0.1 * float((f * p).sum()))
    device = sum(f[2 * j : 2 * j + 2].mean() * p[2 * j : 2 * j + 2].sum() for j in range(4))
    assert DeviceBalance(alpha=0.1, devices=4, over="batch").loss(routing, 1).item() == pytest.approx(
        0.1 * float(device)
    )
    received = [((routing.experts // 2) == j).any(-1).sum() * 4 / (2 * 12) for j in range(4)]
    traffic = sum(received[j] * p[2 * j : 2 * j + 2].sum() for j in range(4))
    found = CommunicationBalance(alpha=0.1, devices=4, limit=2, over="batch").loss(routing, 1).item()
    assert found == pytest.approx(0.1 * float(traffic))


def test_over_sequences_is_the_mean_of_the_sequences_losses():
    routing = TopK(k=2).route(draw(12, 8))
    rows = [Routing(*(part[a : a + 4] for part in routing)) for a in (0, 4, 8)]
    alone = [ExpertBalance(alpha=1.0, over="batch").loss(row, 1) for row in rows]
    assert torch.allclose(ExpertBalance(alpha=1.0).loss(routing, 3), torch.stack(alone).mean())


def test_only_affinities_carry_the_gradient_and_it_pushes_busy_experts_down():
    logits = torch.zeros(16, 4, dtype=torch.float64)
    logits[:, 0] = 1.0
    logits.requires_grad_()
    ExpertBalance(alpha=1.0, over="batch").loss(TopK(k=1).route(logits), 1).backward()
    assert bool((logits.grad[:, 0] > 0).all())
    assert bool((logits.grad[:, 1:] < 0).all())


def test_violation_and_variation_of_known_loads():
    assert max_violation(torch.tensor([3, 3, 3])) == 0
    assert max_violation(torch.tensor([6, 3, 0])) == 1
    assert load_variation(torch.tensor([6, 3, 0])).item() == pytest.approx((6 / 9) ** 0.5)
    assert load(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def mixture_model(**fields):
    router = TopK(k=2, affinity="sigmoid", normalise=True, bias=True)
    ffn = MoE(
        **{"n_experts": 8, "hidden": 8, "n_shared": 1, "router": router, "loss_free": LossFree(speed=0.1), **fields}
    )
    from minideepseek.layers import GQA

    cfg = ModelConfig(
        d_model=16,
        n_layers=2,
        attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
        ffn=(SwiGLU(hidden=24), ffn),
        vocab_size=40,
        init_std=0.3,
    )
    return Transformer(cfg, seed=0)


def test_the_bias_is_corrected_once_a_step_from_the_whole_batch():
    ids = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(0))
    whole, pieces = mixture_model().train(), mixture_model().train()
    whole.loss(ids)
    for piece in ids.chunk(3):
        pieces.loss(piece)
    for model in (whole, pieces):
        counts = model.blocks[1].ffn.load.clone()
        assert counts.sum() == 6 * 8 * 2
        model.blocks[1].ffn.after_step(0.0)
        assert torch.equal(model.blocks[1].ffn.router.bias, 0.1 * torch.sign(counts.float().mean() - counts))
        assert not model.blocks[1].ffn.load.any()
    assert torch.equal(whole.blocks[1].ffn.router.bias, pieces.blocks[1].ffn.router.bias)


def test_the_bias_rests_at_the_end_of_training_and_outside_of_it():
    model = mixture_model()
    ids = torch.randint(0, 40, (2, 9))
    model.eval().loss(ids)
    assert not model.blocks[1].ffn.load.any()
    model.train().loss(ids)
    model.blocks[1].ffn.after_step(0.99)
    assert not model.blocks[1].ffn.router.bias.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_model_keeps_fine_corrections(dtype):
    model = mixture_model()
    router = model.blocks[1].ffn.router
    router.bias += 0.1234567
    before = router.bias.clone()
    model.to(dtype)
    assert router.weight.dtype == dtype
    assert torch.equal(router.bias, before)
    assert model.float().blocks[1].ffn.router.bias.dtype == torch.float32
    assert model.double().blocks[1].ffn.router.bias.dtype == torch.float64


def test_a_step_reports_the_loads_of_the_whole_batch():
    model = mixture_model().train()
    layer = model.blocks[1].ffn
    ids = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(0))
    for piece in ids.chunk(3):
        model.loss(piece)
    counts = layer.load.clone()
    found = layer.after_step(0.0)
    assert found == {"max_violation": max_violation(counts), "load_variation": load_variation(counts)}
    assert found["max_violation"] > 0
    assert layer.after_step(0.0)["max_violation"] == 0  # nothing has been counted since


def test_a_look_at_the_loads_needs_no_gradient():
    model = mixture_model().train()
    with torch.no_grad():
        model(torch.randint(0, 40, (3, 5)))
    assert model.blocks[1].ffn.load.sum() == 3 * 5 * 2


def test_text_written_between_two_steps_leaves_their_loads_alone():
    model = mixture_model().train()
    before = model.blocks[1].ffn.router.bias.clone()
    mds.generate(model, torch.randint(0, 40, (2, 5)), max_new_tokens=4)
    assert not model.blocks[1].ffn.load.any()
    model.blocks[1].ffn.after_step(0.0)
    assert torch.equal(model.blocks[1].ffn.router.bias, before)


def test_a_mixture_stands_alone_without_a_context():
    layer = MoE(n_experts=8, hidden=8, router=TopK(k=2)).build(16, 0).eval()
    assert layer(draw(2, 3, 16, dtype=torch.float32), None).shape == (2, 3, 16)


def test_no_gradient_reaches_the_bias():
    model = mixture_model().train()
    assert "blocks.1.ffn.router.bias" not in dict(model.named_parameters())
    assert "blocks.1.ffn.router.bias" in model.state_dict()
    assert "blocks.1.ffn.load" not in model.state_dict()


def test_balance_losses_are_reported_in_training_only():
    model = mixture_model(balance=(ExpertBalance(alpha=0.1),))
    ids = torch.randint(0, 40, (2, 9))
    losses = model.train().loss(ids)
    assert losses.total.item() == pytest.approx(losses.lm.item() + losses.balance.item())
    assert [name for name, _ in model.eval().loss(ids)] == ["lm"]


def test_fine_grained_segmentation_keeps_cost_and_multiplies_choices():
    coarse = MoE(n_experts=16, hidden=64, router=TopK(k=2))
    fine = MoE(n_experts=64, hidden=16, router=TopK(k=8))
    router = (64 - 16) * 32
    assert fine.n_params(32) - coarse.n_params(32) == router
    assert fine.n_activated(32) - coarse.n_activated(32) == router


# --- dropping ---------------------------------------------------------------------------------------------------------

IDS = torch.randint(0, 1000, (8, 16), generator=torch.Generator().manual_seed(3))


def routed(n=128, n_experts=8, k=2, seed=0):
    """A routing that prefers the first experts, so that some devices are too busy."""
    logits = draw(n, n_experts, seed=seed)
    logits[:, :3] += 1.0
    return TopK(k=k).route(logits)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("seed", range(3))
def test_every_device_keeps_the_best_of_its_budget(factor, seed):
    routing = routed(seed=seed)
    keep = Capacity(devices=4, factor=factor, spared=0.0).keep(routing, IDS)
    affinity, device = routing.scores.gather(1, routing.experts), routing.experts // 2
    budget = int(factor * 128 * 2 / 4)
    busy = 0
    for j in range(4):
        stays, falls = affinity[(device == j) & keep], affinity[(device == j) & ~keep]
        assert len(stays) == min(budget, int((device == j).sum()))  # nothing falls where there is room
        if len(falls):
            busy += 1
            assert falls.max() <= stays.min()
    assert busy > 0


def test_tokens_of_spared_sequences_never_fall():
    routing, capacity = routed(), Capacity(devices=4, factor=0.6, spared=0.4)
    spared = capacity.spare(IDS)
    assert 0 < spared.sum() < len(IDS)
    keep = capacity.keep(routing, IDS).view(8, 16, 2)
    assert keep[spared].all()
    assert not keep[~spared].all()
    # they count against the budget: where they leave room for n others, the n best others stay
    device, budget = (routing.experts // 2).view(8, 16, 2), int(0.6 * 128 * 2 / 4)
    for j in range(4):
        here, safe = device == j, spared[:, None, None].expand_as(device)
        room = max(0, budget - int((here & safe).sum()))
        assert int((here & ~safe & keep).sum()) == min(room, int((here & ~safe).sum()))


def test_about_a_tenth_of_all_sequences_is_spared_whatever_stands_beside_them():
    ids = torch.randint(0, 50_000, (4000, 32), generator=torch.Generator().manual_seed(0))
    capacity = Capacity(devices=4)
    spared = capacity.spare(ids)
    assert spared.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(torch.cat([capacity.spare(part) for part in ids.split(7)]), spared)
    assert not Capacity(devices=4, spared=0.0).spare(ids).any()
    assert Capacity(devices=4, spared=1.0).spare(ids).all()


def test_what_falls_adds_nothing_and_learns_nothing_and_what_stays_is_unchanged():
    capacity = Capacity(devices=4, factor=0.5, spared=0.0)
    mixture = MoE(n_experts=8, hidden=8, n_shared=1, router=TopK(k=2), capacity=capacity)
    model = mixture_model(router=TopK(k=2), loss_free=None, capacity=capacity).double().train()
    layer, ids = model.blocks[1].ffn, torch.randint(0, 40, (4, 8), generator=torch.Generator().manual_seed(0))
    assert layer.cfg == mixture
    ctx, x = model.context(ids), draw(4, 8, 16)
    routing = layer.router(x.flatten(0, 1), ctx)
    keep = capacity.keep(routing, ids)
    weights = routing.weights * keep
    expected = reference.experts(x.flatten(0, 1), layer.gate_up, layer.down, routing.experts, weights).view_as(x)
    assert torch.allclose(layer(x, ctx), expected + layer.shared(x, ctx))
    assert int((~keep).sum()) == int(layer.dropped) > 0
    assert layer.after_step(0.0)["dropped"] == (~keep).double().mean()
    assert not layer.dropped


def test_nothing_falls_outside_of_training():
    model = mixture_model(capacity=Capacity(devices=4, factor=0.1, spared=0.0)).eval()
    plain = mixture_model().eval()
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(ids), plain(ids))
    assert not torch.equal(model.train()(ids), plain.train()(ids))


def test_a_layer_built_by_itself_starts_with_numbers_of_a_sensible_size():
    layer = MoE(n_experts=8, hidden=32, n_shared=1, router=TopK(k=2)).build(64, 0)
    x = torch.randn(1, 50, 64, generator=torch.Generator().manual_seed(0))
    y = layer(x, Context(positions=torch.arange(50), ids=torch.zeros(1, 50, dtype=torch.int64)))
    assert 0.05 < y.std() < 2
