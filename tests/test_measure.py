"""The plumbing of the benchmarks: contenders in turn, ratios by round, results that name the machine."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
import measure

name = sys.argv[sys.argv.index("--contender") + 1]
count = 0

def sample():
    global count
    count += 1
    print("a library that talks")
    with open({log!r}, "a") as log:
        log.write(name + str(count) + " ")
    if name == "dies":
        sys.exit(3)
    return {{"seconds": count * (1.0 if name == "slow" else 0.5), "threads": float(os.environ["OMP_NUM_THREADS"])}}

measure.serve(sample)
"""


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "measure.py"
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "measure", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = str(Path(__file__).parents[1] / "benchmarks")
    (tmp_path / "bench.py").write_text(SCRIPT.format(folder=folder, log=str(tmp_path / "log")))
    return tmp_path / "bench.py"


def test_contenders_take_turns_and_the_first_round_does_not_count(measure: ModuleType, script: Path) -> None:
    contenders = [measure.Contender("slow"), measure.Contender("quick", env={"OMP_NUM_THREADS": "7"})]
    samples = measure.interleave(script, contenders, rounds=3, threads=2)
    assert (script.parent / "log").read_text().split() == [
        f"{name}{n}" for n in range(1, 5) for name in ("slow", "quick")
    ]
    assert [sample["seconds"] for sample in samples["slow"]] == [2, 3, 4]
    assert {sample["threads"] for sample in samples["slow"]} == {2}
    assert {sample["threads"] for sample in samples["quick"]} == {7}
    assert measure.ratio(samples, "slow", "quick", "seconds") == measure.Spread(2, 2, 2)
    assert f"{measure.spread(samples, 'slow', 'seconds', 10):.0f}" == "30 (20-40)"


def test_a_contender_that_dies_is_named(measure: ModuleType, script: Path) -> None:
    with pytest.raises(RuntimeError, match="contender 'dies' died with status 3"):
        measure.interleave(script, [measure.Contender("slow"), measure.Contender("dies")], rounds=1)


def test_results_name_the_machine_and_nothing_of_its_owner(
    measure: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    text = measure.table(["who", "seconds"], [["a", "1"], ["b", "2"]])
    measure.write_result("trial", {"spread": measure.Spread.of([3, 1, 2])}, text)
    found = json.loads((tmp_path / "results" / "trial.json").read_text())
    assert found["spread"] == {"median": 2, "least": 1, "greatest": 3}
    assert {"processor", "cores", "python", "torch", "date"} <= found["machine"].keys()
    page = (tmp_path / "results" / "trial.md").read_text()
    assert page.startswith("| who | seconds |\n| --- | ---: |\n| a | 1 |")
    assert str(Path.home()) not in page + json.dumps(found)
