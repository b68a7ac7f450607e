"""Labels and attention views are shown as text, and views that are shown twice are drawn twice."""

import html
import json
import re
import sys

import pytest
import torch

from tests.chromium import BROWSER, chromium
from tests.plot_cases import INF, NAN, VALUES
from utils import plots
from utils.plots import attention_views
from utils.plots import inputs as plot_inputs

# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [[" the", " cat", " the"], [1, 2, 1], [True, False, True], ["", "", ""], [1, NAN, 2]]
)
def test_items_with_the_same_label_stay_apart(labels):
    drawn = [
        plots.bar([1.0, 2.0, 3.0], "t", "x", "y", x_labels=labels),
        plots.bar({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}, "t", "x", "y", x_labels=labels, stacked=True),
        plots.line([1.0, 2.0, 3.0], "t", "x", "y", x_labels=labels),
    ]
    for figure in drawn:
        assert all(list(trace.x) == [0, 1, 2] for trace in figure.data)
        assert list(figure.layout.xaxis.ticktext) == [str(label) for label in labels]
        assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    figure = plots.intervals({"a": [1, 2, 3], "b": [4]}, "t", "x", labels={"a": labels, "b": labels[:1]})
    assert [list(trace.y) for trace in figure.data] == [[0, 1, 2], [3]]
    assert list(figure.layout.yaxis.ticktext) == [str(label) for label in [*labels, labels[0]]]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "the first group is on top"


def test_numbers_that_differ_keep_their_place():
    figure = plots.line([1.0, 2.0, 3.0], "t", "x", "y", x_labels=[1, 2, 64])
    assert list(figure.data[0].x) == [1, 2, 64] and figure.layout.xaxis.ticktext is None
    band = plots.line({"a": [1, 2]}, "t", "x", "y", x_labels=torch.tensor([3.0, 4.0]), bands={"a": ([0, 1], [2, 3])})
    assert list(band.data[0].x) == [3, 4, 4, 3]


HEAD = {"name": "L0H0", "layer": 0, "at": "S", "reads": "S", "effect": 1.0}
MARKUP = ["<s>", "<br>", "&amp;", "<b>x</b>", "$a$ $b$", "%{x}", '<a href="x">', "<!--"]
BOTH = [0.1, 0.2], [0.9, 0.8]
SHOWN = {
    "imshow": lambda m: plots.imshow(VALUES, m, m, m, [m] * 3, [m] * 2, unit=m),
    "panels": lambda m: plots.imshow(torch.stack([VALUES] * 2), m, m, m, panels=[m, m]),
    "line": lambda m: plots.line({m: [0.5, 0.5]}, m, m, m, x_labels=[m, m], bands={m: BOTH}),
    "bar": lambda m: plots.bar({m: [0.5, 0.5]}, m, m, m, x_labels=[m, m], intervals=BOTH),
    "scatter": lambda m: plots.scatter(
        [1, 2], [1, 2], m, m, m, labels=[m, m], color=[m, "b"], color_name=m, slopes={m: 1}
    ),
    "intervals": lambda m: plots.intervals({m: [0.5, 0.5]}, m, m, {m: [m, m]}, {m: BOTH}, band=(0, 1), band_name=m),
    "heads": lambda m: plots.heads(VALUES, m, unit=m),
    "circuit": lambda m: plots.circuit([HEAD | {"name": m, "at": m}], [m, "S"], m),
    "mosaic": lambda m: plots.mosaic({m: VALUES}, m, unit=m),
}


def texts(part):
    """Every string of a figure's JSON."""
    if isinstance(part, dict):
        return [text for value in part.values() for text in texts(value)]
    return [text for value in part for text in texts(value)] if isinstance(part, list) else [part]


