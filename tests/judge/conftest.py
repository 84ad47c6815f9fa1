"""A small exercise of two tasks, as an author would write it: quick to run, and with everything a big one has."""

import json
import queue
from contextlib import contextmanager

import pytest

from minideepseek.judge.author import build
from minideepseek.judge.author.source import Source
from minideepseek.judge.grading import run
from minideepseek.judge.sandbox.process import Sandbox
from minideepseek.judge.task import Pack

SCRIPT = '''\
# %% [markdown]
# # Exercises 09 · Small
#
# Two tasks.

# %% tags=["given"]
import torch

# %% [markdown]
# ## Double
#
# Twice the input.

# %% task="small.double" title="Double" kind="implement" difficulty=1 minutes=1 seconds=2 forbid=["add"]
def double(x):
    """x: any shape -> twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION


# %% tags=["judge"]
from minideepseek.judge.author import Part, Same, Untouched, call, checks, contract, invariant, value


@checks(
    "small.double",
    oracle=lambda x: x + x,
    mistakes={"this is the square": lambda x: x * x, "a copy is not twice": lambda x: x.clone()},
    alternatives=[lambda x: x / 0.5],
    hints=("how often?", "multiply", "2 * x"),
)
def _(draw):
    x = draw.normal(draw.integer(2, 5), 3)
    yield contract("keeps the shape", 1, [call("double", x)], [Untouched()])
    yield value("is twice its input", 2, [call("double", x, grad=True), call("double", draw.normal(4))])
    yield invariant(
        "twice minus is minus twice",
        1,
        [call("double", -x), call("minus_double", x)],
        [Same(left=Part(), right=Part(step=1), says="it is not linear")],
    )


# %% tags=["driver"]
def minus_double(x):
    return -double(x)


# %% [markdown]
# ## Guess
#
# A number between 3 and 4 that everybody knows.

# %% task="small.guess" title="Guess" kind="predict" difficulty=1 minutes=1 seconds=2 needs=["small.double"]
### BEGIN SOLUTION
guess = 3.14
### STUB
# guess = None  # your number
### END SOLUTION

# %% tags=["judge"]
@checks("small.guess", oracle=3.14159, mistakes={"this is e": 2.718}, hints=("round", "circle", "3.1"))
def _(draw):
    yield value("is near", 1, [call("guess")], rtol=0.01)
'''

RIGHT = {"small.double": "def double(x):\n    return 2 * x", "small.guess": "guess = 3.14"}


@pytest.fixture(scope="session")
def exercise(tmp_path_factory) -> Source:
    path = tmp_path_factory.mktemp("course") / "exercises" / "src" / "09_small.py"
    path.parent.mkdir(parents=True)
    path.write_text(SCRIPT)
    source = Source(path=path)
    folder = path.parents[1] / source.name
    folder.mkdir()
    (folder / build.PACK).write_bytes(build.public(source).dumps())
    return source


@pytest.fixture(scope="session")
def public(exercise) -> Pack:
    return build.public(exercise)


@pytest.fixture(scope="session")
def secret(exercise) -> Pack:
    return exercise.built.pack("a secret of the tests", secret=True)


@pytest.fixture
def course(exercise, tmp_path, monkeypatch):
    """Stand in the course, with progress of one's own."""
    monkeypatch.chdir(exercise.path.parents[1])
    monkeypatch.setenv("MINIDEEPSEEK_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


@pytest.fixture(scope="session")
def notebook():
    """Makes a notebook as a learner hands it in, right but for the answers given: task -> source."""

    def make(answers=None) -> str:
        cells = [
            {"cell_type": "code", "metadata": {"minideepseek": {"task": task}}, "source": source}
            for task, source in {**RIGHT, **(answers or {})}.items()
            if source is not None
        ]
        return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})

    return make


@pytest.fixture(scope="session")
def sandboxes():
    """In place of ``run._sandboxes``: one sandbox for all tests, for starting it is what takes the time."""
    with Sandbox() as sandbox:

        @contextmanager
        def one(count):
            free = queue.SimpleQueue()
            free.put(sandbox)
            yield free

        yield one


@pytest.fixture
def one_sandbox(sandboxes, monkeypatch):
    monkeypatch.setattr(run, "_sandboxes", sandboxes)
