"""Muon: orthogonal steps for each matrix of the model by itself, AdamW for the rest."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minideepseek.generations import generations
from minideepseek.layers.linear import Linear
from minideepseek.model import Transformer
from minideepseek.train import TrainConfig, train
from minideepseek.train.muon import COEFFICIENTS, Muon, orthogonalise, stacked_rows
from minideepseek.train.optimizer import export_state, import_state, muon, new_optimizer

from .conftest import QUICK, TINY, VOCAB, tiny_data

IDS = torch.randint(0, VOCAB, (4, 9), generator=torch.Generator().manual_seed(0))
MINI = generations["v3-mini"]
V3 = replace(MINI, ffn=MINI.layers[-1][1], n_layers=2, vocab_size=VOCAB, max_seq_len=16)
CFG = TrainConfig(optimizer="muon", lr=0.02, dtype="fp32")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, by the definition."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def newton_schulz(matrix: Tensor) -> Tensor:
    """The same by ten iterations of one matrix; singular values that are all but zero stay small."""
    x = matrix / matrix.norm()
    for i in range(10):
        a, b, c = (3.4445, -4.7750, 2.0315) if i < 8 else (2.0, -1.5, 0.5)
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    return x


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 64), (2, 64, 8), (1, 1, 5), (4, 5, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-3), (torch.float32, 2e-3), (torch.bfloat16, 0.03)])
def test_singular_values_become_one(shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    found = torch.linalg.svdvals(orthogonalise(draw(*shape).to(dtype)).double())
    assert (found - 1).abs().max() < tolerance


def test_the_singular_vectors_stay() -> None:
    x = draw(2, 12, 20)
    torch.testing.assert_close(orthogonalise(x), torch.stack([polar(matrix) for matrix in x]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("smallest", [1e-1, 1e-2, 1e-3])
def test_small_singular_values_are_lifted_all_the_way(smallest: float) -> None:
    u, v = polar(draw(16, 16)), polar(draw(16, 24))
    x = (u * torch.logspace(0, torch.tensor(smallest).log10(), 16, dtype=torch.float64)) @ v
    assert (torch.linalg.svdvals(orthogonalise(x[None])) - 1).abs().max() < 5e-3


def test_the_size_of_a_gradient_does_not_matter_and_nothing_stays_nothing() -> None:
    x = draw(1, 8, 8)
    torch.testing.assert_close(orthogonalise(x * 1e6), orthogonalise(x), rtol=0, atol=1e-6)
    assert not orthogonalise(torch.zeros(2, 4, 6)).any()


def logical(name: str, tensor: Tensor, d_latents: tuple[int, ...]) -> Iterator[Tensor]:
    """The matrices in a parameter of ``V3``, told from its name alone."""
    if tensor.ndim == 3:  # experts
        for expert in tensor:
            yield from expert.chunk(2) if name.endswith("gate_up") else [expert]
    elif name.endswith("gate_up.weight"):
        yield from tensor.chunk(2)
    elif name.endswith("down.weight") and "attention" in name:
        yield from tensor.split(d_latents)
    else:
        yield tensor


def test_a_step_is_that_of_a_loop_over_the_matrices_of_the_model() -> None:
    """Two steps of algorithm 1 of the V4 report, one matrix after the other."""
    cfg = replace(CFG, lr=0.05, weight_decay=0.2)
    model = Transformer(V3, seed=0).double()
    mla = V3.layers[0][0]
    widths = (mla.d_query_latent, mla.d_latent, mla.d_rope)  # type: ignore[attr-defined]
    optimizer = muon(model, cfg)
    names = [
        name for name, p in model.named_parameters() if p.ndim >= 2 and name not in ("embed.weight", "head.weight")
    ]
    expected = {name: model.get_parameter(name).detach().clone() for name in names}
    momentum = {name: torch.zeros_like(expected[name]) for name in names}
    n_matrices = 0
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(IDS).total.backward()
        for name in names:
            grad = model.get_parameter(name).grad
            assert grad is not None
            momentum[name] = 0.95 * momentum[name] + grad
            update = grad + 0.95 * momentum[name]
            for w, u in zip(logical(name, expected[name], widths), logical(name, update, widths), strict=True):
                w.copy_((1 - 0.05 * 0.2) * w - 0.05 * 0.18 * max(w.shape) ** 0.5 * newton_schulz(u))
                n_matrices += 1
        optimizer.step()
        for name in names:
            torch.testing.assert_close(model.get_parameter(name).detach(), expected[name], rtol=1e-5, atol=1e-7)
    assert n_matrices > 2 * 3 * 16 * 3, "three blocks of sixteen experts of three matrices, and more"


def test_every_element_moves_by_a_fifth_of_the_learning_rate() -> None:
    weight = nn.Parameter(torch.zeros(12, 48))
    weight.grad = draw(12, 48).float()
    Muon({weight: (12,)}, lr=0.01, weight_decay=0.1).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.01 * 0.18, rel=1e-3)


def test_matrices_kept_as_one_are_told_apart() -> None:
    """What one of them is does not change the other's step, although they share a parameter."""
    fused, alone = Linear(6, 4, 8), Linear(6, 4)
    grad = draw(12, 6).float()
    with torch.no_grad():
        alone.weight.copy_(fused.weight[:4])
    for module in (fused, alone):
        module.weight.grad = grad[: module.weight.shape[0]].clone()
        if module is fused:
            module.weight.grad[4:] *= 1000
        Muon(stacked_rows(module), lr=0.1).step()
    torch.testing.assert_close(fused.weight[:4], alone.weight, rtol=1e-5, atol=1e-6)


