import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import fact_table, open_corpus, story
from minideepseek.data.stories import chinese, chinese_plots, english, english_plots
from minideepseek.data.stories.draw import Draw
from minideepseek.data.stories.grammar import fill, table, template
from minideepseek.errors import UserError

STORIES = [story(i) for i in range(2000)]


def is_chinese(text: str) -> bool:
    return "\u4e00" <= text[0] <= "\u9fff"


def test_a_story_depends_on_its_number_and_seed_alone() -> None:
    forwards = [story(i, seed=3) for i in range(50)]
    assert [story(i, seed=3) for i in reversed(range(50))] == forwards[::-1]
    assert story(10**12, seed=3) == story(10**12, seed=3)
    assert forwards != [story(i, seed=4) for i in range(50)]


def test_stories_do_not_repeat() -> None:
    assert len(set(STORIES)) > 0.99 * len(STORIES)


def test_half_of_the_stories_are_chinese_unless_told_otherwise() -> None:
    share = sum(map(is_chinese, STORIES)) / len(STORIES)
    assert 0.45 < share < 0.55
    assert all(is_chinese(story(i, language="zh")) for i in range(100))
    assert not any(is_chinese(story(i, language="en")) for i in range(100))


def test_stories_have_no_slots_brackets_or_doubled_blanks_left() -> None:
    for text in STORIES:
        assert not re.search(r"[{}\[\]|]|  | [.,!?]|None", text), text


def test_languages_do_not_mix() -> None:
    for text in STORIES:
        if is_chinese(text):
            assert not re.search(r"[A-Za-z ,.?!\"]", text), text
        else:
            assert text.isascii(), text


def test_stories_are_four_short_paragraphs_of_finished_sentences() -> None:
    for text in STORIES:
        paragraphs = text.split("\n")
        assert len(paragraphs) == 4
        assert all(paragraph[-1] in '.!?"。！？”' for paragraph in paragraphs), text
        assert 100 < len(text.encode()) < 1200


def test_quotation_marks_come_in_pairs() -> None:
    for text in STORIES:
        assert text.count('"') % 2 == 0
        assert text.count("“") == text.count("”")


def test_hero_keeps_one_pronoun() -> None:
    for text in STORIES:
        if not is_chinese(text) and (first := re.match(r".*?(?<=[.]) (He|She) lived", text)):
            he, she = ("He", "She") if first[1] == "He" else ("She", "He")
            assert f" {he} " in text
            assert f"{she} lived" not in text


def test_articles_agree_with_the_sound() -> None:
    for text in STORIES:
        for article, word in re.findall(r"\b(an?) (\w+)", text):
            assert (article == "an") == (word[0] in "aeiou"), (article, word)


@pytest.mark.parametrize(("plots", "language"), [(english_plots.PLOTS, "en"), (chinese_plots.PLOTS, "zh")])
def test_every_plot_and_every_alternative_gets_told(plots: tuple, language: str) -> None:
    told = "\n".join(story(i, language=language) for i in range(3000))
    for plot in plots:
        for options in plot.prose:
            for option in options:
                fixed = max(re.split(r"\{.*?\}", option), key=len)
                assert fixed in told


@pytest.mark.parametrize("world", [english, chinese])
def test_names_identify_people(world) -> None:
    names = [person.full for person in world.FACT_PEOPLE]
    assert len(set(names)) == len(names)


def test_draw_is_even_and_never_runs_out() -> None:
    draw = Draw("test", 1)
    counts = Counter(draw.pick("abcde") for _ in range(20_000))
    assert all(3700 < n < 4300 for n in counts.values())
    assert all(len({*Draw(i).two("ab")}) == 2 for i in range(50))


def test_draw_gives_the_same_on_every_machine() -> None:
    draw = Draw("story", 0, 17)
    assert [draw.below(n) for n in (2, 10, 100, 1000)] == [0, 6, 28, 273]


def test_template_joins_lines_and_keeps_paragraphs() -> None:
    compiled = template("\n  {a} [is|was]\n  here.\n\n  The end.\n", blank=" ")
    texts = {fill(compiled, Draw(i), {"a": "{b}", "b": "Pip"}) for i in range(20)}
    assert texts == {"Pip is here.\nThe end.", "Pip was here.\nThe end."}


def test_table_refuses_a_row_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match="2 values"):
        table("one two", ("a", "b"), ("a",))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 300), seed=st.integers(0, 5), language=st.sampled_from(["both", "en", "zh"]))
def test_fact_tables_have_n_facts_that_do_not_contradict(n: int, seed: int, language: str) -> None:
    facts = fact_table(n, seed=seed, language=language)
    assert len(facts) == n
    assert len({fact.prompt for fact in facts}) == n
    for fact in facts:
        assert fact.answer in fact.choices
        assert fact.statement.startswith(fact.prompt + fact.answer)
        assert fact.prompt.startswith(fact.subject)


def test_facts_are_drawn_evenly() -> None:
    facts = fact_table(4000, seed=1)
    places = Counter(fact.choices.index(fact.answer) for fact in facts)
    assert all(400 < places[i] < 600 for i in range(8))


def test_stories_tell_every_fact_often_and_nothing_against_it() -> None:
    facts = fact_table(100, seed=2)
    told = [story(i, seed=2, facts=100) for i in range(2000)]
    for fact in facts:
        mentions = [text for text in told if fact.prompt in text]
        assert len(mentions) > 15
        assert all(fact.statement in text for text in mentions)


def test_each_story_tells_two_facts_about_its_hero() -> None:
    facts = fact_table(160, seed=0)
    for i in range(200):
        told = [fact for fact in facts if fact.statement in story(i, facts=160)]
        assert len(told) == 2
        assert len({fact.subject for fact in told}) == 1


def test_few_facts_still_make_stories() -> None:
    assert all(story(i, facts=1, language="both") for i in range(50))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_more_facts_than_people_are_refused_in_one_line(language: str) -> None:
    with pytest.raises(UserError, match="choose between 0 and"):
        open_corpus(f"stories:facts=1000000,language={language}")


def test_unknown_language_is_refused() -> None:
    with pytest.raises(UserError, match="both, en, zh"):
        open_corpus("stories:language=fr")


def test_stories_corpus_is_endless_and_numbered() -> None:
    corpus = open_corpus("stories:facts=8,language=en", seed=5)
    documents = iter(corpus)
    assert next(documents).text == story(0, seed=5, facts=8, language="en")
    assert next(documents).source == "stories/1"
    assert corpus.endless
    assert corpus.name == "stories:facts=8,language=en"


def test_stories_fingerprint_follows_what_shapes_them() -> None:
    prints = {
        open_corpus(spec, seed=seed).fingerprint
        for spec in ("stories", "stories:facts=9", "stories:language=en")
        for seed in (0, 1)
    }
    assert len(prints) == 6
    assert open_corpus("stories").fingerprint in prints
