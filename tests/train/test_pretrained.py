"""The cache of trained minis."""

from pathlib import Path

import pytest
import torch

from minideepseek.errors import UserError
from minideepseek.train import pretrained
from minideepseek.train.pretrained import trained

TEXT = "The cat sat on the mat. The dog lay in the sun.\n\n" * 400


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MINIDEEPSEEK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("\n\n".join(f"{TEXT[: 3000 + 50 * i]} Part {i}." for i in range(20)))
    return f"file:{tmp_path / 'text.txt'}"


def test_the_second_time_nothing_is_trained(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = trained("v1-mini", data=corpus, steps=2, progress=False)
    assert tokenizer.decode(tokenizer.encode("The cat")) == "The cat"
    monkeypatch.setattr(pretrained, "train", None)
    again, _ = trained("v1-mini", data=corpus, steps=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not again.training


def test_other_settings_are_other_models(corpus: str) -> None:
    two, _ = trained("v1-mini", data=corpus, steps=2, progress=False)
    three, _ = trained("v1-mini", data=corpus, steps=3, progress=False)
    other, _ = trained("v1-mini", data=corpus, steps=2, seed=1, progress=False)
    weights = [model.head.weight.sum().item() for model in (two, three, other)]
    assert len(set(weights)) == 3


def test_a_damaged_model_is_trained_again(corpus: str, tmp_path: Path) -> None:
    model, _ = trained("v1-mini", data=corpus, steps=2, progress=False)
    weights = next((tmp_path / "cache" / "models").glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    again, _ = trained("v1-mini", data=corpus, steps=2, progress=False)
    assert torch.equal(model.head.weight, again.head.weight)


def test_an_unknown_generation_is_refused(corpus: str) -> None:
    with pytest.raises(UserError, match="no generation 'v9'; there are v1-7b"):
        trained("v9", data=corpus)
