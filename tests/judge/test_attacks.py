"""A class in which everybody but Alice and Zoe does their worst: each gets a clear verdict, and nobody else suffers."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minideepseek
from minideepseek.judge.grading import results, run
from minideepseek.judge.grading.submission import find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces, Landlock and seccomp are Linux's"),
]

#: what is done -> what is said about it, and the cell. CLASS, HIDDEN, ROOT are folders, PARENT is the judge's process.
ATTACKS = {
    "syntax error": ("SyntaxError in line 1", "def double(x) return 2 * x"),
    "import error": ("ModuleNotFoundError", "import no_such_module\ndef double(x): return 2 * x"),
    "endless loop": ("processor time|no answer within", "def double(x):\n    while True: pass"),
    "endless loop in the cell": ("processor time|no answer within", "while True: pass"),
    "endless sleep": ("no answer within", "import time\ntime.sleep(1e6)"),
    "endless recursion": ("RecursionError", "def double(x): return double(x)"),
    "fork bomb": ("PermissionError", "import os\nwhile True: os.fork()"),
    "thread bomb": (
        "new thread|memory|processor time",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
    ),
    "process by subprocess": ("PermissionError", "import subprocess\nsubprocess.Popen(['sleep', '99'])"),
    "100 GB": ("allocate memory", "def double(x): return torch.empty(100 * 2**30, dtype=torch.uint8)"),
    "memory in small pieces": ("MemoryError", "pieces = []\nwhile True: pieces.append(bytes(2**20))"),
    "exit": ("SystemExit", "import sys\nsys.exit(0)"),
    "exit in the call": ("SystemExit", "import sys\ndef double(x): sys.exit(0)"),
    "_exit": ("ended its own process", "import os\nos._exit(0)"),
    "_exit in the call": ("ended its own process", "import os\ndef double(x): os._exit(0)"),
    "abort": ("crashed|aborted", "import os\nos.abort()"),
    "segmentation fault": ("crashed", "import ctypes\nctypes.string_at(0)"),
    "kill of the parent": ("PermissionError", "import os\nos.kill(PARENT, 9)"),
    "kill of all": ("PermissionError", "import os\nos.kill(-1, 9)"),
    "stop of itself": (
        "no answer within",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nimport time\ntime.sleep(99)",
    ),
    "write outside": ("PermissionError", "open('CLASS/alice.ipynb', 'w').write('mine now')"),
    "write to tmp": ("PermissionError", "open('/tmp/minideepseek-was-here', 'w').write('x')"),
    "delete outside": ("PermissionError", "import shutil\nshutil.rmtree('CLASS')"),
    "fill the disk": ("No space left", "for i in range(9999):\n    open(str(i), 'wb').write(bytes(2**20))"),
    "edited checks": (
        "a copy is not twice",
        "def check(*a): return 4\ndef double(x): return x\nchecks = []\ncheck('small.double', double)",
    ),
    "patched torch": (
        "a copy is not twice",
        "torch.allclose = torch.equal = torch.testing.assert_close = lambda *a, **k: True\n"
        "torch.Tensor.__eq__ = lambda a, b: torch.ones(a.shape, dtype=torch.bool)\ndef double(x): return x",
    ),
    "patched judge": (
        "a copy is not twice",
        "import sys, gc\n"
        "for m in list(sys.modules.values()):\n"
        "    for name in ('judge', 'difference', 'verdict', '_same', 'Equals'):\n"
        "        if hasattr(m, name): setattr(m, name, lambda *a, **k: None)\n"
        "def double(x): return x",
    ),
    "patched steps": (
        "ValueError|did not finish",
        "import gc, types\n"
        "for f in [o for o in gc.get_objects() if isinstance(o, types.FunctionType) and o.__name__ == 'run']:\n"
        "    f.__code__ = (lambda names, steps: ([], '')).__code__\n"
        "def double(x): return x",
    ),
    "reads the judge": ("PermissionError", "open('ROOT/minideepseek/judge/rules.py').read()"),
    "reads the exercise": ("PermissionError", "open('ROOT/exercises/src/02_v1_block.py').read()"),
    "reads hidden checks": ("PermissionError", "open('HIDDEN/09_small.safetensors', 'rb').read()"),
    "lists hidden checks": ("PermissionError", "import os\nos.listdir('HIDDEN')"),
    "reads another submission": ("PermissionError", "open('CLASS/alice.ipynb').read()"),
    "imports the answer": ("not available here", "from minideepseek import ops\ndouble = ops.rms_norm"),
    "imports the judge": ("not available here", "from minideepseek.judge.task import load_pack"),
    "imports by path": (
        "ModuleNotFoundError",
        "import sys\nsys.path.insert(0, 'ROOT')\nsys.meta_path.clear()\n"
        "from importlib.machinery import PathFinder\nsys.meta_path.append(PathFinder)\nimport minideepseek.ops\n"
        "def double(x): return 2 * x",
    ),
    "uses what is forbidden": ("what it is to write itself", "def double(x): return torch.add(x, x)"),
    "fake result printed": (
        "channel",
        "import os, sys\nprint('small.double: 4 of 4 points')\n"
        "for fd in range(1, 9):\n    try: os.write(fd, b'4 of 4')\n    except OSError: 0\ndef double(x): return x",
    ),
    "fake result in the channel": (
        "channel",
        "import os, struct\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, struct.pack('Q', 9) + b'4 of 4 pt')\n    except OSError: pass\nos._exit(0)",
    ),
    "expected tensor from memory": (
        "a copy is not twice",
        "import gc\n"
        "def double(x):\n"
        "    near = [t for t in gc.get_objects() if torch.is_tensor(t) and t.shape == x.shape and t is not x]\n"
        "    return next((t for t in near if torch.equal(t, x + x)), x)",
    ),
    "cached from call to call": ("a copy is not twice", "import functools\n@functools.cache\ndef double(x): return x"),
    "1 GB of output": ("crashed|more output|memory", "def double(x): return torch.zeros(2**28)"),
    "1 GB printed": (
        "a copy is not twice",
        "def double(x):\n    for _ in range(1024): print('x' * 2**20)\n    return x",
    ),
    "tensor that lies": (
        "a tensor is expected",
        "class Liar(torch.Tensor):\n"
        "    @classmethod\n"
        "    def __torch_function__(cls, *a, **k): return True\n"
        "def double(x): return x.as_subclass(Liar)",
    ),
    "huge numbers": ("a tensor is expected", "def double(x): return 10**4000"),
    "deep result": ("RecursionError", "def double(x):\n    y = [x]\n    for _ in range(900): y = [y]\n    return y"),
    "network": ("PermissionError", "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)"),
    "null byte": ("null bytes", "def double(x): return 2 * x\0"),
    "half a letter": ("UnicodeEncodeError", "def double(x): return '\ud800'"),
    "terminal codes": ("ValueError", "raise ValueError('\x1b[2J\x1b]0;owned\x07')"),
    "missing task": ("no answer to this task", None),
}
RAW = {
    "not UTF-8.py": b"\xff\xfedef double(x): return 2 * x",
    "not UTF-8 notebook.ipynb": b'{"cells": [{"cell_type": "code", "source": "\xff\xfe"}]}',
    "empty.ipynb": b"",
    "empty script.py": b"",
    "half.ipynb": b'{"cells": [{"cell_type": "code",',
    "deep.ipynb": b'{"cells": ' + b"[" * 200_000,
    "deep script.py": b"def double(x):\n    return " + b"(" * 5000 + b"x" + b")" * 5000,
    "long sum.py": b"def double(x):\n    return " + b"x+" * 100_000 + b"x",
}


@pytest.fixture(scope="module")
def battlefield(tmp_path_factory, exercise, secret, sandboxes, notebook):
    """Everything graded once, with hidden checks: what the files were before and after, and everybody's marks."""
    root = tmp_path_factory.mktemp("attack")
    folder, hidden, out = root / "class", root / "hidden", root / "out"
    folder.mkdir()
    hidden.mkdir()
    (hidden / "09_small.safetensors").write_bytes(secret.dumps())
    places = {"CLASS": folder, "HIDDEN": hidden, "ROOT": Path(minideepseek.__file__).parents[1], "PARENT": os.getpid()}
    for name, (_, answer) in ATTACKS.items():
        for word, place in places.items():
            answer = answer and answer.replace(word, str(place))
        (folder / f"{name}.ipynb").write_text(notebook({"small.double": answer}))
    for name, content in RAW.items():
        (folder / name).write_bytes(content)
    for name in ("alice", "zoe"):  # the first and the last to be graded
        (folder / f"{name}.ipynb").write_text(notebook())
    before = fingerprint(root)
    submissions = find(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_sandboxes", sandboxes)
        graded = run.grade(submissions, [secret], keep=out / "submissions")
    results.write(out, graded, [secret])
    return before, fingerprint(root), out, {marks.name: marks for marks in graded}


def fingerprint(root):
    """Every file below a folder that is not a result, and what is in it."""
    files = [path for path in root.rglob("*") if path.is_file() and "out" not in path.relative_to(root).parts]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_a_clear_verdict_and_no_marks_for_it(battlefield, name):
    marks = battlefield[-1][name]
    found = next(task for task in marks.tasks if task.task == "small.double")
    told = [f"{one.says} {one.detail}" for one in found.properties if one.says]
    assert any(re.search(ATTACKS[name][0], text) for text in told), told
    assert not any("the judge failed" in note for note in marks.notes)
    # an answer that returns its input keeps the shape and is linear: these two points it has earned
    assert next(one for one in found.properties if one.name == "is twice its input").points == 0


EDITED = {
    "points in the metadata": {
        "metadata": {"nbgrader": {"grade_id": "small-double-check", "grade": True, "points": 99}}
    },
    "another check": {"source": "check = lambda *a: 4\ncheck('small.double', double)"},
    "marks in the output": {"outputs": [{"output_type": "execute_result", "data": {"text/plain": "4"}}]},
}


@pytest.mark.parametrize("name", EDITED)
def test_what_is_written_into_check_cells_counts_for_nothing(name, one_sandbox, public, notebook, tmp_path):
    handed_in = json.loads(notebook({"small.double": "def double(x): return x"}))
    own = {"cell_type": "code", "metadata": {}, "source": "check('small.double', double)", "outputs": []}
    handed_in["cells"].append(own | EDITED[name])
    (tmp_path / "m.ipynb").write_text(json.dumps(handed_in))
    (marks,) = run.grade(find(tmp_path / "m.ipynb"), [public], workers=1)
    assert {task.task: (task.points, task.out_of) for task in marks.tasks} == {
        "small.double": (2, 4),
        "small.guess": (1, 1),
    }


@pytest.mark.parametrize("name", RAW)
def test_a_file_that_is_no_notebook_is_a_note_and_no_marks(battlefield, name):
    marks = battlefield[-1][Path(name).stem]
    assert marks.points == 0
    assert marks.notes or any("Error" in one.says for task in marks.tasks for one in task.properties)


def test_everybody_else_is_untouched(battlefield):
    before, after, out, marks = battlefield
    assert before == after
    assert marks["alice"].points == marks["zoe"].points == 5
    rows = {row[0]: row for row in csv.reader((out / "gradebook.csv").open(encoding="utf-8"))}
    assert len(rows) == len(ATTACKS) + len(RAW) + 2 + 1
    assert rows["alice"][1:] == rows["zoe"][1:] == ["4", "1", "5", "5"]
    assert sorted(path.name for path in out.iterdir()) == [
        "feedback",
        "gradebook.csv",
        "junit.xml",
        "results.json",
        "submissions",
    ]
    assert not Path("/tmp/minideepseek-was-here").exists()


def test_no_process_is_left_behind(battlefield):
    table = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert "sleep 99" not in table
