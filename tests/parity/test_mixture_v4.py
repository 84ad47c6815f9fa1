"""V4's experts against transformers' DeepseekV4SparseMoeBlock: chosen by affinity or by table, clamped."""

import pytest
import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4SparseMoeBlock

from minideepseek.context import Context
from minideepseek.layers import HashRouting, MoE, TopK

GATE = TopK(k=3, affinity="sqrt-softplus", normalise=True, scale=1.5)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("limit", [0.7, 10.0])
def test_outputs_and_gradients_are_theirs(hashed: bool, limit: float) -> None:
    config = DeepseekV4Config(
        vocab_size=50, hidden_size=12, moe_intermediate_size=8, n_routed_experts=8, num_experts_per_tok=3,
        routed_scaling_factor=1.5, swiglu_limit=limit, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        mlp_layer_types=["hash_moe" if hashed else "moe"], layer_types=["sliding_attention"],
    )  # fmt: skip
    theirs = DeepseekV4SparseMoeBlock(config, 0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*theirs.parameters(), *(b for b in theirs.buffers() if b.is_floating_point())]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    router = HashRouting(gate=GATE) if hashed else TopK(**{**vars(GATE), "bias": True})
    ours = MoE(n_experts=8, hidden=8, n_shared=1, router=router, limit=limit).build(12, 0, vocab_size=50).double()
    if hashed:
        theirs.gate.tid2eid.copy_(ours.router.table)
    else:
        ours.router.bias.copy_(theirs.gate.e_score_correction_bias)
    pairs = {
        ours.router.weight: theirs.gate.weight,
        ours.gate_up: theirs.experts.gate_up_proj,
        ours.down: theirs.experts.down_proj,
        ours.shared.down.weight: theirs.shared_experts.down_proj.weight,
    }
    both = [theirs.shared_experts.gate_proj.weight, theirs.shared_experts.up_proj.weight]
    with torch.no_grad():
        for mine, yours in pairs.items():
            mine.copy_(yours)
        ours.shared.gate_up.weight.copy_(torch.cat(both))
    x = torch.randn(2, 7, 12, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 50, (2, 7), generator=generator)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    mine = ours(x, Context(positions=torch.arange(7), ids=ids))
    right = theirs(x, ids)
    torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)  # they score in float32 wherever they can
    for y in (mine, right):
        (y * weights).sum().backward()
    for a, b in [*pairs.items(), (ours.shared.gate_up.weight, both)]:
        grad = torch.cat([part.grad for part in b]) if isinstance(b, list) else b.grad
        torch.testing.assert_close(a.grad, grad, rtol=1e-5, atol=1e-5)
