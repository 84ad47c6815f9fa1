"""Sampling: the right distribution, the same text however prompts are batched, and what is refused."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import minideepseek as mds
from minideepseek import UserError
from minideepseek.generate import Sampling, filter_logits
from minideepseek.layers import GQA, SwiGLU
from minideepseek.model import ModelConfig, Transformer

V = 23
MODEL = Transformer(
    ModelConfig(
        d_model=16,
        n_layers=2,
        attention=GQA(n_heads=4, n_kv_heads=2, head_dim=6),
        ffn=SwiGLU(hidden=20),
        vocab_size=V,
        init_std=0.4,
    ),
    seed=0,
).double()

prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=7), min_size=1, max_size=4)
logits = st.lists(st.integers(-800, 800), min_size=2, max_size=12, unique=True).map(lambda x: torch.tensor(x) / 100)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- greedy: one text, whatever the way -----------------------------------------------------------------------------


def likeliest(prompt: list[int], steps: int) -> list[int]:
    """The definition: run the whole text again for every token."""
    text = list(prompt)
    for _ in range(steps):
        text.append(int(MODEL(torch.tensor([text]))[0, -1].argmax()))
    return text


@given(prompts=prompts, steps=st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_each_prompt_of_a_ragged_batch_goes_on_as_if_alone(prompts: list[list[int]], steps: int) -> None:
    found = mds.generate(MODEL, prompts, max_new_tokens=steps, temperature=0.0)
    assert found == [likeliest(prompt, steps) for prompt in prompts]


def test_a_tensor_of_prompts_gives_a_tensor() -> None:
    ids = torch.randint(0, V, (3, 5), generator=generator())
    found = mds.generate(MODEL, ids, max_new_tokens=4, temperature=0.0)
    assert found.dtype == torch.int64
    assert found.tolist() == [likeliest(row, 4) for row in ids.tolist()]
    assert torch.equal(mds.generate(MODEL, ids.int(), max_new_tokens=4, temperature=0.0), found)


def test_prompts_may_be_a_list_of_tensors() -> None:
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    found = mds.generate(MODEL, prompts, max_new_tokens=3, temperature=0.0)
    assert found == [likeliest([1, 2, 3], 3), likeliest([4], 3)]
    assert all(type(token) is int for text in found for token in text)


def test_no_new_tokens_returns_the_prompts() -> None:
    ids = torch.tensor([[1, 2]])
    assert torch.equal(mds.generate(MODEL, ids, max_new_tokens=0), ids)
    assert mds.generate(MODEL, [[1, 2], [3]], max_new_tokens=0) == [[1, 2], [3]]


# --- random, but reproducible -----------------------------------------------------------------------------------------


def test_a_seed_decides_and_leaves_the_global_generator_alone() -> None:
    ids = torch.tensor([[1, 2], [3, 4]])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (mds.generate(MODEL, ids, max_new_tokens=30, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_seed_the_global_generator_decides() -> None:
    def draw() -> Any:
        return mds.generate(MODEL, [[1]], max_new_tokens=20)

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert draw() == first != second


@pytest.mark.parametrize("ids", [torch.tensor([[1, 2], [3, 4]]), [[1, 2, 3], [4]]])
def test_streaming_yields_what_generate_returns(ids: Any) -> None:
    found = mds.generate(MODEL, ids, max_new_tokens=9, top_p=0.9, seed=3)
    steps = list(mds.stream(MODEL, ids, max_new_tokens=9, top_p=0.9, seed=3))
    assert all(step.shape == (2,) for step in steps)
    assert torch.stack(steps, 1).tolist() == [list(row)[-9:] for row in found]


def test_streaming_is_lazy() -> None:
    steps = mds.stream(MODEL, [[1]], max_new_tokens=10**9 // 4, seed=0)
    with pytest.raises(UserError):
        mds.stream(MODEL, [[]])  # refused at once, not when the first token is asked for
    del steps


def test_generated_tokens_can_be_trained_on() -> None:
    for ids in (
        mds.generate(MODEL, torch.tensor([[1, 2]]), max_new_tokens=4, seed=0),
        torch.stack(list(mds.stream(MODEL, [[1]], max_new_tokens=4, seed=0)), 1),
        next(mds.stream(MODEL, [[1, 2], [3]], seed=0))[None],
    ):
        MODEL.loss(ids).total.backward()
    assert MODEL.head.weight.grad.isfinite().all()
    MODEL.zero_grad()


def test_the_first_token_has_the_model_s_distribution() -> None:
    """Pearson's statistic of 20,000 draws, at its 99.9 % border for 22 degrees of freedom."""
    draws, temperature = 20_000, 1.7
    found = mds.generate(MODEL, torch.tensor([[5, 9]] * draws), max_new_tokens=1, temperature=temperature, seed=0)
    expected = draws * (MODEL(torch.tensor([[5, 9]]))[0, -1] / temperature).softmax(-1)
    observed = torch.bincount(found[:, -1], minlength=V)
    assert expected.min() > 5
    assert ((observed - expected) ** 2 / expected).sum() < 48.27


