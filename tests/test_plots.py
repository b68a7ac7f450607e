"""Figures say what they show, and attention views work offline and are the same every time."""

import json
import re
import sys

import pytest
import torch

from utils import plots

VALUES = torch.tensor([[0.5, -2.0, 0.0], [1.0, 0.25, 0.0]])
FIGURES = {
    "imshow": lambda: plots.imshow(VALUES, "Title", x="x axis", y="y axis", x_labels=["a", "a", "b"]),
    "panels": lambda: plots.imshow(torch.stack([VALUES] * 3), "Title", x="x axis", y="y axis", panels=["q", "k", "v"]),
    "line": lambda: plots.line(
        {"one": [1, 2], "two": [2, 1]}, "Title", "x axis", "y axis", bands={"one": ([0, 1], [2, 3])}
    ),
    "bar": lambda: plots.bar([1.0, -2.0], "Title", "x axis", "y axis", intervals=([0.5, -3.0], [1.5, -1.0])),
    "scatter": lambda: plots.scatter(
        [1, 2], [2, 1], "Title", "x axis", "y axis", labels=["L0H0", "L0H1"], diagonal=True
    ),
    "heads": lambda: plots.heads(VALUES, "Title"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_title_and_axes(name):
    figure = FIGURES[name]()
    assert figure.layout.title.text == "Title"
    text = figure.to_json()
    assert ("head" in text and "layer" in text) if name == "heads" else ("x axis" in text and "y axis" in text)


def test_diverging_colours_are_centred_at_zero():
    axis = FIGURES["imshow"]().layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-2.0, 2.0)
    axis = plots.imshow(VALUES.abs(), "Title", "x", "y", sequential=True).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, 2.0)


def test_panels_keep_their_names_and_numbers():
    figure = FIGURES["panels"]()
    assert [a.text for a in figure.layout.annotations] == ["q", "k", "v"]
    assert all((torch.tensor(trace.z) == VALUES.double()).all() for trace in figure.data)


def test_every_panel_has_its_own_name_when_they_fill_two_rows():
    names = ["output", "query", "key", "value", "pattern"]
    values = torch.stack([torch.full((2, 2), float(i)) for i in range(5)])
    figure = plots.imshow(values, "Title", x="x", y="y", panels=names)
    middle = {  # name → where its panel is
        note.text: (note.x, note.y) for note in figure.layout.annotations
    }
    for number, trace in enumerate(figure.data):
        axis = trace.xaxis.replace("x", "xaxis"), trace.yaxis.replace("y", "yaxis")
        (left, right), (_, top) = figure.layout[axis[0]].domain, figure.layout[axis[1]].domain
        assert trace.z[0][0] == number
        assert middle[names[number]] == pytest.approx(((left + right) / 2, top), abs=0.02)


def test_circuit_draws_every_head_where_it_writes():
    heads = [
        {"name": "L1H0", "layer": 1, "at": "S2", "reads": "S1", "effect": 0.5},
        {"name": "L3H1", "layer": 3, "at": "END", "reads": "S2", "effect": -0.25},
        {"name": "L3H2", "layer": 3, "at": "END", "reads": "END", "effect": 0.1},
    ]
    figure = plots.circuit(heads, ["S1", "S2", "END"], "Title")
    boxes = {note.text: note for note in figure.layout.annotations if note.text.startswith("L")}
    assert {name: (round(box.x), box.y) for name, box in boxes.items()} == {
        "L1H0": (1, 1), "L3H1": (2, 2), "L3H2": (2, 2)
    }  # fmt: skip
    assert boxes["L3H1"].x != boxes["L3H2"].x and boxes["L3H1"].bordercolor != boxes["L3H2"].bordercolor
    arrows = [note for note in figure.layout.annotations if note.showarrow]
    assert [arrow.ax for arrow in arrows] == [0, 1, 2]


def test_intervals_are_drawn_around_the_bars():
    error = FIGURES["bar"]().data[0].error_y
    assert list(error.array) == [0.5, 1.0] and list(error.arrayminus) == [0.5, 1.0]


def attention():
    patterns = torch.tril(torch.ones(2, 3, 3)) / torch.tensor([1, 2, 3])[:, None]
    return plots.attention(patterns, ["<|bos|>", "</script>", " a"], "Heads <b>", ["L0H0", "L9H6"])


def test_attention_views_are_deterministic_and_escaped():
    view = str(attention())
    assert view == str(attention()) and repr(attention()) == "AttentionView('Heads <b>')"
    assert "Heads &lt;b&gt;" in view
    assert view.count("</script>") == 1, "a token cannot end the script element"
    data = json.loads(re.search(r"AttentionHeads, (\{.*\})\); else", view)[1])
    assert data["tokens"] == ["<|bos|>", "</script>", " a"] and data["attentionHeadNames"] == ["L0H0", "L9H6"]
    assert data["attention"][1][2] == [0.333, 0.333, 0.333]


def test_library_goes_into_one_cell_and_again_when_that_cell_is_run_again(monkeypatch):
    monkeypatch.setattr(plots, "_library_cell", None)
    first, other = attention(), plots.attention(torch.ones(1, 1, 1), ["a"], "Another")
    shown = [view._repr_html_() for view in (first, other, first)]
    assert ["circuitsvis-library" in html for html in shown] == [True, False, True]
    assert shown[0].count("</script>") == 2, "nothing in the library ends its script element early"
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert "circuitsvis-library" in other._repr_html_()


def test_repeated_tokens_stay_apart_as_labels():
    assert plots.numbered([" the", " cat", " the", " "]) == ["0 the", "1 cat", "2 the", "3 ␣"]
