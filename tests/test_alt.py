"""Every figure says in words what it shows, and the words are true."""

import html
import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import plotly
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch

from utils import plots
from utils.circuits.graph import Edge
from utils.plots.alt import alt_text, attention_alt
from utils.plots.specifications import specification_curve

SOLUTIONS = Path(__file__).resolve().parents[1] / "solutions"
PLOTLY = "application/vnd.plotly.v1+json"
TABLE = pd.DataFrame({"result": [0.3, -0.1, 0.2], "prompt": ["a", "b", "a"]})
HEADS = [
    {"name": "L1H0", "layer": 1, "at": "S2", "reads": "S1", "effect": 0.5},
    {"name": "L3H1", "layer": 3, "at": "END", "reads": "S2", "effect": -0.25},
]
FIGURES = {  # a figure, and what its description must say
    "heads": (
        lambda: plots.heads([[0.5, -2.0], [1.0, 0.25]], "Who writes"),
        "Heatmap: Who writes. Across: head; up: layer. 2 rows by 2 columns; largest 1 at layer 1, head 0, "
        "smallest −2 at layer 0, head 1.",
    ),
    "panels": (
        lambda: plots.imshow(
            torch.arange(16.0).reshape(4, 2, 2), "Four", x="head", y="layer", panels=list("abcd"), columns=2
        ),
        "4 heatmaps: Four. Across: head; up: layer. a: 2 rows by 2 columns; largest 3 at layer 1, head 1, smallest 0 "
        "at layer 0, head 0. b: 2 rows by 2 columns; largest 7",
    ),
    "gaps": (lambda: plots.imshow([[float("nan")]], "Nothing", x="x", y="y"), "1 row by 1 column, none with a value."),
    "tokens": (
        lambda: plots.imshow([[0.0, 1.0]], "Where?", x="position", y="layer", x_labels=[" Mary", "<b>"]),
        "Heatmap: Where? Across: position; up: layer. 1 row by 2 columns; largest 1 at layer 0, '<b>', smallest 0",
    ),
    "line": (
        lambda: plots.line({"lens": [1, 3, 2]}, "Stream", "layer", "logits"),
        "Line chart: Stream. Across: layer; up: logits. lens: 3 points; largest 3 at 1, smallest 1 at 0.",
    ),
    "bar": (
        lambda: plots.bar({"x": [1.0, -2.0], "y": [0, 5]}, "Bars", "head", "logits", x_labels=["L0H0", "L0H1"]),
        "x: 2 bars; largest 1 at L0H0, smallest −2 at L0H1. y: 2 bars; largest 5 at L0H1, smallest 0 at L0H0.",
    ),
    "scatter": (
        lambda: plots.scatter([1, 2], [2, 1], "Both", "one", "other", labels=["L0H0", "L0H1"]),
        "Points: Both. Across: one; up: other. 2 points; largest 2 at L0H0, smallest 1 at L0H1.",
    ),
    "intervals": (
        lambda: plots.intervals({"g": [0.2, 0.9]}, "Gaps", "nats", {"g": ["done", "been"]}, {"g": ([0, 0.5], [1, 1])}),
        "Points: Gaps. Across: nats. g: 2 points; largest 0.9 at been, smallest 0.2 at done.",
    ),
    "circuit": (
        lambda: plots.circuit(HEADS, ["S1", "S2", "END"], "So far"),
        "Graph: So far. Heads: L1H0, L3H1. Effects: L1H0: +0.50; L3H1: −0.25.",
    ),
    "graph": (
        lambda: plots.graph([Edge((1, 0), "S2", "logits", "END", 0.5)], ["S2", "END"], "Paths"),
        "Graph: Paths. Heads: L1H0",
    ),
    "mosaic": (
        lambda: plots.mosaic({"one": [[0.1, 0.2]], "other": [[0.4], [0.3]]}, "Models"),
        "one: 1 row by 2 columns; largest 0.2 at layer 0, head 1, smallest 0.1 at layer 0, head 0. other: 2 rows by 1 column",
    ),
    "specifications": (
        lambda: specification_curve(TABLE, "result", ["prompt"], "Choices", "gap"),
        "Points: Choices. Across: specification, from the lowest result to the highest; up: gap.",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_carry_their_description(name):
    make, words = FIGURES[name]
    figure = make()
    assert words in figure.layout.meta["alt"]
    assert "<" not in figure.layout.meta["alt"] or name == "tokens"


@pytest.mark.parametrize("name", FIGURES)
def test_a_saved_figure_is_described_in_the_same_words(name):
    """Notebooks keep arrays as text. What a figure says of itself is left out, so that it is derived again."""
    figure = FIGURES[name][0]()
    saved = json.loads(figure.to_json())
    del saved["layout"]["meta"]
    assert alt_text(pio.from_json(json.dumps(saved), skip_invalid=True)) == figure.layout.meta["alt"]


@pytest.mark.skipif(
    plotly.__version__ < "6", reason="saved by plotly 6 or later, whose packed numbers plotly 5 does not read"
)
@pytest.mark.parametrize("path", sorted(SOLUTIONS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_figure_of_the_chapters_is_described(path):
    """Their own titles, and values that are in them: the website reads these words out."""
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    saved = [output.data[PLOTLY] for output in outputs if PLOTLY in output.get("data", {})]
    for figure in saved:
        told = alt_text(pio.from_json(json.dumps(figure), skip_invalid=True))
        assert html.unescape(figure["layout"]["title"]["text"]).rstrip(".") in told
        assert len(told) > 80 and "no values" not in told and "nan" not in told.lower().split()


def test_own_words_are_kept():
    figure = plots.bar([1.0], "Title", "x", "y").update_layout(meta={"alt": "In my own words."})
    assert alt_text(figure) == "In my own words."


def test_figures_made_elsewhere_are_described():
    values = np.array([0.0, 1.0, 5.0])
    assert "3 values from 0 to 5, median 1." in alt_text(px.histogram(x=values, title="Spread"))
    assert "3 values from 0 to 5, median 1." in alt_text(px.strip(x=values))
    assert alt_text(go.Figure()) == "Points."
    many = go.Figure([go.Scatter(y=values + i) for i in range(9)])
    assert "9 series with values from 0 to 13." in alt_text(many)


def test_attention_views_say_where_each_head_looks():
    patterns = [[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]]
    told = attention_alt("Two heads", ["L0H0", "L0H1"], [" John", " <to>"], patterns)
    assert told == (
        "Attention patterns: Two heads. Over 2 tokens; from the last one, L0H0 looks at '<to>' (0.75), "
        "L0H1 looks at 'John' (0.5)."
    )
    assert "&lt;to&gt;" in str(plots.attention(patterns, [" John", " <to>"], "Two heads", ["L0H0", "L0H1"]))
