"""Everything about one model on half a page, without building it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from minideepseek.accounting.counts import (
    cache_elements,
    cache_elements_per_token,
    embedding_parameters,
    idle_parameters,
    mtp_activated,
    mtp_parameters,
    n1,
    n2,
    non_embedding_flops,
    parameters,
    stored_parameters,
    training_flops_per_token,
)
from minideepseek.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Report:
    """What ``report`` found. ``print`` shows a table, a notebook shows it in HTML.

    Attributes:
        parameters: every number of the main model.
        mtp_parameters: those of the modules that predict further ahead, which come on top.
        mtp_activated: of those, what one token touches, with the shared embedding and head.
        stored_parameters: numbers in a checkpoint, where V3's such modules lie with copies of embedding and head.
        activated: parameters that one token touches, under the three conventions in use: everything; without the
            input embedding (a lookup); without embedding and head.
        cache_elements_per_token: numbers cached for each further token, all layers; it may be a fraction.
        cache_bytes_per_token: the same in bfloat16.
        cache_elements_fixed: numbers kept at any length, such as the window of attention that slides.
        seq_len: tokens in a sequence, for the FLOPs.
        flops_per_token: training FLOPs for a token: ``full`` and ``causal`` (``training_flops_per_token``), and V1's
            scales ``M``, ``6N1``, ``6N2`` for a dense model of this width and depth.
    """

    parameters: int
    mtp_parameters: int
    mtp_activated: int
    stored_parameters: int
    activated: dict[str, int]
    cache_elements_per_token: float
    cache_bytes_per_token: float
    cache_elements_fixed: int
    seq_len: int
    flops_per_token: dict[str, float]

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line."""
        gib = (self.cache_bytes_per_token * 128 * 1024 + 2 * self.cache_elements_fixed) / 2**30
        return [
            ("parameters", f"{self.parameters:,}"),
            *(self._mtp_rows() if self.mtp_parameters else []),
            *((f"activated, {name}", f"{value:,}") for name, value in self.activated.items()),
            ("cache, numbers/token", f"{self.cache_elements_per_token:,}"),
            ("cache, bytes/token (bf16)", f"{self.cache_bytes_per_token:,}"),
            *(self._fixed_rows() if self.cache_elements_fixed else []),
            ("cache for 128K tokens (bf16)", f"{gib:,.2f} GiB"),
            *(
                (f"training FLOPs/token at {self.seq_len}, {name}", f"{value:.3e}")
                for name, value in self.flops_per_token.items()
            ),
        ]

    def _fixed_rows(self) -> list[tuple[str, str]]:
        return [("cache, numbers at any length", f"{self.cache_elements_fixed:,}")]

    def _mtp_rows(self) -> list[tuple[str, str]]:
        copies = self.stored_parameters > self.parameters + self.mtp_parameters
        return [
            ("multi-token prediction, on top", f"{self.mtp_parameters:,}"),
            ("activated there, with embedding and head", f"{self.mtp_activated:,}"),
            (f"in a checkpoint{', with copies of these' if copies else ''}", f"{self.stored_parameters:,}"),
        ]

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.rows())
        return "\n".join(f"{label:<{width}}  {value:>18}" for label, value in self.rows())

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td style='text-align:left'>{escape(label)}</td><td>{value}</td></tr>" for label, value in self.rows()
        )
        return f"<table>{cells}</table>"


def report(cfg: ModelConfig, seq_len: int | None = None) -> Report:
    """Count a model without building it.

    Args:
        cfg: any config; ``mds.generations["v1-67b"]`` for example.
        seq_len: tokens in a training sequence; the config's own length by default.
    """
    seq_len = cfg.max_seq_len if seq_len is None else seq_len
    if seq_len < 1:
        raise ValueError(f"seq_len={seq_len} must be positive")
    total, embedding = parameters(cfg), embedding_parameters(cfg)
    touched = total - idle_parameters(cfg)
    elements = cache_elements_per_token(cfg)
    return Report(
        parameters=total,
        mtp_parameters=mtp_parameters(cfg),
        mtp_activated=mtp_activated(cfg),
        stored_parameters=stored_parameters(cfg),
        activated={
            "everything": touched,
            "without embedding": touched - embedding,
            "without embedding and head": touched - 2 * embedding,
        },
        cache_elements_per_token=elements,
        cache_bytes_per_token=2 * elements,
        cache_elements_fixed=round(cache_elements(cfg, 2**20) - 2**20 * elements),
        seq_len=seq_len,
        flops_per_token={
            "full": training_flops_per_token(cfg, seq_len),
            "causal": training_flops_per_token(cfg, seq_len, causal=True),
            "M": non_embedding_flops(cfg.d_model, cfg.n_layers, seq_len),
            "6N1": 6 * n1(cfg.d_model, cfg.n_layers),
            "6N2": 6 * n2(cfg.d_model, cfg.n_layers, cfg.vocab_size),
        },
    )