def test_the_second_token_has_the_distribution_after_the_first() -> None:
    """Two rows of one batch must draw independently: the joint distribution is the product along the text."""
    draws = 30_000
    found = mds.generate(MODEL, torch.tensor([[5]] * draws), max_new_tokens=2, top_k=3, seed=1)[:, 1:]
    first = filter_logits(MODEL(torch.tensor([[5]]))[0, -1], top_k=3).softmax(-1)
    chi, cells = 0.0, 0
    for a in first.nonzero()[:, 0].tolist():
        second = filter_logits(MODEL(torch.tensor([[5, a]]))[0, -1], top_k=3).softmax(-1)
        for b in second.nonzero()[:, 0].tolist():
            expected = draws * (first[a] * second[b]).item()
            chi += (int(((found[:, 0] == a) & (found[:, 1] == b)).sum()) - expected) ** 2 / expected
            cells += 1
    assert cells == 9
    assert chi < 26.12  # 99.9 % border for 8 degrees of freedom


# --- what may be drawn ------------------------------------------------------------------------------------------------


@given(logits=logits, top_p=st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_the_smallest_set_of_likeliest_tokens(logits: Tensor, top_p: float) -> None:
    probability = logits.double().softmax(-1)
    kept = filter_logits(logits.double(), top_p=top_p).isfinite()
    assert kept.any()
    assert probability[kept].sum() >= top_p - 1e-9
    assert probability[kept].sum() - probability[kept].min() < top_p + 1e-9  # without its last member it falls short
    assert kept.all() or probability[kept].min() >= probability[~kept].max()


@given(logits=logits, top_k=st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_top_k_keeps_the_likeliest(logits: Tensor, top_k: int) -> None:
    kept = filter_logits(logits, top_k=top_k).isfinite()
    assert kept.sum() == min(top_k, len(logits))
    assert kept.all() or logits[kept].min() > logits[~kept].max()


def test_filters_keep_logits_as_they_are_and_rows_apart() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    inf = torch.inf
    assert filter_logits(logits).tolist() == logits.tolist()
    assert filter_logits(logits, top_k=2).tolist() == [[-inf, 1.0, 2.0], [2.0, 1.0, -inf]]
    assert filter_logits(logits, top_p=0.7).tolist() == [[-inf, 1.0, 2.0], [2.0, 1.0, -inf]]
    assert filter_logits(logits, top_k=1, top_p=0.9).tolist() == [[-inf, -inf, 2.0], [2.0, -inf, -inf]]
    assert filter_logits(torch.zeros(1, 3), top_k=2).isfinite().all()  # ties at the border are all kept


def test_top_p_is_taken_of_what_top_k_leaves() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert filter_logits(logits, top_k=2, top_p=0.5).isfinite().tolist() == [True, False, False, False]


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 0.0])
def test_cold_sampling_is_greedy_and_never_overflows(temperature: float) -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [80.0, -70.0, 2.0]])
    drawn = Sampling(temperature=temperature).draw(logits, generator())
    assert drawn.tolist() == [1, 0]


