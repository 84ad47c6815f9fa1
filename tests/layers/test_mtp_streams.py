"""Multi-token prediction in a model with residual streams: each module reads and writes all of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minideepseek import accounting
from minideepseek.layers import GQA, MTP, HyperConnections, SharedKV, SwiGLU
from minideepseek.layers.mtp import StreamPredictor
from minideepseek.model import ModelConfig, Transformer

WINDOW = SharedKV(n_heads=2, head_dim=8, d_rope=4, d_query_latent=6, window=4, out_groups=1, d_out_latent=6)
CFG = ModelConfig(
    d_model=16,
    n_layers=2,
    attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
    ffn=SwiGLU(hidden=24),
    vocab_size=40,
    residual=HyperConnections(streams=3),
    mtp=MTP(depth=2, weight=0.3, attention=WINDOW),
    init_std=None,
)
KINDS = [HyperConnections(streams=3), HyperConnections(streams=2, manifold=None), HyperConnections(streams=1)]


def model(residual: HyperConnections = CFG.residual, **fields) -> Transformer:
    net = Transformer(replace(CFG, residual=residual, **fields), seed=0).double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net


def tokens(batch: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(0))


def chain(net: Transformer, ids: torch.Tensor) -> list[torch.Tensor]:
    """Logits of each module, written out from the parts: two projections, a block on streams, collapse, norm, head."""
    x = net.ends.spread(net.embed(ids))
    for block in net.blocks:
        x = block(x, net.context(ids))
    found = []
    for k, module in enumerate(net.mtp, 1):
        n = ids.shape[1] - k
        told = module.embed_norm(net.embed(ids[:, k:])) @ module.from_embedding.weight.T
        streams = [
            told + module.stream_norm(x[:, :n, j]) @ module.from_stream.weight.T for j in range(x.shape[2])
        ]  # fmt: skip
        x = module.block(torch.stack(streams, 2), net.context(ids[:, :n]))
        found.append(net.head(module.norm(module.ends.collapse(x))))
    return found


@pytest.mark.parametrize("residual", KINDS, ids=str)
def test_the_loss_is_the_mean_of_the_chains_cross_entropies(residual):
    net, ids = model(residual), tokens()
    expected = sum(
        0.15 * F.cross_entropy(logits.flatten(0, 1), ids[:, k + 1 :].flatten())
        for k, logits in enumerate(chain(net, ids[:, :-1]), 1)
    )
    assert net.loss(ids).mtp.item() == pytest.approx(expected.item(), rel=1e-10)


def test_module_k_sees_k_tokens_further_than_the_model_and_no_more():
    net, ids = model().eval(), tokens()
    other = ids.clone()
    other[:, 8] = (other[:, 8] + 1) % 40
    for k, (before, after) in enumerate(zip(chain(net, ids), chain(net, other), strict=True), 1):
        changed = (before - after).abs().amax((0, 2)) > 0
        assert changed.nonzero()[0].item() == 8 - k


def test_everything_a_module_has_is_its_own_but_embedding_and_head_and_all_of_it_learns():
    net = model()
    net.loss(tokens()).mtp.backward()
    for module in net.mtp:
        assert isinstance(module, StreamPredictor)
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
    for shared in (net.embed.weight, net.head.weight):
        assert shared.grad is not None


def test_the_modules_have_the_attention_that_is_asked_for():
    net = model()
    assert all(module.block.attention.cfg == WINDOW for module in net.mtp)
    plain = model(mtp=MTP(depth=1))
    assert plain.mtp[0].block.attention.cfg == CFG.attention
    assert plain.cfg.layer_ahead == CFG.layers[-1]


def test_it_costs_nothing_outside_of_training():
    net, ids = model().eval(), tokens()
    assert [name for name, _ in net.loss(ids)] == ["lm"]
    alone = Transformer(replace(CFG, mtp=None)).double().eval()
    alone.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("mtp.")})
    assert torch.equal(net(ids), alone(ids))


@pytest.mark.parametrize("residual", KINDS, ids=str)
def test_parameters_are_counted(residual):
    cfg = replace(CFG, residual=residual)
    with torch.device("meta"):
        net = Transformer(cfg)
    assert accounting.parameters(cfg) + accounting.mtp_parameters(cfg) == sum(p.numel() for p in net.parameters())
