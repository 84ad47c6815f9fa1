"""Whatever a submission does, the judge gets a clear outcome and everything else stays as it was."""

import sys
from pathlib import Path

import pytest
import torch

from minideepseek.judge.isolation import Limits
from minideepseek.judge.rules import Equals, Reaches, Untouched
from minideepseek.judge.sandbox import Sandbox
from minideepseek.judge.steps import Step

X, W = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.full((4,), 2.0)
CALL = [Step(target="f", args=(X, W), grad=True)]
QUICK = Limits(wall_s=5, cpu_s=2)
linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces, Landlock and seccomp are Linux's")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as running:
        yield running


def attempt(sandbox, source, **kwargs):
    """What the learner would be told about a submission that is expected to fail."""
    outcome = sandbox.run([source], CALL, limits=QUICK, **kwargs)
    return outcome.problem or outcome.results[0].error


def test_an_honest_answer_gives_its_values_gradients_and_prints(sandbox):
    outcome = sandbox.run(["def f(x, w):\n    print('working')\n    return x * w"], CALL)
    assert outcome.problem is None
    assert outcome.printed == "working\n"
    for rule in (Equals(expected=X * W), Reaches(), Untouched()):
        assert rule.verdict(outcome.results) is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(:", "SyntaxError"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("while True: pass", "no answer within 5 s|processor time"),
        ("def f(x, w): return torch.empty(100 * 2**30, dtype=torch.uint8)", "allocate"),
        ("import sys; sys.exit(0)", "exit"),
        ("import os; os._exit(0)", "ended its own process"),
        ("def f(x, w): return f(x, w)", "RecursionError"),
        ("import ctypes; ctypes.string_at(0)", "crashed the interpreter"),
        ("import minideepseek", "not available here"),
        ("import sys; sys.modules['minideepseek.judge.steps']", "KeyError"),
        ("g = 1", "does not define 'f'"),
        (
            "import os\nfor fd in range(3, 60):\n  try: os.write(fd, b'x' * 99)\n  except OSError: pass\nos._exit(0)",
            "channel",
        ),
    ],
)
def test_a_failing_answer_is_told_why(sandbox, source, says):
    assert any(part in attempt(sandbox, source) for part in says.split("|"))


@linux
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import os\nwhile True: os.fork()", "Operation not permitted"),
        ("import subprocess; subprocess.run(['true'])", "Operation not permitted"),
        ("import os; os.kill(os.getppid(), 9); os.kill(-1, 9)", "No such process"),
        ("open('/etc/passwd').read()", "Permission denied"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)", "unreachable|refused"),
    ],
)
def test_the_kernel_refuses(sandbox, source, says):
    assert any(part in attempt(sandbox, source) for part in says.split("|"))


@linux
def test_nothing_can_be_written_outside_the_scratch_folder(sandbox, tmp_path):
    target = tmp_path / "pwned"
    assert "denied" in attempt(sandbox, f"open({str(target)!r}, 'w')")
    assert not target.exists()
    assert attempt(sandbox, "open('notes.txt', 'w').write('mine'); f = lambda x, w: x * w") is None


@linux
def test_installed_packages_that_hold_the_answer_look_empty(sandbox):
    import transformers

    folder = str(Path(transformers.__file__).parent)
    outcome = sandbox.run([f"import os\ndef f(): return os.listdir({folder!r})"], [Step(target="f")])
    assert outcome.results[0].value == []


def test_a_ready_made_function_is_refused_by_name(sandbox):
    source = "import torch.nn.functional as F\ndef f(x, w): return F.rms_norm(x, (4,), w)"
    assert attempt(sandbox, source) is None
    assert "asks you to write" in attempt(sandbox, source, forbid=["torch.nn.functional.rms_norm"])


def test_patching_torch_in_the_answer_convinces_nobody(sandbox):
    source = "import torch\ntorch.testing.assert_close = torch.allclose = lambda *a, **k: True\ndef f(x, w): return x"
    outcome = sandbox.run([source], CALL[:1], limits=QUICK)
    assert Equals(expected=X * W).verdict([outcome.results[0]]) is not None


def test_one_submission_leaves_nothing_for_the_next(sandbox):
    sandbox.run(["import torch, builtins\nbuiltins.leak = 1\ntorch.leak = 1\ndef f(x, w): return x * w"], CALL)
    outcome = sandbox.run(["import builtins\ndef f(x, w): return [hasattr(builtins, 'leak'), hasattr(torch, 'leak')]"],
                          [Step(target="f", args=(X, W))])  # fmt: skip
    assert outcome.results[0].value == [False, False]


def test_a_gigabyte_of_output_is_cut_off(sandbox):
    assert attempt(sandbox, "def f(x, w):\n    return torch.zeros(2**27)") is not None
