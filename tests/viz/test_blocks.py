import pytest
import torch
from matplotlib.colors import to_hex

from minideepseek import viz
from minideepseek.layers import CSA, HCA, Indexer, SharedKV, SwiGLU
from minideepseek.model import ModelConfig, Transformer
from minideepseek.viz.style import NAVY, TEAL, VERMILION

LENGTH = 24


def colours(figure) -> tuple[list[str], list[str]]:
    """Of the tokens and of the entries, in order."""
    boxes = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_y")]
    low = [to_hex(box.get_facecolor()) for box in boxes if box.get_y() < 1]
    return low, [to_hex(box.get_facecolor()) for box in boxes if box.get_y() > 1]


@pytest.mark.parametrize("query", [0, 3, 4, 11, 12, 23])
@pytest.mark.parametrize(("kind", "rate"), [("hca", 4), ("hca", 12), ("csa", 4)])
def test_the_picture_shows_what_the_layer_reads(query: int, kind: str, rate: int) -> None:
    mqa = SharedKV(n_heads=1, head_dim=4, d_rope=2, d_query_latent=4, window=3, out_groups=1, d_out_latent=4)
    indexer = Indexer(n_heads=1, head_dim=4, top_k=LENGTH)
    attention = HCA(mqa=mqa, rate=rate) if kind == "hca" else CSA(mqa=mqa, rate=rate, indexer=indexer)
    net = Transformer(
        ModelConfig(d_model=8, n_layers=1, attention=attention, ffn=SwiGLU(hidden=4), vocab_size=5), seed=0
    )
    x = torch.randn(1, LENGTH, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = net.double().blocks[0].attention
    ctx = net.context(torch.zeros(1, LENGTH, dtype=torch.int64))
    entries = layer.compressor(x, ctx, None)
    visible = entries.visible(ctx, slice(0, LENGTH))[0, query].nonzero()[:, 0].tolist()
    tokens, blocks = colours(viz.sight(query, length=LENGTH, window=3, rate=rate, overlap=kind == "csa"))
    assert [i for i, colour in enumerate(blocks) if colour == TEAL] == visible
    assert [t for t, colour in enumerate(tokens) if colour in (NAVY, VERMILION)] == list(
        range(max(0, query - 2), query + 1)
    )


def test_only_chosen_entries_are_read() -> None:
    _, blocks = colours(viz.sight(23, length=LENGTH, window=3, rate=4, chosen=[1, 4]))
    assert [i for i, colour in enumerate(blocks) if colour == TEAL] == [1, 4]
    figure = viz.sight(10, length=LENGTH, window=3, rate=4, chosen=[1, 4])
    assert repr(figure) == "<Picture: Token 10 reads 3 tokens and 1 block of 2>"
