"""The indexer of CSA, which chooses among blocks, and what the attention teaches it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minideepseek.context import Context
from minideepseek.layers.compressor import BlockCache, Compressor
from minideepseek.layers.indexer import Indexer, Question, index_loss
from minideepseek.layers.linear import Linear
from minideepseek.layers.shared_kv import SharedKV, turn_last


class BlockIndexer(nn.Module):
    """Scores blocks for a query: V3.2's lightning indexer, whose keys are a compressor's entries.

    Unlike there the *last* channels turn, adjacent ones in pairs, and the key's norm is the compressor's (DeepSeek-V4
    report, eq. 13-17).

    Args:
        cfg: its shape; ``top_k`` counts blocks.
        mqa: the attention it works for, whose query latent makes its queries too.
        d_model: D.
        rate: tokens in a block.
    """

    def __init__(self, cfg: Indexer, mqa: SharedKV, d_model: int, rate: int) -> None:
        super().__init__()
        self.cfg, self.rope = cfg, mqa.turns
        self.compressor = Compressor.beside(mqa, d_model, cfg.head_dim, rate, overlap=True, rounding=cfg.rounding)
        self.query = Linear(mqa.d_query_latent, cfg.n_heads * cfg.head_dim)
        self.weights = Linear(d_model, cfg.n_heads, exact=True)

    @staticmethod
    def count(cfg: Indexer, mqa: SharedKV, d_model: int, rate: int) -> int:
        """Parameters: the compressor's, queries, and the weights of heads."""
        keys = Compressor.count(d_model, cfg.head_dim, rate, overlap=True)
        return keys + mqa.d_query_latent * cfg.n_heads * cfg.head_dim + d_model * cfg.n_heads

    def forward(self, x: Tensor, latent: Tensor, ctx: Context, cache: BlockCache | None) -> tuple[Question, Tensor]:
        """x (B, T, D) and query latents (B, T, d_c) -> what is asked, and the keys of all blocks (B, N, d^I)."""
        cfg = self.cfg
        query = turn_last(self.query(latent).unflatten(-1, (cfg.n_heads, cfg.head_dim)), self.rope, ctx)
        if cfg.rounding is not None:
            query = cfg.rounding(query)
        weights = self.weights(x)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        # 1/sqrt(d^I) belongs to the products; behind a ReLU it may be multiplied later.
        question = Question(query, weights * (cfg.n_heads * cfg.head_dim) ** -0.5)
        return question, self.compressor(x, ctx, cache).vectors


class Lesson:
    """What the pieces of a pass teach an indexer, and how well it chose.

    The attention to imitate comes from the one softmax over window, entries and sink, so that a head which reads its
    window says little about blocks. The report leaves open what V4's indexers imitate; with a softmax over entries
    alone every head would have the same say.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.loss: list[Tensor] = []  # summed over the queries of each piece
        self.queries: list[Tensor] = []  # how many of them saw anything
        self.kept: list[Tensor] = []
        self.choosing: list[Tensor] = []

    def add(self, scores: Tensor, attention: Tensor, allowed: Tensor) -> None:
        """Scores of one piece (B, t, N), the attention to imitate, summed over heads, and over which entries."""
        target = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(attention.dtype).tiny)
        some = allowed.any(-1, keepdim=True)
        # Where nothing is allowed the target is zero everywhere, and so is the loss over whatever is allowed instead.
        self.loss.append(index_loss(scores, target, allowed | ~some) * target.shape[:2].numel())
        self.queries.append(some.expand(*target.shape[:2], 1).sum())

    def judge(self, attention: Tensor, chosen: Tensor, visible: Tensor) -> None:
        """Attention to all visible entries (B, t, N), summed over heads, and which of them were chosen."""
        choosing = (visible.sum(-1) > self.top_k).expand(attention.shape[:2])
        kept = (attention * chosen).sum(-1) / attention.sum(-1).clamp(min=torch.finfo(attention.dtype).tiny)
        self.kept.append((kept * choosing).sum())
        self.choosing.append(choosing.sum())

    def report(self, ctx: Context, layer: int) -> None:
        """Add the loss, mean over the queries that see an entry; and the recall, if any query had to choose."""
        ctx.add_loss("indexer", torch.stack(self.loss).sum() / torch.stack(self.queries).sum().clamp(min=1))
        choosing = torch.stack(self.choosing).sum()
        recall = torch.stack(self.kept).sum() / choosing.clamp(min=1)
        ctx.metrics[f"recall/{layer}"] = torch.where(choosing > 0, recall, 1.0)
