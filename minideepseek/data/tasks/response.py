"""A response has two parts: what was thought and what is answered, each between tags (DeepSeek-R1, section 2.2.3).

The tags are the contract between a model that writes freely and a rule that must find its answer. Whatever a model
writes, these functions return; they never raise.
"""

import re
from typing import NamedTuple

THINK, END_THINK, ANSWER, END_ANSWER = TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_WHOLE = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


class Parsed(NamedTuple):
    """The two parts of a response, without their tags."""

    thought: str
    answer: str


def respond(thought: str, answer: str) -> str:
    """The response with these parts."""
    return f"{THINK}{thought}{END_THINK}{ANSWER}{answer}{END_ANSWER}"


def parse(response: str) -> Parsed | None:
    """The parts of a response that keeps to the format to the letter: each tag once, in order, nothing outside."""
    found = _WHOLE.fullmatch(response)
    if found is None or any(response.count(tag) != 1 for tag in TAGS):
        return None
    return Parsed(*found.groups())


def answer_of(response: str) -> str | None:
    """What stands between the answer tags, in whatever surroundings. Two answers are none: a guess is not an answer."""
    _, opened, rest = response.partition(ANSWER)
    answer, closed, after = rest.partition(END_ANSWER)
    if not opened or not closed or ANSWER in answer or ANSWER in after or END_ANSWER in after:
        return None
    return answer
