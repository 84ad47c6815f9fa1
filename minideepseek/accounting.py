"""What a model costs before it is built: parameters, cache bytes, FLOPs. The papers' tables come out of here.

Counts are arithmetic on the config and are tested equal to the modules' own tensors. "B" means 1e9; FLOPs count a
multiply and an add as two.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from minideepseek.model import ModelConfig


def parameters(cfg: ModelConfig) -> int:
    """All parameters of the main model: embedding, head, norms, attention, feed-forward (see ``mtp_parameters``)."""
    return 2 * embedding_parameters(cfg) + (2 * cfg.n_layers + 1) * cfg.d_model + block_parameters(cfg)


def embedding_parameters(cfg: ModelConfig) -> int:
    """Parameters of the input embedding; the untied head has as many."""
    return cfg.vocab_size * cfg.d_model


def block_parameters(cfg: ModelConfig) -> int:
    """Parameters of all attention and feed-forward layers, without norms."""
    return sum(attention.n_params(cfg.d_model) + ffn.n_params(cfg.d_model) for attention, ffn in cfg.layers)


def idle_parameters(cfg: ModelConfig) -> int:
    """Parameters that one token does not touch: experts it is not sent to."""
    return sum(ffn.n_params(cfg.d_model) - ffn.n_activated(cfg.d_model) for _, ffn in cfg.layers)


def mtp_parameters(cfg: ModelConfig) -> int:
    """Parameters of the modules that predict further ahead, which inference may drop; embedding and head are shared."""
    if cfg.mtp is None:
        return 0
    attention, ffn = cfg.layers[-1]
    block = attention.n_params(cfg.d_model) + ffn.n_params(cfg.d_model)
    return cfg.mtp.n_params(cfg.d_model, block)


def cache_elements_per_token(cfg: ModelConfig) -> int:
    """Numbers kept for each token of context, all layers together."""
    return sum(attention.cache_elements() for attention, _ in cfg.layers)


def training_flops_per_token(cfg: ModelConfig, seq_len: int, *, causal: bool = False) -> float:
    """Forward and backward FLOPs to train on one token.

    Six for each parameter that multiplies (two forward, four backward; the embedding is a lookup and does not), plus
    three times the forward cost of attention scores. ``causal`` counts only the half of the scores that a causal
    mask leaves; V1 does not halve (section 3), later reports do.
    """
    # the head counts, the lookup and idle experts do not
    multiplying = block_parameters(cfg) - idle_parameters(cfg) + embedding_parameters(cfg)
    n_keys = seq_len / 2 if causal else seq_len
    return 6 * multiplying + 3 * sum(attention.score_flops(n_keys) for attention, _ in cfg.layers)


def n1(d_model: int, n_layers: int) -> int:
    """Non-embedding parameters as V1 counts them: 12·L·D² (V1 report, section 3.2)."""
    return 12 * n_layers * d_model**2


def n2(d_model: int, n_layers: int, vocab_size: int = 102_400) -> int:
    """Complete parameters as V1 counts them: 12·L·D² + V·D, the vocabulary once (V1 report, section 3.2)."""
    return n1(d_model, n_layers) + vocab_size * d_model


def non_embedding_flops(d_model: int, n_layers: int, seq_len: int = 4096) -> int:
    """V1's model scale M, non-embedding FLOPs a token: 72·L·D² + 12·L·D·s (V1 report, eq. 2)."""
    return 72 * n_layers * d_model**2 + 12 * n_layers * d_model * seq_len


@dataclass(frozen=True, kw_only=True)
class Report:
    """What ``report`` found. ``print`` shows a table, a notebook shows it in HTML.

    Attributes:
        parameters: every number of the main model.
        mtp_parameters: those of the modules that predict further ahead, which come on top.
        activated: parameters that one token touches, under the three conventions in use: everything; without the
            input embedding (a lookup); without embedding and head.
        cache_elements_per_token: numbers cached for a token, all layers.
        cache_bytes_per_token: the same in bfloat16.
        seq_len: tokens in a sequence, for the FLOPs.
        flops_per_token: training FLOPs for a token: ``full`` and ``causal`` (``training_flops_per_token``), and V1's
            scales ``M``, ``6N1``, ``6N2`` for a dense model of this width and depth.
    """

    parameters: int
    mtp_parameters: int
    activated: dict[str, int]
    cache_elements_per_token: int
    cache_bytes_per_token: int
    seq_len: int
    flops_per_token: dict[str, float]

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line."""
        gib = self.cache_bytes_per_token * 128 * 1024 / 2**30
        return [
            ("parameters", f"{self.parameters:,}"),
            *([("multi-token prediction, on top", f"{self.mtp_parameters:,}")] if self.mtp_parameters else []),
            *((f"activated, {name}", f"{value:,}") for name, value in self.activated.items()),
            ("cache, numbers/token", f"{self.cache_elements_per_token:,}"),
            ("cache, bytes/token (bf16)", f"{self.cache_bytes_per_token:,}"),
            ("cache for 128K tokens (bf16)", f"{gib:,.2f} GiB"),
            *(
                (f"training FLOPs/token at {self.seq_len}, {name}", f"{value:.3e}")
                for name, value in self.flops_per_token.items()
            ),
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
        activated={
            "everything": touched,
            "without embedding": touched - embedding,
            "without embedding and head": touched - 2 * embedding,
        },
        cache_elements_per_token=elements,
        cache_bytes_per_token=2 * elements,
        seq_len=seq_len,
        flops_per_token={
            "full": training_flops_per_token(cfg, seq_len),
            "causal": training_flops_per_token(cfg, seq_len, causal=True),
            "M": non_embedding_flops(cfg.d_model, cfg.n_layers, seq_len),
            "6N1": 6 * n1(cfg.d_model, cfg.n_layers),
            "6N2": 6 * n2(cfg.d_model, cfg.n_layers, cfg.vocab_size),
        },
    )
