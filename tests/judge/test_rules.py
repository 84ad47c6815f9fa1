"""Rules judge data: what is right passes, what is wrong is told in a sentence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.judge.compare import Problem
from minideepseek.judge.rules import KINDS, Between, Differs, Equals, Mostly, Part, Picks, Reaches, Same, Untouched
from minideepseek.judge.sandbox import wire
from minideepseek.judge.sandbox.steps import Ref, Result, Step, run


def results_of(function, *args, **settings):
    return run({"f": function}, [Step(target="f", args=args, **settings)])[0]


def test_a_known_mistake_is_called_by_its_name():
    x = torch.randn(5)
    rule = Equals(expected=x * 2, mutants=(("you add where the formula multiplies", x + 2),))
    assert rule.verdict(results_of(lambda v: v * 2, x)) is None
    assert rule.verdict(results_of(lambda v: v + 2, x)) == Problem("you add where the formula multiplies")
    assert "differ" in str(rule.verdict(results_of(lambda v: v * 3, x)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.zeros(3, 1), "shape"),
        (torch.zeros(3, dtype=torch.float64), "dtype"),
        (torch.tensor([math.nan, 0, 0]), "NaN"),
        (None, "None"),
        ("zeros", "str"),
    ],
)
def test_what_is_wrong_is_said(value, says):
    assert says in str(Equals(expected=torch.zeros(3)).verdict([Result(value=value)]))


@pytest.mark.parametrize(
    ("picked", "hits"),
    [("bd", 2), ("D, B", 2), (["b", "d"], 2), ("be", 1), ("b", 1), ("ac", 0), ("", 0), ("bde", 0), ("abcdef", 0)],
)
def test_letters_are_counted_however_they_are_written(picked, hits):
    for wanted in (1, 2):
        verdict = Picks(right="bd", at_least=wanted, says="look again").verdict([Result(value=picked)])
        assert (verdict is None) == (hits >= wanted)
    assert "letters are expected" in str(Picks(right="bd", at_least=1, says="").verdict([Result(value=7)]))


def test_results_of_nan_obey_no_law():
    nan = torch.full((2, 3), math.nan)
    for value in (nan, [nan], {"a": nan}, math.nan):
        results = [Result(value=value), Result(value=value)]
        assert "NaN" in str(Same(left=Part(), right=Part(step=1), says="they differ").verdict(results))


def test_where_in_a_container_and_by_how_much_is_told_in_one_breath():
    right, wrong = [torch.zeros(2), [torch.zeros(2)]], [torch.zeros(2), [torch.ones(2)]]
    said = str(Equals(expected=right).verdict([Result(value=wrong)]))
    assert said == "the numbers differ (at [1][0]: by up to 1, where values reach 0)"
    said = str(Same(left=Part(), right=Part(step=1), says="no law").verdict([Result(value=wrong), Result(value=right)]))
    assert said == "no law (the numbers differ: at [1][0]: by up to 1, where values reach 0)"


def test_rounding_passes_and_another_formula_does_not():
    x = torch.randn(1000)
    assert Equals(expected=x).verdict([Result(value=x * (1 + 3e-7))]) is None
    assert Equals(expected=x).verdict([Result(value=x * 1.001)]) is not None
    tiny = x * 1e-20  # the tolerance follows the size of the values
    assert Equals(expected=tiny).verdict([Result(value=tiny * 1.001)]) is not None


def test_causality_is_a_relation_between_two_calls():
    x = torch.randn(1, 6, 2)
    y = x.clone()
    y[:, 4:] += 1
    steps = [Step(target="f", args=(x,)), Step(target="f", args=(y,))]
    seen = ((1, 0, 4),)
    rule = Same(left=Part(step=0, cut=seen), right=Part(step=1, cut=seen), says="position 3 sees the future")
    assert rule.verdict(run({"f": lambda v: v.cumsum(1)}, steps)[0]) is None
    assert "sees the future" in str(rule.verdict(run({"f": lambda v: v.flip(1).cumsum(1)}, steps)[0]))
    moves = Differs(left=Part(step=0), right=Part(step=1), says="the input does not matter")
    assert moves.verdict(run({"f": lambda v: v}, steps)[0]) is None
    assert moves.verdict(run({"f": torch.zeros_like}, steps)[0]) == Problem("the input does not matter")


def test_in_place_changes_and_missing_gradients_are_noticed():
    x, w = torch.randn(3), torch.randn(3)
    assert Untouched().verdict(results_of(lambda v: v + 1, x)) is None
    assert "in place" in str(Untouched().verdict(results_of(lambda v: v.add_(1), x)))
    assert Reaches().verdict(results_of(lambda a, b: a * b, x, w, grad=True)) is None
    assert "args.1" in str(Reaches().verdict(results_of(lambda a, b: a * b.detach(), x, w, grad=True)))


def test_a_number_must_lie_between():
    assert Between(low=0.2, high=0.4).verdict([Result(value=0.3)]) is None
    assert Between(low=0.2, says="aim higher").verdict([Result(value=0.1)]).says == "aim higher"
    assert "NaN" in str(Between(low=0.0).verdict([Result(value=math.nan)]))
    assert "number" in str(Between(low=0.0).verdict([Result(value="0.3")]))


def test_enough_predictions_must_be_right():
    rule = Mostly(expected=torch.arange(10), share=0.8, says="train longer")
    assert rule.verdict([Result(value=torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 0]))]) is None
    assert rule.verdict([Result(value=torch.zeros(10, dtype=torch.int64))]) == Problem(
        "train longer", "10% right, 80% wanted"
    )
    assert "shape" in str(rule.verdict([Result(value=torch.zeros(9))]))


@pytest.mark.parametrize(
    ("expected", "right", "wrong"), [(3, (3, 3.0), (4, True, "3")), (0.5, (0.5, 0.5 + 1e-12), (0.6,))]
)
def test_numbers_are_compared_as_numbers(expected, right, wrong):
    for value in right:
        assert Equals(expected=expected).verdict([Result(value=value)]) is None
    for value in wrong:
        assert Equals(expected=expected).verdict([Result(value=value)]) is not None


def test_steps_keep_modules_and_load_their_weights():
    steps = [
        Step(target="make", args=(2, 3), keep="layer", state={"weight": torch.ones(3, 2), "bias": torch.zeros(3)}),
        Step(target="$layer", args=(torch.ones(1, 2),), grad=True),
        Step(target="$layer.forward", args=(torch.zeros(1, 2),)),
        Step(target="takes", args=(Ref("layer"),)),
    ]
    results, _ = run({"make": torch.nn.Linear, "takes": lambda layer: layer.out_features}, steps)
    assert results[1].value.tolist() == [[2.0, 2.0, 2.0]]
    assert set(results[1].grads) == {"args.0", "parameters.weight", "parameters.bias"}
    assert results[3].value == 3


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(trees)
@settings(max_examples=50, deadline=None)
def test_messages_come_back_as_they_were(tree):
    assert repr(wire.loads(wire.dumps(tree))) == repr(tree)


def test_tensors_and_rules_travel():
    for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.ones(2, 0 if dtype == torch.bool else 3, dtype=dtype)
        back = wire.loads(wire.dumps((tensor, Step(target="f", args=(tensor,)))))
        assert back[0].dtype == dtype
        assert torch.equal(back[1].args[0], tensor)
    rule = Same(left=Part(cut=((1, 0, None),)), right=Part(step=1), says="no")
    assert wire.loads(wire.dumps(rule, KINDS), KINDS) == rule


def test_bytes_that_are_no_message_are_refused():
    for blob in (b"", b"junk", b"\x80\x04" + b"x" * 100, wire.dumps([1])[:-3]):
        with pytest.raises(ValueError, match="not a message"):
            wire.loads(blob)
