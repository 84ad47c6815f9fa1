"""Files from strangers: what can be read is read, what cannot is noted, and nothing raises."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.errors import UserError
from minideepseek.judge.grading.submission import MAX_FILES, find, printable, read, without_magics

TASKS = {"small.double": ("double",), "small.guess": ("guess",)}
DOUBLE = "def double(x):\n    return 2 * x"


def cells_of(path):
    (submission,) = find(path)
    return read(submission, TASKS)


def cell(source, **metadata):
    return {"cell_type": "code", "metadata": metadata, "source": source}


def notebook(*cells):
    return json.dumps({"cells": list(cells), "nbformat": 4})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ipynb", notebook(cell(DOUBLE, minideepseek={"task": "small.double"}))),
        ("a.ipynb", notebook(cell(DOUBLE.splitlines(keepends=True), nbgrader={"grade_id": "small-double"}))),
        ("a.ipynb", notebook(cell("import torch"), cell(DOUBLE))),  # no metadata left: the name tells
        ("a.ipynb", "\ufeff" + notebook(cell(DOUBLE))),
        ("a.py", f'# %% task="small.double" title="Double" difficulty=1\n{DOUBLE}\n'),
        ("a.py", f'# %% minideepseek={{"task": "small.double"}} nbgrader={{"a": [1]}}\n{DOUBLE}\n'),
        ("a.py", f"import torch\n\n# %% the answer\n{DOUBLE}\n"),
        ("a.py", DOUBLE),
    ],
)
def test_an_answer_is_found_in_every_form_it_is_handed_in(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    answers = cells_of(tmp_path / name)
    assert answers.cells["small.double"].endswith(DOUBLE)
    assert "small.guess" not in answers.cells
    assert answers.notes == ()


def test_the_last_of_several_copies_counts_and_a_note_says_so(tmp_path):
    first, last = (cell(text, minideepseek={"task": "small.double"}) for text in ("def double(x): 1", DOUBLE))
    (tmp_path / "a.ipynb").write_text(notebook(first, last))
    answers = cells_of(tmp_path / "a.ipynb")
    assert answers.cells == {"small.double": DOUBLE}
    assert "more than one answer to small.double; the last in" in answers.notes[0]
    assert "a.ipynb counts" in answers.notes[0]
    (tmp_path / "a.ipynb").write_text(notebook(last, last))
    assert cells_of(tmp_path / "a.ipynb").notes == ()


def test_two_notebooks_of_one_name_are_told_apart(tmp_path):
    for folder, text in (("first try", "def double(x): 1"), ("second try", DOUBLE)):
        (tmp_path / "class" / "ann" / folder).mkdir(parents=True)
        path = tmp_path / "class" / "ann" / folder / "09.ipynb"
        path.write_text(notebook(cell(text, minideepseek={"task": "small.double"})))
    answers = cells_of(tmp_path / "class")
    assert answers.cells == {"small.double": DOUBLE}
    assert "the last in second try/09.ipynb counts" in answers.notes[0]


def test_our_own_script_is_no_answer(tmp_path, exercise):
    (tmp_path / "ann.py").write_text(exercise.path.read_text())
    answers = cells_of(tmp_path / "ann.py")
    assert answers.cells == {}
    assert "our solutions" in answers.notes[0]


def test_of_a_clone_of_the_course_only_the_students_notebooks_are_read(tmp_path, exercise):
    clone = tmp_path / "class" / "ann" / "minideepseek"
    for folder, text in (("09_small", "def double(x): 1"), ("work", DOUBLE)):
        (clone / "exercises" / folder).mkdir(parents=True)
        path = clone / "exercises" / folder / "09_small.ipynb"
        path.write_text(notebook(cell(text, minideepseek={"task": "small.double"})))
    (clone / "exercises" / "src").mkdir()
    (clone / "exercises" / "src" / "09_small.py").write_text(exercise.path.read_text())
    (clone / "tests").mkdir()
    (clone / "tests" / "test_small.py").write_text("def double(x): 1\nguess = 3.14\n")
    answers = cells_of(tmp_path / "class")
    assert answers.cells == {"small.double": DOUBLE}
    assert "work/09_small.ipynb counts" in answers.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.ipynb", b"", "empty"),
        ("a.py", b"  \n", "empty"),
        ("a.py", b"\xff\xfe\x00d", "UTF-8"),
        ("a.ipynb", b'{"cells": [', "not a notebook"),
        ("a.ipynb", b"[1, 2]", "not a notebook"),
        ("a.ipynb", b'{"cells": ' + b"[" * 100_000, "not a notebook"),
        ("a.ipynb", b"1" * 5000, "not a notebook"),
    ],
)
def test_what_cannot_be_read_is_noted(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    answers = cells_of(tmp_path / name)
    assert answers.cells == {}
    assert says in answers.notes[0]


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["code", "small.double"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["cells", "cell_type", "metadata", "source", "minideepseek", "task", "nbgrader"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(tree=nonsense)
@settings(max_examples=60, deadline=None)
def test_no_notebook_makes_the_reader_stumble(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("n") / "a.ipynb"
    path.write_text(json.dumps({"cells": [tree, {"cell_type": "code", "metadata": tree, "source": tree}]}))
    cells_of(path)


@given(text=st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_script_makes_the_reader_stumble(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("n") / "a.py"
    path.write_bytes(("# %% " + text).encode("utf-8", "replace"))
    cells_of(path)


def test_a_class_is_a_folder_of_files_and_folders(tmp_path):
    (tmp_path / "alice.ipynb").write_text(notebook(cell(DOUBLE)))
    (tmp_path / "bob" / "deep").mkdir(parents=True)
    (tmp_path / "bob" / "one.ipynb").write_text(notebook(cell(DOUBLE)))
    (tmp_path / "bob" / "deep" / "two.py").write_text("guess = 3")
    (tmp_path / "bob" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "bob" / ".ipynb_checkpoints" / "one-checkpoint.ipynb").write_text(notebook(cell("def double(x): 0")))
    (tmp_path / "carl").mkdir()
    (tmp_path / "notes.txt").write_text("no submission")
    found = {submission.name: read(submission, TASKS) for submission in find(tmp_path)}
    assert set(found) == {"alice", "bob", "carl"}
    assert found["bob"].cells == {"small.double": DOUBLE, "small.guess": "guess = 3"}
    assert found["carl"].cells == {}


def test_two_students_never_share_a_name(tmp_path):
    for name in ("alice.py", "alice.ipynb"):
        (tmp_path / name).write_text("guess = 1")
    (tmp_path / "alice").mkdir()
    assert len({submission.name for submission in find(tmp_path)}) == 3


def test_links_pipes_and_floods_are_not_followed(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text(DOUBLE)
    mallory = tmp_path / "class" / "mallory"
    mallory.mkdir(parents=True)
    (mallory / "a.py").symlink_to(secret)
    (mallory / "up").symlink_to(tmp_path)
    os.mkfifo(mallory / "pipe.py")
    answers = cells_of(tmp_path / "class")
    assert answers.cells == {}
    assert any("link" in note for note in answers.notes)
    (tmp_path / "class" / "link.py").symlink_to(secret)
    assert [submission.name for submission in find(tmp_path / "class")] == ["mallory"]
    for number in range(MAX_FILES + 5):
        (mallory / f"z{number}.py").write_text("guess = 1")
    (submission,) = find(tmp_path / "class")
    assert len(submission.files) == MAX_FILES


def test_nothing_to_grade_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no submission"):
        find(tmp_path)
    with pytest.raises(UserError, match="no file or folder"):
        find(tmp_path / "nowhere")


def test_the_digest_follows_the_content(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("guess = 1")
    (before,) = find(path)
    first = before.digest()
    path.write_text("guess = 2")
    assert before.digest() != first


def test_lines_for_notebooks_only_are_left_out():
    source = "%%time\n!pip install torch\n%matplotlib inline\nx = (5\n% 3)\ntext = '''\n  %s\n'''"
    assert without_magics(source) == "\n\n\nx = (5\n% 3)\ntext = '''\n  %s\n'''"


@given(st.text())
@settings(deadline=None)
def test_a_strangers_text_can_be_printed_anywhere(text):
    clean = printable(text + "\x1b[31m\ud800\0")
    clean.encode("utf-8")
    assert "\x1b" not in clean
