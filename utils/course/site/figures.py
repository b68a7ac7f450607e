"""Outputs of an executed notebook as HTML that needs no kernel and no network, each with its description in words."""

from __future__ import annotations

import copy
import html
import re

import plotly.graph_objects as go
from nbformat import NotebookNode

from utils.course.outputs import WIDGET
from utils.plots import alt_text

PLOTLY_FORMAT = "application/vnd.plotly.v1+json"
LIBRARY = re.compile(r'<script id="circuitsvis-library">.*?</script>', re.DOTALL)
VIEW_ALT = re.compile(r' role="group" aria-label="([^"]*)"')
NO_KERNEL = "<p><i>In the notebook, an explorer stands here. This page shows what it says first.</i></p>"
# What an output needs → the element that loads it, once on a page, before the first output that does.
SCRIPTS = {"plotly": "plotly.min.js", "attention": "circuitsvis.js"}


def with_static_outputs(notebook: NotebookNode) -> NotebookNode:
    """A copy whose outputs are HTML, SVG and text. Figures stay interactive, with the scripts in the site's own folder."""
    notebook, loaded, number = copy.deepcopy(notebook), set(), 0
    for output in (one for cell in notebook.cells for one in cell.get("outputs", []) if "data" in one):
        data, needs = output.data, None
        if PLOTLY_FORMAT in data:
            number += 1
            data, needs = {"text/html": plotly_figure(data[PLOTLY_FORMAT], f"figure-{number}")}, "plotly"
        elif WIDGET in data:
            data = {"text/html": NO_KERNEL}
        elif "data-attention=" in data.get("text/html", ""):
            data, needs = {"text/html": attention_view(data["text/html"])}, "attention"
        elif "image/svg+xml" in data:
            data = {"text/html": f'<figure class="drawing">{data["image/svg+xml"]}</figure>'}
        elif "text/html" in data:
            data = {"text/html": f'<div class="table-scroll">{data["text/html"]}</div>'}
        if needs and needs not in loaded:
            loaded.add(needs)
            data["text/html"] = f'<script src="_static/{SCRIPTS[needs]}"></script>' + data["text/html"]
        output.data = NotebookNode(data)
    return notebook


def plotly_figure(data: dict, name: str) -> str:
    """A plotly figure as HTML with its description, which only a screen reader shows. name: the element's id."""
    figure = go.Figure(data, skip_invalid=True)
    drawn = figure.to_html(
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        default_height=f"{figure.layout.height or 450}px",
        config={"displayModeBar": False, "responsive": True},
    )
    return _captioned("plot", drawn, alt_text(figure))


def attention_view(text: str) -> str:
    """An attention view without the library, its description as a caption."""
    alt = html.unescape(VIEW_ALT.search(text)[1])
    return _captioned("attention", VIEW_ALT.sub("", LIBRARY.sub("", text)), alt)


def _captioned(kind: str, drawn: str, alt: str) -> str:
    """A screen reader reads the description in place of what is drawn, whose parts say nothing to it."""
    caption = f'<figcaption class="visually-hidden">{html.escape(alt)}</figcaption>'
    return f'<figure class="{kind}"><div aria-hidden="true">{drawn}</div>{caption}</figure>'
