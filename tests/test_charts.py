"""Charts show their numbers, as SVG that is safe to put into any page."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from vljax.charts import Bars, bar_chart, heat_map, new_figure, save, svg


def test_heights_of_bars_are_their_counts():
    axes = bar_chart(Bars([2, 0, 4], ["a", "b", "c"], [])).axes[0]
    bars = axes.containers[0]
    np.testing.assert_allclose([bar.get_height() for bar in bars], [2, 0, 4])
    assert axes.texts[0].get_text() == "4"
    assert bar_chart(Bars([0, 0], ["a", "b"], [])).axes[0].texts[0].get_text() == "0"


def test_a_small_count_has_a_visible_bar():
    bars = bar_chart(Bars([1, 0, 100_000], ["a", "b", "c"], [])).axes[0].containers[0]
    assert bars[0].get_height() > 1000
    assert bars[1].get_height() == 0


def test_ticks_that_do_not_fit_are_left_out():
    ticks = [(float(i), f"{i * 1_000_000:,}") for i in range(30)]
    labels = bar_chart(Bars([1] * 29, [""] * 29, ticks)).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["0", "10,000,000", "20,000,000"]


def test_a_heat_map_has_a_cell_where_a_count_is():
    figure = heat_map([[0, 3], [0, 0]], ["lo", "hi"], ["1", "", "4"])
    (cell,) = figure.axes[0].patches
    assert cell.get_xy() == (1, 0)
    drawn = svg(figure, "sizes")
    assert "<title>hi x lo: 3</title>" in drawn
    assert ">4</text>" in drawn


def test_an_svg_is_self_contained_and_has_the_colours_of_the_page():
    drawn = svg(bar_chart(Bars([1, 5], ["a & b", "<c>"], [(0.5, "<x>")])), '"counts"')
    assert not re.search(r"https?:|//|url\(|@import|<style|xlink| id=", drawn)
    root = ElementTree.fromstring(drawn)
    assert (root.tag, root.attrib["aria-label"], root.attrib["role"]) == ("svg", '"counts"', "img")
    assert [title.text for title in root.iter("title")] == ["a & b: 1", "<c>: 5"]
    assert "<x>" in [text.text for text in root.iter("text")]
    assert "var(--mark)" in drawn
    assert "var(--soft)" in drawn
    assert "#0072b2" not in drawn.lower()


def test_characters_without_a_glyph_are_one_line_and_no_warning(tmp_path, caplog, recwarn):
    figure = new_figure(2, 1)
    figure.text(0, 0.5, "नमस्ते \U0001f9a5 \x07")
    path = save(figure, tmp_path / "x.png")
    assert path.exists()
    assert not recwarn.list
    assert caplog.messages == [f"{path}: characters that its font does not have are drawn as boxes"]


def test_other_warnings_of_matplotlib_are_kept(tmp_path, monkeypatch):
    figure = new_figure(2, 1)
    monkeypatch.setattr(
        figure, "savefig", lambda *_, **__: warnings.warn("too small", stacklevel=1)
    )
    with pytest.warns(UserWarning, match="too small"):
        save(figure, tmp_path / "x.png")
