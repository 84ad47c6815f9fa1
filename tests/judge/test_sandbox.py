"""Whatever a submission does, the judge gets a clear outcome and everything else stays as it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minideepseek.judge.rules import Equals, Reaches, Untouched
from minideepseek.judge.sandbox.isolation import PROTECTIONS, Limits
from minideepseek.judge.sandbox.process import Sandbox
from minideepseek.judge.sandbox.steps import Step

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
    outcome = sandbox.run([("<answer>", source)], CALL, limits=QUICK, **kwargs)
    failure = outcome.problem or outcome.results[0].failure
    return failure if failure is None or isinstance(failure, str) else f"{failure.kind}: {failure.message}"


def test_an_honest_answer_gives_its_values_gradients_and_prints(sandbox):
    outcome = sandbox.run([("<answer>", "def f(x, w):\n    print('working')\n    return x * w")], CALL)
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
        ("import torch\ndef f(x, w): return torch.empty(100 * 2**30, dtype=torch.uint8)", "allocate"),
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
        ("import os; os.kill(os.getppid() or 1, 9); os.kill(-1, 9)", "Operation not permitted"),
        ("open('/etc/passwd').read()", "Permission denied"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)", "Operation not permitted"),
        ("open('/proc/self/environ').read()", "Permission denied"),
        ("import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise OSError('no')", "no"),
        (
            "for i in range(99):\n  with open(f'{i}', 'wb') as file: file.write(bytes(2**20))",
            "No space left on device",
        ),
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
def test_what_holds_the_answers_cannot_be_read(sandbox):
    import transformers

    import minideepseek

    root = Path(minideepseek.__file__).parents[1]
    package = Path(transformers.__file__).with_name("activations.py")
    for file in (package, root / "minideepseek/layers/norm.py", root / "kernels/rms_norm.py", root / "exercises/src"):
        assert "Permission denied" in attempt(sandbox, f"open({str(file)!r}).read()")
    listed = sandbox.run([("<answer>", f"import os\ndef f(): return os.listdir({str(root)!r})")], [Step(target="f")])
    assert listed.results[0].failure.kind == "PermissionError"


def test_a_ready_made_function_is_refused_by_name(sandbox):
    source = "import torch.nn.functional as F\ndef f(x, w): return F.rms_norm(x, (4,), w)"
    assert attempt(sandbox, source) is None
    assert "asks you to write" in attempt(sandbox, source, forbid=["rms_norm"])


def test_patching_torch_in_the_answer_convinces_nobody(sandbox):
    source = "import torch\ntorch.testing.assert_close = torch.allclose = lambda *a, **k: True\ndef f(x, w): return x"
    outcome = sandbox.run([("<answer>", source)], CALL[:1], limits=QUICK)
    assert Equals(expected=X * W).verdict([outcome.results[0]]) is not None


def test_one_submission_leaves_nothing_for_the_next(sandbox):
    leak = """
import builtins, torch
builtins.leak = torch.leak = 1
open('leak', 'w').close()
def f(x, w): return x * w
"""
    sandbox.run([("<answer>", leak)], CALL)
    look = """
import builtins, os, torch
def f(x, w): return [hasattr(builtins, 'leak'), hasattr(torch, 'leak'), os.path.exists('leak')]
"""
    outcome = sandbox.run([("<answer>", look)], [Step(target="f", args=(X, W))])
    assert outcome.results[0].value == [False, False, False]


def test_a_gigabyte_of_output_is_cut_off(sandbox):
    assert attempt(sandbox, "import torch\ndef f(x, w): return torch.zeros(2**27)") is not None


def test_a_report_can_say_what_protects(sandbox):
    outcome = sandbox.run([("<answer>", "def f(x, w): return x * w")], CALL)
    assert set(outcome.protections) <= set(PROTECTIONS)
    if sys.platform == "linux":
        assert {"files", "fork"} <= set(outcome.protections)


ALONE = """
import os, resource, signal, socket, sys
from pathlib import Path
from minideepseek.judge.sandbox import isolation

print(sorted(isolation.confine([Path(sys.prefix)], [], Path(sys.argv[1]))))
for act in (
    lambda: os.kill(os.getppid(), signal.SIGTERM),
    lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0)),
    lambda: socket.socket(),
    lambda: os.fork(),
    lambda: open("/etc/passwd"),
    lambda: open(Path(sys.argv[1]).parent / "outside", "w"),
):
    try:
        act()
        print("did it")
    except PermissionError:
        print("refused")
open(Path(sys.argv[1]) / "inside", "w").write("mine")
os.kill(os.getpid(), signal.SIGKILL)
"""


@linux
def test_without_namespaces_as_in_most_containers_the_rest_still_protects(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run([sys.executable, "-c", ALONE, str(scratch)], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr  # oneself one may kill
    assert done.stdout.splitlines() == ["['files', 'fork', 'network', 'processes']", *["refused"] * 6]
