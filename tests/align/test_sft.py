"""Fine-tuning: only responses count, packed or not, and a task is learnt."""

from dataclasses import replace

import pytest
import torch

from minideepseek import UserError
from minideepseek.align.batch import Example, pack, pad
from minideepseek.align.evaluate import examine
from minideepseek.align.run import Shuffled
from minideepseek.align.sft import SFTConfig, demonstrations, sft, sft_loss
from minideepseek.align.update import Updater
from minideepseek.data.tasks import Addition, Flaws, answer_of, practice_problems, tokenizer_for
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.model import Transformer

from .conftest import SPARSE, TINY, V, exact, some_examples


def test_the_loss_is_the_mean_over_response_tokens() -> None:
    model, chosen = exact(), some_examples()
    nats = []
    for prompt, response in chosen:
        logp = model(torch.tensor([[*prompt, *response]])).log_softmax(-1)[0]
        nats += [-logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(response)]
    expected = sum(nats) / len(nats)
    assert sft_loss(model, pad(chosen)).item() == pytest.approx(expected, rel=1e-10)
    assert sft_loss(model, pack(chosen, 14)).item() == pytest.approx(expected, rel=1e-10)


def test_prompts_teach_nothing_by_themselves() -> None:
    """The gradient at the head's row of a token that only prompts have is that of a token that is never right."""
    model = exact()
    sft_loss(model, pad([Example([5, 20, 6], [7, 8]), Example([20], [9])])).backward()
    assert model.head.weight.grad is not None
    chances = [model(torch.tensor([row]))[0].softmax(-1) for row in ([5, 20, 6, 7], [20])]
    hidden = [model.hidden(ids, model.context(ids))[0] for ids in (torch.tensor([[5, 20, 6, 7]]), torch.tensor([[20]]))]
    pushed = (chances[0][2:, 20] @ hidden[0][2:] + chances[1][:, 20] @ hidden[1]) / 3
    torch.testing.assert_close(model.head.weight.grad[20], pushed, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("row", [0, 40])
def test_a_task_is_learnt_from_demonstrations(row: int) -> None:
    task = Addition(digits=1)
    tokenizer = tokenizer_for(task)
    model = Transformer(replace(TINY, d_model=32, vocab_size=tokenizer.vocab_size, init_std=None), seed=0)
    examples = demonstrations(task, tokenizer, 300)
    records = sft(model, examples, SFTConfig(steps=220, lr=1e-2, row=row), progress=False)
    assert [record["step"] for record in records] == list(range(1, 221))
    assert records[-1]["loss"] < 0.1 < 2 < records[0]["loss"]
    found = examine(model, tokenizer, practice_problems(task, 40, seed=9), attempts=1, max_new_tokens=12)
    assert found.pass_at[1] > 0.8  # over four seeds 0.9 to 1
    assert found.formatted > 0.9


def test_demonstrations_are_the_tasks_own(tokenizer: Tokenizer) -> None:
    problems = practice_problems(Addition(), 50, seed=3)
    for flaws, right in ((Flaws(), True), (Flaws(wrong=1.0), False)):
        examples = demonstrations(Addition(), tokenizer, 50, seed=3, flaws=flaws)
        judged = []
        for problem, (prompt, response) in zip(problems, examples, strict=True):
            assert tokenizer.decode(prompt) == problem.prompt
            assert response[-1] == tokenizer.eos_id
            judged.append(problem.solved_by(answer_of(tokenizer.decode(response))))
        assert (sum(judged) > 45) is right


def test_the_same_seed_tunes_to_the_same_bits() -> None:
    def losses(seed: int) -> list[float]:
        cfg = SFTConfig(steps=4, batch_size=2, seed=seed)
        return [record["loss"] for record in sft(Transformer(TINY, seed=0), some_examples(), cfg, progress=False)]

    assert losses(1) == losses(1) != losses(2)


def test_tuning_leaves_routers_corrections_alone_and_the_model_in_eval_mode() -> None:
    model = Transformer(SPARSE, seed=0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sft(model, some_examples(), SFTConfig(steps=2, batch_size=4), progress=False)
    assert not model.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(not torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_a_batch_in_pieces_is_the_same_update() -> None:
    whole, pieces = exact(), exact()
    cfg = SFTConfig(steps=1, warmup=0)
    chosen = some_examples(4)
    tokens = [len(example.response) / sum(len(one.response) for one in chosen) for example in chosen]
    first = Updater(whole, cfg).update([sft_loss(whole, pad(chosen))])
    losses = (sft_loss(pieces, pad([example])) * share for example, share in zip(chosen, tokens, strict=True))
    second = Updater(pieces, cfg).update(losses)
    assert first == pytest.approx(second, rel=1e-9)
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_every_example_comes_once_before_any_comes_again() -> None:
    order = Shuffled(10, 4, seed=0)
    drawn = [k for _ in range(5) for k in next(order)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}, {"row": -1}, {"schedule": "slow"}]
)
def test_settings_without_sense_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        SFTConfig(**settings)


def test_a_loss_that_is_no_number_stops_at_once() -> None:
    model = Transformer(TINY, seed=0)
    with torch.no_grad():
        model.head.weight[V - 1] = torch.nan
    with pytest.raises(UserError, match="stopped at update 1"):
        sft(model, some_examples(), SFTConfig(steps=2), progress=False)


def test_no_examples_are_refused() -> None:
    with pytest.raises(UserError, match="no examples"):
        sft(Transformer(TINY, seed=0), [], progress=False)
