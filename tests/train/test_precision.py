"""Two sets of weights: fp32 that learns, bf16 that computes."""

import torch

from minideepseek.model import Transformer
from minideepseek.train import TrainConfig
from minideepseek.train.optimizer import adamw
from minideepseek.train.precision import Replica, choose_dtype

from .conftest import TINY, VOCAB

IDS = torch.randint(0, VOCAB, (4, 9), generator=torch.Generator().manual_seed(0))


def test_in_fp32_there_is_one_set_of_weights() -> None:
    model = Transformer(TINY, seed=0)
    assert Replica(model, "fp32").module is model


def test_the_copy_is_the_rounded_model_after_every_update() -> None:
    model = Transformer(TINY, seed=0)
    replica, optimizer = Replica(model, "bf16"), adamw(model, TrainConfig(lr=1e-2))
    before = model.head.weight.clone()
    replica.module.loss(IDS).total.backward()
    replica.gather(first=True)
    optimizer.step()
    replica.update()
    assert not torch.equal(before, model.head.weight)
    for copy, master in zip(replica.module.parameters(), model.parameters(), strict=True):
        assert master.dtype == torch.float32
        assert torch.equal(copy, master.bfloat16())


def test_updates_too_small_for_bf16_still_add_up() -> None:
    model = Transformer(TINY, seed=0)
    replica = Replica(model, "bf16")
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
        for _ in range(100):
            model.norm.weight += 1e-4  # a bf16 one plus 0.0001 is one
    replica.update()
    assert replica.module.norm.weight.float().mean().item() == 1.0078125  # the bf16 number next to 1.01


def test_gradients_of_pieces_add_up_in_fp32() -> None:
    model = Transformer(TINY, seed=0)
    replica = Replica(model, "bf16")
    pieces = []
    for ids in IDS.chunk(4):
        replica.module.loss(ids).total.backward()
        pieces.append([p.grad.float() for p in replica.module.parameters() if p.grad is not None])
        replica.gather(first=len(pieces) == 1)
    for master, *parts in zip(model.parameters(), *pieces, strict=True):
        assert master.grad is not None
        assert torch.equal(master.grad, parts[0] + parts[1] + parts[2] + parts[3])


def test_the_first_piece_of_a_step_forgets_the_step_before() -> None:
    model = Transformer(TINY, seed=0)
    replica = Replica(model, "bf16")
    grads = []
    for _ in range(2):
        replica.module.loss(IDS).total.backward()
        replica.gather(first=True)
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_buffers_are_shared_not_copied() -> None:
    model = Transformer(TINY, seed=0)
    model.register_buffer("counter", torch.zeros(3))
    replica = Replica(model, "bf16")
    replica.module.get_buffer("counter").add_(1)
    assert model.get_buffer("counter").tolist() == [1, 1, 1]


def test_a_wish_is_granted_and_auto_becomes_one_of_the_two() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("fp32", cpu) == "fp32"
    assert choose_dtype("bf16", cpu) == "bf16"
    assert choose_dtype("auto", cpu) in ("fp32", "bf16")
