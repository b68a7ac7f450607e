"""Figures: heatmaps, lines, bars, scatters (plotly) and attention views (circuitsvis). Each function returns one.

Every figure has a title and axis names. Diverging colours are centred at zero: red is positive, blue is negative.
"""

from __future__ import annotations

import hashlib
import html
import importlib.resources
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio
from IPython import get_ipython
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from utils.attribution import head_name

pio.templates["course"] = go.layout.Template(
    layout={
        "font": {"size": 13},
        "colorway": px.colors.qualitative.Safe,
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        "title": {"x": 0.02, "font": {"size": 16}},
    }
)
pio.templates.default = "plotly_white+course"
DIVERGING = "RdBu_r"


def _array(values: Any, digits: int = 5) -> np.ndarray:
    """Rounded to what a reader can see, so that saved notebooks are small and do not change in the last bit."""
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return values.astype(float).round(digits) if np.issubdtype(values.dtype, np.floating) else values


def imshow(
    values: Float[Tensor, "rows columns"] | Float[Tensor, "panel rows columns"],
    title: str,
    x: str,
    y: str,
    x_labels: Sequence[str] | None = None,
    y_labels: Sequence[str] | None = None,
    panels: Sequence[str] | None = None,
    sequential: bool = False,
    limit: float | None = None,
    unit: str = "value",
    columns: int = 3,
) -> go.Figure:
    """A heatmap, or one per panel, `columns` side by side, with one colour scale.

    x, y: names of the axes. x_labels may repeat (tokens): positions are numbered. sequential: from zero up, for shares
    and probabilities; otherwise the colours are centred at zero. limit: the value of the darkest colour.
    """
    values = _array(values)
    limit = float(np.abs(values).max()) if limit is None else limit
    scale = {"color_continuous_scale": "Blues", "zmin": 0, "zmax": limit} if sequential else {
        "color_continuous_scale": DIVERGING, "zmin": -limit, "zmax": limit}  # fmt: skip
    rows = -(-len(panels) // columns) if panels else 1
    figure = px.imshow(
        values, title=title, labels={"x": x, "y": y, "color": unit}, aspect="auto", facet_row_spacing=0.2 / rows,
        facet_col=0 if panels else None, facet_col_wrap=columns if panels else None, **scale,
    )  # fmt: skip
    if panels:
        for annotation in figure.layout.annotations:  # plotly lists them from the bottom row up, as "facet_col=3"
            annotation.text = panels[int(annotation.text.split("=")[1])]
        figure.update_xaxes(showticklabels=True)
    if x_labels is not None:
        figure.update_xaxes(
            tickmode="array", tickvals=list(range(len(x_labels))), ticktext=list(x_labels), tickangle=-60
        )
    if y_labels is not None:
        figure.update_yaxes(tickmode="array", tickvals=list(range(len(y_labels))), ticktext=list(y_labels))
    return figure.update_layout(height=120 + rows * max(280, min(520, 16 * values.shape[-2])))


def line(
    values: Sequence[float] | dict[str, Sequence[float]],
    title: str,
    x: str,
    y: str,
    x_labels: Sequence[Any] | None = None,
    bands: dict[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> go.Figure:
    """One line, or several by name. bands: name → (low, high), drawn as a shaded interval around that line."""
    lines = values if isinstance(values, dict) else {"": values}
    figure = go.Figure()
    for i, (name, heights) in enumerate(lines.items()):
        at = list(x_labels) if x_labels is not None else list(range(len(heights)))
        colour = px.colors.qualitative.Safe[i % 11]
        if bands and name in bands:
            low, high = (list(_array(b)) for b in bands[name])
            shade = colour.replace("rgb", "rgba").replace(")", ", 0.2)")
            figure.add_scatter(x=at + at[::-1], y=high + low[::-1], fill="toself", fillcolor=shade, line_width=0,
                               hoverinfo="skip", showlegend=False)  # fmt: skip
        figure.add_scatter(x=at, y=_array(heights), name=name, mode="lines+markers", line_color=colour)
    figure.add_hline(0, line_color="grey", line_width=1)
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, showlegend=len(lines) > 1, height=400)


def bar(
    values: Sequence[float] | dict[str, Sequence[float]],
    title: str,
    x: str,
    y: str,
    x_labels: Sequence[Any] | None = None,
    intervals: tuple[Sequence[float], Sequence[float]] | None = None,
    stacked: bool = False,
) -> go.Figure:
    """Bars, or groups of bars by name. intervals: (low, high) of every bar, for one group only. stacked: the groups of one
    bar on top of each other (negative ones below zero), with a mark at their sum."""
    groups = values if isinstance(values, dict) else {"": values}
    figure = go.Figure()
    for name, heights in groups.items():
        heights = _array(heights)
        error = None
        if intervals is not None:
            low, high = (_array(b) for b in intervals)
            error = {"type": "data", "symmetric": False, "array": high - heights, "arrayminus": heights - low}
        at = list(x_labels) if x_labels is not None else list(range(len(heights)))
        figure.add_bar(x=at, y=heights, name=name, error_y=error)
    figure.add_hline(0, line_color="grey", line_width=1)
    if stacked:
        figure.update_layout(barmode="relative")
        total = np.sum([_array(heights) for heights in groups.values()], axis=0)
        marks = {"symbol": "diamond", "color": "black", "size": 9}
        figure.add_scatter(x=figure.data[0].x, y=total, mode="markers", name="sum", marker=marks)
    return figure.update_layout(title=title, xaxis_title=x, yaxis_title=y, showlegend=len(groups) > 1, height=400)


def scatter(
    x_values: Any,
    y_values: Any,
    title: str,
    x: str,
    y: str,
    labels: Sequence[str] | None = None,
    colours: Any = None,
    colour: str = "",
    diagonal: bool = False,
    slopes: dict[str, float] | None = None,
) -> go.Figure:
    """One point per item; labels show on hover, and beside the ten points farthest from the middle.

    colours: a value per point, named by `colour`. diagonal: draw y = x. slopes: draw y = slope · x, by name.
    """
    x_values, y_values = _array(x_values).ravel(), _array(y_values).ravel()
    far = np.argsort(-np.hypot(x_values - x_values.mean(), y_values - y_values.mean()), kind="stable")[:10]
    text = [label if i in far else "" for i, label in enumerate(labels)] if labels is not None else None
    figure = px.scatter(
        x=x_values, y=y_values, title=title, labels={"x": x, "y": y, "color": colour},
        color=None if colours is None else _array(colours).ravel(), text=text, hover_name=labels,
    )  # fmt: skip
    figure.update_traces(textposition="top center", textfont_size=11)
    if diagonal:
        low, high = min(x_values.min(), y_values.min()), max(x_values.max(), y_values.max())
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dot", "color": "grey"})
    for name, slope in (slopes or {}).items():
        ends = np.array([x_values.min(), x_values.max()])
        figure.add_scatter(x=ends, y=_array(ends * slope), mode="lines", name=name, showlegend=True)
    return figure.update_layout(height=480)


def intervals(
    values: dict[str, Sequence[float]],
    title: str,
    x: str,
    labels: dict[str, Sequence[str]],
    bounds: dict[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    band: tuple[float, float] | None = None,
    band_name: str = "",
) -> go.Figure:
    """Groups of points below one another, each with its interval: estimates beside what they are judged against.

    values, labels: group → a number and a name per point. bounds: group → (low, high). band: a shaded range of x, such as
    what nothing at all gives.
    """
    figure = go.Figure()
    if band is not None:
        figure.add_vrect(*band, fillcolor="grey", opacity=0.15, line_width=0, annotation_text=band_name,
                         annotation_position="top left", annotation_font_size=11)  # fmt: skip
    for i, (group, points) in enumerate(values.items()):
        points, error = _array(points), None
        if bounds and group in bounds:
            low, high = (_array(b) for b in bounds[group])
            error = {"type": "data", "symmetric": False, "array": high - points, "arrayminus": points - low}
        figure.add_scatter(x=points, y=list(labels[group]), name=group, mode="markers", error_x=error,
                           marker={"size": 8, "color": px.colors.qualitative.Safe[i % 11]})  # fmt: skip
    figure.add_vline(0, line_color="grey", line_width=1)
    rows = sum(len(points) for points in values.values())
    figure.update_yaxes(autorange="reversed", dtick=1, tickfont_size=11)
    return figure.update_layout(title=title, xaxis_title=x, showlegend=len(values) > 1, height=140 + 17 * rows,
                                margin_l=150)  # fmt: skip


def heads(values: Float[Tensor, "layer head"], title: str, unit: str = "value", **kwargs: Any) -> go.Figure:
    """The [layer, head] heatmap that most chapters end in."""
    figure = imshow(values, title, x="head", y="layer", unit=unit, **kwargs)
    return figure.update_xaxes(dtick=1)


def circuit(heads: Sequence[dict[str, Any]], roles: Sequence[str], title: str) -> go.Figure:
    """A drawing of heads on the residual streams of a prompt: columns are positions, rows layers, the logits on top.

    heads: dicts with name, layer, at (the role where the head writes), reads (where it looks) and effect (its sign is the
    colour: red helps, blue hurts; its size the width of the arrow).
    """
    layers = sorted({head["layer"] for head in heads})
    top = len(layers) + 1
    largest = max(abs(head["effect"]) for head in heads)
    figure = go.Figure()
    for x in range(len(roles)):
        figure.add_shape(
            type="line", x0=x, x1=x, y0=0.2, y1=top, layer="below", line={"color": "lightgrey", "width": 5}
        )
    figure.add_scatter(  # the boxes are annotations; these points only make the effects readable on hover
        x=[_box(head, heads, roles) for head in heads], y=[layers.index(head["layer"]) + 1 for head in heads],
        mode="markers", marker_opacity=0, hovertext=[f"{h['name']}: {h['effect']:+.2f}" for h in heads], hoverinfo="text",
    )  # fmt: skip
    for head in heads:
        x, y = _box(head, heads, roles), layers.index(head["layer"]) + 1
        colour = "firebrick" if head["effect"] > 0 else "royalblue"
        width = 1 + 5 * abs(head["effect"]) / largest
        figure.add_annotation(
            x=x, y=y - 0.22, ax=roles.index(head["reads"]), ay=y - 0.66, xref="x", yref="y", axref="x", ayref="y",
            showarrow=True, arrowhead=2, arrowsize=0.7, arrowwidth=width, arrowcolor=colour, text="",
        )  # fmt: skip
    for head in heads:
        x, y = _box(head, heads, roles), layers.index(head["layer"]) + 1
        colour = "firebrick" if head["effect"] > 0 else "royalblue"
        figure.add_annotation(x=x, y=y, text=head["name"], showarrow=False, bgcolor="white", bordercolor=colour,
                              borderwidth=2, borderpad=3)  # fmt: skip
    figure.add_annotation(x=len(roles) - 1, y=top + 0.15, text="<b>logits</b>", showarrow=False)
    figure.update_xaxes(tickvals=list(range(len(roles))), ticktext=list(roles), title="position, by role", showgrid=False,
                        zeroline=False, range=[-0.6, len(roles) - 0.2])  # fmt: skip
    figure.update_yaxes(tickvals=list(range(1, top)), ticktext=[f"layer {layer}" for layer in layers],
                        title="earlier → later", showgrid=False, zeroline=False, range=[0, top + 0.4])  # fmt: skip
    return figure.update_layout(title=title, height=150 + 70 * top, showlegend=False)


def _box(head: dict[str, Any], heads: Sequence[dict[str, Any]], roles: Sequence[str]) -> float:
    """Where a head's box stands: at its role, heads of the same layer and role side by side."""
    row = [other["name"] for other in heads if (other["layer"], other["at"]) == (head["layer"], head["at"])]
    return roles.index(head["at"]) + 0.36 * (row.index(head["name"]) - (len(row) - 1) / 2)


def mosaic(
    tables: dict[str, Float[Tensor, "layer head"]], title: str, unit: str = "value", columns: int = 4
) -> go.Figure:
    """One small [layer, head] heatmap per model, of whatever size, with one colour scale from zero up."""
    columns = min(columns, len(tables))
    figure = make_subplots(
        rows=-(-len(tables) // columns), cols=columns, subplot_titles=list(tables), vertical_spacing=0.12
    )
    for i, values in enumerate(tables.values()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        figure.add_heatmap(z=_array(values), coloraxis="coloraxis", **at)
        figure.update_xaxes(title_text="head", dtick=1 if values.shape[1] <= 12 else None, **at)
        rows = {"title_text": "layer" if at["col"] == 1 else None, "dtick": 1 if values.shape[0] <= 12 else None}
        figure.update_yaxes(autorange="reversed", **rows, **at)
    limit = max(float(_array(values).max()) for values in tables.values())
    colours = {"colorscale": "Blues", "cmin": 0, "cmax": limit, "colorbar_title_text": unit}
    return figure.update_layout(title=title, coloraxis=colours, height=120 + 330 * -(-len(tables) // columns))


class AttentionView:
    """An attention view as HTML that works without the internet. Shown by Jupyter; `str()` gives the HTML."""

    def __init__(self, title: str, body: str) -> None:
        self.title, self.body = title, body

    def __repr__(self) -> str:
        return f"AttentionView({self.title!r})"

    def __str__(self) -> str:
        return self.body

    def _repr_html_(self) -> str:
        return circuitsvis_library() + self.body if _brings_library(self.title) else self.body


_library_cell: str | None = None


def _brings_library(title: str) -> bool:
    """circuitsvis' JavaScript (1.3 MB) goes into the output of one cell, the first that shows a view, and again whenever
    that cell is run again: the page may have been reloaded since. On Colab every output is a page of its own: into each."""
    global _library_cell
    shell = get_ipython()
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = parent.get("metadata", {}).get("cellId", title)  # where there is no JupyterLab to name the cell: its title
    if _library_cell is None:
        _library_cell = cell
    return cell == _library_cell or "google.colab" in sys.modules


def circuitsvis_library() -> str:
    """The script element with circuitsvis' JavaScript, from the installed wheel."""
    source = importlib.resources.files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    source = source.replace("//# sourceMappingURL=iife.js.map", "").replace("</script", "<\\/script")
    return f'<script id="circuitsvis-library">{source}\nwindow.CircuitsVis = CircuitsVis;</script>'


def attention(
    patterns: Float[Tensor, "head seq seq"],
    tokens: Sequence[str],
    title: str,
    head_names: Sequence[str] | None = None,
) -> AttentionView:
    """Attention patterns of a few heads: small heatmaps, and the chosen one large with its tokens.

    patterns: rows are destinations (queries), columns sources (keys). head_names: L9H9, …
    """
    names = list(head_names) if head_names is not None else [f"head {i}" for i in range(len(patterns))]
    properties = {
        "attention": _array(patterns, digits=3).tolist(), "tokens": list(tokens), "attentionHeadNames": names
    }  # fmt: skip
    data = json.dumps(properties).replace("</", "<\\/")
    identity = "attention-" + hashlib.sha256((title + data).encode()).hexdigest()[:12]
    return AttentionView(
        title,
        f'<div style="font-family: sans-serif"><b>{html.escape(title)}</b><div id="{identity}">'
        "<i>Run the notebook from the top to draw this view.</i></div></div>"
        f"<script>(function draw(tries) {{ if (window.CircuitsVis) "
        f'CircuitsVis.render("{identity}", CircuitsVis.AttentionHeads, {data}); '
        "else if (tries) setTimeout(draw, 250, tries - 1); })(100)</script>",  # the library may come later on the page
    )


def attention_of_heads(cache: Any, chosen: Sequence[tuple[int, int]], tokens: Sequence[str], title: str,
                       prompt: int = 0) -> AttentionView:  # fmt: skip
    """The attention view of (layer, head) pairs on one prompt of a cached batch."""
    patterns = np.stack([_array(cache["pattern", layer][prompt, head]) for layer, head in chosen])
    return attention(patterns, tokens, title, [head_name(*pair) for pair in chosen])


def numbered(tokens: Sequence[str]) -> list[str]:
    """Tokens as axis labels that stay apart when a token repeats: '0 The', '1 cat'."""
    return [f"{i} {token.strip() or '␣'}" for i, token in enumerate(tokens)]