def test_hot_sampling_is_uniform() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0]]).expand(30_000, -1)
    drawn = Sampling(temperature=1e6).draw(logits, generator())
    assert torch.bincount(drawn).float().sub(10_000).abs().max() < 300


# --- ends -------------------------------------------------------------------------------------------------------------


def test_rows_end_at_their_own_end_of_text() -> None:
    texts = [likeliest(prompt, 12) for prompt in ([1, 2, 3], [4], [9, 9])]
    eos = texts[0][5]  # the third new token of the first row
    expected = []
    for text, start in zip(texts, (3, 1, 2), strict=True):
        end = text.index(eos, start) + 1 if eos in text[start:] else len(text)
        expected.append(text[:end])
    assert len(set(map(len, expected))) > 1
    found = mds.generate(MODEL, [[1, 2, 3], [4], [9, 9]], max_new_tokens=12, temperature=0.0, eos_id=eos)
    assert found == expected


def test_a_tensor_is_filled_up_with_the_end_of_text_and_no_longer_than_needed() -> None:
    texts = [likeliest([1, 2], 12), likeliest([3, 4], 12)]
    eos = texts[0][4]
    ids = torch.tensor([[1, 2], [1, 2]])
    found = mds.generate(MODEL, ids, max_new_tokens=12, temperature=0.0, eos_id=eos)
    assert found.tolist() == [texts[0][: texts[0].index(eos, 2) + 1]] * 2
    mixed = mds.generate(MODEL, torch.tensor([[1, 2], [3, 4]]), max_new_tokens=12, temperature=0.0, eos_id=eos)
    row = mixed[0, 2:].tolist()
    assert set(row[row.index(eos) :]) == {eos}


def test_an_end_of_text_in_the_prompt_ends_nothing() -> None:
    assert mds.generate(MODEL, [[3, 3]], max_new_tokens=4, temperature=0.0, eos_id=3)[0][:2] == [3, 3]
    assert len(mds.generate(MODEL, [[3, 3]], max_new_tokens=4, temperature=0.0, eos_id=3)[0]) > 2


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mds.generate(MODEL, [[]]), "a prompt has no tokens"),
        (lambda: mds.generate(MODEL, [[1], []]), "a prompt has no tokens"),
        (lambda: mds.generate(MODEL, torch.zeros(2, 0, dtype=torch.int64)), "a prompt has no tokens"),
        (lambda: mds.generate(MODEL, []), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, [1, 2]), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, "once upon"), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, ["once", "upon"]), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, torch.tensor([1, 2])), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, torch.tensor(1)), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, torch.ones(1, 2)), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, [[0.5]]), "prompts must be token ids"),
        (lambda: mds.generate(MODEL, [[1, V]]), f"token id {V}, but the model's vocabulary is 0..{V - 1}"),
        (lambda: mds.generate(MODEL, [[1], [-1, 2]]), "token id -1"),
        (lambda: mds.generate(MODEL, [[1]], temperature=-0.1), "0 <= temperature"),
        (lambda: mds.generate(MODEL, [[1]], temperature=float("nan")), "0 <= temperature"),
        (lambda: mds.generate(MODEL, [[1]], temperature=float("inf")), "0 <= temperature"),
        (lambda: mds.generate(MODEL, [[1]], top_p=0.0), "0 < top_p <= 1"),
        (lambda: mds.generate(MODEL, [[1]], top_p=1.1), "top_p=1.1"),
        (lambda: mds.generate(MODEL, [[1]], top_k=0), "top_k=0"),
        (lambda: mds.generate(MODEL, [[1]], max_new_tokens=-1), "max_new_tokens=-1"),
    ],
)
def test_what_cannot_be_continued_is_refused_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