def test_all_that_share_an_input_say_so() -> None:
    model = Transformer(TINY, seed=0)
    rows = stacked_rows(model)
    assert {name: rows[p] for name, p in model.named_parameters() if p in rows} == {
        "embed.weight": (VOCAB,),
        "blocks.0.attention.qkv.weight": (16, 8, 8),
        "blocks.0.attention.out.weight": (16,),
        "blocks.0.ffn.gate_up.weight": (32, 32),
        "blocks.0.ffn.down.weight": (16,),
        "head.weight": (VOCAB,),
    }


def test_embedding_head_and_gains_follow_adamw() -> None:
    cfg = replace(CFG, weight_decay=0.3)
    model, twin = Transformer(TINY, seed=0), Transformer(TINY, seed=0)
    names = [name for name, p in model.named_parameters() if p.ndim < 2 or name in ("embed.weight", "head.weight")]
    rest = [twin.get_parameter(name) for name in names]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.3},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    ours, theirs = muon(model, cfg), torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, eps=1e-20)
    for _ in range(3):
        ours.zero_grad()
        model.loss(IDS).total.backward()
        for name in names:
            twin.get_parameter(name).grad = model.get_parameter(name).grad
        ours.step()
        theirs.step()
    for name in names:
        torch.testing.assert_close(model.get_parameter(name), twin.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_without_a_gradient_nothing_moves() -> None:
    model = Transformer(TINY, seed=0)
    model.blocks.requires_grad_(False)
    frozen = [p.clone() for p in model.blocks.parameters()]
    optimizer = muon(model, CFG)
    model.loss(IDS).total.backward()
    model.norm.weight.grad = None
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.blocks.parameters(), frozen, strict=True))
    assert (model.norm.weight == 1).all()
    assert {name.split(".")[0] for name in export_state(optimizer, model)} == {"embed", "head"}


def test_experts_may_be_spread_over_processes() -> None:
    whole = nn.Parameter(draw(6, 8, 5).float())
    part = nn.Parameter(whole.detach()[2:4].clone())
    one, other = Muon({whole: (4, 4)}, lr=0.1), Muon({part: (4, 4)}, lr=0.1)
    for seed in (1, 2):
        whole.grad = torch.randn(whole.shape, generator=torch.Generator().manual_seed(seed))
        part.grad = whole.grad[2:4].clone()
        one.step()
        other.step()
    torch.testing.assert_close(part.detach(), whole.detach()[2:4], rtol=1e-5, atol=1e-6)


def test_a_matrix_cut_in_pieces_is_refused_and_a_stack_of_them_is_not() -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        values = draw(4, 6, 5).float()
        cut = nn.Parameter(distribute_tensor(values, mesh, [Shard(1)]))
        with pytest.raises(ValueError, match="cut through its matrices"):
            Muon({cut: (6,)}, lr=0.1)
        stack, plain = nn.Parameter(distribute_tensor(values, mesh, [Shard(0)])), nn.Parameter(values.clone())
        stack.grad, plain.grad = distribute_tensor(values**2, mesh, [Shard(0)]), values**2
        for parameter in (stack, plain):
            Muon({parameter: (6,)}, lr=0.1).step()
        assert torch.equal(stack.full_tensor(), plain)  # type: ignore[operator]
    finally:
        dist.destroy_process_group()


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="does not hold matrices"):
        Muon({nn.Parameter(torch.zeros(4, 4)): (2, 3)}, lr=0.1)


def test_what_is_orthogonalised_at_once_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(7, 6, 10)
    together = orthogonalise(x)
    for at_once in (1, 60 * 3):
        monkeypatch.setattr("minideepseek.train.muon.CPU_BATCH", at_once)
        torch.testing.assert_close(orthogonalise(x), together)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_large_matrices_take_the_quicker_library_to_the_same_end(
    one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minideepseek.train.muon.MKL_IS_SLOW", one_by_one)
    x = draw(2, 130, 200)
    torch.testing.assert_close(orthogonalise(x.float()).double(), orthogonalise(x), rtol=0, atol=1e-4)


def test_with_five_iterations_it_is_the_muon_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minideepseek.train.muon.COEFFICIENTS", COEFFICIENTS[:5])
    ours, theirs = (nn.Parameter(draw(24, 16).float()) for _ in range(2))
    start = ours.detach().clone()
    one = Muon({ours: (24,)}, lr=0.1, weight_decay=0.1, dtype=torch.bfloat16)
    # It scales by 0.2 where we do by 0.18, and decays by the plain learning rate.
    other = torch.optim.Muon([theirs], lr=0.09, weight_decay=0.1 / 0.9, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        ours.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_its_memory_can_be_moved_to_another_optimiser() -> None:
    one, other = Transformer(V3, seed=0), Transformer(V3, seed=0)
    first, second = new_optimizer(one, CFG), new_optimizer(other, CFG)

    def step(model: Transformer, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model.loss(IDS).total.backward()
        optimizer.step()

    step(one, first)
    other.load_state_dict(one.state_dict())
    import_state(second, other, export_state(first, one))
    for _ in range(2):
        step(one, first)
        step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, dtype: str) -> None:
    cfg = replace(QUICK, optimizer="muon", steps=6, dtype=dtype, schedule="constant", checkpoint_every=3)
    unbroken = train(TINY, tiny_data(), cfg, progress=False)
    train(TINY, tiny_data(), replace(cfg, steps=3), out=tmp_path, progress=False)
    resumed = train(TINY, tiny_data(), cfg, out=tmp_path, resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True))
    losses = unbroken.curve()[1]
    assert resumed.curve()[1] == losses


def test_it_learns_what_adamw_learns() -> None:
    """Tokens that follow each other nine times out of ten: far below the entropy of guessing, log 32 = 3.47."""
    cfg = replace(QUICK, steps=60, optimizer="muon")
    assert train(TINY, tiny_data(), cfg, progress=False).curve()[1][-1] < 1.5
