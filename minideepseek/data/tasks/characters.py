"""A tokenizer of single characters: for tasks whose whole language is a dozen signs."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from minideepseek.data.tasks.problem import Task
from minideepseek.data.tasks.response import TAGS
from minideepseek.data.tokenizer import BOS, EOS, PAD, Tokenizer
from minideepseek.errors import UserError

UNKNOWN = "□"


def character_tokenizer(alphabet: str, *, words: Iterable[str] = TAGS) -> Tokenizer:
    """A tokenizer with a token for each character of ``alphabet`` and for each of ``words``.

    Ids 0, 1, 2 are begin, end and padding, as in V3. Words are tokens like any other (so is R1's ``<think>``, token
    128798 of its vocabulary): text that spells one out becomes it. Characters that are not in the alphabet become □.

    Raises:
        UserError: an alphabet without characters, or one that has □.
    """
    characters = list(dict.fromkeys(alphabet))
    if not characters or UNKNOWN in characters:
        raise UserError(f"alphabet={alphabet!r} needs characters, and {UNKNOWN} is taken for what is not among them")
    first = (BOS, EOS, PAD)
    vocabulary = {token: i for i, token in enumerate([*first, UNKNOWN, *characters])}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in first])
    backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    return Tokenizer(backend)


def tokenizer_for(*tasks: Task) -> Tokenizer:
    """The tokenizer that these tasks need together."""
    return character_tokenizer("".join(task.alphabet for task in tasks))
