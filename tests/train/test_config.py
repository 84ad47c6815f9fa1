"""Settings refuse nonsense."""

import pytest

from minideepseek.errors import UserError
from minideepseek.train import TrainConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("seq_len", -1),
        ("accumulation", 0),
        ("keep", 0),
        ("eval_batches", 0),
        ("warmup", -1),
        ("threads", -2),
        ("checkpoint_every", -1),
        ("eval_every", -1),
        ("seed", -1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("weight_decay", -0.1),
        ("clip", -1.0),
        ("clip", float("nan")),
        ("betas", (0.9, 1.0)),
        ("betas", (0.9,)),
        ("optimizer", "sgd"),
        ("schedule", "linear"),
        ("dtype", "fp16"),
    ],
)
def test_nonsense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^{field}="):
        TrainConfig(**{field: value})


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be cut"):
        TrainConfig(batch_size=10, accumulation=4)


def test_a_step_predicts_batch_times_length_tokens() -> None:
    assert TrainConfig(batch_size=6, seq_len=50, accumulation=3).tokens_per_step == 300
