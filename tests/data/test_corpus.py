import os
import pydoc_data.topics
import sys
import sysconfig
from itertools import islice
from pathlib import Path

import pytest

from minideepseek.data import corpus_of, open_corpus
from minideepseek.data import python_corpus as module
from minideepseek.data.document import fingerprint, is_held_out, text_hash
from minideepseek.errors import UserError


@pytest.mark.parametrize("spec", ["storys", "pyton", "", "python:3", "file:", "hub:", "csv:x"])
def test_unknown_corpus_names_the_valid_forms(spec: str) -> None:
    with pytest.raises(UserError, match=r"valid: stories, stories:facts=N, python, file:PATH, hub:NAME") as error:
        open_corpus(spec)
    assert "\n" not in str(error.value)


def test_a_typing_error_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean stories"):
        open_corpus("storeis")
    (tmp_path / "notes.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean file:notes\.txt"):
        open_corpus("notes.txt")


@pytest.mark.parametrize("options", ["facts", "facts=-1", "facts=many", "lang=en", "200"])
def test_bad_story_options_are_one_clear_line(options: str) -> None:
    with pytest.raises(UserError, match="write for example stories:facts=200"):
        open_corpus(f"stories:{options}")


def test_corpus_of_texts_can_be_read_again_and_again() -> None:
    corpus = corpus_of(["one", "two"], name="mine")
    assert [document.text for document in corpus] == [document.text for document in corpus] == ["one", "two"]
    assert [document.source for document in corpus] == ["mine/0", "mine/1"]
    assert corpus.fingerprint != corpus_of(["two", "one"]).fingerprint


def test_fingerprint_tells_parts_from_their_joins() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc") != fingerprint("abc")


def test_hash_is_the_same_on_every_machine() -> None:
    assert text_hash("狐狸") == 6306570334824908168
    assert text_hash("狐狸", salt=1) != text_hash("狐狸")


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.5])
def test_held_out_share_is_as_asked(fraction: float) -> None:
    n = 20_000
    held = sum(is_held_out(f"document {i}", fraction) for i in range(n))
    assert abs(held - n * fraction) < 5 * (n * fraction) ** 0.5


def test_a_larger_fraction_holds_out_the_same_and_more() -> None:
    texts = [f"document {i}" for i in range(2000)]
    small, large = ({text for text in texts if is_held_out(text, fraction)} for fraction in (0.02, 0.1))
    assert small < large


def test_python_corpus_is_code_and_prose_of_this_interpreter() -> None:
    documents = {document.source: document.text for document in open_corpus("python")}
    library = Path(sysconfig.get_paths()["stdlib"])
    assert documents["python/heapq.py"] == (library / "heapq.py").read_text("utf-8")
    assert documents["python/topics/if"] == pydoc_data.topics.topics["if"]
    assert sum(len(text) for text in documents.values()) > 4_000_000
    assert all(text.strip() for text in documents.values())


def test_python_corpus_leaves_out_tests_and_installed_packages() -> None:
    sources = [document.source for document in open_corpus("python")]
    assert len(set(sources)) == len(sources)
    for noise in ("/test/", "/tests/", "site-packages", "idlelib", "encodings/", "_sysconfigdata", "/config-"):
        assert not any(noise in source for source in sources), noise


def test_python_corpus_mixes_code_and_prose_in_a_fixed_order() -> None:
    corpus = open_corpus("python")
    sources = [document.source for document in islice(corpus, 200)]
    assert sources == [document.source for document in islice(open_corpus("python"), 200)]
    assert 3 < sum("/topics/" in source for source in sources) < 100
    assert corpus.fingerprint == open_corpus("python").fingerprint


def test_python_corpus_survives_odd_encodings_and_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'café'\n".encode("latin-1"))
    (tmp_path / "broken.py").write_bytes(b"name = '\xff'\n")
    (tmp_path / "unknown.py").write_bytes(b"# coding: klingon\n")
    (tmp_path / "empty.py").write_bytes(b"\n")
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    code = [document for document in module.python_corpus() if "/topics/" not in document.source]
    assert [(document.source, document.text[-7:]) for document in code] == [("python/latin.py", "'café'\n")]


def test_an_interpreter_without_sources_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="no standard-library sources"):
        open_corpus("python")


def test_hub_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "minideepseek\[hub\]"'):
        open_corpus("hub:owner/name")


@pytest.mark.parametrize("name", ["a b", "owner/name/more", "owner/", ":config", "owner/name:"])
def test_malformed_hub_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="hub:OWNER/NAME"):
        open_corpus(f"hub:{name}")


class FakeHub:
    """Stands in for the datasets library: rows to stream, or the error that the network gives."""

    def __init__(self, rows: list[dict], error: Exception | None = None) -> None:
        self.rows, self.error, self.calls = rows, error, []

    def load_dataset(self, *args: object, **options: object) -> list[dict]:
        self.calls.append((args, options))
        if self.error:
            raise self.error
        return self.rows


def test_hub_streams_the_text_column_of_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub([{"text": "one"}, {"text": " "}, {"text": "two"}])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setattr(os, "environ", {})
    corpus = open_corpus("hub:owner/name:small")
    assert [(document.text, document.source) for document in corpus] == [
        ("one", "owner/name/0"),
        ("two", "owner/name/2"),
    ]
    assert hub.calls == [(("owner/name", "small"), {"split": "train", "streaming": True})]
    assert corpus.endless


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        (FakeHub([], ConnectionError("no route\nto host")), r"cannot read hub:owner/name \(no route\)"),
        (FakeHub([{"content": "x", "id": 1}]), "its columns: content, id"),
    ],
)
def test_hub_troubles_are_one_clear_line(hub: FakeHub, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(UserError, match=message) as error:
        list(open_corpus("hub:owner/name"))
    assert "\n" not in str(error.value)


def test_hub_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub([]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="needs the network"):
        list(open_corpus("hub:owner/name"))
