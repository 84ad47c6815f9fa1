"""The chain of modules as a picture: every word and every box is there."""

from minideepseek.viz.ahead import chain_diagram


def test_the_chain_shows_what_is_read_and_what_is_answered() -> None:
    figure = chain_diagram(["t1", "t2", "t3", "t4", "t5"], title="One token further")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [texts.count(f"t{i}") for i in range(1, 6)] == [1, 3, 4, 3, 1]
    assert any("the same head" in text for text in texts)
    assert figure.heading == "One token further"
