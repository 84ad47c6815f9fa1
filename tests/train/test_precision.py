"""Two sets of weights: fp32 that learns, bf16 that computes; with it products in fp8."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minideepseek import generations, ops
from minideepseek.model import Transformer
from minideepseek.ops.fp8 import Scheme
from minideepseek.train import TrainConfig, train
from minideepseek.train.optimizer import adamw, bf16_moments, new_optimizer
from minideepseek.train.precision import Replica, choose_dtype

from .conftest import QUICK, TINY, VOCAB, TinyData, tiny_data

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
    assert choose_dtype("fp8", cpu) == "fp8"


def test_fp8_is_bf16_with_products_of_eight_bits() -> None:
    model = Transformer(TINY, seed=0)
    bf16, fp8 = Replica(model, "bf16"), Replica(model, "fp8")
    with ops.products_in(Scheme()):
        expected = bf16.module.loss(IDS).total
    with fp8.arithmetic():
        found = fp8.module.loss(IDS).total
    assert torch.equal(found, expected)
    with bf16.arithmetic():
        assert not torch.equal(bf16.module.loss(IDS).total, expected)
    assert all(p.dtype == torch.bfloat16 for p in fp8.module.parameters())
    assert all(p.dtype == torch.float32 for p in fp8.masters)


def test_fp8_learns_as_bf16_does(data: TinyData) -> None:
    cfg = replace(QUICK, steps=100, lr=1e-2, dtype="bf16")
    bf16, fp8 = (train(TINY, data, replace(cfg, dtype=dtype), progress=False).curve()[1] for dtype in ("bf16", "fp8"))
    assert fp8 != bf16
    assert fp8 == pytest.approx(bf16, abs=0.2)


class Stop(Exception):
    """Not an interruption that the loop knows: as if the power had failed."""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_in_fp8_goes_on_exactly(tmp_path: Path, optimizer: str) -> None:
    v3 = replace(generations["v3-mini"], vocab_size=VOCAB, max_seq_len=16)
    cfg = replace(QUICK, steps=6, dtype="fp8", optimizer=optimizer, checkpoint_every=2, eval_every=3)

    def stop(record: dict) -> None:
        if record["step"] == 5:
            raise Stop

    expected = train(v3, tiny_data(), cfg, progress=False)
    with pytest.raises(Stop):
        train(v3, tiny_data(), cfg, out=tmp_path, on_step=stop, progress=False)
    resumed = train(v3, tiny_data(), cfg, out=tmp_path, resume=True, progress=False)
    for name in ("loss", "valid_loss", "grad_norm"):
        assert resumed.curve(name) == expected.curve(name)
    for ours, theirs in zip(resumed.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_moments_are_rounded_where_v3_rounds_them(dtype: str) -> None:
    model, cfg = Transformer(TINY, seed=0), replace(QUICK, dtype=dtype)
    optimizer = new_optimizer(model, cfg)
    model.loss(IDS).total.backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert moments
    assert all(torch.equal(m, m.bfloat16().float()) for m in moments) == (dtype == "fp8")


def test_moments_in_bf16_need_a_short_memory() -> None:
    """Under a constant gradient of 1 the second moment should become 1."""

    def second_moment(beta: float) -> float:
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = bf16_moments(torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, beta)))
        for _ in range(6000):
            weight.grad = torch.ones(1)
            optimizer.step()
        return optimizer.state[weight]["exp_avg_sq"].item()

    assert second_moment(0.95) > 0.9
    assert second_moment(0.999) < 0.4
