"""Figures show the numbers that they are given, whatever the numbers are."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.plot_cases import INF, NAN, VALUES
from utils import plots
from utils.plots import inputs as plot_inputs

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


def test_a_figure_carries_the_style_of_what_it_draws_only():
    template = FIGURES["imshow"]().layout.template.to_plotly_json()
    assert template["layout"]["xaxis"]["gridcolor"] and template["layout"]["font"]["size"] == 13
    assert len(json.dumps(template)) < 3500 and not {"scene", "geo"} & template["layout"].keys()


def test_diverging_colors_are_centered_at_zero():
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
        "L1H0": (1, 1),
        "L3H1": (2, 2),
        "L3H2": (2, 2),
    }
    assert boxes["L3H1"].x != boxes["L3H2"].x and boxes["L3H1"].bordercolor != boxes["L3H2"].bordercolor
    arrows = [note for note in figure.layout.annotations if note.showarrow]
    assert [arrow.ax for arrow in arrows] == [0, 1, 2]


def test_intervals_are_drawn_around_the_bars():
    error = FIGURES["bar"]().data[0].error_y
    assert list(error.array) == [0.5, 1.0] and list(error.arrayminus) == [0.5, 1.0]


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[1.0, -2.0]]).bfloat16(),
        torch.tensor([[1.0, -2.0]]).half(),
        torch.tensor([[1.0, -2.0]]).double(),
        torch.tensor([[1.0, -2.0]], requires_grad=True),
        torch.tensor([[1, -2]]),
        torch.tensor([[1, -2]], dtype=torch.int8),
        [[1, -2]],
        [[1.0, -2.0]],
        ((1, -2),),
        np.array([[1, -2]], dtype=np.float16),
        pd.DataFrame([[1, -2]]),
        [torch.tensor([1.0, -2.0]).bfloat16()],
        [[torch.tensor(1.0, requires_grad=True), torch.tensor(-2.0)]],
        [[torch.tensor(1), -2.0]],
        [np.array([1, -2])],
    ],
)
def test_any_kind_of_numbers(values):
    figure = plots.imshow(values, "t", "x", "y")
    assert np.asarray(figure.data[0].z).tolist() == [[1, -2]]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2, 2)
    row = values.iloc[0] if isinstance(values, pd.DataFrame) else values[0]
    for drawn in (
        plots.bar(row, "t", "x", "y"),
        plots.line({"a": row}, "t", "x", "y"),
        plots.scatter(row, row, "t", "x", "y"),
    ):
        assert list(drawn.data[0].y) == [1, -2]


def test_booleans_and_missing_values():
    assert np.asarray(plots.imshow(torch.tensor([[True, False]]), "t", "x", "y").data[0].z).tolist() == [[1, 0]]
    for values in ([1.0, None], pd.Series([1, None], dtype="Int64"), np.ma.masked_array([1.0, 2.0], [False, True])):
        high, gap = plots.bar(values, "t", "x", "y").data[0].y
        assert high == 1 and np.isnan(gap)


CELLS = arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(width=32))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(CELLS)
def test_the_color_scale_is_as_large_as_the_largest_finite_cell(values):
    sizes = np.abs(plot_inputs.as_array(values))
    sizes = sizes[np.isfinite(sizes)]
    limit = sizes.max() if sizes.size and sizes.max() > 0 else 1.0
    axis = plots.imshow(values, "t", "x", "y").layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-limit, limit)
    axis = plots.imshow(values, "t", "x", "y", sequential=True).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, limit)
    assert 0 < plots.mosaic({"a": values}, "t").layout.coloraxis.cmax < INF


@pytest.mark.parametrize("limit", [0, NAN, INF, -1.0])
def test_a_limit_that_is_no_scale_is_replaced(limit):
    assert plots.imshow(VALUES, "t", "x", "y", limit=limit).layout.coloraxis.cmax == 2.0
    assert plots.imshow(VALUES, "t", "x", "y", limit=0.5).layout.coloraxis.cmax == 0.5


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_cells_that_are_not_finite_look_unlike_zero(bad):
    table = torch.tensor([[1.0, bad]])
    figures = [plots.imshow(table, "t", "x", "y"), plots.heads(table, "t"), plots.mosaic({"a": table}, "t")]
    assert {figure.layout.plot_bgcolor for figure in figures} == {plot_inputs.NOT_FINITE}
    assert plots.imshow(VALUES, "t", "x", "y").layout.plot_bgcolor is None


def test_points_that_are_not_finite_do_not_take_labels_and_lines_away():
    figure = plots.scatter(
        [0, 1, NAN, 3], [0, 1, 2, INF], "t", "x", "y", labels=list("abcd"), diagonal=True, slopes={"s": 2.0}
    )
    assert {"a", "b"} <= set(figure.data[0].text)
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1) == (0, 1) and list(figure.data[1].x) == [0, 1] and list(figure.data[1].y) == [0, 2]
    assert not plots.scatter([NAN], [1], "t", "x", "y", diagonal=True).layout.shapes
