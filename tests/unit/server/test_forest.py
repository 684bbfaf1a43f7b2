"""Forest plots: every row is drawn or said to be withheld, and no number of a label becomes markup."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from server.report.forest import ForestRow, forest, forest_svg
from server.report.html import page
from server.report.sections import Section


def rows():
    return [
        ForestRow("north", 1.4, 1.1, 1.8, weight=60),
        ForestRow("coast", 0.8, 0.1, 40.0, weight=5),
        ForestRow("<b>valley</b>", None, None, None),
        ForestRow("fixed effect", 1.3, 1.05, 1.6, pooled=True),
    ]


@pytest.mark.parametrize("log", [True, False])
def test_rows_are_drawn_with_their_numbers_and_withheld_ones_are_named(log):
    svg = forest_svg(forest("ratio", rows(), "hazard ratio", reference=1.0, log=log), sites=("north", "coast"))
    tree = ElementTree.fromstring(svg)
    text = " ".join(tree.itertext())
    for words in ("north", "coast", "fixed effect", "withheld", "<b>valley</b>", "hazard ratio"):
        assert words in text
    assert ("1.40 (1.10 to 1.80)" if log else "1.400 (1.100 to 1.800)") in text
    assert "#0072B2".lower() in svg.lower()
    # The same figure gives the same text.
    assert svg == forest_svg(forest("ratio", rows(), "hazard ratio", reference=1.0, log=log), sites=("north", "coast"))


def test_nothing_known_or_an_interval_without_end_is_still_a_drawing():
    empty = forest("nothing", [ForestRow("north", None, None, None)], "difference", reference=0.0)
    assert "withheld" in forest_svg(empty)
    wide = forest(
        "wide", [ForestRow("north", 1.0, 1e-30, 1e30), ForestRow("coast", -1.0, 0, 0)], "x", reference=1, log=True
    )
    assert "<svg" in forest_svg(wide)


def test_the_report_draws_a_forest_among_its_figures(tmp_path):
    from test_report import make_run, read_run

    run = read_run(make_run(tmp_path))
    html = page(
        run, lambda step, result: [Section("s", [forest("A forest", rows(), "ratio", reference=1.0, log=True)])]
    )
    assert "A forest" in html
    assert "fixed effect" in html
    assert "<b>valley" not in html
