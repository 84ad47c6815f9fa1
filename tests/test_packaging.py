"""What reaches whoever installs: the package and its kernels, nothing else, and only what an import really needs."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from this tree, by the tools installed here."""
    copy, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=hidden)  # a build leaves files behind: not in the tree of whoever runs this
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"minideepseek", f"minideepseek-{PROJECT['version']}.dist-info"}


def test_the_wheel_holds_every_source_file_and_the_kernels_under_their_import_name(wheel: list[str]) -> None:
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minideepseek").rglob("*.py")}
    kernels = {f"minideepseek/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "kernels").rglob("*.py")}
    assert kernels
    assert ours | kernels <= set(wheel)
    assert "minideepseek/py.typed" in wheel


def test_the_wheel_holds_code_only_no_exercise_no_solution_no_check(wheel: list[str]) -> None:
    ours = [name for name in wheel if name.startswith("minideepseek/")]
    assert {Path(name).suffix for name in ours} == {".py", ".typed"}
    assert not any(Path(name).name[:2].isdigit() for name in ours)  # as the scripts of lessons and exercises begin


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_works_without_triton() -> None:
    run_python("""
import sys
sys.modules["triton"] = None  # as Python marks what cannot be imported; find_spec then finds nothing
import torch
import minideepseek as mds
model = mds.Transformer(mds.generations["v1-mini"])
assert model(torch.zeros(1, 3, dtype=torch.int64)).shape[:2] == (1, 3)
""")


def test_importing_brings_no_optional_library() -> None:
    loaded = set(run_python("import minideepseek, sys; print(*{name.split('.')[0] for name in sys.modules})").split())
    optional = {"matplotlib", "transformers", "IPython", "ipywidgets", "jupyterlab", "jupytext", "nbclient", "datasets"}
    assert loaded & (optional | {"pyarrow", "tensorboard", "huggingface_hub", "pandas", "rich", "tyro"}) == set()


def test_conda_users_get_the_same_environment() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    packages = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (python,) = [entry.removeprefix("python=") for entry in packages if entry.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert "pip" in packages  # conda warns, and may pick another pip, where it is not named
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (extra,) = re.fullmatch(r"-e \.\[(\w+)\]", pip[0]).groups()
    assert len(pip) == 1  # one list of dependencies: pyproject.toml
    assert extra in PROJECT["optional-dependencies"]
    assert environment["name"] == PROJECT["name"]


def test_an_extra_that_names_extras_names_real_ones() -> None:
    for name, requirements in PROJECT["optional-dependencies"].items():
        for requirement in map(Requirement, requirements):
            if requirement.name == PROJECT["name"]:
                assert requirement.extras <= set(PROJECT["optional-dependencies"]), name
