"""Little stories in English and Chinese, made up by a seeded grammar: a corpus that needs no network and never ends.

Small enough a world that a model of a million parameters learns to tell it in a minute; rich enough that it has to
learn names, places, pronouns, measure words, dialogue, cause and effect. In the spirit of TinyStories (Eldan and Li,
arXiv 2305.07759), with an adjustable number of facts to memorise.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path

from minideepseek.data.document import Corpus, Document, fingerprint
from minideepseek.data.stories import chinese, chinese_plots, english, english_plots
from minideepseek.data.stories.draw import Draw
from minideepseek.data.stories.facts import Fact, fact_table
from minideepseek.data.stories.grammar import fill
from minideepseek.errors import UserError

LANGUAGES = ("both", "en", "zh")
FACTS_PER_STORY = 2

__all__ = ["Fact", "fact_table", "stories_corpus", "story"]


def story(i: int, *, seed: int = 0, facts: int = 0, language: str = "both") -> str:
    """Story number i, some 100 English words or 150 Chinese characters in four paragraphs; needs no other story.

    facts:    heroes are the people of `fact_table(facts, seed=seed, language=language)`, and each story tells two facts
              about its hero, always in the same words; so each fact recurs about every facts/2 stories.
    language: "en", "zh", or "both": either, by chance.
    """
    draw = Draw("story", seed, i)
    chosen = draw.pick(("en", "zh")) if language == "both" else language
    world, plots = (english, english_plots.PLOTS) if chosen == "en" else (chinese, chinese_plots.PLOTS)
    subjects = _facts_by_subject(facts, seed, language)[chosen] if facts else ()
    if subjects:
        person, known = draw.pick(subjects)
        hero = world.FACT_PEOPLE[person]
        told = draw.two(known) if len(known) > FACTS_PER_STORY else known
        about = world.BLANK.join(fact.statement for fact in told)
    else:
        hero = draw.pick(world.CHILDREN if draw.below(3) else world.CREATURES)
        about = world.ADDRESS
    friend = draw.pick(world.CHILDREN if draw.below(3) else world.CREATURES)
    while friend.name == hero.name:
        friend = draw.pick(world.CHILDREN)
    slots = world.scenery(draw, hero, friend) | {"about": about}
    return fill(world.OPENING, draw, slots) + "\n" + draw.pick(plots).tell(draw, slots)


@lru_cache(maxsize=8)
def _facts_by_subject(facts: int, seed: int, language: str) -> dict[str, tuple[tuple[int, tuple[Fact, ...]], ...]]:
    """For each language, its subjects (their place in FACT_PEOPLE) with what there is to know about them."""
    found: dict[str, tuple[tuple[int, tuple[Fact, ...]], ...]] = {}
    for chosen, world in (("en", english), ("zh", chinese)):
        table = [fact for fact in fact_table(facts, seed=seed, language=language) if fact.language == chosen]
        place = {person.full: i for i, person in enumerate(world.FACT_PEOPLE)}
        subjects = dict.fromkeys(fact.subject for fact in table)
        found[chosen] = tuple((place[name], tuple(fact for fact in table if fact.subject == name)) for name in subjects)
    return found


def stories_corpus(*, seed: int = 0, facts: int = 0, language: str = "both") -> Corpus:
    """All stories of a seed, one after the other, without end. Raises UserError for a language it does not speak."""
    if language not in LANGUAGES:
        raise UserError(f"stories in language {language!r}? They come in {', '.join(LANGUAGES)}")
    fact_table(facts, seed=seed, language=language)  # refuses a number that is too large

    def read() -> Iterator[Document]:
        for i in count():
            yield Document(text=story(i, seed=seed, facts=facts, language=language), source=f"stories/{i}")

    options = [f"facts={facts}"] * (facts > 0) + [f"language={language}"] * (language != "both")
    return Corpus(
        name=":".join(["stories", *filter(None, [",".join(options)])]),
        fingerprint=fingerprint("stories", seed, facts, language, *_grammar()),
        read=read,
        endless=True,
    )


@lru_cache(maxsize=1)
def _grammar() -> tuple[bytes, ...]:
    """The grammar itself: edit a plot, and no cache holds the old stories."""
    return tuple(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
