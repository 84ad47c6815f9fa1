"""Quality filtering by signals that a person can check: each has a name, a value and a limit.

In the spirit of the rules of Gopher (Rae et al., arXiv 2112.11446, appendix A1.1) and C4, made to serve Chinese too,
where no blanks separate words. DeepSeek LLM (arXiv 2401.02954), section 2.1 names linguistic and semantic assessments
without listing them; these rules are ours.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from minideepseek.data.document import Document

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]|[^\W_]+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_ENDINGS = tuple(".!?。！？…\"'”’」』):;：；")
_STOPWORDS = frozenset("the of and to a in is that it was for on with as he she at by be this had not are but".split())
_CHINESE_STOPWORDS = frozenset("的了是在有不我他她它这一人们着和也说到")


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One measurement of a text: what was measured, the value, and the range in which it raises no objection."""

    name: str
    value: float
    low: float
    high: float

    @property
    def ok(self) -> bool:
        return self.low <= self.value <= self.high

    @property
    def objection(self) -> str:
        """The complaint in words, for instance "letters 0.31 < 0.6"."""
        if self.value < self.low:
            return f"{self.name} {self.value:.3g} < {self.low:g}"
        return f"{self.name} {self.value:.3g} > {self.high:g}"


def assess(text: str) -> tuple[Signal, ...]:
    """All signals of a text.

    words              too few words teach nothing, endless ones are rarely prose (a Chinese character is a word)
    word length        mean letters of a word that is not Chinese: codes and glued words lie outside
    letters            share of the visible characters that are letters: tables, ASCII art and markup have fewer
    function words     share of the words that every real sentence has ("the", "of", 的, 了): keyword lists have none
    repeated lines     share of the lines that occurred before: menus and boilerplate
    finished lines     share of the paragraphs that end like a sentence: menus and cut-off teasers do not. Where blank
                       lines set paragraphs apart, line breaks inside them are only wrapping
    repetition         size of the text over its compressed size: "buy now buy now buy now" compresses far too well
    """
    words = _WORDS.findall(text)
    spelled = [word for word in words if word.isascii() or len(word) > 1]
    visible = sum(not character.isspace() for character in text)
    letters = sum(character.isalpha() for character in text)
    functional = sum(word.lower() in _STOPWORDS or word in _CHINESE_STOPWORDS for word in words)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    blocks = [block.strip() for block in _BLANK_LINES.split(text)] if _BLANK_LINES.search(text.strip()) else lines
    long_blocks = [block for block in blocks if len(block) > 20]
    raw = text.encode()
    return (
        Signal(name="words", value=len(words), low=20, high=100_000),
        Signal(name="word length", value=_ratio(sum(map(len, spelled)), len(spelled), 5), low=2, high=10),
        Signal(name="letters", value=_ratio(letters, visible, 0), low=0.6, high=1),
        Signal(name="function words", value=_ratio(functional, len(words), 0), low=0.06, high=1),
        Signal(name="repeated lines", value=1 - _ratio(len(set(lines)), len(lines), 1), low=0, high=0.3),
        Signal(
            name="finished lines",
            value=_ratio(sum(block.endswith(_ENDINGS) for block in long_blocks), len(long_blocks), 1),
            low=0.3,
            high=1,
        ),
        Signal(name="repetition", value=_ratio(len(raw), len(zlib.compress(raw, 1)), 1), low=0, high=6),
    )


def objections(text: str) -> list[str]:
    """Why a text would be dropped, a reason each; empty for a text that stays."""
    return [signal.objection for signal in assess(text) if not signal.ok]


def drop_low_quality(documents: Iterable[Document], removed: Counter[str]) -> Iterator[Document]:
    """The documents without objections; `removed` counts the others under the first signal that objected."""
    for document in documents:
        failed = next((signal for signal in assess(document.text) if not signal.ok), None)
        if failed is None:
            yield document
        else:
            removed[f"quality: {failed.name}"] += 1


def _ratio(part: float, whole: float, otherwise: float) -> float:
    return part / whole if whole else otherwise
