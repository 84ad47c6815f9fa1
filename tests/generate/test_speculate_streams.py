"""Speculative decoding of models with residual streams and of V4: modules start from streams, caches forget."""

from dataclasses import replace

import pytest
import torch

import minideepseek as mds
from minideepseek.generate import Speculation
from minideepseek.layers import GQA, MTP, HyperConnections, SharedKV, SwiGLU
from minideepseek.layers.ring import SPARE
from minideepseek.model import ModelConfig, Transformer

WINDOW = SharedKV(n_heads=2, head_dim=8, d_rope=4, d_query_latent=6, window=4, out_groups=1, d_out_latent=6)
CFG = ModelConfig(
    d_model=16,
    n_layers=2,
    attention=GQA(n_heads=2, n_kv_heads=1, head_dim=8),
    ffn=SwiGLU(hidden=24),
    vocab_size=13,
    residual=HyperConnections(streams=3),
    mtp=MTP(depth=2, attention=WINDOW),
    init_std=0.4,
)
V4 = replace(mds.generations["v4-mini"], d_model=32, vocab_size=13, init_std=0.4)
KINDS = {
    "streams": CFG,
    "free streams": replace(CFG, residual=HyperConnections(streams=2, manifold=None)),
    "a window": replace(CFG, attention=WINDOW, mtp=MTP(depth=1, attention=WINDOW)),
    "v4": V4,
    "v4 in a longer chain": replace(V4, mtp=replace(V4.mtp, depth=3)),
}
RAGGED = [[5] * 36, [7, 8], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompts", [[[1, 2, 3]], RAGGED], ids=["one", "ragged"])
def test_drafting_writes_the_very_text_that_plain_decoding_writes(kind, prompts):
    """In float64: chosen blocks may change when the last bit does."""
    net = Transformer(KINDS[kind], seed=0).double().eval()
    plain = mds.generate(net, prompts, max_new_tokens=24, temperature=0.0)
    record = Speculation()
    assert mds.generate(net, prompts, max_new_tokens=24, temperature=0.0, speculative=record) == plain
    assert record.drafted > 0


def test_a_module_that_has_learnt_the_text_has_its_drafts_accepted():
    net = Transformer(replace(CFG, mtp=MTP(depth=1, attention=WINDOW), init_std=None), seed=0)
    ids = torch.full((2, 16), 7)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        net.loss(ids).total.backward()
        optimizer.step()
    record = Speculation()
    text = mds.generate(net.eval(), [[7, 7]], max_new_tokens=20, temperature=0.0, speculative=record)
    assert text == [[7] * 22]
    assert record.acceptance == [1.0]


def test_a_chain_that_takes_back_more_than_a_layer_can_is_refused_in_one_line():
    net = Transformer(replace(CFG, attention=WINDOW, mtp=MTP(depth=SPARE + 1, attention=WINDOW)), seed=0).eval()
    with pytest.raises(mds.UserError, match="takes back up to 17 tokens, and this model's layers can take back 8"):
        mds.generate(net, [[1, 2, 3]], max_new_tokens=40, temperature=0.0, speculative=True)
