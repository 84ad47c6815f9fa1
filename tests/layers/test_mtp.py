"""Multi-token prediction: what is predicted from what, what is shared, and how it lies on disk."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import minideepseek as mds
from minideepseek.layers import MTP
from minideepseek.model import Transformer

CFG = replace(
    mds.generations["v3-mini"], d_model=32, n_layers=2, ffn=mds.generations["v3-mini"].layers[-1][1], vocab_size=50
)


def model(depth=2, weight=0.3, seed=0) -> Transformer:
    return Transformer(replace(CFG, mtp=MTP(depth=depth, weight=weight)), seed=seed).train()


def tokens(batch=2, length=12, seed=0):
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(seed))


def chain(net, ids):
    """Logits of each module over a whole text: module k at position i stands for token i + k + 1."""
    hidden = net.hidden(ids, net.context(ids))
    found = []
    for k, predictor in enumerate(net.mtp, 1):
        n = ids.shape[1] - k
        hidden = predictor(hidden[:, :n], net.embed(ids[:, k : k + n]), net.context(ids[:, :n]))
        found.append(net.head(hidden))
    return found


def test_the_loss_is_the_mean_of_the_chains_cross_entropies():
    net, ids = model(), tokens()
    losses = net.loss(ids)
    expected = 0.0
    for k, logits in enumerate(chain(net, ids[:, :-1]), 1):
        expected += 0.3 / 2 * F.cross_entropy(logits.flatten(0, 1), ids[:, k + 1 :].flatten())
    assert losses.mtp.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.total.item() == pytest.approx((losses.lm + losses.mtp + losses.balance).item(), rel=1e-6)


def test_module_k_sees_k_tokens_further_than_the_model_and_no_more():
    net, ids = model().double().eval(), tokens()
    other = ids.clone()
    other[:, 8] = (other[:, 8] + 1) % 50
    for k, (before, after) in enumerate(zip(chain(net, ids), chain(net, other), strict=True), 1):
        changed = (before - after).abs().amax((0, 2)) > 1e-9  # routing regroups rows, which moves the last bit
        assert changed.nonzero()[0].item() == 8 - k


def test_the_trunk_embedding_and_head_learn_from_the_far_tokens_too():
    net, ids = model(), tokens()
    losses = net.loss(ids)
    wanted = {"embed": net.embed.weight, "head": net.head.weight, "trunk": net.blocks[0].attention.down.weight}
    for grad in torch.autograd.grad(losses.mtp, list(wanted.values())):
        assert bool(grad.any())


def test_it_costs_nothing_outside_of_training():
    net, ids = model().eval(), tokens()
    assert [name for name, _ in net.loss(ids)] == ["lm"]
    plain = Transformer(replace(CFG, mtp=None)).eval()
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("mtp.")})
    assert torch.equal(net(ids), plain(ids))


def test_packed_documents_do_not_predict_each_other():
    net = model(depth=1)
    one, two = tokens(1, 6, seed=1), tokens(1, 7, seed=2)
    packed = torch.cat([one, two], 1)
    segments = torch.tensor([[0] * 6 + [1] * 7])
    # a module averages over the T - 2 targets that a text of T tokens has for it
    losses = [(net.loss(ids).mtp, ids.shape[1] - 2) for ids in (one, two)]
    expected = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert net.loss(packed, segments=segments).mtp.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_text_too_short_to_look_ahead_is_no_error():
    losses = model(depth=3).loss(tokens(1, 3))
    assert torch.isfinite(losses.total)
    assert "mtp" not in dict(model(depth=1).loss(tokens(1, 2)))


def test_it_lies_beyond_the_last_layer_as_released(tmp_path):
    from safetensors.torch import load_file

    net = model(depth=1).eval()
    net.save(tmp_path)
    names = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("model.layers.2.")}
    released = ("enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head", "embed_tokens", "self_attn.o_proj")
    assert {f"model.layers.2.{name}.weight" for name in released} <= names
    back = mds.load(tmp_path)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_checkpoint_whose_weights_were_dropped_loads_without_it(tmp_path):
    from transformers import AutoModelForCausalLM

    net = model(depth=1).eval()
    net.save(tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    back = mds.load(tmp_path / "theirs")
    assert back.cfg.mtp is None
    assert torch.equal(back(tokens()), net(tokens()))


def test_the_released_module_has_eleven_and_a_half_billion_parameters():
    found = mds.report(mds.generations["v3"])
    assert found.mtp_parameters == 11_610_067_968  # 11.5B in the release notes, which leave out the projection
    assert found.parameters + found.mtp_parameters + 2 * 129_280 * 7168 == pytest.approx(684.5e9, rel=1e-4)


def test_the_weight_falls_late_in_training():
    net, ids = model(), tokens()
    early = net.loss(ids).mtp
    net.cfg = replace(net.cfg, mtp=MTP(depth=2, weight=0.3, late_weight=0.1, late=0.6))
    for progress, share in ((0.59, 1), (0.6, 1 / 3), (1.0, 1 / 3)):
        net.before_step(progress)
        assert net.loss(ids).mtp.item() == pytest.approx(share * early.item(), rel=1e-6)


@pytest.mark.parametrize("fields", [{"depth": 0}, {"weight": -1.0}, {"late_weight": -0.1}, {"late": 1.5}])
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match="must"):
        MTP(**fields)
