import pytest

from minideepseek import viz


def test_the_diagram_reads_the_latents_that_were_chosen() -> None:
    few, more = (viz.index_diagram(title="t", chosen=chosen) for chosen in ((2, 5), (2, 5, 9)))
    colours = [[patch.get_facecolor() for patch in figure.axes[0].patches] for figure in (few, more)]
    teal = colours[0][2 * 3 + 2]  # key, score and latent of each token in turn
    assert [one.count(teal) for one in colours] == [2, 3]


@pytest.mark.parametrize("picked", [[1], [0, 3]])
def test_what_a_query_chose_has_a_colour_of_its_own_in_every_panel(picked: list[int]) -> None:
    chosen = [i in picked for i in range(4)]
    values = [1.0, 4.0, 0.0, 2.0]
    figure = viz.selection({"score": values, "share": values}, chosen, title="t", marks={"here": 1})
    for axes in figure.axes:
        assert [bar.get_height() for bar in axes.patches] == values
        assert len({bar.get_facecolor() for bar, there in zip(axes.patches, chosen, strict=True) if there}) == 1
        assert len({bar.get_facecolor() for bar in axes.patches}) == 2
        assert [text.get_text() for text in axes.texts] == ["here"]
