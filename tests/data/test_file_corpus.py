import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import open_corpus
from minideepseek.data.files import pieces
from minideepseek.errors import UserError

BOOK = "\n\n".join(f"Chapter {i}. " + "It was a dark and stormy night. " * 20 for i in range(60))


def texts(path: Path) -> list[str]:
    return [document.text for document in open_corpus(f"file:{path}")]


def complaint(path: Path) -> str:
    """The one line that opening or reading the path answers with."""
    with pytest.raises(UserError) as error:
        texts(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_short_text_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffHello\r\nwörld 狐狸\n".encode())
    assert texts(tmp_path / "a.txt") == ["Hello\nwörld 狐狸"]


def test_a_book_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "book.md").write_text(BOOK)
    parts = texts(tmp_path / "book.md")
    assert len(parts) > 8
    assert all(part.startswith("Chapter") for part in parts)
    assert "\n\n".join(parts) == BOOK


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="ab \n", max_size=400), target=st.integers(1, 30), chunk=st.integers(1, 50))
def test_pieces_lose_nothing_but_blank_lines_and_keep_their_size(text: str, target: int, chunk: int) -> None:
    chunks = (text[i : i + chunk] for i in range(0, len(text), chunk))
    cut = list(pieces(chunks, target))
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert all(0 < len(piece) <= 2 * target and piece.strip() for piece in cut)


def test_code_is_one_document_a_file(tmp_path: Path) -> None:
    code = "x = 1\n\n\n" * 5000
    (tmp_path / "a.py").write_text(code)
    assert texts(tmp_path / "a.py") == [code]


def test_jsonl_is_one_document_a_line(tmp_path: Path) -> None:
    rows = [{"text": "one\n\ntwo", "id": 1}, {"text": " "}, {"text": "half a pair \ud800"}, {"text": "两"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    assert texts(tmp_path / "a.jsonl") == ["one\n\ntwo", "half a pair \ufffd", "两"]


def test_parquet_is_one_document_a_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": ["one", None, "二"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["one", "二"]


def test_a_folder_is_all_its_texts_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "sub" / "c.jsonl").write_text('{"text": "third"}')
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    assert texts(tmp_path) == ["first", "second", "third"]


def test_a_file_of_unknown_ending_is_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("hello")
    assert texts(tmp_path / "README") == ["hello"]


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    corpus = open_corpus(f"file:{tmp_path / 'book.txt'}")
    assert list(corpus) == list(corpus)


def test_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    before = open_corpus(f"file:{file}").fingerprint
    os.utime(file, (0, 0))
    assert open_corpus(f"file:{file}").fingerprint == before
    file.write_text("two")
    assert open_corpus(f"file:{file}").fingerprint != before


def test_missing_file_says_where_it_looked(tmp_path: Path) -> None:
    assert "no such file or folder" in complaint(tmp_path / "none.txt")


def test_empty_and_blank_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    assert "is empty" in complaint(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("\n \n\t\n")
    assert "nothing but white space" in complaint(tmp_path / "a.txt")


def test_folder_without_texts_lists_the_known_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert ".txt, .md, .py, .jsonl, .parquet" in complaint(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "model.bin"])
def test_binary_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04\0\0\xff\xfe")
    assert "is a binary file (a NUL byte at offset 4)" in complaint(tmp_path / name)


def test_nul_bytes_far_inside_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text\n" * 50_000 + b"\0")
    assert "NUL byte inside" in complaint(tmp_path / "a.txt")


def test_other_encodings_are_told_how_to_become_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    assert "not UTF-8 text (byte 0xe9" in complaint(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("hello", encoding="utf-16")
    assert "iconv -f UTF-16" in complaint(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', "line 2 is not JSON"),
        ('{"content": "x", "id": 1}', "its fields: content, id"),
        ('{"text": 5}', 'no text in a field "text"'),
        ("[1]", "it is a list"),
    ],
)
def test_jsonl_troubles_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    error = complaint(tmp_path / "a.jsonl")
    assert message in error
    assert "line 2" in error


def test_parquet_troubles_are_one_clear_line(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    assert "its columns: id, body" in complaint(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": [1]}), tmp_path / "a.parquet")
    assert "holds int, not text" in complaint(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert "not a sound parquet file" in complaint(tmp_path / "a.parquet")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    assert "Permission denied" in complaint(tmp_path / "a.txt")


def test_a_device_is_not_a_corpus() -> None:
    assert "not a regular file" in complaint(Path(os.devnull))
