"""Residual streams against transformers' DeepseekV4: the same maps, the same mixing, the same collapse."""

import pytest
import torch

from minideepseek.layers import Birkhoff, HyperConnections
from minideepseek.layers.hyper import Ends, Links, Maps

transformers = pytest.importorskip("transformers")

WIDTH = 12


def theirs(kind: str, n: int, iterations: int) -> torch.nn.Module:
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

    config = transformers.DeepseekV4Config(
        hidden_size=WIDTH, hc_mult=n, hc_sinkhorn_iters=iterations, hc_eps=1e-4, rms_norm_eps=1e-3
    )
    return getattr(v4, kind)(config)


def same_numbers(ours: Maps, other: torch.nn.Module, prefix: str = "") -> None:
    with torch.no_grad():
        for i, (name, mine) in enumerate((("fn", ours.weight), ("base", ours.base), ("scale", ours.gate))):
            assert mine is not None
            mine.normal_(generator=torch.Generator().manual_seed(i))
            getattr(other, prefix + name).copy_(mine)


@pytest.mark.parametrize(("n", "iterations"), [(4, 20), (4, 1), (2, 3), (1, 20)])
def test_a_sub_layer_reads_writes_and_mixes_as_theirs(n: int, iterations: int) -> None:
    spec = HyperConnections(streams=n, manifold=Birkhoff(iterations=iterations, eps=1e-4))
    links, other = Links(spec, WIDTH, 1e-3, 0), theirs("DeepseekV4HyperConnection", n, iterations)
    same_numbers(links.attention, other)
    x = torch.randn(2, 5, n, WIDTH, generator=torch.Generator().manual_seed(7))
    read, kept = links.enter(x)
    found = links.leave(read.sin(), kept)
    post, comb, collapsed = other(x)
    expected = post[..., None] * collapsed.sin()[..., None, :] + comb.mT @ x
    torch.testing.assert_close(read, collapsed, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_streams_collapse_as_theirs() -> None:
    ends = Ends(HyperConnections(streams=4, manifold=Birkhoff(eps=1e-4)), WIDTH, 1e-3)
    other = theirs("DeepseekV4HyperHead", 4, 20)
    assert ends.weights is not None
    same_numbers(ends.weights, other, "hc_")
    x = torch.randn(2, 5, 4, WIDTH, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(ends.collapse(x), other(x), rtol=1e-5, atol=1e-5)
