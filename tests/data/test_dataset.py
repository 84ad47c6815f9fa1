import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minideepseek.data import (
    Cleaning,
    Corpus,
    Document,
    TokenData,
    Tokenizer,
    build,
    corpus_of,
    dataset,
    prepare,
    remix,
    story,
)
from minideepseek.data.cache import cache_folder
from minideepseek.data.document import is_held_out
from minideepseek.errors import UserError

TEXTS = [story(i) for i in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIDEEPSEEK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quick(corpus: str | Corpus, **options: object) -> TokenData:
    return prepare(corpus, **{"vocab_size": 400, "progress": False, **options})  # type: ignore[arg-type]


def documents(tokens: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    assert ends[-1] == len(tokens) - 1
    return [tokenizer.decode(part[:-1]) for part in np.split(tokens, ends[:-1] + 1)]


def test_every_document_is_in_exactly_one_part() -> None:
    data = quick(corpus_of(TEXTS), valid_fraction=0.1)
    train, valid = documents(data.train, data.tokenizer), documents(data.valid, data.tokenizer)
    assert train == [text for text in TEXTS if not is_held_out(text, 0.1)]
    assert valid == [text for text in TEXTS if is_held_out(text, 0.1)]
    assert 10 < len(valid) < 60


def test_statistics_are_those_of_the_files() -> None:
    data = quick(corpus_of([*TEXTS, TEXTS[0]]), valid_fraction=0.1)
    for tokens, stats in ((data.train, data.train_stats), (data.valid, data.valid_stats)):
        texts = documents(tokens, data.tokenizer)
        assert stats.documents == len(texts)
        assert stats.tokens == len(tokens)
        assert stats.bytes == sum(len(text.encode()) for text in texts)
    assert data.removed == {"exact duplicate": 1}


def test_bits_per_byte_of_blind_guessing_is_that_of_the_vocabulary() -> None:
    data = quick(corpus_of(TEXTS))
    stats = data.valid_stats
    assert data.bits_per_byte(math.log(400)) == pytest.approx(math.log2(400) * stats.tokens / stats.bytes)


def test_tokens_are_memory_mapped_and_small() -> None:
    data = quick(corpus_of(TEXTS))
    assert isinstance(data.train, np.memmap)
    assert data.train.dtype == np.uint16
    assert not data.train.flags.writeable
    assert data.tokenizer.vocab_size == 400


def test_large_vocabularies_get_larger_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "vocab_size", 2**16 + 1)
    data = quick(corpus_of(TEXTS))
    assert data.train.dtype == np.uint32
    assert documents(data.train, data.tokenizer)[0] == TEXTS[0]


def test_second_call_reads_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick(corpus_of(TEXTS))
    monkeypatch.setattr(dataset, "build", None)
    second = quick(corpus_of(TEXTS))
    assert second.folder == first.folder
    assert np.array_equal(second.train, first.train)
    assert second.tokenizer.to_json() == first.tokenizer.to_json()
    assert (second.train_stats, second.valid_stats, second.removed) == (
        first.train_stats,
        first.valid_stats,
        first.removed,
    )


def test_preparing_is_deterministic_to_the_byte(tmp_path: Path) -> None:
    one, two = (quick("stories:facts=8", max_tokens=20_000, fim_rate=0.1, cache_dir=tmp_path / name) for name in "ab")
    assert one.folder.name == two.folder.name
    for name in ("train.bin", "valid.bin", "tokenizer.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        {"vocab_size": 300},
        {"max_tokens": 5000},
        {"valid_fraction": 0.2},
        {"fim_rate": 0.5},
        {"seed": 1},
        {"cleaning": Cleaning(near=0.8)},
        {"tokenizer": Tokenizer.train(TEXTS, 350)},
        {"corpus": corpus_of(TEXTS[1:])},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_matters_has_its_own_cache(other: dict) -> None:
    plain = {"corpus": corpus_of(TEXTS), "max_tokens": 10_000}
    assert quick(**{**plain, **other}).folder != quick(**plain).folder


def test_a_given_tokenizer_is_used_as_it_is() -> None:
    tokenizer = Tokenizer.train(TEXTS, 350)
    data = quick(corpus_of(TEXTS), tokenizer=tokenizer)
    assert data.tokenizer.to_json() == tokenizer.to_json()


def test_tokenizer_never_sees_what_is_held_out() -> None:
    held = next(f"{i} " for i in range(10_000) if is_held_out(f"{i} " + "zyx" * 500, 0.02)) + "zyx" * 500
    data = quick(corpus_of([*TEXTS, held]))
    assert "zyx" not in data.tokenizer.tokens(range(400))
    assert held in documents(data.valid, data.tokenizer)


def test_budget_bounds_the_training_tokens_in_whole_documents() -> None:
    data = quick("stories", max_tokens=10_000)
    assert 9_000 < len(data.train) <= 10_000
    assert documents(data.train, data.tokenizer)


def test_endless_corpora_get_a_default_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "ENDLESS_BUDGET", 5_000)
    assert len(quick("stories").train) <= 5_000


def test_fill_in_the_middle_is_for_training_only() -> None:
    data = quick(corpus_of(TEXTS), fim_rate=0.5, valid_fraction=0.2)
    cut = int((data.train == data.tokenizer.fim_begin_id).sum())
    assert abs(cut - data.train_stats.documents / 2) < 40
    assert data.tokenizer.fim_begin_id not in data.valid


def test_a_small_corpus_still_holds_something_out() -> None:
    texts = [text for text in TEXTS if not is_held_out(text, 0.02)][:2]
    data = quick(corpus_of(texts))
    assert documents(data.train, data.tokenizer) == texts[:1]
    assert documents(data.valid, data.tokenizer) == texts[1:]
    assert (data.train_stats.documents, data.valid_stats.documents) == (1, 1)
    assert data.train_stats.bytes == len(texts[0].encode())


@pytest.mark.parametrize("texts", [[], ["one document"], ["twice", "twice"]])
def test_too_little_text_is_one_clear_line(texts: list[str]) -> None:
    with pytest.raises(UserError, match="too little text in texts") as error:
        quick(corpus_of(texts))
    assert "\n" not in str(error.value)


def test_a_remix_keeps_its_repetitions() -> None:
    mixture = remix([(corpus_of(TEXTS[:50]), 1)], total_bytes=5 * sum(len(text.encode()) for text in TEXTS[:50]))
    data = quick(mixture)
    assert data.train_stats.documents + data.valid_stats.documents == pytest.approx(250, abs=1)
    assert data.removed == {}


@pytest.mark.parametrize("bad", [{"valid_fraction": 0}, {"fim_rate": 1.5}, {"max_tokens": 0}, {"vocab_size": 100}])
def test_nonsense_is_one_clear_line(bad: dict) -> None:
    with pytest.raises(UserError) as error:
        quick(corpus_of(TEXTS), **bad)
    assert "\n" not in str(error.value)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "tokenizer.json", "meta.json"])
