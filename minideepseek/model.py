"""The one skeleton that every generation fills: embed, L blocks, norm, head.

A ``ModelConfig`` is a composition. What changes between generations (attention, feed-forward) is a config object of
its own, defined in the file of that idea, which builds its own module; nothing here names a generation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minideepseek import ops
from minideepseek.context import Cache, Context, Routes
from minideepseek.layers.linear import Linear
from minideepseek.layers.mtp import MTP, chain_losses
from minideepseek.layers.norm import RMSNorm
from minideepseek.layers.residual import Residual
from minideepseek.layers.spec import AttentionSpec, FeedForwardSpec, ResidualSpec


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model as a composition of ideas.

    Attributes:
        d_model: width of the residual stream, D.
        n_layers: number of blocks, L.
        attention: how tokens read from each other: one config for all layers, or a tuple with one for each.
        ffn: what happens to a token by itself: one config for all layers, or a tuple with one for each.
        vocab_size: rows of the embedding and of the head, V; a tokenizer may use fewer.
        max_seq_len: tokens the model is trained for. Not a limit of the code.
        norm_eps: epsilon of every RMSNorm.
        mtp: predict further than the next token while training; None does not.
        residual: how a layer's output joins what the layers before it found.
        init_std: standard deviation of every weight matrix at the start; None scales it with the matrix (see
            ``Transformer.initialise``), which a narrow model needs.
    """

    d_model: int
    n_layers: int
    attention: AttentionSpec | tuple[AttentionSpec, ...]
    ffn: FeedForwardSpec | tuple[FeedForwardSpec, ...]
    vocab_size: int = 102_400
    max_seq_len: int = 4096
    norm_eps: float = 1e-6
    mtp: MTP | None = None
    residual: ResidualSpec = Residual()  # noqa: RUF009 (frozen)
    init_std: float | None = 0.006

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "vocab_size", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.norm_eps < 0 or (self.init_std is not None and self.init_std <= 0):
            raise ValueError(f"norm_eps={self.norm_eps} and init_std={self.init_std} must be positive")
        for name in ("attention", "ffn"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.n_layers:
                raise ValueError(f"{name} is given for {len(value)} layers, but n_layers={self.n_layers}")
            if isinstance(value, tuple) and len(set(value)) == 1:  # two ways to write one model compare equal
                object.__setattr__(self, name, value[0])

    @property
    def layers(self) -> tuple[tuple[AttentionSpec, FeedForwardSpec], ...]:
        """Attention and feed-forward of every block, first to last."""
        attention = self.attention if isinstance(self.attention, tuple) else (self.attention,) * self.n_layers
        ffn = self.ffn if isinstance(self.ffn, tuple) else (self.ffn,) * self.n_layers
        return tuple(zip(attention, ffn, strict=True))

    @property
    def layer_ahead(self) -> tuple[AttentionSpec, FeedForwardSpec]:
        """Attention and feed-forward of the modules that look ahead: as in the last block, unless ``mtp`` says else."""
        attention, ffn = self.layers[-1]
        return (attention if self.mtp is None or self.mtp.attention is None else self.mtp.attention), ffn


class Losses:
    """The objective of one batch and its parts: ``losses.total``, ``losses.lm``, ``losses.<what a layer added>``.

    Attributes:
        parts: name -> scalar tensor, already weighted.
        total: their sum, which is what to minimise.
        metrics: what layers report without training on it.
    """

    def __init__(self, parts: dict[str, Tensor], metrics: dict[str, Tensor] | None = None) -> None:
        self.parts = parts
        self.total = torch.stack(list(parts.values())).sum() if len(parts) > 1 else next(iter(parts.values()))
        self.metrics = {} if metrics is None else metrics

    def __getattr__(self, name: str) -> Tensor:
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(f"no loss called {name!r}; there are: total, {', '.join(parts)}")

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.parts.items())

    def __repr__(self) -> str:
        values = {"total": self.total, **self.parts}
        return f"Losses({', '.join(f'{name}={value.item():.4f}' for name, value in values.items())})"


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normed copy of the residual, each added to it (pre-norm)."""

    def __init__(self, cfg: ModelConfig, attention: AttentionSpec, ffn: FeedForwardSpec, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.attention = attention.build(cfg.d_model, layer)
        self.ffn_norm = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.ffn = ffn.build(cfg.d_model, layer, cfg.vocab_size)
        self.residual = cfg.residual.build(cfg.d_model, cfg.norm_eps, layer)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x: (B, T, D) -> (B, T, D), or whatever else the residual hands on."""
        h, kept = self.residual.enter(x)
        h, kept = self.residual.between(self.attention(self.attention_norm(h), ctx), kept, self.ffn_norm)
        return self.residual.leave(self.ffn(h, ctx), kept)


