'''For authors: how to write an exercise. One script holds everything; the rest is built from it.

A script, ``exercises/src/NN_name.py``, has the number and the name of its lesson and reads like one: cells that begin
with ``# %%``. What a cell is, its marker says:

=======================  ===========================================================================================
``# %% [markdown]``      prose. The cell before a task is its statement and begins with a heading; a line with kind,
                         difficulty, minutes and points is put below the heading
``# %% tags=["given"]``  imports and helpers that every answer may use; a grader runs these cells, then the answer's
``# %% task="a.b" ...``  the answer's cell: what learners find, and the solution. ``a.b`` is topic and name
``# %% tags=["judge"]``  how answers are judged; learners never see it, nor does it leave the repository
``# %% tags=["driver"]`` code that uses an answer, such as a training loop: it runs after it, in the same place.
                         It goes out with the checks, so it must not hold a solution
``# %%``                 anything else: a picture, a measurement. Learners get it, nobody grades it
=======================  ===========================================================================================

The cell that checks an answer, the import of ``check``, and ``status()`` at the end are added when it is built.

**A task's cell** states its facts, and holds the solution between two markers::

    # %% task="block.rms_norm" title="RMSNorm" kind="implement" difficulty=1 minutes=10 forbid=["rms_norm"]
    def rms_norm(x, gain, eps=1e-6):
        """x: (..., D), gain: (D,) -> (..., D), in the dtype of x."""
        ### BEGIN SOLUTION
        return ...
        ### END SOLUTION

Learners find ``raise NotImplementedError(...)`` in place of the region. Where they are to find something else (the
line with the bug, a variable that waits for a number), it follows the solution as a comment::

        ### BEGIN SOLUTION
        scores = q @ k.mT / dim**0.5
        ### STUB
        # scores = q @ k.mT / dim
        ### END SOLUTION

``kind`` is implement, debug, predict or compare, ``difficulty`` 1 to 3. ``needs=["block.rope"]`` names tasks whose
cells run before this one; ``forbid=["softmax"]`` names what torch must not do for the learner, wherever torch offers
it; ``seconds=20`` of processor time replaces the 10 that the checks of a task may use together. Answers cannot import
minideepseek or transformers: that is where the answers are. A task's cell must stand alone with the given cells and
those it needs.

**A judge's cell** declares how one task is judged::

    # %% tags=["judge"]
    from minideepseek.judge.author import Reaches, Untouched, call, checks, contract, value

    @checks("block.rms_norm", oracle=..., mistakes={...}, alternatives=[...], hints=("...", "...", "..."))
    def _(draw):
        x, gain = draw.normal(2, 7, 16), draw.normal(16)
        plain = call("rms_norm", x, gain, grad=True)
        yield contract("keeps shape and dtype, changes no input", 1, [plain], [Untouched(), Reaches()])
        yield value("equals the formula, gradients too", 2, [plain])

* ``oracle``: the right answer, written another way than the solution: loops over rows, a closed form, complex
  numbers. It is given float64 and may be slow. The build stops where oracle and solution differ.
* ``mistakes``: sentence -> the answer of somebody who makes that mistake. Whoever's numbers equal a mistake's is told
  the sentence, so let it name the mistake and point the way: "eps stands outside the root; it belongs under it".
  A mistake that only an invariant finds has the invariant's sentence (``says=``).
* ``alternatives``: other right answers, as different from the solution as learners are from each other.
* ``hints``: a question that opens the way; the plan in words; almost the code.
* The generator draws inputs from ``draw`` (``normal``, ``integers``, ``integer``, ``choice``, ``rounds``) and yields
  checks. The same function makes the hidden checks from another salt: let it draw shapes too, and give every draw the
  same properties for the same points. Nothing else may be random.

**A check is a property** with a name that reads as a sentence about the answer ("past outputs do not depend on the
future"), points, steps and rules. A step is a call: ``call(name, *args, keep=..., state=..., grad=..., **kwargs)``.
``keep="layer"`` remembers what the call returns; ``call("$layer", x)`` and ``Ref("layer")`` use it; ``state`` loads
weights into it, so that they are known. ``call("cache_mib")`` of something that cannot be called is its value.

1. ``contract``: the form. Shapes and dtypes of the solution are compared without being asked for; add ``Untouched()``
   (inputs are not changed in place) and ``Reaches()`` (gradients arrive everywhere; needs ``grad=True``).
2. ``value``: the oracle's numbers and, with ``grad=True``, its gradients. Several draws, ragged shapes, and inputs
   that tell the mistakes apart: tiny x shows a misplaced eps, far positions show a wrong frequency, 16 bits show a
   sum in the wrong dtype. Tolerances are tight and follow the dtype.
3. ``invariant``: a law between the learner's own results: ``Same(left=Part(...), right=Part(...), says=...)``,
   ``Differs``. ``Part(step=1, path=("loss",), cut=((1, 0, 4),))`` is a piece of a result.
4. ``outcome``: a few seconds of training reach a mark. A driver trains with the answer and returns predictions, and
   ``Mostly(expected=labels, share=0.9, says=...)`` counts, where learners' code cannot reach, how many are right. Set
   the mark from at least five seeds of right and of mistaken answers, with room to both sides, and write them down in
   a comment. Never let the answer report its own success as a number.

Predictions: the cell holds ``cache_gib = None``, the check is ``value(name, points, [call("cache_gib")], rtol=0.05)``
with the measured number as the oracle, and mistakes are numbers too ("one factor of 2 is missing": 7.5). An ordinary
cell after it measures. Papers against code: ask for the letters of lines, and ``Picks(right="bd", at_least=1,
says=...)`` counts them. Never hand a driver what is right: it runs where the learner's code runs.

An untouched stub gets no points: in a debug task every check must see the bug, so let each hold a case that does.

**Then**: ``minideepseek exercises build NN`` writes the notebook, the public checks and the manifest;
``pytest tests/exercises -k NN`` proves, for your tasks without another line, that the solution and the alternatives
get full marks, that the stub and every mistake fail and are told why, in public and in hidden draws, and that what
goes out is current and holds no solution. Read the built notebook once as a learner would.
'''

from minideepseek.judge.author.checks import Draw, call, checks, contract, invariant, outcome, value
from minideepseek.judge.rules import Between, Differs, Equals, Form, Mostly, Part, Picks, Reaches, Same, Untouched
from minideepseek.judge.sandbox.steps import Ref, Step

__all__ = [
    "Between",
    "Differs",
    "Draw",
    "Equals",
    "Form",
    "Mostly",
    "Part",
    "Picks",
    "Reaches",
    "Ref",
    "Same",
    "Step",
    "Untouched",
    "call",
    "checks",
    "contract",
    "invariant",
    "outcome",
    "value",
]
