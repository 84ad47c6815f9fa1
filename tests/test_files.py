"""Whole or not there: what a reader finds at a path while, after and instead of a write."""

import contextlib
import itertools
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from minideepseek import files
from minideepseek.errors import UserError
from minideepseek.files import atomic_directory, atomic_file, user_errors


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)


@pytest.fixture(params=["one step", "two steps"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of letting directories change places: the system's, and the one for where it has none."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)


def test_new_directory_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    with atomic_directory(target) as stage:
        write(stage, a="1")
        assert not target.exists()
    assert contents(tmp_path) == {"deep/er/out/a": "1"}


def test_empty_directory_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_directory(target) as stage:
        write(stage, a="1")
    assert contents(tmp_path) == {"out/a": "1"}


@pytest.mark.usefixtures("swap")
def test_earlier_files_are_replaced_and_others_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (target / "runs" / "1").mkdir(parents=True)
    (target / "empty").mkdir()
    write(target, a="old", b="old", other="kept", **{"part-1": "old", "part-2": "old"})
    write(target / "runs" / "1", **{"part-1": "kept: only the directory itself is meant"})
    (target / "link").symlink_to("other")
    with atomic_directory(target, replaces=["part-*"]) as stage:
        write(stage, a="new", **{"part-1": "new"})
        assert contents(target)["a"] == "old"
    assert contents(tmp_path) == {
        "out/a": "new",
        "out/b": "old",
        "out/other": "kept",
        "out/link": "kept",
        "out/part-1": "new",
        "out/runs/1/part-1": "kept: only the directory itself is meant",
    }
    assert (target / "empty").is_dir()
    assert (target / "link").is_symlink()


@pytest.mark.usefixtures("swap")
def test_a_log_that_is_being_written_stays_that_log(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write(target, model="old")
    with open(target / "log", "w") as log:
        log.write("before ")
        with atomic_directory(target) as stage:
            write(stage, model="new")
        log.write("after")
    assert (target / "log").read_text() == "before after"


def test_other_files_are_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "out"
    target.mkdir()
    write(target, a="old", other="kept")
    with atomic_directory(target) as stage:
        write(stage, a="new")
    assert contents(tmp_path) == {"out/a": "new", "out/other": "kept"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_failure_inside_changes_nothing_and_leaves_nothing(
    tmp_path: Path, error: type[BaseException], there: bool
) -> None:
    target = tmp_path / "out"
    if there:
        target.mkdir()
        write(target, a="old")
    before = contents(tmp_path)
    with pytest.raises(error), atomic_directory(target) as stage:  # noqa: PT012
        write(stage, a="new")
        raise error
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if there else [])


def test_failure_of_the_second_step_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write(target, a="old")
    rename = Path.rename

    def fail_for_stage(self: Path, to: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    monkeypatch.setattr(Path, "rename", fail_for_stage)
    with pytest.raises(UserError, match="Input/output error"), atomic_directory(target) as stage:
        write(stage, a="new")
    assert contents(tmp_path) == {"out/a": "old"}


def test_saved_directory_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").mkdir()
    with atomic_directory(tmp_path / "out") as stage:
        write(stage, a="1")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_replaced_directory_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write(target, a="old")
    target.chmod(0o750)
    with atomic_directory(target) as stage:
        write(stage, a="new")
    assert target.stat().st_mode & 0o777 == 0o750


def test_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write(tmp_path / "real", a="old")
    (tmp_path / "out").symlink_to("real")
    with atomic_directory(tmp_path / "out") as stage:
        write(stage, a="new")
    assert (tmp_path / "out").is_symlink()
    assert contents(tmp_path / "real") == {"a": "new"}


def test_working_directory_is_not_replaced_from_under_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, notes="mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="working directory is in it; choose a folder inside"), atomic_directory("."):
        pass
    with atomic_directory("out") as stage:
        write(stage, a="1")
    assert contents(tmp_path) == {"notes": "mine", "out/a": "1"}


def test_file_in_the_way_is_named(tmp_path: Path) -> None:
    write(tmp_path, out="a file")
    with pytest.raises(UserError, match=r"cannot write .*out: a file of this name is in the way"):  # noqa: SIM117
        with atomic_directory(tmp_path / "out"):
            pass
    with pytest.raises(UserError, match="a part of the path is a file"), atomic_directory(tmp_path / "out" / "below"):
        pass
    assert contents(tmp_path) == {"out": "a file"}


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder in which nothing may be made."""
    (tmp_path / "closed").mkdir(mode=0o500)
    return tmp_path / "closed"


@pytest.mark.usefixtures("closed", "unprivileged")
@pytest.mark.parametrize("write_to", [atomic_directory, atomic_file])
def test_no_permission_is_one_line(tmp_path: Path, write_to: Callable[[Path], AbstractContextManager[Path]]) -> None:
    with pytest.raises(UserError, match=r"cannot write .*; check the permissions or choose another place") as caught:
        write_to(tmp_path / "closed" / "out").__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("code", "advice"), [(28, "free some space"), (13, "check the permissions"), (27, "limit")])
def test_what_the_system_says_becomes_one_line(code: int, advice: str) -> None:
    with pytest.raises(UserError, match=f"cannot write here: {os.strerror(code)}; .*{advice}"):  # noqa: SIM117
        with user_errors("write", "here"):
            raise OSError(code, os.strerror(code))


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".out.{dead.pid}.0123abcd.part"
    stale.mkdir()
    write(stale, a="half")
    alive = tmp_path / f".out.{os.getppid()}.0123abcd.part"
    alive.mkdir()
    unrelated = tmp_path / f".other.{dead.pid}.0123abcd.part"
    unrelated.mkdir()
    with atomic_directory(tmp_path / "out") as stage:
        write(stage, a="1")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", alive.name, unrelated.name])


def write_for_ever(target: Path) -> None:
    for number in itertools.count():
        with atomic_directory(target, replaces=["part-*"]) as stage:
            for part in range(1 + number % 3):
                (stage / f"part-{part}").write_text(str(number))
            (stage / "parts").write_text(f"{number} {1 + number % 3}")


def test_process_killed_at_any_moment_leaves_one_whole_write(tmp_path: Path) -> None:
    target, chance = tmp_path / "out", random.Random(0)
    target.mkdir()
    write(target, other="kept", **{"part-0": "start", "parts": "start 1"})
    for _ in range(12):
        before = (target / "parts").read_text()
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(target,))
        writer.start()
        while (target / "parts").read_text() == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        writer.kill()
        writer.join()
        found = contents(target)
        number, parts = found.pop("parts").split()
        assert found.pop("other") == "kept"
        assert found == {f"part-{part}": number for part in range(int(parts))}
    with atomic_directory(target, replaces=["part-*"]) as stage:
        write(stage, parts="end 0")
    assert contents(tmp_path) == {"out/parts": "end 0", "out/other": "kept"}


def test_reader_that_holds_the_directory_never_sees_a_mix(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as stage:
        write(stage, a="0", b="0")
    stop = threading.Event()
    seen: set[tuple[str, ...]] = set()

    def at(folder: int, name: str) -> IO[str]:
        return open(os.open(name, os.O_RDONLY, dir_fd=folder))

    def read() -> None:
        while not stop.is_set():
            try:
                folder = os.open(target, os.O_RDONLY)
            except FileNotFoundError:
                seen.add(("a moment", "without any directory"))
                continue
            emptied = contextlib.suppress(FileNotFoundError)  # the old directory after the exchange: gone, not mixed
            with emptied, at(folder, "a") as a, at(folder, "b") as b:
                seen.add((a.read(), b.read()))
            os.close(folder)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 60):
        with atomic_directory(target) as stage:
            write(stage, a=str(number), b=str(number))
    stop.set()
    reader.join()
    assert len(seen) > 1
    assert all(a == b for a, b in seen)


def test_atomic_file_replaces_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with atomic_file(target) as stage:
        stage.write_text("1")
        assert not target.exists()
    with pytest.raises(RuntimeError), atomic_file(target) as stage:  # noqa: PT012
        stage.write_text("2")
        raise RuntimeError
    assert contents(tmp_path) == {"deep/file": "1"}
    with atomic_file(target) as stage:
        stage.write_text("3")
    assert contents(tmp_path) == {"deep/file": "3"}


def test_atomic_file_on_a_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a file, not a folder"), atomic_file(tmp_path) as stage:
        stage.write_text("1")
