"""A specification curve as a figure, a drawing and a widget."""

import itertools
import re

import pandas as pd
import pytest

from utils import widgets
from utils.plots.specifications import specification_curve, specification_drawing

CHOICES = ["prefix", "measure"]


@pytest.fixture
def table():
    rows = [
        {"prefix": p, "measure": m}
        for p, m in itertools.product(["<|im_start|>", "nothing"], ["gap", "strength", "slope"])
    ]
    return pd.DataFrame(rows).assign(result=[0.3, -0.1, 0.2, -0.4, 0.0, 0.1])


def test_points_rise_and_marks_stand_below_them(table):
    figure = specification_curve(table, "result", CHOICES, "Every <b>choice</b>", "gap")
    curve, *marks = figure.data
    assert list(curve.y) == sorted(table["result"]) and list(curve.x) == list(range(6))
    assert len(marks) == 5 and sum(len(mark.x) for mark in marks) == 2 * len(table)
    order = table.sort_values("result", ignore_index=True)
    labels = list(figure.layout.yaxis2.ticktext)
    assert labels[1] == "prefix: nothing" and "&lt;b&gt;" in figure.layout.title.text
    for i, mark in enumerate(marks):
        assert set(mark.y) == {i}
        choice, option = (
            ("prefix", ["<|im_start|>", "nothing"][i]) if i < 2 else ("measure", ["gap", "strength", "slope"][i - 2])
        )
        assert list(mark.x) == order.index[order[choice] == option].tolist()


def test_positive_and_negative_points_differ_in_color(table):
    curve = specification_curve(table, "result", CHOICES, "t", "y").data[0]
    colors = dict(zip(curve.y, curve.marker.color, strict=True))
    assert len(set(colors.values())) == 2 and colors[0.3] == colors[0.1] != colors[-0.4] == colors[0.0]


def test_the_drawing_marks_what_is_chosen(table):
    drawing = specification_drawing(table, "result", table["prefix"] == "nothing")
    assert drawing.body.count("<circle") == 6 and drawing.body.count('r="3"') == 3
    assert drawing.alt == "3 of 6 specifications are marked, from -0.40 to +0.30."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: (t.iloc[:0], "result", CHOICES), "no rows"),
        (lambda t: (t, "gap", CHOICES), "no column 'gap'"),
        (lambda t: (t, "result", ["pronoun"]), "no column 'pronoun'"),
        (lambda t: (t, "result", []), "no choices named"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused(table, change, words):
    with pytest.raises(ValueError, match=words):
        specification_curve(*change(table), "t", "y")


def test_the_browser_counts_what_is_left(table):
    shown = widgets.specification_browser(table, "result", CHOICES)
    prefix, measure = shown.controls
    assert list(prefix.options) == ["any", "<|im_start|>", "nothing"]
    assert "6 of 6 specifications, 3 above zero; lowest -0.40, median +0.05, highest +0.30" in shown.message.value
    prefix.value = "nothing"
    assert "3 of 6 specifications, 1 above zero; lowest -0.40, median +0.00, highest +0.10" in shown.message.value
    measure.value = "gap"
    assert (
        "1 of 6 specifications, 0 above zero" in shown.message.value
        and len(re.findall('r="3"', shown.figure.body)) == 1
    )
    prefix.value = measure.value = "any"
    assert "6 of 6" in shown.message.value
