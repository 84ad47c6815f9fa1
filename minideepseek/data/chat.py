"""Conversations as text and as tokens: R1-Zero's template for a base model, and turns between control tokens.

A base model has read texts, not conversations. R1-Zero therefore puts the question into a text that can only go on with
an answer, thought first (DeepSeek-R1, table 1), and says nothing about how to think. After fine-tuning, control tokens
mark the turns: no text that a user types can forge them.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from minideepseek.data.tasks.response import ANSWER, END_ANSWER, END_THINK, THINK
from minideepseek.data.tokenizer import Tokenizer
from minideepseek.errors import UserError


class Turn(NamedTuple):
    """What a user says or, with the thought that led to it, an assistant."""

    role: Literal["user", "assistant"]
    text: str


def r1_zero_prompt(question: str) -> str:
    """A question as a text that a base model completes: it asks for tags, and gives no hint about content."""
    return (
        "A user talks with an assistant. For every question the assistant first thinks the problem through by itself, "
        f"then gives the answer. The thinking stands between {THINK} and {END_THINK}, the answer between {ANSWER} and "
        f"{END_ANSWER}: {THINK} how to get there {END_THINK}{ANSWER} what it is {END_ANSWER}.\n"
        f"User: {question}\nAssistant:"
    )


def chat_ids(turns: Sequence[Turn], tokenizer: Tokenizer, *, think: bool | None = None) -> list[int]:
    """The ids of a conversation up to where the assistant speaks next.

    Only the newest turn needs its thinking: what earlier answers were thought with is left out, as R1's template does
    and V4's where no tools are used (V4 report, section 5).

    Args:
        turns: user and assistant in turn, the user first and last.
        tokenizer: with control tokens for both roles.
        think: True opens the thought, False closes it before it begins (V4's "Non-think"), None leaves it to the model.

    Raises:
        UserError: turns in another order, or a tokenizer without those tokens.
    """
    roles = [turn.role for turn in turns]
    if len(turns) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        raise UserError(f"a conversation alternates, user first and last, not {', '.join(roles) or 'nothing'}")
    ids = [tokenizer.bos_id]
    for role, text in turns:
        if role == "user":
            ids += [tokenizer.user_id, *tokenizer.encode(text), tokenizer.assistant_id]
        else:
            ids += [*tokenizer.encode(text.rpartition(END_THINK)[2]), tokenizer.eos_id]
    return ids if think is None else [*ids, *tokenizer.encode(THINK if think else END_THINK)]
