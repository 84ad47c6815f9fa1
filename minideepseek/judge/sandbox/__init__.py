"""Where learners' code runs: in goes source and steps, out come results; nothing here knows what is right.

=========  ============================================================================================
module     holds
=========  ============================================================================================
steps      what a check does with an answer; also runs in the learner's notebook
forbid     ready-made functions out of reach while an answer runs; the same
wire       steps and results as bytes, without pickle
isolation  what the kernel can take away from a process
zygote     the script of the process that learners' code is forked from
process    ``Sandbox``: that process, held by the judge
=========  ============================================================================================

``steps``, ``forbid``, ``wire`` and ``isolation`` are loaded into the sandbox by path: they import nothing else of ours.
"""
