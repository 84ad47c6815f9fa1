"""What the README tells a reader to type works, in the order in which it stands there."""

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for kind, text in BLOCKS
    if kind in ("sh", "bash")
    for line in text.replace("\\\n", " ").splitlines()
    if line.split("#")[0].strip()
]
INLINE = [shlex.split(command) for command in re.findall(r"`((?:make|pip) [^`]+)`", README)]
PYTHON = "\n".join(text for kind, text in BLOCKS if kind == "python")


def called(name: str) -> list[list[str]]:
    return [command[1:] for command in [*COMMANDS, *INLINE] if command[0] == name]


def test_every_command_is_of_a_kind_that_is_checked_here() -> None:
    assert {command[0] for command in COMMANDS} <= {"make", "minideepseek", "pip", "git", "cd", "conda", "source"}


def test_the_two_commands_are_there_and_every_make_target_exists() -> None:
    targets = {word for arguments in called("make") for word in arguments if "=" not in word}
    assert {"lab", "test"} <= targets
    subprocess.run(["make", "--dry-run", *sorted(targets)], cwd=ROOT, check=True, capture_output=True)


def test_pip_is_asked_for_extras_that_exist() -> None:
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {extra for arguments in called("pip") for extra in re.findall(r"\[([\w,]+)\]", " ".join(arguments))}
    assert {extra for group in named for extra in group.split(",")} <= known


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_file_tree_is_the_one_on_disk() -> None:
    (tree,) = (text for kind, text in BLOCKS if kind == "")
    named, folder = set(), ROOT
    for line in tree.splitlines():
        inside = line.startswith(" ")
        for name in itertools.takewhile(re.compile(r"Makefile|[\w./]+/|[\w/]*\.[\w/]+").fullmatch, line.split()):
            path = (folder if inside else ROOT) / name
            named.add(path)
            assert path.exists(), path
            folder = path if path.is_dir() and not inside else folder
    modules = {path for path in (ROOT / "minideepseek").iterdir() if not path.name.startswith("_")}
    assert {path for path in modules if path.suffix == ".py" or path.is_dir()} <= named


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_and_then_the_python_run_as_they_stand(tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    lines = [["minideepseek", *rest] for rest in called("minideepseek") if rest[:2] != ["lessons", "open"]]
    assert lines  # opening JupyterLab, which waits for its reader, is the browser test's
    for line in [*lines, [sys.executable, "-c", PYTHON]]:
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(line)}\n{done.stderr}"
