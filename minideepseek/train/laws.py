"""The scaling laws that DeepSeek published with V1, as functions of the compute C in FLOPs (arXiv 2401.02954).

Each is a ``PowerLaw``: call it, or read its exponent.

=============  =====================================  ===================
law            gives, for a budget of C FLOPs         where in the report
=============  =====================================  ===================
``lr_opt``     the peak learning rate                 section 3.1
``batch_opt``  the batch, in *tokens*                 section 3.1
``m_opt``      the model's scale M, FLOPs a token     section 3.2
``d_opt``      the data D, in tokens                  section 3.2
=============  =====================================  ===================

C = M·D, with M = ``accounting.non_embedding_flops``. The report gives no unit for the batch; only in tokens do the
batches come out that its own models were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from minideepseek.accounting import non_embedding_flops
from minideepseek.generations import V1_7B, V1_67B
from minideepseek.model import ModelConfig

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = coefficient · x ** exponent: a straight line where both axes are logarithmic.

    Attributes:
        coefficient: y at x = 1.
        exponent: the slope of that line.
        error: standard error of the exponent where the law was fitted; 0 where it is given.
    """

    coefficient: float
    exponent: float
    error: float = 0.0

    def __post_init__(self) -> None:
        if not self.coefficient > 0:
            raise ValueError(f"coefficient={self.coefficient} must be positive: a power law has no sign to change")
        if not np.isfinite(self.exponent):
            raise ValueError(f"exponent={self.exponent} must be a number")

    @overload
    def __call__(self, x: float) -> float: ...
    @overload
    def __call__(self, x: Array) -> Array: ...
    def __call__(self, x: float | Array) -> float | Array:
        """The law at ``x``, a number or an array of any shape."""
        return self.coefficient * x**self.exponent

    def growth(self, factor: float) -> float:
        """By how much y grows when x grows ``factor``-fold."""
        return float(factor**self.exponent)

    def __str__(self) -> str:
        error = f" ± {self.error:.3f}" if self.error else ""
        return f"{self.coefficient:.4g} · C^({self.exponent:.4f}{error})"


lr_opt = PowerLaw(coefficient=0.3118, exponent=-0.1250)
batch_opt = PowerLaw(coefficient=0.2920, exponent=0.3271)
m_opt = PowerLaw(coefficient=0.1715, exponent=0.5243)
d_opt = PowerLaw(coefficient=5.8316, exponent=0.4757)

NEAR_OPTIMAL = 0.0025
"""Settings whose loss is within 0.25 % of the best count as near-optimal (section 3.1)."""

BUDGETS = (1e17, 3e20)
"""The smallest and the largest compute of the IsoFLOP runs behind ``m_opt`` and ``d_opt`` (section 3.2)."""

TABLE_3 = ((8, 512), (12, 768), (24, 1024), (24, 2048), (32, 4096), (40, 5120), (80, 8192))
"""(n_layers, d_model) of the models whose three scales table 3 compares."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """How one of V1's models was really trained (V1 report, table 2).

    Attributes:
        cfg: the model.
        lr: peak learning rate.
        batch: sequences in an update.
        tokens: training tokens in all.
    """

    cfg: ModelConfig
    lr: float
    batch: int
    tokens: float = 2e12

    @property
    def scale(self) -> float:
        """M, training FLOPs for a token without the vocabulary."""
        return float(non_embedding_flops(self.cfg.d_model, self.cfg.n_layers, self.cfg.max_seq_len))

    @property
    def compute(self) -> float:
        """C = M·D."""
        return self.scale * self.tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens in an update."""
        return self.batch * self.cfg.max_seq_len


RUNS = {
    "v1-7b": PublishedRun(cfg=V1_7B, lr=4.2e-4, batch=2304),
    "v1-67b": PublishedRun(cfg=V1_67B, lr=3.2e-4, batch=4608),
}


@dataclass(frozen=True, kw_only=True)
class DataExponents:
    """How compute was to be split on one corpus: M_opt ∝ C^model, D_opt ∝ C^data (V1 report, table 4)."""

    corpus: str
    model: float
    data: float


TABLE_4 = (
    DataExponents(corpus="OpenWebText2 (Kaplan et al. 2020)", model=0.73, data=0.27),
    DataExponents(corpus="MassiveText (Hoffmann et al. 2022)", model=0.49, data=0.51),
    DataExponents(corpus="DeepSeek, early data", model=0.450, data=0.550),
    DataExponents(corpus="DeepSeek, current data", model=0.524, data=0.476),
    DataExponents(corpus="OpenWebText2, refitted by DeepSeek", model=0.578, data=0.422),
)
"""The report ranks the quality of the last three: OpenWebText2 above current above early."""
