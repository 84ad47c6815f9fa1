"""The lightning indexer: a small scorer that says which earlier tokens are worth a query's attention.

DeepSeek-V3.2 report, section 2.1, eq. 1. For a query token t and a token s before it, with H^I heads of d^I channels:

    I_{t,s} = sum_j w_{t,j} · relu(q_{t,j} · k_s)

One key a token, few channels, no softmax and no values: a fraction of what attention costs, though it still looks at
everything. Attention then reads only the tokens with the k largest scores, the same ones for all of its heads.

A choice has no gradient. The indexer learns from a loss of its own: its scores, as a distribution over the tokens in
question, should be that of the attention itself, averaged over heads (eq. 3 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Context
from minideepseek.layers.fp4 import FP4
from minideepseek.layers.fp8 import FP8
from minideepseek.layers.linear import Linear
from minideepseek.layers.rope import RoPE

AT_ONCE = 2**24  # products of queries and keys held at a time; scoring a long prompt goes piece by piece


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """Shape of an indexer.

    Attributes:
        n_heads: its own heads, H^I. With one or two many scores are exactly 0, and the choice between them is blind.
        head_dim: channels of a head and of the one key, d^I; the key is cached. The first of them turn.
        top_k: tokens that a query may read, itself among the candidates.
        rounding: of queries and keys; None leaves them, as training in higher precision does.
    """

    n_heads: int
    head_dim: int
    top_k: int
    rounding: FP8 | FP4 | None = None

    def __post_init__(self) -> None:
        for name in ("n_heads", "head_dim", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.rounding is not None and self.rounding.rotate and self.head_dim & (self.head_dim - 1):
            raise ValueError(f"head_dim={self.head_dim}: a Hadamard matrix turns a power of two; choose rotate=False")

    def n_params(self, d_model: int, d_query_latent: int) -> int:
        """Parameters of one indexer: queries, key, the key's LayerNorm (gain and bias), weights of heads."""
        return (
            d_query_latent * self.n_heads * self.head_dim + d_model * (self.head_dim + self.n_heads) + 2 * self.head_dim
        )

    def score_flops(self, n_keys: float) -> float:
        """Forward FLOPs to score ``n_keys`` tokens for one query token: products, and their weighted sum."""
        return 2 * self.n_heads * (self.head_dim + 1) * n_keys


class Question(NamedTuple):
    """What a pass asks of the tokens: queries (B, T, H^I, d^I), rotated; weights (B, T, H^I), float32 at least."""

    queries: Tensor
    weights: Tensor