def test_damaged_caches_are_rebuilt(damage, name: str) -> None:
    first = quick(corpus_of(TEXTS))
    content = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    del first
    (folder,) = (path for path in cache_folder().glob("tokens/*") if path.is_dir())
    if damage is flip and name == "meta.json":
        (folder / name).write_text("{}")
    else:
        damage(folder / name)
    again = quick(corpus_of(TEXTS))
    assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == content


def test_an_interrupted_build_leaves_nothing_and_is_repeated(cache: Path) -> None:
    def broken() -> Corpus:
        def read():
            yield from corpus_of(TEXTS)
            raise KeyboardInterrupt

        return Corpus(name="broken", fingerprint="same", read=read)

    with pytest.raises(KeyboardInterrupt):
        quick(broken())
    assert not [path for path in (cache / "tokens").iterdir() if path.is_dir()]
    whole = Corpus(name="broken", fingerprint="same", read=lambda: iter(corpus_of(TEXTS)))
    assert quick(whole).train_stats.documents > 250


def test_errors_of_the_corpus_pass_through_and_leave_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"no": 1}\n')
    with pytest.raises(UserError, match="line 2"):
        quick(f"file:{tmp_path / 'a.jsonl'}")
    assert not [path for path in (cache / "tokens").iterdir() if path.is_dir()]


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="MINIDEEPSEEK_CACHE") as error:
        quick(corpus_of(TEXTS), cache_dir=tmp_path / "file" / "cache")
    assert "\n" not in str(error.value)


def test_argument_wins_over_environment_over_the_users_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == cache
    monkeypatch.delenv("MINIDEEPSEEK_CACHE")
    assert "minideepseek" in str(cache_folder())


PREPARE = """
import numpy as np
from minideepseek.data import prepare
data = prepare("stories", vocab_size=400, max_tokens=100_000, progress=False)
print(data.train.astype(np.int64).sum(), data.folder.name)
"""


def test_two_processes_preparing_at_once_share_one_sound_result(cache: Path) -> None:
    command = [sys.executable, "-c", PREPARE]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    one, two = (process.communicate(timeout=250)[0].split() for process in processes)
    assert one == two
    (folder,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    assert one[1] == folder.name
    assert (
        json.loads((folder / "meta.json").read_text())["train"]["tokens"] * 2 == (folder / "train.bin").stat().st_size
    )


def test_corpora_are_streamed_not_collected() -> None:
    alive = []

    def read():
        for i in range(3000):
            alive.append(i)
            yield Document(text=story(i, language="en") * 10, source="")

    seen = []
    batches = build._batches(read())
    for batch in batches:
        seen.append(len(alive))
        assert sum(len(document.text) for document in batch) < 2 * build.BATCH_CHARACTERS
    assert len(seen) > 5
    assert seen[0] < 600
