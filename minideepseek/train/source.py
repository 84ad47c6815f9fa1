"""What the loop asks of data: two rows of tokens, the tokenizer that made them, and how to tell them from others."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from minideepseek.checkpoint import SavesItself
from minideepseek.layers.hashed import HashRouter

SLICES, SLICE = 64, 4096  # what is looked at of a large corpus: evenly spread tokens
COUNTED = 2**24  # tokens that are enough to know which are frequent


class Tokenizing(SavesItself, Protocol):
    """What is saved beside the weights."""

    @property
    def vocab_size(self) -> int: ...


class TrainingData(Protocol):
    """A prepared corpus, as ``minideepseek.data.prepare`` makes it.

    corpus: its name, for people. train, valid: (N,) token ids, usually memory-mapped.
    """

    @property
    def corpus(self) -> str: ...
    @property
    def train(self) -> np.ndarray: ...
    @property
    def valid(self) -> np.ndarray: ...
    @property
    def tokenizer(self) -> Tokenizing: ...
    def bits_per_byte(self, loss: float) -> float: ...


def digest(tokens: np.ndarray) -> str:
    """A fingerprint of a row of tokens: its length, and all of it or 64 slices of a long one."""
    found = hashlib.blake2b(str(len(tokens)).encode(), digest_size=16)
    n = min(SLICES, -(-len(tokens) // SLICE))
    for i in range(n):
        start = i * SLICE if len(tokens) <= SLICES * SLICE else i * (len(tokens) - SLICE) // (SLICES - 1)
        found.update(np.ascontiguousarray(tokens[start : start + SLICE], dtype="<u4").tobytes())
    return found.hexdigest()


def frequencies(tokens: np.ndarray, vocab_size: int) -> Tensor:
    """(V,) how often each token occurs among up to COUNTED of ``tokens``, evenly spread."""
    seen = np.asarray(tokens[:: -(-len(tokens) // COUNTED)], dtype=np.int64)
    return torch.from_numpy(np.bincount(seen, minlength=vocab_size))


def deal_experts(model: nn.Module, tokens: np.ndarray) -> None:
    """Let the tables of a new model's hash routers follow the frequencies of what it is going to read."""
    routers = [module for module in model.modules() if isinstance(module, HashRouter)]
    for router in routers:
        router.follow(frequencies(tokens, len(router.table)))
