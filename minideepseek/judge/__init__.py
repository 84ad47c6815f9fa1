"""The judge: exercises checked at once for the learner, in bulk and in a sandbox for the instructor.

In an exercise notebook::

    from minideepseek.judge import check, hint, solution, status

    check("block.rms_norm", rms_norm)     # a verdict on each property, at once
    hint("block.rms_norm")                # the next of three hints
    solution("block.rms_norm")            # after an attempt
    status()                              # what is done

One principle holds everywhere: learners' code only turns inputs into outputs. A check is data (inputs, expected
numbers, rules); in bulk, ``minideepseek grade`` runs answers in a sandbox that holds the inputs alone, and compares
in a process that learners' code never enters.

==========  ===========================================================================================
part        holds
==========  ===========================================================================================
rules       what must hold of results; compare: how two values differ
task        a task, its checks, verdicts on it, a file of them
packs       where those files lie
cells       scripts of cells taken apart
sandbox/    where learners' code runs
learner/    ``check``, ``hint``, ``status``, ``solution``
grading/    submissions in, marks and feedback out
author/     an exercise written as a script: how to write a task, and what is built from it
==========  ===========================================================================================
"""

from minideepseek.judge.learner.check import check, hint, solution, status

__all__ = ["check", "hint", "solution", "status"]
