"""Arithmetic on a config: parameters, numbers cached, FLOPs. Tested equal to the modules' own tensors.

"B" means 1e9; FLOPs count a multiply and an add as two.
"""

from __future__ import annotations

from minideepseek.layers.residual import Residual
from minideepseek.model import ModelConfig


def parameters(cfg: ModelConfig) -> int:
    """All parameters of the main model: embedding, head, norms, attention, feed-forward, mixing of residual streams.

    Those of ``mtp_parameters`` are not among them.
    """
    norms = (2 * cfg.n_layers + 1) * cfg.d_model
    residual = cfg.residual.n_params(cfg.d_model, cfg.n_layers)
    return 2 * embedding_parameters(cfg) + norms + block_parameters(cfg) + residual


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
    attention, ffn = cfg.layer_ahead
    block = attention.n_params(cfg.d_model) + ffn.n_params(cfg.d_model) + cfg.residual.n_params(cfg.d_model, 1)
    return cfg.mtp.n_params(cfg.d_model, block)


def mtp_activated(cfg: ModelConfig) -> int:
    """Of those, the parameters that one token touches, and the shared embedding and head."""
    if cfg.mtp is None:
        return 0
    _, ffn = cfg.layer_ahead
    idle = ffn.n_params(cfg.d_model) - ffn.n_activated(cfg.d_model)
    return mtp_parameters(cfg) - cfg.mtp.depth * idle + 2 * embedding_parameters(cfg)


def stored_parameters(cfg: ModelConfig) -> int:
    """Numbers in a checkpoint as released: V3's modules that predict further have copies of embedding and head."""
    copied = cfg.mtp.depth if cfg.mtp is not None and isinstance(cfg.residual, Residual) else 0
    copies = 2 * copied * embedding_parameters(cfg)
    return parameters(cfg) + mtp_parameters(cfg) + copies


def cache_elements(cfg: ModelConfig, length: int) -> int:
    """Numbers kept for a text of ``length`` tokens, all layers together: what ``new_cache`` holds for a row."""
    return sum(attention.cache_elements(length) for attention, _ in cfg.layers)


def cache_elements_per_token(cfg: ModelConfig) -> float:
    """Numbers by which that grows with each token of context; a fraction where layers keep less than one a token."""
    far = 2**20
    grown = cache_elements(cfg, 2 * far) - cache_elements(cfg, far)
    return grown / far if grown % far else grown // far


def training_flops_per_token(cfg: ModelConfig, seq_len: int, *, causal: bool = False) -> float:
    """Forward and backward FLOPs to train on one token.

    Six for each parameter that multiplies (two forward, four backward; the embedding is a lookup and does not), plus
    three times the forward cost of attention scores and of mixing residual streams. ``causal`` counts only the half of
    the scores that a causal mask leaves; V1 does not halve (section 3), later reports do.
    """
    # the head counts, the lookup and idle experts do not
    multiplying = block_parameters(cfg) - idle_parameters(cfg) + embedding_parameters(cfg)
    n_keys = seq_len / 2 if causal else seq_len
    forward = sum(attention.score_flops(n_keys) for attention, _ in cfg.layers)
    return 6 * multiplying + 3 * (forward + cfg.residual.flops(cfg.d_model, cfg.n_layers))


def n1(d_model: int, n_layers: int) -> int:
    """Non-embedding parameters as V1 counts them: 12·L·D² (V1 report, section 3.2)."""
    return 12 * n_layers * d_model**2


def n2(d_model: int, n_layers: int, vocab_size: int = 102_400) -> int:
    """Complete parameters as V1 counts them: 12·L·D² + V·D, the vocabulary once (V1 report, section 3.2)."""
    return n1(d_model, n_layers) + vocab_size * d_model


def non_embedding_flops(d_model: int, n_layers: int, seq_len: int = 4096) -> int:
    """V1's model scale M, non-embedding FLOPs a token: 72·L·D² + 12·L·D·s (V1 report, eq. 2)."""
    return 72 * n_layers * d_model**2 + 12 * n_layers * d_model * seq_len


def sequence_flops(d_model: int, n_layers: int, inner: float, vocab_size: int, seq_len: int) -> float:
    """FLOPs to train on one sequence, as the DeepSeekMoE report counts them (tables 1 to 7, reproduced by us).

    Every model as if it had multi-head attention (4·D² a layer) and no routers; ``inner`` is the width of the
    feed-forward layers that one token passes, together. With 8/3·D it is V1's M, and six for the head's parameters.
    """
    multiplying = n_layers * (4 * d_model**2 + 3 * d_model * inner) + vocab_size * d_model
    return seq_len * (6 * multiplying + 12 * n_layers * d_model * seq_len)
