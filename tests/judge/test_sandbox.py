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


def once(sandbox, source, steps=CALL, **kwargs):
    """The outcome of one check."""
    (outcome,) = sandbox.run([("<answer>", source)], [steps], limits=QUICK, **kwargs)
    return outcome


def attempt(sandbox, source, **kwargs):
    """What the learner would be told about a submission that is expected to fail."""
    outcome = once(sandbox, source, **kwargs)
    failure = outcome.problem or outcome.results[0].failure
    return failure if failure is None or isinstance(failure, str) else f"{failure.kind}: {failure.message}"


def test_an_honest_answer_gives_its_values_gradients_and_prints(sandbox):
    outcome = once(sandbox, "def f(x, w):\n    print('working')\n    return x * w", CALL)
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
            "import os\nfor fd in range(3, 9):\n  try: os.write(fd, bytes([1, *[0] * 7]) + b'a')\n  except OSError: 0",
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
    listed = once(sandbox, f"import os\ndef f(): return os.listdir({str(root)!r})", [Step(target="f")])
    assert listed.results[0].failure.kind == "PermissionError"


def test_a_ready_made_function_is_refused_by_name(sandbox):
    source = "import torch.nn.functional as F\ndef f(x, w): return F.rms_norm(x, (4,), w)"
    assert attempt(sandbox, source) is None
    assert "asks you to write" in attempt(sandbox, source, forbid=["rms_norm"])


def test_patching_torch_in_the_answer_convinces_nobody(sandbox):
    source = "import torch\ntorch.testing.assert_close = torch.allclose = lambda *a, **k: True\ndef f(x, w): return x"
    outcome = once(sandbox, source, CALL[:1])
    assert Equals(expected=X * W).verdict([outcome.results[0]]) is not None


def test_one_submission_leaves_nothing_for_the_next(sandbox):
    leak = """
import builtins, torch
builtins.leak = torch.leak = 1
open('leak', 'w').close()
def f(x, w): return x * w
"""
    once(sandbox, leak, CALL)
    look = """
import builtins, os, torch
def f(x, w): return [hasattr(builtins, 'leak'), hasattr(torch, 'leak'), os.path.exists('leak')]
"""
    outcome = once(sandbox, look, [Step(target="f", args=(X, W))])
    assert outcome.results[0].value == [False, False, False]


SPY = """
import ctypes, os
word, mark = "ecila-fo-rewsna-eht"[::-1].encode(), b"the spy was here"

def f(x, w):
    # a write from where there is nothing fails, and ends nobody
    inn, out = os.pipe()
    malloc, leaks, seen = ctypes.CDLL(None).malloc, 0, False
    malloc.restype = ctypes.c_void_p
    own = malloc(ctypes.c_size_t(1000))
    ctypes.memmove(own, mark, len(mark))  # so that finding nothing means something
    for near in (id(object()), own, malloc(ctypes.c_size_t(2**22))):
        for page in range((near & -4096) - 2**27, (near & -4096) + 2**27, 4096):
            try:
                os.write(out, (ctypes.c_char * 4096).from_address(page))
            except OSError:
                continue
            found = os.read(inn, 4096)
            seen |= mark in found
            leaks += found.count(word) > 10  # of its own it has one or two; Alice's page is full of them
    return 1000 * leaks + seen
"""


@linux
def test_nothing_of_an_answer_is_in_the_memory_of_the_next(sandbox):
    for _ in range(3):
        once(sandbox, "def f(x, w): return x * w  # " + "the-answer-of-alice " * 50)
    assert once(sandbox, SPY, [Step(target="f", args=(X, W))]).results[0].value == 1


def test_a_gigabyte_of_output_is_cut_off(sandbox):
    assert attempt(sandbox, "import torch\ndef f(x, w): return torch.zeros(2**27)") is not None


def test_a_report_can_say_what_protects(sandbox):
    outcome = once(sandbox, "def f(x, w): return x * w", CALL)
    assert set(outcome.protections) <= set(PROTECTIONS)
    if sys.platform == "linux":
        assert {"files", "fork"} <= set(outcome.protections)


def test_a_check_that_ends_the_process_costs_itself_only(sandbox):
    source = "import os\ndef f(x, w):\n    if len(x) == 2: os._exit(0)\n    return x * w"
    checks = [[Step(target="f", args=(torch.ones(rows, 4), W))] for rows in (1, 2, 3, 2, 4)]
    outcomes = sandbox.run([("<answer>", source)], checks, limits=QUICK)
    assert [bool(outcome.problem) for outcome in outcomes] == [False, True, False, True, False]
    assert [len(outcome.results[0].value) for outcome in outcomes if outcome.results] == [1, 3, 4]


def test_after_two_endless_loops_the_rest_is_not_tried(sandbox):
    source = "def f(x, w):\n    while len(x) > 1: pass\n    return x"
    checks = [[Step(target="f", args=(torch.ones(rows, 4), W))] for rows in (1, 2, 3, 1)]
    outcomes = sandbox.run([("<answer>", source)], checks, limits=Limits(cpu_s=1, wall_s=3))
    assert outcomes[0].problem is None
    assert all("loop" in outcome.problem for outcome in outcomes[1:3])
    assert "not tried" in outcomes[3].problem


def test_cells_that_fail_fail_every_check_at_once(sandbox):
    outcomes = sandbox.run([("<answer>", "while True: pass")], [CALL] * 5, limits=Limits(cpu_s=1, wall_s=3))
    assert len(outcomes) == 5
    assert all("loop" in outcome.problem for outcome in outcomes)


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
    done = subprocess.run(
        [sys.executable, "-u", "-c", ALONE, str(scratch)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr  # oneself one may kill
    assert done.stdout.splitlines() == ["['files', 'fork', 'network', 'processes']", *["refused"] * 6]
