from dataclasses import replace

import pytest
import torch

from minideepseek.data import Recall
from minideepseek.layers import MLA, RoPE, SwiGLU
from minideepseek.model import ModelConfig, Transformer
from minideepseek.train.recall import answer_logits, found, teach

TASK = Recall(n_keys=8, n_values=8, n_fillers=2)
FINDER = ModelConfig(
    d_model=64,
    n_layers=2,
    attention=MLA(n_heads=2, d_latent=48, d_rope=16, d_nope=16, d_value=32, rope=RoPE(theta=160.0, layout="adjacent")),
    ffn=SwiGLU(hidden=64),
    vocab_size=TASK.vocab_size,
    max_seq_len=24,
    init_std=None,
)


def test_a_model_is_taught_to_find_what_it_never_saw() -> None:
    model = Transformer(FINDER, seed=0)
    losses = teach(model, TASK, length=16, pairs=3, steps=100, lr=6e-3, tokens=1024)
    rows = TASK.rows(100, 16, pairs=3, questions=3, generator=torch.Generator().manual_seed(99))
    assert losses[-1] < 0.3 < 2 < losses[0]
    assert found(model, rows).float().mean() > 0.9


def test_a_model_is_asked_about_each_question_and_sees_no_answer_of_its_own() -> None:
    model = Transformer(FINDER, seed=0)
    rows = TASK.rows(3, 20, pairs=4, questions=2, generator=torch.Generator().manual_seed(1))
    asked = answer_logits(model, rows)
    assert asked.shape == (3, 2, TASK.vocab_size)
    hidden = rows.ids.clone()
    hidden[:, -1] = 0  # the last answer
    torch.testing.assert_close(answer_logits(model, rows._replace(ids=hidden)), asked, rtol=0, atol=0)
    torch.testing.assert_close(asked, model(rows.ids)[:, rows.asked], rtol=1e-4, atol=1e-5)


def test_the_same_seed_teaches_the_same() -> None:
    first, second = (Transformer(replace(FINDER, n_layers=1), seed=0) for _ in range(2))
    settings = {"length": 16, "pairs": 2, "steps": 3, "tokens": 64, "seed": 4}
    assert teach(first, TASK, **settings) == teach(second, TASK, **settings)
    assert teach(second, TASK, **{**settings, "seed": 5}) != teach(first, TASK, **{**settings, "seed": 4})


def test_rows_too_short_for_their_pairs_are_refused() -> None:
    for length in (14, 17):
        with pytest.raises(ValueError, match=f"length={length}"):
            teach(Transformer(FINDER, seed=0), TASK, length=length, pairs=4)
