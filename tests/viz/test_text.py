"""Text on a page is the text that was given, cut where it was cut, and never markup."""

import re
from html import unescape
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Document, Tokenizer
from minideepseek.data.quality import assess
from minideepseek.viz import cards, cuts, parts, verdicts


def pieces_on(page):
    return [unescape(piece.replace("<br>", "")) for piece in re.findall(r"<code [^>]*>(.*?)</code>", page, re.DOTALL)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8), max_size=6))
def test_every_piece_stands_on_a_ground_of_its_own(pieces):
    assert pieces_on(cuts({"a row": pieces})) == pieces


def test_neighbours_differ_in_ground():
    grounds = re.findall(r"background:(#\w+)'>", cuts({"row": list("abcdefgh")}))
    assert all(one != other for one, other in pairwise(grounds))


def test_half_a_character_shows_as_its_bytes_and_a_whole_one_as_itself():
    assert pieces_on(cuts({"row": ["猫".encode()[:2], "猫".encode()[2:], "猫".encode()]})) == ["e7 8c", "ab", "猫"]


def test_half_a_character_of_a_tokenizer_shows_as_its_bytes():
    tokenizer = Tokenizer.train(["abc"], vocab_size=264)
    assert pieces_on(cuts({"row": tokenizer.tokens(tokenizer.encode("é"))})) == ["c3", "a9"]


def test_blanks_and_line_breaks_can_be_seen():
    assert pieces_on(cuts({"row": [" word", "  ", "\n", "\t"]})) == [" word", "··", "↵", "⇥"]


def test_text_is_never_markup():
    danger = "<script>alert(1)</script>"
    document = Document(text=danger, source=danger)
    pages = (cuts({danger: [danger]}, note=danger), parts([(danger, danger)], note=danger), cards([document]))
    assert not any("<script>" in page for page in (*pages, verdicts({danger: assess(danger)})))


def test_equal_roles_share_a_ground_and_are_named_once():
    page = parts([("mark", "x"), ("text", "y"), ("mark", "z")])
    assert pieces_on(page) == [" mark ", " text ", "x", "y", "z"]
    grounds = re.findall(r"background:(#\w+)'>", page)
    assert grounds[0] == grounds[2] == grounds[4] != grounds[1] == grounds[3]


def test_a_card_says_that_a_text_goes_on():
    assert "abc …" in cards([Document(text="abcdef", source="s")], characters=3)
    assert "…" not in cards([Document(text="abc", source="s")], characters=3)


def test_verdicts_mark_the_signals_that_object_and_no_others():
    signals = assess("1 2 3\n" * 30)
    page = verdicts({"numbers": signals})
    assert page.count("✗") == sum(not signal.ok for signal in signals) > 0


def test_a_page_reads_as_its_words_where_it_is_not_shown():
    assert repr(cuts({"label": ["two", " words"]})).split() == ["label", "two", "words"]
