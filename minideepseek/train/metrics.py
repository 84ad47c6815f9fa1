"""The log of a run: one JSON object a step, at full precision, in the order of the steps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from minideepseek.errors import UserError
from minideepseek.files import atomic_file, user_errors

Record = dict[str, Any]


def read_metrics(path: str | Path) -> list[Record]:
    """The records of a metrics file; what follows a half-written line (a kill, a full disk) is left out.

    Raises:
        UserError: the file cannot be read.
    """
    with user_errors("read", path):
        return _whole_records(Path(path).read_bytes())


class MetricsLog:
    """A metrics file being written.

    Every record reaches the operating system at once, so a killed run loses none; ``flush`` brings them to the disk,
    which a checkpoint does before it becomes visible. The file is therefore never behind a checkpoint, and what is
    ahead of it is cut off when a run goes on from there.

    Args:
        path: the file; None keeps no file, only ``records``.
        earlier: records to begin with, those of the steps that a resumed run need not repeat.
    """

    def __init__(self, path: Path | None, earlier: list[Record]) -> None:
        self.records = list(earlier)
        self._file = None
        if path is None:
            return
        with atomic_file(path) as stage:  # a kill while the file is being shortened must not cost what is kept
            stage.write_bytes(b"".join(_line(record) for record in earlier))
        with user_errors("write", path):
            self._file = path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append one record. Raises UserError if the disk refuses."""
        self.records.append(record)
        if self._file is not None:
            with user_errors("write", self._file.name):
                line = _line(record)
                if self._file.write(line) != len(line):
                    raise UserError(f"cannot write {self._file.name}: the disk is full; free some space")

    def flush(self) -> None:
        """Return when everything written is on the disk."""
        if self._file is not None:
            with user_errors("write", self._file.name):
                os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _whole_records(content: bytes) -> list[Record]:
    records: list[Record] = []
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
    return records
