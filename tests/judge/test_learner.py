"""In the notebook: an answer at once, in words that help; progress that survives."""

import io
import json
import linecache
import threading
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import minideepseek.ops
from minideepseek.errors import UserError
from minideepseek.judge import check, hint, solution, status
from minideepseek.judge.author import build
from minideepseek.judge.learner.scope import borrowed


def right(x):
    return 2 * x


def test_a_right_answer_gets_all_points(course):
    report = check("small.double", right)
    assert report.passed
    assert report.points == 4
    assert "4 of 4 points" in repr(report)
    assert "hint" not in repr(report)
    assert 'solved; solution("small.double") shows how we did it' in repr(report)


def test_a_known_mistake_is_called_by_its_name_and_what_holds_still_counts(course):
    report = check("small.double", lambda x: x * x)
    assert 0 < report.points < 4
    assert "this is the square" in repr(report)
    assert 'hint("small.double")' in repr(report)


def test_the_report_is_a_page_too_and_shows_no_tag_of_the_learners(course):
    def shouting(x):
        print("<script>alert(1)</script>")
        raise ValueError("<b>no</b>")

    page = check("small.double", shouting)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>no</b>" not in page


def test_the_line_of_an_error_is_told(course):
    space = {}
    exec(compile("def double(x):\n    y = x\n    return y @ y.T @ 'seven'\n", "/tmp/ipykernel_1/2.py", "exec"), space)
    assert "TypeError in line 3 of your answer" in repr(check("small.double", space["double"]))


def test_a_stub_is_not_an_attempt(course):
    def stub(x):
        raise NotImplementedError

    report = check("small.double", stub)
    assert "not answered yet" in repr(report)
    assert not course.exists()
    assert "not answered yet" in repr(check("small.guess", None))


@pytest.mark.parametrize(("guess", "points"), [(3.14, 1), (3, 0), ("pi", 0), (True, 0), (float("nan"), 0)])
def test_a_plain_value_is_an_answer(course, guess, points):
    assert check("small.guess", guess).points == points


def cell(source, **before):
    """A function as a notebook's cell defines it, after other cells."""
    space = {"torch": torch, **before}
    exec(source, space)
    return space["double"]


@pytest.mark.parametrize("does", ["torch.add(x, x)", "plus(x, x)", "x.add(x)", "torch.ops.aten.add(x, x)"])
def test_what_the_task_forbids_is_refused_however_it_was_imported(course, does):
    report = check("small.double", cell(f"def double(x): return {does}", plus=torch.add))
    assert "add is what this task asks you to write" in repr(report)
    assert torch.add(torch.ones(1), 1).item() == 2  # and afterwards all is as before
    assert "what this task asks you to write" in repr(check("small.double", torch.add))


def test_the_course_itself_is_no_answer(course):
    answer = cell("def double(x): return ops.swiglu(x, x, x)", ops=minideepseek.ops)
    assert "not available where answers are graded" in repr(check("small.double", answer))
    assert answer.__globals__["ops"] is minideepseek.ops


def test_a_helper_from_another_cell_is_pointed_out(course):
    source = "import math\ndef double(x):\n    unused = math.pi\n    return helper(torch.clone(x))\n"
    linecache.cache["/tmp/ipykernel_1/3.py"] = (len(source), None, source.splitlines(keepends=True), "3.py")
    space = {"helper": right, "torch": torch}
    exec(compile(source, "/tmp/ipykernel_1/3.py", "exec"), space)
    report = check("small.double", space["double"])
    assert report.passed
    assert "helper: defined in another cell" in repr(report)
    assert "torch" not in repr(report)


def test_a_name_that_is_defined_nowhere_is_an_error_and_no_more(course):
    source = "def double(x):\n    return factor * x\n"
    linecache.cache["/tmp/ipykernel_1/4.py"] = (len(source), None, source.splitlines(keepends=True), "4.py")
    space = {}
    exec(compile(source, "/tmp/ipykernel_1/4.py", "exec"), space)
    report = check("small.double", space["double"])
    assert "NameError in line 2 of your answer (name 'factor' is not defined" in repr(report)
    assert "defined in another cell" not in repr(report)


