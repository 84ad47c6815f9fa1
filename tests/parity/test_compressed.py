"""V4's attention against transformers' DeepseekV4Attention: outputs and gradients, whole and from a cache."""

import itertools

import pytest
import torch
from torch import nn

from minideepseek.layers import CSA, HCA, Indexer, RoPE, SharedKV, SwiGLU, YaRN
from minideepseek.model import ModelConfig, Transformer

transformers = pytest.importorskip("transformers")

D, EPS = 32, 1e-5
WINDOW = SharedKV(
    n_heads=4, head_dim=16, d_rope=4, d_query_latent=12, window=8, out_groups=2, d_out_latent=6, norm_eps=EPS
)
YARN = YaRN(factor=16, original_len=16, mscale=0, mscale_all_dim=0)
FAR = SharedKV(
    n_heads=4,
    head_dim=16,
    d_rope=4,
    d_query_latent=12,
    window=8,
    out_groups=2,
    d_out_latent=6,
    norm_eps=EPS,
    rope=RoPE(layout="adjacent", theta=160_000, yarn=YARN),
)
KINDS = {
    "sliding_attention": WINDOW,
    "heavily_compressed_attention": HCA(mqa=FAR, rate=8),
    "compressed_sparse_attention": CSA(mqa=FAR, rate=4, indexer=Indexer(n_heads=16, head_dim=8, top_k=2)),
}


def theirs(kind: str) -> nn.Module:
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

    config = transformers.DeepseekV4Config(
        vocab_size=64,
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=4,
        head_dim=16,
        qk_rope_head_dim=4,
        q_lora_rank=12,
        o_groups=2,
        o_lora_rank=6,
        sliding_window=8,
        layer_types=[kind],
        mlp_layer_types=["moe"],
        compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        index_n_heads=16,
        index_head_dim=8,
        index_topk=2,
        rope_theta=10_000.0,
        compress_rope_theta=160_000.0,
        rope_parameters={
            "rope_type": "yarn",
            "factor": 16,
            "original_max_position_embeddings": 16,
            "beta_fast": 32,
            "beta_slow": 1,
        },
        rms_norm_eps=EPS,
        moe_intermediate_size=8,
        n_routed_experts=2,
        num_experts_per_tok=1,
        attn_implementation="eager",
    )
    return v4.DeepseekV4Model(config).eval()


Tensors = dict[str, torch.Tensor]


def paired(ours: Tensors, other: Tensors) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same numbers, or their gradients, of our layer and theirs, by the names of parameters."""
    mqa = "mqa." if any(name.startswith("mqa.") for name in ours) else ""
    pairs = [
        (ours[mqa + "down.weight"], torch.cat([other["q_a_proj.weight"], other["kv_proj.weight"]])),
        (ours[mqa + "query_norm.weight"], other["q_a_norm.weight"]),
        (ours[mqa + "query_up.weight"], other["q_b_proj.weight"]),
        (ours[mqa + "kv_norm.weight"], other["kv_norm.weight"]),
        (ours[mqa + "sink"], other["sinks"]),
        (ours[mqa + "out_down"].flatten(0, 1), other["o_a_proj.weight"]),
        (ours[mqa + "out_up.weight"], other["o_b_proj.weight"]),
    ]
    for mine, its in (("compressor.", "compressor."), ("indexer.compressor.", "compressor.indexer.")):
        if mine + "place" in ours:
            down = torch.cat([other[its + "kv_proj.weight"], other[its + "gate_proj.weight"]])
            pairs.append((ours[mine + "down.weight"], down))
            pairs.append((ours[mine + "place"], other[its + "position_bias"]))
            pairs.append((ours[mine + "norm.weight"], other[its + "kv_norm.weight"]))
    if "indexer.query.weight" in ours:
        pairs.append((ours["indexer.query.weight"], other["compressor.indexer.q_b_proj.weight"]))
        pairs.append((ours["indexer.weights.weight"], other["compressor.indexer.scorer.weights_proj.weight"]))
    assert sum(mine.numel() for mine, _ in pairs) == sum(value.numel() for value in ours.values())
    assert sum(its.numel() for _, its in pairs) == sum(value.numel() for value in other.values())
    return pairs


def setting(kind: str) -> tuple[Transformer, nn.Module]:
    cfg = ModelConfig(d_model=D, n_layers=1, attention=KINDS[kind], ffn=SwiGLU(hidden=8), vocab_size=64)
    net, other = Transformer(cfg, seed=0).eval(), theirs(kind)
    layers = net.blocks[0].attention, other.layers[0].self_attn
    with torch.no_grad():
        for i, value in enumerate(layers[1].parameters()):
            value.normal_(generator=torch.Generator().manual_seed(i)).mul_(0.3)
        for mine, its in paired(*(dict(layer.named_parameters()) for layer in layers)):
            mine.copy_(its)
    return net, other


def their_pass(other: nn.Module, x: torch.Tensor, start: int = 0, cache: object = None) -> torch.Tensor:
    from transformers.masking_utils import create_sliding_window_causal_mask

    positions = torch.arange(start, start + x.shape[1])[None]
    mask = create_sliding_window_causal_mask(
        config=other.config, inputs_embeds=x, attention_mask=None, past_key_values=cache, position_ids=positions
    )
    angles = {kind: other.rotary_emb(x, position_ids=positions, layer_type=kind) for kind in ("main", "compress")}
    return other.layers[0].self_attn(x, angles, positions, mask, cache)[0]


def our_pass(net: Transformer, x: torch.Tensor, cache: object = None) -> torch.Tensor:
    ctx = net.context(torch.zeros(x.shape[:2], dtype=torch.int64), cache=cache)
    found = net.blocks[0].attention(x, ctx)
    if cache is not None:
        cache.length = ctx.columns[1]
    return found


def inputs(length: int) -> torch.Tensor:
    return torch.randn(2, length, D, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [3, 8, 21, 40])
def test_outputs_and_gradients_are_theirs(kind: str, length: int) -> None:
    net, other = setting(kind)
    ours, its = inputs(length).requires_grad_(), inputs(length).requires_grad_()
    found, expected = our_pass(net, ours), their_pass(other, its)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    found.sin().sum().backward()
    expected.sin().sum().backward()
    grads = [
        {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in layer.named_parameters()
        }
        for layer in (net.blocks[0].attention, other.layers[0].self_attn)
    ]
    for mine, theirs_ in [(ours.grad, its.grad), *paired(*grads)]:
        assert (mine - theirs_).abs().max() <= 2e-5 * theirs_.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_in_chunks_is_theirs(kind: str) -> None:
    net, other = setting(kind)
    x, cache, theirs_ = inputs(40), net.new_cache(2, 40), transformers.DynamicCache(config=other.config)
    with torch.no_grad():
        for a, b in itertools.pairwise([0, 5, 6, 7, 8, 12, 23, 24, 40]):
            found, expected = our_pass(net, x[:, a:b], cache), their_pass(other, x[:, a:b], a, theirs_)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
