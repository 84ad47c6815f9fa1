"""The learner's page and the instructor's: what they tell to type works as it stands."""

import csv
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from minideepseek.judge.author import build

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "exercises" / name).read_text(encoding="utf-8") for name in ("README.md", "INSTRUCTORS.md")}


def commands(page: str) -> list[str]:
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


@pytest.fixture
def clone(tmp_path):
    """A clone's exercises, with a name that has a space in it, and a class that has handed in."""
    clone = tmp_path / "my clone"
    shutil.copytree(ROOT / "exercises", clone / "exercises", ignore=shutil.ignore_patterns("work", "__pycache__"))
    for student in ("Ann Other", "bob"):
        (tmp_path / "submissions" / student).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        build.solutions(tmp_path / "submissions" / "Ann Other", "02")
        build.solutions(clone / "exercises" / "work", "03")
    shutil.copy(clone / "exercises" / "02_v1_block" / "02_v1_block.ipynb", tmp_path / "submissions" / "bob")
    return clone


def type_in(lines, clone):
    """Type lines into a shell that stops at the first one that fails."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MINIDEEPSEEK_PROGRESS": str(clone.parent / "progress.json"),
    }
    done = subprocess.run(["bash", "-euxc", "\n".join(lines)], cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_instructors_commands_run_as_they_stand(clone):
    lines = [line for line in commands("INSTRUCTORS.md") if not line.startswith("pip wheel")]  # the packaging test's
    assert len(lines) == len(commands("INSTRUCTORS.md")) - 1
    said = type_in(lines, clone)
    assert "sandbox: " in said
    out = clone.parent / "results"
    rows = {row["student"]: row for row in csv.DictReader((out / "gradebook.csv").open(encoding="utf-8"))}
    assert {name: (row["points"], row["out_of"]) for name, row in rows.items()} == {
        "Ann Other": ("25", "25"),
        "bob": ("0", "25"),
    }
    assert {path.name for path in (out / "feedback").iterdir()} == {"Ann Other.html", "bob.html"}
    handed_out = zipfile.ZipFile(clone.parent / "class" / "exercises.zip").namelist()
    assert {Path(name).suffix for name in handed_out if not name.endswith("/")} == {".ipynb", ".safetensors"}


@pytest.mark.slow
def test_the_learners_commands_run_as_they_stand(clone):
    lines = [line for line in commands("README.md") if "exercises open" not in line]  # a browser's
    assert len(lines) == len(commands("README.md")) - 1
    assert "25 of 25 points" in type_in(lines, clone)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_page_and_its_links_lead_somewhere(name):
    assert len(PAGES[name].split()) < 1000
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGES[name]) if "://" not in link]
    assert [link for link in links if not (ROOT / "exercises" / link).exists()] == []
