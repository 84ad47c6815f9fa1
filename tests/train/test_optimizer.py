"""AdamW, and taking its memory out and putting it back."""

import torch

from minideepseek.model import Transformer
from minideepseek.train import TrainConfig
from minideepseek.train.optimizer import adamw, export_state, import_state

from .conftest import TINY, VOCAB

IDS = torch.randint(0, VOCAB, (4, 9), generator=torch.Generator().manual_seed(0))


def step(model: Transformer, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.loss(IDS).total.backward()
    optimizer.step()


def test_matrices_decay_and_gains_do_not() -> None:
    model = Transformer(TINY, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    adamw(model, TrainConfig(lr=0.1, weight_decay=0.5)).step()
    for name, p in model.named_parameters():
        shrunk = 1 - 0.1 * 0.5 if p.ndim >= 2 else 1.0
        torch.testing.assert_close(p.detach(), before[name] * shrunk)
    assert {p.ndim for p in model.parameters()} == {1, 2}


def test_it_is_adamw_as_published() -> None:
    """One step of algorithm 2 of arXiv 1711.05101 by hand."""
    model = Transformer(TINY, seed=0)
    cfg = TrainConfig(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    optimizer = adamw(model, cfg)
    weight = model.head.weight
    expected, m, v = weight.detach().double(), 0.0, 0.0
    for t in (1, 2, 3):
        step(model, optimizer)
        assert weight.grad is not None
        grad = weight.grad.double()
        m, v = 0.8 * m + 0.2 * grad, 0.9 * v + 0.1 * grad**2
        expected = expected - 0.01 * (m / (1 - 0.8**t) / ((v / (1 - 0.9**t)).sqrt() + 1e-8) + 0.1 * expected)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_its_memory_can_be_moved_to_another_optimiser() -> None:
    one, other = Transformer(TINY, seed=0), Transformer(TINY, seed=0)
    first, second = adamw(one, TrainConfig()), adamw(other, TrainConfig())
    for _ in range(3):
        step(one, first)
    other.load_state_dict(one.state_dict())
    import_state(second, other, export_state(first, one))
    for _ in range(2):
        step(one, first)
        step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_frozen_parameters_stay() -> None:
    model = Transformer(TINY, seed=0)
    model.embed.requires_grad_(False)
    before = model.embed.weight.clone()
    optimizer = adamw(model, TrainConfig())
    step(model, optimizer)
    assert torch.equal(model.embed.weight, before)
    assert not any(name.startswith("embed") for name in export_state(optimizer, model))
