"""What travels beside the hidden state says who may see whom."""

import torch

from minideepseek import Transformer, generations
from minideepseek.context import Context


def test_without_a_cache_order_alone_is_causal_whatever_the_positions():
    positions = torch.tensor([[7, 8, 9], [0, 0, 0]])
    assert Context(positions=positions).visible(3) is None


def test_shifted_positions_give_the_same_logits():
    model = Transformer(generations["v1-mini"], seed=0).double()
    ids = torch.randint(0, 2048, (2, 9), generator=torch.Generator().manual_seed(0))
    shifted = model(ids, positions=(torch.arange(9) + torch.tensor([[5], [300]])))
    assert torch.allclose(model(ids), shifted, atol=1e-9)
