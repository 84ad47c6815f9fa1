"""Batches and log-probabilities: the plain formula, in less memory, and nothing seen that should not be."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minideepseek import UserError
from minideepseek.align import logprobs
from minideepseek.align.batch import Batch, Example, encode_example, pack, pad
from minideepseek.align.logprobs import response_logprobs, token_entropies, token_logprobs
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.model import Transformer

from .conftest import MINIS, SPARSE, V, exact, some_examples

ids = st.lists(st.integers(1, V - 1), min_size=1, max_size=6)
examples = st.lists(st.builds(Example, ids, ids), min_size=1, max_size=6)


# --- batches ----------------------------------------------------------------------------------------------------------


def rebuilt(batch: Batch) -> list[int]:
    """Its response tokens, row by row."""
    return batch.targets[batch.mask].tolist()


@given(examples=examples, length=st.integers(12, 30))
@settings(max_examples=40, deadline=None)
def test_padded_and_packed_batches_hold_each_response_once_in_order(examples: list[Example], length: int) -> None:
    expected = [token for example in examples for token in example.response]
    assert rebuilt(pad(examples)) == expected
    packed = pack(examples, length)
    assert rebuilt(packed) == expected
    assert packed.ids.shape[1] == length
    assert len(packed.ids) <= len(examples)


def test_a_prompt_is_read_and_its_response_is_what_counts(tokenizer: Tokenizer) -> None:
    batch = pad([encode_example(tokenizer, "4+3=", "7"), encode_example(tokenizer, "1=", "15")])
    assert [tokenizer.decode(row) for row in batch.ids] == ["4+3=7", "1=15"]
    assert [tokenizer.tokens(row[mask]) for row, mask in zip(batch.targets, batch.mask, strict=True)] == [
        ["7", tokenizer.eos],
        ["1", "5", tokenizer.eos],
    ]
    assert batch.ids[:, 0].tolist() == [tokenizer.eos_id] * 2


@pytest.mark.parametrize("examples", [[], [Example([], [1])], [Example([1], [2]), Example([1], [])]])
def test_batches_of_nothing_are_refused(examples: list[Example]) -> None:
    for make in (pad, lambda examples: pack(examples, 8)):
        with pytest.raises(UserError, match="example"):
            make(examples)


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="9 tokens does not fit into rows of 8"):
        pack([Example([1] * 4, [2] * 5)], 8)


def test_values_of_response_tokens_are_spread_to_their_places() -> None:
    batch = pad(some_examples())
    values = torch.arange(1.0, 1 + batch.mask.sum())
    placed = batch.spread(values)
    assert placed[batch.mask].tolist() == values.tolist()
    assert not placed[~batch.mask].any()
    wide = batch.spread(values[:, None].repeat(1, 3))
    assert torch.equal(wide, placed[..., None].repeat(1, 1, 3))


# --- log-probabilities ------------------------------------------------------------------------------------------------


def by_definition(model: Transformer, example: Example) -> Tensor:
    """Of each response token, from the logits of its row alone."""
    row = torch.tensor([[*example.prompt, *example.response]])
    chances = model(row).log_softmax(-1)[0, len(example.prompt) - 1 : -1]
    return chances.gather(1, torch.tensor(example.response)[:, None])[:, 0]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_response_logprobs_are_those_of_each_row_alone(layout: str) -> None:
    model, chosen = exact(), some_examples(7)
    batch = pad(chosen) if layout == "padded" else pack(chosen, 20)
    found = response_logprobs(model, batch)
    expected = torch.cat([by_definition(model, example) for example in chosen])
    torch.testing.assert_close(found[batch.mask], expected, rtol=1e-10, atol=1e-10)
    assert not found[~batch.mask].any()


@pytest.mark.parametrize("name", MINIS)
def test_packed_examples_see_no_other_in_any_generation(name: str) -> None:
    model, chosen = Transformer(MINIS[name], seed=0).double().eval(), some_examples(6)
    padded, packed = pad(chosen), pack(chosen, 16)
    with torch.no_grad():
        apart = response_logprobs(model, padded)[padded.mask]
        together = response_logprobs(model, packed)[packed.mask]
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


@given(
    rows=st.integers(1, 9), budget=st.integers(1, 60), temperature=st.sampled_from([0.5, 1.0, 2.0]), mask=st.booleans()
)
@settings(max_examples=30, deadline=None)
def test_pieces_of_any_size_have_the_values_and_gradients_of_the_plain_formula(
    rows: int, budget: int, temperature: float, mask: bool
) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (rows,), generator=generator)
    allowed = torch.rand(rows, 11, generator=generator) < 0.5 if mask else None
    if allowed is not None:
        allowed[torch.arange(rows), targets] = True
    share = torch.randn(rows, dtype=torch.float64, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "BUDGET", budget)
        found = token_logprobs(hidden, weight, targets, temperature=temperature, allowed=allowed)
        entropy = token_entropies(hidden, weight, temperature=temperature)
        grads = torch.autograd.grad((found * share).sum() + (entropy * share).sum(), (hidden, weight))
    logits = hidden @ weight.T / temperature
    cut = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    plain = cut.log_softmax(-1)[torch.arange(rows), targets]
    spread = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    expected = torch.autograd.grad((plain * share).sum() + (spread * share).sum(), (hidden, weight))
    for mine, theirs in zip((found, entropy, *grads), (plain, spread, *expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_no_more_logits_are_kept_than_a_piece_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, vocab = 64, 500
    monkeypatch.setattr(logprobs, "BUDGET", 8 * vocab)
    hidden = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(vocab, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = token_logprobs(hidden, weight, torch.zeros(rows, dtype=torch.int64))
    assert max(kept, default=0) < 8 * vocab
    found.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_given_experts_are_used_and_change_what_is_likely() -> None:
    model, batch = exact(SPARSE), pad(some_examples())
    shape = (2, *batch.mask.shape, 2)
    routes = torch.rand(*shape[:-1], 6, generator=torch.Generator().manual_seed(0)).argsort(-1)[..., :2]
    free = response_logprobs(model, batch)
    forced = response_logprobs(model, batch, routes=list(routes))
    assert (free - forced)[batch.mask].abs().max() > 1e-3
    torch.testing.assert_close(response_logprobs(model, batch, routes=list(routes)), forced, rtol=0, atol=0)


def test_a_bfloat16_model_has_float32_logprobs() -> None:
    model, batch = exact().bfloat16(), pad(some_examples())
    found = response_logprobs(model, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, response_logprobs(exact(), batch).float(), rtol=0.1, atol=0.2)


def test_selected_rows_are_those_rows() -> None:
    chosen = some_examples()
    some = pack(chosen, 12).select(torch.tensor([1, 0]))
    assert some.segments is not None
    assert torch.equal(some.ids, pack(chosen, 12).ids[[1, 0]])
    assert torch.equal(replace(some).mask, pack(chosen, 12).mask[[1, 0]])