@pytest.mark.parametrize("markup", MARKUP)
@pytest.mark.parametrize("name", SHOWN)
def test_text_that_looks_like_markup_is_shown(name, markup):
    figure = json.loads(SHOWN[name](markup).to_json())
    del figure["layout"]["meta"]  # the description, which plotly does not show: plain text
    found = [text for text in texts(figure) if isinstance(text, str)]
    templates = [trace.pop("hovertemplate", "") for trace in figure["data"]]  # plotly's own: <b>%{hovertext}</b><br>…
    escaped = plot_inputs.as_text(markup)
    assert not any(markup in text.replace(escaped, "") for text in texts(figure) if isinstance(text, str))
    assert not any(f"{markup}=" in template or f"={markup}" in template for template in templates)
    assert any(markup == html.unescape(text) for text in found), "what plotly shows is the text itself"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.imshow(VALUES, "t", "x", "y", x_labels=["a"]), "1 labels for 3 columns"),
        (lambda: plots.imshow(VALUES, "t", "x", "y", y_labels=["a"] * 3), "3 labels for 2 rows"),
        (lambda: plots.imshow(VALUES[None], "t", "x", "y", panels=["a", "b"]), "2 panel names for 1 panels"),
        (lambda: plots.imshow(VALUES[None], "t", "x", "y"), r"\(1, 2, 3\); a figure needs 2 axes"),
        (lambda: plots.imshow(VALUES, "t", "x", "y", panels=["a"]), r"\(2, 3\); a figure needs 3 axes"),
        (lambda: plots.imshow([], "t", "x", "y"), r"\(0,\)"),
        (lambda: plots.imshow(torch.ones(0, 3), "t", "x", "y"), r"\(0, 3\).*none of them empty"),
        (lambda: plots.imshow([[1, 2], [1]], "t", "x", "y"), r"different shapes, \(2,\) and \(1,\)"),
        (lambda: plots.heads(torch.ones(3), "t"), r"\(3,\)"),
        (lambda: plots.line([], "t", "x", "y"), "empty"),
        (lambda: plots.line({}, "t", "x", "y"), "nothing to draw"),
        (lambda: plots.line({"a": []}, "t", "x", "y"), "the line 'a' has shape"),
        (lambda: plots.line([1, 2], "t", "x", "y", x_labels=["a"]), "1 labels for 2 points"),
        (lambda: plots.line({"a": [1], "b": [1, 2]}, "t", "x", "y", x_labels=["a"]), "1 labels for 2 points"),
        (lambda: plots.line({"a": [1]}, "t", "x", "y", bands={"b": ([0], [1])}), "the line of a band is 'b'"),
        (lambda: plots.line({"a": [1]}, "t", "x", "y", bands={"a": ([0, 1], [1, 2])}), "2 bounds for 1 points"),
        (lambda: plots.bar([], "t", "x", "y"), "empty"),
        (lambda: plots.bar([1, 2], "t", "x", "y", x_labels="abc"), "3 labels for 2 bars"),
        (lambda: plots.bar({"a": [1, 2], "b": [1]}, "t", "x", "y"), "1 bars of 'b' for 2 bars of the first group"),
        (lambda: plots.bar([1], "t", "x", "y", intervals=([0, 1], [1, 2])), "2 bounds for 1 bars"),
        (lambda: plots.bar({"a": [1], "b": [1]}, "t", "x", "y", intervals=([0], [1])), "one group only"),
        (lambda: plots.scatter([], [], "t", "x", "y"), "empty"),
        (lambda: plots.scatter([1], [1, 2], "t", "x", "y"), "2 y values for 1 x values"),
        (lambda: plots.scatter([1, 2], [1, 2], "t", "x", "y", labels=["a"]), "1 labels for 2 points"),
        (lambda: plots.scatter([1, 2], [1, 2], "t", "x", "y", color=[1.0]), "1 colors for 2 points"),
        (lambda: plots.intervals({}, "t", "x", {}), "nothing to draw"),
        (lambda: plots.intervals({"a": []}, "t", "x", {"a": []}), "the intervals 'a' has shape"),
        (lambda: plots.intervals({"a": [1, 2]}, "t", "x", {"a": ["x"]}), "1 labels of 'a' for 2 points"),
        (lambda: plots.intervals({"a": [1]}, "t", "x", {}), "0 labels of 'a' for 1 points"),
        (lambda: plots.intervals({"a": [1]}, "t", "x", {"a": ["x"]}, {"b": ([0], [1])}), "a group of bounds is 'b'"),
        (lambda: plots.mosaic({}, "t"), "nothing to draw"),
        (lambda: plots.mosaic({"a": torch.ones(0, 2)}, "t"), "the table of a has shape"),
        (lambda: plots.circuit([], ["S"], "t"), "0 heads"),
        (lambda: plots.circuit([HEAD], ["X"], "t"), "a role of head L0H0 is 'S'; choose from: X"),
        (lambda: plots.circuit([HEAD], ["S", "S"], "t"), "roles that differ"),
        (lambda: plots.attention(torch.ones(0, 2, 2), ["a", "b"], "t"), "none of them empty"),
        (lambda: plots.attention(torch.ones(2, 2), ["a", "b"], "t"), "3 axes"),
        (lambda: plots.attention(torch.ones(1, 2, 2), ["a"], "t"), "1 tokens for 2 query positions"),
        (lambda: plots.attention(torch.ones(1, 2, 2), ["a", "b"], "t", ["L0H0", "L0H1"]), "2 head names for 1 heads"),
        (lambda: plots.attention_of_heads({}, [], ["a"], "t"), "none of them empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


@pytest.mark.parametrize("effect", [0.0, NAN, INF])
def test_a_circuit_of_heads_without_an_effect(effect):
    figure = plots.circuit([HEAD | {"effect": effect}], ["S"], "t")
    (arrow,) = (note for note in figure.layout.annotations if note.showarrow)
    assert arrow.arrowwidth == 1


def test_a_mosaic_of_many_models():
    assert len(plots.mosaic({str(i): VALUES for i in range(60)}, "t").data) == 60


# --- attention views --------------------------------------------------------------------------------------------------


TOKENS = ["<|bos|>", "</script>", "<!-- a"]


def attention():
    patterns = torch.tril(torch.ones(2, 3, 3)) / torch.tensor([1, 2, 3])[:, None]
    return plots.attention(patterns, TOKENS, "Heads <b>", ["L0H0", "L9H6"])


def test_attention_views_are_deterministic_and_escaped():
    view = str(attention())
    assert view == str(attention()) and repr(attention()) == "AttentionView('Heads <b>')"
    assert "Heads &lt;b&gt;" in view
    assert view.count("</script>") == 1 and "<!--" not in view, "a token cannot end the script element"
    data = json.loads(re.search(r"AttentionHeads, (\{.*\})\); else", view)[1])
    assert data["tokens"] == TOKENS and data["attentionHeadNames"] == ["L0H0", "L9H6"]
    assert data["attention"][1][2] == [0.333, 0.333, 0.333]


def test_library_goes_into_one_cell_and_again_when_that_cell_is_run_again(monkeypatch):
    monkeypatch.setattr(attention_views, "_library_cell", None)
    first, other = attention(), plots.attention(torch.ones(1, 1, 1), ["a"], "Another")
    shown = [view._repr_html_() for view in (first, other, first)]
    assert ["circuitsvis-library" in html for html in shown] == [True, False, True]
    assert shown[0].count("</script>") == 2, "nothing in the library ends its script element early"
    assert len(shown[0]) < 500_000, "a third of what it unpacks to"
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert "circuitsvis-library" in other._repr_html_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_attention_of_any_dtype(dtype):
    patterns = torch.eye(3, dtype=torch.float32).to(dtype)[None].requires_grad_(dtype.is_floating_point)
    data = json.loads(re.search(r"AttentionHeads, (\{.*\})\); else", str(plots.attention(patterns, TOKENS, "t")))[1])
    assert data["attention"] == [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]


@pytest.mark.parametrize(
    "tokens", [["\u2028", "\u2029"], ['"', "\\"], ["\n", "\ud83d"], ["<script>", "]]>"], ["é", "漢"]]
)
def test_any_token_can_be_part_of_the_script(tokens):
    view = str(plots.attention(torch.ones(1, 2, 2), tokens, "t"))
    script = view[view.index("<script>") + 8 : view.rindex("</script>")]
    assert script.isascii() and "<script" not in script and "\n" not in script
    assert json.loads(re.search(r"AttentionHeads, (\{.*\})\); else", script)[1])["tokens"] == tokens


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to draw in")
def test_a_view_shown_twice_is_drawn_twice_with_its_tokens_as_text():
    view, library = attention(), plots.circuitsvis_library()
    with chromium() as browser:
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(f"<body>{view}{library}{view}</body>")  # one before the library, one after it
        page.wait_for_function("document.body.innerText.split('Zoomed').length == 3", timeout=20_000)
        shown = page.inner_text("body")
    assert not errors
    assert shown.count("Heads <b>") == 2 and "Run the notebook" not in shown
