"""A grid of real runs, small enough for a laptop: which V1 models to train on how much data, and what each reached.

All models are V1 with two layers and differ in width; tokens are bytes, sequences short. So a valley shows at budgets
of 1e10 FLOPs and more, seconds of one core, where the V1 report (arXiv 2401.02954, section 3.2) begins at 1e17.
Learning rate and batch come from the report's laws (``lr_opt``, ``batch_opt``) all the same, far below the budgets
they were fitted to; ``lr_factor`` and ``batch_factor`` step away from them, to see how far that is from the best.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as evolve
from pathlib import Path

import numpy as np

from minideepseek import accounting
from minideepseek.data.dataset import TokenData, prepare
from minideepseek.errors import UserError
from minideepseek.files import atomic_file, user_errors
from minideepseek.generations import V1_MINI
from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig
from minideepseek.train.config import TrainConfig
from minideepseek.train.evaluate import evaluate
from minideepseek.train.laws import Array, batch_opt, lr_opt
from minideepseek.train.loop import train
from minideepseek.train.source import TrainingData

N_LAYERS, SEQ_LEN, HEAD_DIM, VOCAB_SIZE = 2, 64, 16, 512
EVAL_ROWS = 1024  # windows of held-out text: 64 KiB, where seeds differ by more than other windows would


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run that is to be made.

    Attributes:
        compute: the budget C in FLOPs.
        d_model: width of the model; heads of 16 channels, or a single one, must divide it.
        seed: of weights and data order. All widths of a seed read the text in the same order.
        lr_factor: the learning rate, in multiples of the law's.
        batch_factor: the batch, in multiples of the law's.
    """

    compute: float
    d_model: int
    seed: int = 0
    lr_factor: float = 1.0
    batch_factor: float = 1.0

    def __post_init__(self) -> None:
        if min(self.compute, self.d_model, self.lr_factor, self.batch_factor) <= 0:
            raise ValueError("compute, d_model, lr_factor and batch_factor must be positive")
        if self.d_model % (2 * self.n_heads):
            raise ValueError(f"d_model={self.d_model} does not divide into {self.n_heads} heads of even size")

    @property
    def n_heads(self) -> int:
        """Heads of 16 channels, or a single one."""
        return max(1, self.d_model // HEAD_DIM)

    @property
    def model(self) -> ModelConfig:
        """A V1 whose parts have the proportions that the formula of M supposes: multi-head attention, FFN 8/3 wide."""
        return evolve(
            V1_MINI,
            d_model=self.d_model,
            n_layers=N_LAYERS,
            attention=GQA(n_heads=self.n_heads, n_kv_heads=self.n_heads, head_dim=self.d_model // self.n_heads),
            ffn=SwiGLU(hidden=round(8 * self.d_model / 3)),
            vocab_size=VOCAB_SIZE,
            max_seq_len=SEQ_LEN,
        )

    @property
    def scales(self) -> dict[str, float]:
        """FLOPs a token in the report's three ways of counting (table 3): 6N1, M, 6N2."""
        return {
            "6N1": 6.0 * accounting.n1(self.d_model, N_LAYERS),
            "M": float(accounting.non_embedding_flops(self.d_model, N_LAYERS, SEQ_LEN)),
            "6N2": 6.0 * accounting.n2(self.d_model, N_LAYERS, VOCAB_SIZE),
        }

    @property
    def settings(self) -> TrainConfig:
        """Batch and learning rate by the laws, as many steps as the budget pays for."""
        tokens = self.compute / self.scales["M"]
        batch = max(1, round(self.batch_factor * batch_opt(self.compute) / SEQ_LEN))
        steps = max(1, round(tokens / (batch * SEQ_LEN)))
        return TrainConfig(
            steps=steps,
            batch_size=batch,
            seq_len=SEQ_LEN,
            lr=self.lr_factor * lr_opt(self.compute),
            warmup=max(1, round(steps / 20)),
            dtype="fp32",
            threads=1,  # products this small are over before a second thread has woken up
            device="cpu",
            seed=self.seed,
            eval_every=0,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial reached: bits per byte of held-out text, and the CPU seconds it took."""

    trial: Trial
    bits_per_byte: float
    cpu_seconds: float


def corpus(*, progress: bool = True) -> TokenData:
    """The text of all runs: the running Python's standard library, in bytes (the tokenizer has no merges)."""
    return prepare("python", vocab_size=VOCAB_SIZE, progress=progress)


def run(trial: Trial, data: TrainingData) -> Outcome:
    """Train and measure one model, on one core.

    Raises:
        UserError: the loss diverged (the learning rate is too large).
    """
    began = time.process_time()
    model = train(trial.model, data, trial.settings, progress=False).model
    found = evaluate(model, data, seq_len=SEQ_LEN, batch_size=64, batches=EVAL_ROWS // 64)
    return Outcome(trial=trial, bits_per_byte=found.bits_per_byte, cpu_seconds=time.process_time() - began)


def columns(outcomes: Sequence[Outcome], scale: str = "M") -> tuple[Array, Array, Array]:
    """(runs,) arrays of budget, scale and bits per byte: what ``scaling.fit_isoflop`` wants.

    Args:
        outcomes: runs in any order.
        scale: one of ``Trial.scales``. The budget is counted in the same way: that scale times the run's tokens.
    """
    scales = np.array([outcome.trial.scales[scale] for outcome in outcomes])
    tokens = np.array([outcome.trial.compute / outcome.trial.scales["M"] for outcome in outcomes])
    compute = np.array([outcome.trial.compute for outcome in outcomes]) if scale == "M" else scales * tokens
    return compute, scales, np.array([outcome.bits_per_byte for outcome in outcomes])


def write(path: str | Path, outcomes: Iterable[Outcome]) -> None:
    """Replace the CSV file by these outcomes, a line each; M, tokens, steps, batch and lr are added for readers.

    Raises:
        UserError: the place cannot be written.
    """
    with atomic_file(path) as stage, stage.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for i, outcome in enumerate(outcomes):
            trial, settings = asdict(outcome.trial), outcome.trial.settings
            row = {
                **trial,
                "M": outcome.trial.scales["M"],
                "tokens": settings.steps * settings.tokens_per_step,
                "steps": settings.steps,
                "batch": settings.batch_size,
                "lr": f"{settings.lr:.6g}",
                "bits_per_byte": f"{outcome.bits_per_byte:.6f}",
                "cpu_seconds": f"{outcome.cpu_seconds:.2f}",
            }
            if i == 0:
                writer.writerow(row)
            writer.writerow(row.values())


def read(path: str | Path) -> list[Outcome]:
    """The outcomes that ``write`` wrote.

    Raises:
        UserError: there is no such file, or it is not one of these.
    """
    with user_errors("read", path), open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            Outcome(
                trial=Trial(
                    compute=float(row["compute"]),
                    d_model=int(row["d_model"]),
                    seed=int(row["seed"]),
                    lr_factor=float(row["lr_factor"]),
                    batch_factor=float(row["batch_factor"]),
                ),
                bits_per_byte=float(row["bits_per_byte"]),
                cpu_seconds=float(row["cpu_seconds"]),
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of IsoFLOP runs ({error!r}); make one with {__name__}.write") from None