class LightningIndexer(nn.Module):
    """The module of an ``Indexer`` config.

    Args:
        cfg: its shape.
        d_model: width of what it reads, D.
        d_query_latent: width of the query latent of the attention it works for, which makes its queries too.
        rope: of that attention. Its first ``rope.dim`` channels turn by the same angles, but in half_split pairs:
            DeepSeek first released code that paired adjacent ones, as attention does, and corrected it in November 2025
            (README of DeepSeek-V3.2-Exp).
    """

    def __init__(self, cfg: Indexer, d_model: int, d_query_latent: int, rope: RoPE) -> None:
        super().__init__()
        self.cfg, self.rope = cfg, replace(rope, layout="half_split")
        self.query_up = Linear(d_query_latent, cfg.n_heads * cfg.head_dim)
        self.key = Linear(d_model, cfg.head_dim)
        self.key_norm = nn.LayerNorm(cfg.head_dim, eps=1e-6)  # the one LayerNorm of the family, mean and bias included
        self.weigh = Linear(d_model, cfg.n_heads)

    def forward(self, x: Tensor, query_latent: Tensor, ctx: Context) -> tuple[Question, Tensor]:
        """x (B, T, D) and the normed query latent (B, T, d_c') -> what these tokens ask, and their keys (B, T, d^I)."""
        cfg = self.cfg
        queries = self.query_up(query_latent).unflatten(-1, (cfg.n_heads, cfg.head_dim))
        key = self.key_norm(self.key(x))
        turned = self.rope.rotate(torch.cat([queries, key[:, :, None]], dim=2), ctx)  # the key is one more head
        if cfg.rounding is not None:
            turned = cfg.rounding(turned)
        wide = torch.promote_types(x.dtype, torch.float32)
        # Both factors, 1/sqrt(d^I) of the products and 1/sqrt(H^I) of the sum, are positive: they pass through relu.
        weights = (x.to(wide) @ self.weigh.weight.to(wide).T) * (cfg.n_heads * cfg.head_dim) ** -0.5
        return Question(turned[:, :, :-1], weights), turned[:, :, -1]

    def choose(self, question: Question, keys: Tensor, visible: Tensor) -> Tensor:
        """Which keys (B, S, d^I) each query reads: (B, T, S) bool; visible: (B or 1, T, S) bool. Nothing is learnt."""
        batch, tokens, heads, _ = question.queries.shape
        size = max(1, AT_ONCE // (batch * heads * keys.shape[1]))
        pieces = []
        for start in range(0, tokens, size):
            part = slice(start, start + size)
            scores = index_scores(Question(question.queries[:, part], question.weights[:, part]), keys)
            pieces.append(first_largest(scores.masked_fill_(~visible[:, part], -torch.inf), self.cfg.top_k))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def pick(self, question: Question, keys: Tensor, visible: Tensor | None) -> Picked:
        """``choose`` for a few queries, by place; ``visible`` None where they see everything."""
        scores = index_scores(question, keys)
        return picked(scores if visible is None else scores.masked_fill_(~visible, -torch.inf), self.cfg.top_k)


def index_scores(question: Question, keys: Tensor) -> Tensor:
    """I of every query and every key (B, S, d^I), whatever may be seen: (B, T, S), float32 at least."""
    return ops.index_scores(question.queries, question.weights, keys)


class Picked(NamedTuple):
    """Which keys each query reads, by place.

    places: (B, T, k) int64, in the order of the text.
    there: (B, T, k) bool; False fills up the row of a query that sees fewer than k.
    """

    places: Tensor
    there: Tensor


def picked(scores: Tensor, k: int) -> Picked:
    """The k largest of each row (..., S), or all S where there are fewer; of equal ones the first, and none at -inf.

    ``torch.topk`` takes equal ones as it happens to visit them, so that a text read in pieces would differ from the
    same text read at once. Here no two are equal: a float32 is read as the whole number that orders alike, and below
    it stands the place. (Scores of more bits are compared as float32.)
    """
    bits = (scores.to(torch.float32) + 0.0).view(torch.int32)  # + 0.0 makes one zero of two
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of two negative floats the larger has the smaller bits
    unique = (ordered.to(torch.int64) << 32) - torch.arange(scores.shape[-1], device=scores.device)
    places = unique.topk(min(k, scores.shape[-1]), dim=-1, sorted=False).indices.sort(-1).values
    return Picked(places, scores.gather(-1, places) > -torch.inf)


def first_largest(scores: Tensor, k: int) -> Tensor:
    """``picked`` as a bool mask like ``scores``."""
    if k >= scores.shape[-1]:
        return scores > -torch.inf
    places, there = picked(scores, k)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, there)


def index_loss(scores: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """KL(target || softmax of the scores over the allowed keys), mean over queries, in nats (V3.2 report, eq. 3, 4).

    The report sums over queries; the mean differs by a factor that AdamW divides out again, and does not depend on how
    long the texts of a batch are.

    Args:
        scores: (B, T, S); the gradient flows here.
        target: (B, T, S), each row a distribution; zero outside of ``allowed``.
        allowed: (B or 1, T, S) bool, at least one key for each query.
    """
    log_found = scores.masked_fill(~allowed, -torch.inf).log_softmax(-1).masked_fill(~allowed, 0.0)
    return (torch.xlogy(target, target) - target * log_found).sum(-1).mean()