def test_borrowed_names_are_those_a_cell_does_not_define():
    source = "import math as m\ny = 1\ndef f(a, b=z):\n    return [g(i) for i in range(m.pi + y)], lambda q: q + w\n"
    assert borrowed(source) - {"range"} == {"g", "w", "z"}
    assert borrowed("def broken(:") == set()


def test_answers_that_are_no_answers_are_explained(course):
    with pytest.raises(UserError, match=r'check\("small.double", double\)'):
        check("small.double")
    with pytest.raises(UserError, match=r"there are: small\.double, small\.guess"):
        check("small.tripel", right)
    with pytest.raises(UserError, match=r"no task 'small.duoble'; did you mean 'small.double'\?"):
        check("small.duoble", right)


def test_a_notebook_shows_one_line_for_what_a_learner_can_put_right(course):
    shell = InteractiveShell()
    shell.run_cell("from minideepseek.judge import check")
    with redirect_stdout(io.StringIO()) as shown:
        shell.run_cell("check('small.tripel', None)")
    assert shown.getvalue().strip() == "UserError: no task 'small.tripel'; there are: small.double, small.guess"


def test_outside_of_a_clone_one_is_told_where_to_go(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDEEPSEEK_EXERCISES", str(tmp_path))
    with pytest.raises(UserError, match="MINIDEEPSEEK_EXERCISES"):
        check("small.double", right)


def test_three_hints_then_the_first_again(course):
    said = [repr(hint("small.double")) for _ in range(4)]
    assert ["1 of 3" in said[0], "2 of 3" in said[1], "3 of 3" in said[2], "1 of 3" in said[3]] == [True] * 4
    assert "how often?" in said[0]


def test_the_solution_comes_after_an_attempt(course):
    assert "try it first" in repr(solution("small.double"))
    check("small.double", lambda x: x)
    shown = repr(solution("small.double"))
    assert "return 2 * x" in shown
    assert "SOLUTION" not in shown
    assert "pre" in solution("small.double")._repr_html_()


def test_progress_keeps_the_best_and_survives_a_damaged_file(course):
    assert "0 of 2 tasks solved, 0 of 5 points" in repr(status())
    check("small.double", right)
    check("small.double", lambda x: x)
    assert "1 of 2 tasks solved, 4 of 5 points" in repr(status())
    assert json.loads(course.read_text())["small.double"]["attempts"] == 2
    for damaged in ("", "{", "[1]", '{"small.double": 7}', '{"small.double": {"points": "x"}}', "[" * 100_000):
        course.write_text(damaged)
        assert "0 of 2 tasks solved" in repr(status())
        assert check("small.double", right).passed
        assert "1 of 2 tasks solved" in repr(status())
    assert "<table>" in status()._repr_html_()


def test_progress_is_listed_for_one_exercise_and_summed_over_all(course, exercise, tmp_path, monkeypatch):
    for name in ("08_before", "09_small"):
        (tmp_path / "all" / name).mkdir(parents=True)
        pack = replace(build.public(exercise), exercise=name)
        (tmp_path / "all" / name / build.PACK).write_bytes(pack.dumps())
    monkeypatch.setenv("MINIDEEPSEEK_EXERCISES", str(tmp_path / "all"))
    one = status("09")
    assert repr(one).startswith("09_small: 0 of 2 tasks solved")
    assert "all 2 exercises: 0 of 4 tasks solved, 0 of 10 points" in repr(one)
    assert "08_before" not in repr(one) + one._repr_html_()
    assert "08_before" in repr(status())
    with pytest.raises(UserError, match="no exercise '07' in reach; there are: 08, 09"):
        status("07")


def test_two_notebooks_at_once_lose_nothing(course):
    threads = [threading.Thread(target=hint, args=("small.double",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(course.read_text())["small.double"]["hints"] == 8 % 3


def test_a_check_leaves_random_numbers_as_they_were(course):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    check("small.double", lambda x: 2 * x + 0 * torch.rand(1))
    assert torch.rand(1) == expected


def test_under_nbgrader_points_are_a_number_and_validation_fails_by_an_exception(course, monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("small.double", right) == 4.0
    assert check("small.double", lambda x: x * x) == 1.0
    assert "this is the square" in capsys.readouterr().out  # what its feedback shows
    assert check("small.guess", 2.7) == 0.0
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    with pytest.raises(AssertionError, match="this is the square"):
        check("small.double", lambda x: x * x)
    assert status() is None
    assert not course.exists()