class Transformer(nn.Module):
    """A language model of the family.

    Args:
        cfg: the composition. Under ``torch.device("meta")`` any size builds without memory.
        seed: seed of the initial weights; None draws from torch's global generator.
    """

    def __init__(self, cfg: ModelConfig, *, seed: int | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg, *specs, layer) for layer, specs in enumerate(cfg.layers))
        self.ends = cfg.residual.ends(cfg.d_model, cfg.norm_eps)
        self.norm = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.mtp = nn.ModuleList()
        for k in range(0 if cfg.mtp is None else cfg.mtp.depth):  # numbered from 0: these have a cache of their own
            block, ends = Block(cfg, *cfg.layer_ahead, k), cfg.residual.ends(cfg.d_model, cfg.norm_eps)
            self.mtp.append(MTP.build(cfg.d_model, cfg.norm_eps, block, ends))
        self.before_step(0.0)
        self.head = Linear(cfg.d_model, cfg.vocab_size, exact=True)
        if self.embed.weight.device.type != "meta":
            self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int | None = None) -> None:
        """Draw every weight matrix from a normal distribution; gains of norms start at one, biases and buffers at zero.

        V1 uses a standard deviation of 0.006 at every size (V1 report, section 2.2). What matters for a signal is
        std·sqrt(fan-in): 0.006·sqrt(4096) = 0.38. With ``init_std=None`` each matrix gets 0.4/sqrt(fan-in), the same
        gain at any width; at d = 64 a plain 0.006 would leave the layers all but silent.
        """
        generator = None if seed is None else torch.Generator(self.embed.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            else:  # a lookup has a fan-in of one; every other matrix, alone or stacked, multiplies along its last axis
                fan_in = 1 if parameter is self.embed.weight else parameter.shape[-1]
                parameter.normal_(0.0, self.cfg.init_std or 0.4 / math.sqrt(fan_in), generator=generator)
        for module in self.modules():
            getattr(module, "initialise_own", lambda: None)()

    def hidden(self, ids: Tensor, ctx: Context) -> Tensor:
        """ids (B, T) int64 -> what the head reads, the normed stream after the last block: (B, T, D)."""
        return self.trunk(ids, ctx)[0]

    def trunk(self, ids: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """ids (B, T) int64 -> what the head reads (B, T, D), and what modules that look ahead start from."""
        x = self.ends.spread(self.embed(ids))
        for block in self.blocks:
            x = block(x, ctx)
        if ctx.cache is not None:
            ctx.cache.length = ctx.columns[1]
        read = self.norm(self.ends.collapse(x))
        return read, self.ends.handed(x, read)

    def context(
        self,
        ids: Tensor,
        *,
        cache: Cache | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        lengths: Tensor | None = None,
        routes: Routes | None = None,
    ) -> Context:
        """The context of a pass over ``ids`` (B, T): positions go on from the cache unless they are given.

        Rows shorter than T are padded on the right; ``lengths`` (B,) says how many tokens each has, so that a cache
        which forgets does not forget tokens for padding.

        Raises:
            ValueError: what is given does not fit together, or the cache has forgotten what this pass would need.
        """
        if ids.ndim != 2 or ids.is_floating_point():
            raise ValueError(f"ids must be whole numbers of shape (B, T), not {ids.dtype} of shape {tuple(ids.shape)}")
        for name, given in (("positions", positions), ("segments", segments)):
            if given is not None and given.shape != ids.shape:
                raise ValueError(f"{name} have shape {tuple(given.shape)}, but ids have {tuple(ids.shape)}")
        if segments is not None and cache is not None:
            raise ValueError("packed segments are for training: a cache holds one document a row")
        if cache is not None and cache.batch_size != ids.shape[0]:
            raise ValueError(f"the cache was made for {cache.batch_size} rows, but ids have {ids.shape[0]}")
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        ctx = Context(positions=positions, ids=ids, segments=segments, cache=cache, lengths=lengths, routes=routes)
        if cache is not None:
            ctx.columns = cache.columns(positions)
            cache.admit(positions, lengths)
        return ctx

    def forward(
        self,
        ids: Tensor,
        *,
        cache: Cache | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Next-token logits.

        Args:
            ids: (B, T) int64.
            cache: state to continue from and to extend (``new_cache``); None reads ``ids`` from the beginning.
            positions: (B, T) int64 where the rows stand at different places; else counted on from the cache.
            segments: (B, T) int64 document numbers of a packed batch: no token sees another document.

        Returns:
            (B, T, V) float32 (float64 for a float64 model).

        Raises:
            ValueError: ``ids`` of another type or shape, positions or segments of another shape than ``ids``, a cache
                for another number of rows, or segments together with a cache.
        """
        x = self.hidden(ids, self.context(ids, cache=cache, positions=positions, segments=segments))
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """What ``hidden`` returns (..., D) -> logits (..., V), float32 at least."""
        logits = self.head(x)
        return logits if logits.dtype == torch.float64 else logits.float()

    def loss(self, ids: Tensor, *, segments: Tensor | None = None, routes: Routes | None = None) -> Losses:
        """Mean cross-entropy of each token given those before it, in nats, and what layers add.

        Args:
            ids: (B, T) int64, T > 1; shifted here: token t + 1 is predicted from tokens 0..t.
            segments: (B, T) document numbers of a packed batch, or None. The first token of a document is not
                predicted: nothing before it is visible that could tell.
            routes: notes which experts are chosen, or says which to choose.

        Raises:
            ValueError: as in ``forward``, or there is nothing to predict.
        """
        if ids.ndim == 2 and ids.shape[1] < 2:
            raise ValueError(f"ids of shape {tuple(ids.shape)} leave nothing to predict: a row needs two tokens")
        inputs, targets = ids[:, :-1], ids[:, 1:]
        ctx = self.context(inputs, segments=None if segments is None else segments[:, :-1], routes=routes)
        if segments is not None:
            targets = targets.masked_fill(segments[:, 1:] != segments[:, :-1], -100)
        hidden, handed = self.trunk(inputs, ctx)
        lm = ops.linear_cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten())
        if self.training and self.mtp_weight:
            ahead = chain_losses(
                self.mtp, handed, ids, segments, self.embed, self.head.weight, partial(self.context, routes=routes)
            )
            for loss, own in ahead:
                ctx.add_loss("mtp", loss * (self.mtp_weight / len(self.mtp)))
                for name, value in own.losses.items():
                    ctx.add_loss(name, value)
        return Losses({"lm": lm, **ctx.losses}, ctx.metrics)

    def before_step(self, progress: float) -> None:
        """Before a step of training, of which the share ``progress`` in 0..1 is over: set what follows a schedule."""
        self.mtp_weight = 0.0 if self.cfg.mtp is None else self.cfg.mtp.weight_at(progress)

    def new_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty decode state with room for ``max_len`` tokens a row; longer texts make it grow by doubling.

        Decode under ``torch.inference_mode()``: without it autograd remembers every step that went into the cache.
        """
        if batch_size < 1 or max_len < 1:
            raise ValueError(f"batch_size={batch_size} and max_len={max_len} must be positive")
        blocks: Any = self.blocks
        return Cache([block.attention.new_cache(batch_size, max_len) for block in blocks], batch_size)

    def save(self, path: str) -> None:
        """Write config.json and safetensors (see ``minideepseek.checkpoint.save``)."""
        from minideepseek import checkpoint  # above this file in the house: it knows the formats, we only open the door

        checkpoint.save(self, path)
