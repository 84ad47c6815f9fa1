"""From what a user writes after `--data` to a corpus."""

import difflib
from pathlib import Path

from minideepseek.data.document import Corpus
from minideepseek.data.files import file_corpus
from minideepseek.data.hub import hub_corpus
from minideepseek.data.python_corpus import python_corpus
from minideepseek.data.stories import stories_corpus
from minideepseek.errors import UserError

FORMS = "stories, stories:facts=N, python, file:PATH, hub:NAME"


def open_corpus(spec: str, *, seed: int = 0) -> Corpus:
    """The corpus of a specification:

    stories           little stories in English and Chinese, made up by seed and never ending
    stories:facts=N   the same, with N facts about their heroes to memorise; also language=en or zh, split by commas
    python            the running Python's standard library and documentation topics
    file:PATH         a .txt, .md, .py, .jsonl or .parquet file, or a folder of such
    hub:NAME          a data set of the hub, when online: OWNER/NAME or OWNER/NAME:CONFIG

    `seed` is the stories' own. Raises UserError for anything else, and for what the corpus itself refuses.
    """
    kind, _, rest = spec.partition(":")
    match kind:
        case "stories":
            return stories_corpus(seed=seed, **_story_options(spec, rest))  # type: ignore[arg-type]
        case "python" if not rest:
            return python_corpus()
        case "file" if rest:
            return file_corpus(rest)
        case "hub" if rest:
            return hub_corpus(rest)
    if Path(spec).exists():
        near = [f"file:{spec}"]
    else:
        near = difflib.get_close_matches(kind, ["stories", "python", "file:PATH", "hub:NAME"], n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown corpus {spec!r}{hint} (valid: {FORMS})")


def _story_options(spec: str, options: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name == "facts" and value.isdecimal():
            found["facts"] = int(value)
        elif name == "language":
            found["language"] = value
        else:
            raise UserError(f"cannot read {option!r} in {spec!r}; write for example stories:facts=200,language=en")
    return found
