"""The lessons' machinery: a lesson is written as a script, built into an executed notebook, checked, and opened.

``notebooks/src/NN_name.py`` (a percent script) is what people write, review and lint. ``build`` runs it in a fresh
kernel and writes ``notebooks/NN_name.ipynb`` with its outputs, which is what people read. ``check`` says when the two
no longer belong together and when a lesson breaks a rule of the house. ``open_lab`` starts JupyterLab on them.

==========  =======================================================================================
module      holds
==========  =======================================================================================
source      where lessons live; a lesson read from its script
surface     which names of the package a lesson uses, and with which signatures
tidy        an executed notebook made reproducible: nothing of the clock, the machine or the session
build       script -> executed notebook
check       is the notebook current, and does the lesson keep the rules
lab         JupyterLab, opened on the lessons
==========  =======================================================================================
"""

from minideepseek.lessons.build import build
from minideepseek.lessons.check import check, state
from minideepseek.lessons.lab import open_lab, show
from minideepseek.lessons.source import Lesson, find

__all__ = ["Lesson", "build", "check", "find", "open_lab", "show", "state"]
