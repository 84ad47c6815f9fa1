"""What one more token costs at a context of a million: bytes that were kept, and FLOPs, V4 beside V3.2.

The V4 report prints shares of V3.2, without the bill behind them. The bill here:

* **Bytes** as the models are served (FlashMLA and DeepGEMM, where they are public): V3.2 keeps 656 for a latent (512
  FP8, 4 scales, 64 BF16 that turn) and 132 for an index key (128 FP8, one scale); V4 keeps 584 for a vector (448 FP8,
  7 scales and one byte to fill up, 64 BF16 that turn), of the window as of blocks, and 68 for an index key (128 FP4,
  4 scales). Blocks that are still open are left out: they do not grow.
* **FLOPs** of one token's forward pass, in units of FP8: products in FP4 count half, those in BF16 double. Every
  parameter that the token meets (the embedding is a lookup) counts two in FP8, index scores are FP8 in V3.2 and FP4 in
  V4, and attention is BF16 in both; V3.2's is absorbed, as a decode computes it. Which weights the report took it does
  not say; these are the ones a reader would guess, and give its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from minideepseek.accounting.counts import embedding_parameters, idle_parameters, parameters
from minideepseek.generations import generations
from minideepseek.layers import CSA, DSA, HCA, SharedKV
from minideepseek.layers.spec import AttentionSpec
from minideepseek.model import ModelConfig

MILLION = 2**20
LATENT_BYTES, INDEX_FP8_BYTES = 512 + 4 * 4 + 64 * 2, 128 + 4
VECTOR_BYTES, INDEX_FP4_BYTES = 448 + 7 + 1 + 64 * 2, 128 // 2 + 4
FP4, FP8, BF16 = 0.5, 1.0, 2.0


@dataclass(frozen=True, kw_only=True)
class EfficiencyRow:
    """One token at a long context, of a model that is served in few bits.

    Attributes:
        model: of the family.
        length: tokens before it.
        cache_gb: what is kept of them, in 10⁹ bytes.
        cache_share: of V3.2's, in %.
        linear, index, attention: GFLOPs of matrices, of scoring for a choice, and of scores and weighted sum; not
            weighted.
        equivalent: their sum in units of FP8.
        flops_share: of V3.2's equivalent, in %.
    """

    model: str
    length: int
    cache_gb: float
    cache_share: float
    linear: float
    index: float
    attention: float
    equivalent: float
    flops_share: float


def efficiency_table(length: int = MILLION) -> list[EfficiencyRow]:
    """V3.2 and both V4 at a context of ``length`` tokens.

    Raises:
        ValueError: a context of no tokens.
    """
    if length < 1:
        raise ValueError(f"length={length} must be positive")
    names = ("v3.2", "v4-pro", "v4-flash")
    cache = {name: served_bytes(generations[name], length) for name in names}
    work = {name: token_flops(generations[name], length) for name in names}
    total = {name: sum(bill.weighted for bill in work[name].values()) for name in names}
    return [
        EfficiencyRow(
            model=name,
            length=length,
            cache_gb=cache[name] / 1e9,
            cache_share=100 * cache[name] / cache["v3.2"],
            **{part: bill.flops / 1e9 for part, bill in work[name].items()},
            equivalent=total[name] / 1e9,
            flops_share=100 * total[name] / total["v3.2"],
        )
        for name in names
    ]


def served_bytes(cfg: ModelConfig, length: int) -> int:
    """Bytes kept of ``length`` tokens by a model of sparse or compressed attention.

    Raises:
        ValueError: attention of another kind.
    """
    return sum(_served(attention, length) for attention, _ in cfg.layers)


def _served(attention: AttentionSpec, length: int) -> int:
    match attention:
        case DSA():
            return length * (LATENT_BYTES + INDEX_FP8_BYTES)
        case SharedKV():
            return min(length, attention.window) * VECTOR_BYTES
        case HCA():
            return _served(attention.mqa, length) + length // attention.rate * VECTOR_BYTES
        case CSA():
            return _served(attention.mqa, length) + length // attention.rate * (VECTOR_BYTES + INDEX_FP4_BYTES)
    raise ValueError(f"how {type(attention).__name__} is served in few bits is not in this table")


@dataclass(frozen=True, kw_only=True)
class Bill:
    """FLOPs of one kind, and what one of them weighs."""

    flops: float
    weight: float

    @property
    def weighted(self) -> float:
        """In units of FP8."""
        return self.flops * self.weight


def token_flops(cfg: ModelConfig, length: int) -> dict[str, Bill]:
    """Forward FLOPs of one token after ``length`` others: ``linear``, ``index`` and ``attention``.

    Raises:
        ValueError: attention of another kind than sparse or compressed.
    """
    touched = parameters(cfg) - idle_parameters(cfg) - embedding_parameters(cfg)
    kinds = [_read(attention, length) for attention, _ in cfg.layers]
    compressed = any(isinstance(attention, CSA) for attention, _ in cfg.layers)
    return {
        "linear": Bill(flops=2 * touched + cfg.residual.flops(cfg.d_model, cfg.n_layers), weight=FP8),
        "index": Bill(flops=sum(index for index, _ in kinds), weight=FP4 if compressed else FP8),
        "attention": Bill(flops=sum(core for _, core in kinds), weight=BF16),
    }


def _read(attention: AttentionSpec, length: int) -> tuple[float, float]:
    """FLOPs of a layer's index and of its attention."""
    match attention:
        case DSA():
            mla, indexer = attention.mla, attention.indexer
            core = _products(mla.n_heads, 2 * mla.d_latent + mla.d_rope, min(length, indexer.top_k))
            return _products(indexer.n_heads, indexer.head_dim, length), core
        case SharedKV():
            return 0.0, attention.score_flops(length)
        case HCA():
            return 0.0, attention.mqa.score_flops(length) + attention.mqa.read_flops(length // attention.rate)
        case CSA():
            indexer, blocks = attention.indexer, length // attention.rate
            core = attention.mqa.score_flops(length) + attention.mqa.read_flops(min(blocks, indexer.top_k))
            return _products(indexer.n_heads, indexer.head_dim, blocks), core
    raise ValueError(f"what {type(attention).__name__} costs in few bits is not in this table")


def _products(heads: int, width: int, n: int) -> float:
    """FLOPs of products of ``heads`` vectors with ``n`` others."""
    return 2 * heads * width * n
