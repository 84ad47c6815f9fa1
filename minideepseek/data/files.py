"""The user's own text: `file:PATH`, one file or a folder of them.

.txt, .md        prose; a book is cut at blank lines into documents, so that a part of it can be held out
.py              one document a file
.jsonl           one document a line, in its "text" field
.parquet         one document a row, in its "text" column
Files are read piece by piece, so they may be larger than memory.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from minideepseek.data.document import Corpus, Document, fingerprint
from minideepseek.errors import UserError

# A document of prose: 1/64 of the file, so that even a short book has some to hold out, within these bounds.
SHORTEST_PIECE, LONGEST_PIECE = 2_000, 16_000  # characters
WHOLE_HASH_LIMIT = 16 * 2**20  # bytes; larger files are told apart by path, size and time of change


def file_corpus(path: str | os.PathLike[str]) -> Corpus:
    """The documents of a file, or of all files of the known kinds in a folder, in the order of their names.

    Raises UserError, when opened or when read, for what is missing, empty, unreadable, not text, or has no text field.
    """
    root = Path(path).expanduser()
    files = _files(root)
    sizes = {file: _size(file) for file in files}
    empty = [file for file, size in sizes.items() if size == 0]
    if len(empty) == len(files):
        raise UserError(f"{root} is empty; give a file or folder with text in it")
    for file in files:
        if file.suffix.lower() != ".parquet":
            _refuse_binary(file)

    def read() -> Iterator[Document]:
        n = 0
        for file in files:
            for document in _reader(file)(file):
                n += 1
                yield document
        if n == 0:
            raise UserError(f"{root} holds nothing but white space; give a file or folder with text in it")

    return Corpus(
        name=f"file:{path}",
        fingerprint=fingerprint("file", *(_identity(file, root, size) for file, size in sizes.items())),
        read=read,
        size_hint=sum(sizes.values()),
    )


def _files(root: Path) -> list[Path]:
    if root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.suffix.lower() in READERS and file.is_file())
        if not files:
            raise UserError(f"no {', '.join(READERS)} file in folder {root}; name a file or another folder")
        return files
    if not root.exists():
        raise UserError(f"no such file or folder: {root} (looked in {Path.cwd()})")
    if not root.is_file():
        raise UserError(f"{root} is not a regular file; give a file or a folder")
    return [root]


def _size(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            return opened.seek(0, os.SEEK_END)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _identity(file: Path, root: Path, size: int) -> bytes:
    name = file.name if file == root else file.relative_to(root).as_posix()
    if size <= WHOLE_HASH_LIMIT:
        return name.encode() + b"\0" + file.read_bytes()
    return f"{file.resolve()}\0{size}\0{file.stat().st_mtime_ns}".encode()


def _refuse_binary(file: Path) -> None:
    """Look at the beginning: a picture or a model given as text is told at once, not after an hour of work."""
    head = file.open("rb").read(8192)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{file} is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 {file.name} > utf8-{file.name}")
    if b"\0" in head:
        raise UserError(f"{file} is a binary file (a NUL byte at offset {head.index(0)}); give text in UTF-8")


def _decoding(file: Path, lines: Iterator[str]) -> Iterator[str]:
    """The lines or chunks, with what goes wrong while reading them said in one line."""
    try:
        for line in lines:
            if "\0" in line:
                raise UserError(f"{file} has a NUL byte inside: a binary or damaged file; give text in UTF-8")
            yield line
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text (byte 0x{error.object[error.start]:02x}: {error.reason}); "
            f"convert it, for example: iconv -f LATIN1 -t UTF-8 {file.name} > utf8-{file.name}"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _prose(file: Path) -> Iterator[Document]:
    """Documents of some thousand characters, cut at blank lines, else at line breaks, else anywhere."""
    target = min(max(file.stat().st_size // 64, SHORTEST_PIECE), LONGEST_PIECE)
    with file.open(encoding="utf-8-sig") as opened:
        chunks = _decoding(file, iter(lambda: opened.read(2**16), ""))
        for i, text in enumerate(pieces(chunks, target)):
            yield Document(text=text, source=f"{file.name}#{i}")


def pieces(chunks: Iterator[str], target: int) -> Iterator[str]:
    """Cut a stream of text into pieces of about `target` characters (at most twice that), none of them blank.

    The cut is made at the last blank line of the allowed stretch, else at the last line break, else at its end.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        while len(rest) > 2 * target:
            cut = next((at for mark in ("\n\n", "\n") if (at := rest.rfind(mark, target, 2 * target)) > 0), 2 * target)
            if rest[:cut].strip():
                yield rest[:cut].strip("\n")
            rest = rest[cut:]
    if rest.strip():
        yield rest.strip("\n")


def _code(file: Path) -> Iterator[Document]:
    with file.open(encoding="utf-8-sig") as opened:
        text = "".join(_decoding(file, iter(lambda: opened.read(2**20), "")))
    if text.strip():
        yield Document(text=text, source=file.name)


def _jsonl(file: Path) -> Iterator[Document]:
    with file.open(encoding="utf-8-sig") as opened:
        for n, line in enumerate(_decoding(file, opened), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{file}, line {n} is not JSON ({error}); each line must be one object") from None
            text = row.get("text") if isinstance(row, dict) else None
            if not isinstance(text, str):
                has = f"its fields: {', '.join(row)}" if isinstance(row, dict) else f"it is a {type(row).__name__}"
                raise UserError(f'{file}, line {n} has no text in a field "text" ({has}); rename the field')
            if text.strip():
                yield Document(text=_sound(text), source=f"{file.name}:{n}")


def _parquet(file: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f'reading {file} needs pyarrow: pip install "minideepseek[parquet]"') from None
    try:
        table = parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if "text" not in columns:
            raise UserError(f'{file} has no column "text" (its columns: {", ".join(columns)}); rename the column')
        n = 0
        for batch in table.iter_batches(batch_size=1024, columns=["text"]):
            for text in batch.column(0).to_pylist():
                n += 1
                if text is not None and not isinstance(text, str):
                    raise UserError(f'{file}, row {n}: column "text" holds {type(text).__name__}, not text')
                if text and text.strip():
                    yield Document(text=text, source=f"{file.name}:{n}")
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a sound parquet file ({str(error).splitlines()[0]})") from None


def _sound(text: str) -> str:
    """JSON can spell half a surrogate pair, which is no character and has no UTF-8; it becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": _prose,
    ".md": _prose,
    ".py": _code,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _reader(file: Path) -> Callable[[Path], Iterator[Document]]:
    """By the file's ending; a single file of unknown ending is taken for prose."""
    return READERS.get(file.suffix.lower(), _prose)
