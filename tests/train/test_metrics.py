"""The log of a run."""

from pathlib import Path

import pytest

from minideepseek.errors import UserError
from minideepseek.train.metrics import MetricsLog, read_metrics


def test_what_is_written_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [{"step": i, "loss": 1 / (i + 3)} for i in range(5)]
    with MetricsLog(path, []) as log:
        for record in records:
            log.write(record)
    assert read_metrics(path) == records


def test_a_record_is_in_the_file_before_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, []) as log:
        log.write({"step": 1})
        assert read_metrics(path) == [{"step": 1}]


def test_a_half_written_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    path.write_text('{"step": 1}\n{"step": 2}')
    assert [record["step"] for record in read_metrics(path)] == [1]


def test_a_log_begins_with_the_earlier_records_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("left by a run that was killed\n")
    with MetricsLog(path, [{"step": 1}]) as log:
        log.write({"step": 2})
        assert log.records == [{"step": 1}, {"step": 2}] == read_metrics(path)


def test_without_a_path_records_are_kept_in_memory() -> None:
    with MetricsLog(None, []) as log:
        log.write({"step": 1})
        log.flush()
    assert log.records == [{"step": 1}]


def test_a_full_disk_is_the_users_to_know(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with MetricsLog(tmp_path / "metrics.jsonl", []) as log:
        log._file.close()  # type: ignore[union-attr]
        log._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(UserError, match="No space left"):
            log.write({"step": 1})
