"""``minideepseek generate``: continue a prompt, word by word."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from minideepseek.checkpoint import load
from minideepseek.cli import parse
from minideepseek.data import Tokenizer
from minideepseek.errors import UserError
from minideepseek.generate import stream
from minideepseek.model import Transformer


def load_pair(path: str) -> tuple[Transformer, Tokenizer]:
    """A model and its tokenizer, which must fit each other.

    Raises:
        UserError: either is missing or damaged, or the tokenizer makes ids that the model has no row for.
    """
    model = load(path)
    tokenizer = Tokenizer.load(Path(path))
    if tokenizer.vocab_size > model.cfg.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.cfg.vocab_size} rows; "
            f"they do not belong together: put the tokenizer.json the model was trained with there"
        )
    return model, tokenizer


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of a stream of ids, as soon as it is certain: half a character waits for its other half."""
    seen: list[int] = []
    shown = ""
    for index in ids:
        seen.append(index)
        text = tokenizer.decode(seen)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(seen)[len(shown) :]


def run(
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    /,
    *,
    prompt: str = "",
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_p: float = 0.95,
    top_k: int | None = None,
    seed: int = 0,
    compile: bool = False,
) -> None:
    """Continue a prompt with a trained model; the text appears as it is drawn.

    Args:
        checkpoint: folder that train, convert or save_pretrained wrote.
        prompt: the text to continue; without one the model begins a document.
        max_new_tokens: stop after this many tokens, or earlier at the end of the document.
        temperature: below 1 safer, above 1 wilder; 0 always takes the likeliest token.
        top_p: draw from the smallest set of tokens that has this much probability together.
        top_k: draw from the k likeliest tokens only.
        seed: the same seed draws the same text.
        compile: use torch.compile: half a minute or more of compiling first, then quicker words; not for V4.
    """
    model, tokenizer = load_pair(checkpoint)
    ids = [tokenizer.eos_id, *tokenizer.encode(prompt)]  # training texts follow an end-of-text, so a prompt does too
    tokens = stream(
        model,
        [ids],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        eos_id=tokenizer.eos_id,
        compile=compile,
    )
    sys.stdout.write(prompt)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where: print(f"minideepseek: {message}", file=sys.stderr)
        for text in pieces(tokenizer, (int(token) for token in tokens)):
            sys.stdout.write(text)
            sys.stdout.flush()
    sys.stdout.write("\n")


def main(args: Sequence[str]) -> None:
    """Parse ``args`` and run."""
    parse(run, args, command="generate")
