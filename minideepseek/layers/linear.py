"""A matrix without a bias, the only kind of projection in the family."""

from __future__ import annotations

from torch import Tensor, nn

from minideepseek import ops
from minideepseek.ops.matmul import linear as exact_linear


class Linear(nn.Linear):
    """``nn.Linear`` without a bias, its product taken by ``ops.linear``: quicker on some processors.

    Args:
        d_in: width of the input.
        d_out: width of the output; of several matrices that read the same input and are kept as one, the width of each.
        exact: never multiply in fewer bits than the tensors have (see ``ops.products``).

    Attributes:
        stacked: parameter's name -> rows of the matrices that it holds one below the other. Any module may say so of
            its own parameters; an optimiser that treats each matrix by itself (Muon) asks.
    """

    def __init__(self, d_in: int, *d_out: int, exact: bool = False) -> None:
        super().__init__(d_in, sum(d_out), bias=False)
        self.exact = exact
        self.stacked = {"weight": d_out}

    def forward(self, input: Tensor) -> Tensor:
        """(..., d_in) -> (..., d_out)."""
        return (exact_linear if self.exact else ops.linear)(input, self.weight)
