"""Circuits on the residual streams of a prompt: layers upward, positions across, an arrow for each head or edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from utils.circuits.graph import COMPONENT_NAMES, LOGITS, Edge, node_name
from utils.plots.alt import described
from utils.plots.inputs import as_text, color_limit, require_known

STREAM = {"color": "lightgray", "width": 5}
HELPS, HURTS = "firebrick", "royalblue"
DASHES = {"": "solid", "q": "solid", "k": "dot", "v": "dash"}
Place = tuple[object, str]  # a node, and the role at which it writes
Point = tuple[float, float]


def _distinct(roles: Sequence[str], things: Sequence[Any], what: str) -> list[str]:
    roles = list(roles)
    if not things or len(set(roles)) < len(roles):
        raise ValueError(f"{len(things)} {what}s on the roles {roles}; give at least one {what}, and roles that differ")
    return roles


def _name_axes(
    figure: go.Figure, columns: list[float], roles: list[str], across: Point, levels: list[str], up: Point
) -> None:
    """Ticks for the roles, at `columns`, and for the levels, from 1 up. across, up: where the axes begin and end."""
    for update, title, ends, at, texts in (
        (figure.update_xaxes, "position, by role", across, columns, [as_text(role) for role in roles]),
        (figure.update_yaxes, "earlier → later", up, list(range(1, len(levels) + 1)), levels),
    ):
        update(title=title, range=ends, tickvals=at, ticktext=texts, showgrid=False, zeroline=False)


def _arrow(figure: go.Figure, start: Point, end: Point, width: float, color: str, **options: Any) -> None:
    places = {"x": end[0], "y": end[1], "ax": start[0], "ay": start[1]}
    axes = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y"}
    line = {"arrowhead": 2, "arrowwidth": width, "arrowcolor": color}
    figure.add_annotation(text="", showarrow=True, **places, **axes, **line, **options)


def _box(figure: go.Figure, name: str, at: Point, color: str, width: int, **options: Any) -> None:
    border = {"bgcolor": "white", "bordercolor": color, "borderwidth": width, "borderpad": 3}
    figure.add_annotation(x=at[0], y=at[1], text=name, showarrow=False, **border, **options)


# --- heads ----------------------------------------------------------------------------------------------------------------


@described
def circuit(heads: Sequence[dict[str, Any]], roles: Sequence[str], title: str) -> go.Figure:
    """A drawing of heads on the residual streams of a prompt: columns are positions, rows layers, the logits on top.

    heads: dicts with name, layer, at (the role where the head writes), reads (where it looks) and effect (its sign is the
    color: red helps, blue hurts; its size the width of the arrow).
    """
    roles = _distinct(roles, heads, "head")
    for head in heads:
        require_known(f"a role of head {head['name']}", [head["at"], head["reads"]], roles)
    layers = sorted({head["layer"] for head in heads})
    top = len(layers) + 1
    sizes = np.nan_to_num(np.abs([float(head["effect"]) for head in heads]), posinf=0.0)
    widths = 1 + 5 * sizes / color_limit(sizes)
    xs, ys = [_column(head, heads, roles) for head in heads], [layers.index(head["layer"]) + 1 for head in heads]
    figure = go.Figure()
    for x in range(len(roles)):
        figure.add_shape(type="line", x0=x, x1=x, y0=0.2, y1=top, layer="below", line=STREAM)
    figure.add_scatter(  # the boxes are annotations; these points only make the effects readable on hover
        x=xs,
        y=ys,
        mode="markers",
        marker_opacity=0,
        hoverinfo="text",
        hovertext=[f"{as_text(head['name'])}: {head['effect']:+.2f}" for head in heads],
    )
    colors = [HELPS if head["effect"] > 0 else HURTS for head in heads]
    for head, x, y, color, width in zip(heads, xs, ys, colors, widths, strict=True):
        _arrow(figure, (roles.index(head["reads"]), y - 0.66), (x, y - 0.22), width, color, arrowsize=0.7)
    for head, x, y, color in zip(heads, xs, ys, colors, strict=True):  # after the arrows, which they cover
        _box(figure, as_text(head["name"]), (x, y), color, 2)
    figure.add_annotation(x=len(roles) - 1, y=top + 0.15, text="<b>logits</b>", showarrow=False)
    levels = [f"layer {layer}" for layer in layers]
    _name_axes(figure, list(range(len(roles))), roles, (-0.6, len(roles) - 0.2), levels, (0, top + 0.4))
    return figure.update_layout(title=as_text(title), height=150 + 70 * top, showlegend=False)


def _column(head: dict[str, Any], heads: Sequence[dict[str, Any]], roles: Sequence[str]) -> float:
    """Where a head's box stands: at its role, heads of the same layer and role side by side."""
    row = [id(other) for other in heads if (other["layer"], other["at"]) == (head["layer"], head["at"])]
    return roles.index(head["at"]) + 0.36 * (row.index(id(head)) - (len(row) - 1) / 2)


# --- edges ----------------------------------------------------------------------------------------------------------------


@described
def graph(edges: Sequence[Edge], roles: Sequence[str], title: str) -> go.Figure:
    """The edges of a circuit, drawn between heads that stand at the position where they write.

    roles: names of positions, in the order of the prompt; the logits stand above the last one. Red arrows help the metric,
    blue ones hurt it; their width is the size of the effect. Solid arrows end in a query (or the logits), dashed ones in a
    value, dotted ones in a key. Pointing at an arrow's middle says what it is and how much; pointing at a head lists its
    arrows. Raises ValueError for no edges, for roles that repeat, and for an edge at a role that is not one of them.
    """
    roles = _distinct(roles, edges, "edge")
    for edge in edges:
        require_known(f"a role of {edge}", [edge.at, edge.to], roles)
    places, levels, columns = _places(edges, roles)
    figure = go.Figure()
    column = {"y0": 0.4, "y1": len(levels) + 0.5, "fillcolor": "whitesmoke", "line_width": 0}
    for left, right in columns:
        figure.add_shape(type="rect", x0=left, x1=right, layer="below", **column)
    widest = max(abs(edge.effect) for edge in edges) or 1.0
    for edge in edges:
        _edge(figure, edge, places, 1 + 6 * abs(edge.effect) / widest)
    _nodes(figure, edges, places)
    _legend(figure, edges)
    middles = [sum(ends) / 2 for ends in columns]
    _name_axes(figure, middles, roles, (-0.1, columns[-1][1] + 0.1), levels, (0.3, len(levels) + 0.7))
    legend = {"orientation": "h", "y": -0.16}
    return figure.update_layout(title=as_text(title), height=160 + 75 * len(levels), legend=legend)


def _legend(figure: go.Figure, edges: Sequence[Edge]) -> None:
    """What the lines mean, by where an edge ends: traces without points."""
    for component in dict.fromkeys(edge.component for edge in edges):
        name = f"into a {COMPONENT_NAMES[component]}" if component else "into the logits"
        line = {"color": "gray", "dash": DASHES[component], "width": 2}
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line=line)


def _places(edges: Sequence[Edge], roles: Sequence[str]) -> tuple[dict[Place, Point], list[str], list[Point]]:
    """Where each node stands, the names of the levels, and where each role's column begins and ends.

    Every node has a lane of its own in its role's column, so that no two stand above one another.
    """
    nodes = {place for edge in edges for place in ((edge.sender, edge.at), (edge.receiver, edge.to))}
    layers = sorted({node[0] for node, _ in nodes if node != LOGITS})
    levels = [f"layer {layer}" for layer in layers] + ["logits"] * any(node == LOGITS for node, _ in nodes)
    places, columns, left = {}, [], 0.0
    for role in roles:
        here = sorted(
            (node for node, at in nodes if at == role and node != LOGITS), key=lambda node: (node[0], str(node[1]))
        )
        lanes = here[::2] + here[1::2][::-1]  # early ones at both sides, late ones in the middle, below the logits
        for i, node in enumerate(lanes):
            places[node, role] = (left + i + 0.5, layers.index(node[0]) + 1.0)
        right = left + max(1, len(lanes))
        places[LOGITS, role] = ((left + right) / 2, float(len(levels)))
        columns.append((left, right))
        left = right + 0.25
    return {place: at for place, at in places.items() if place in nodes}, levels, columns


def _edge(figure: go.Figure, edge: Edge, places: dict[Place, Point], width: float) -> None:
    """A line, an arrow along its last part, and a point in its middle that says how much."""
    (x0, y0), (x1, y1) = places[edge.sender, edge.at], places[edge.receiver, edge.to]
    color = HELPS if edge.effect > 0 else HURTS
    line = {"color": color, "width": width, "dash": DASHES[edge.component]}
    shown = {"opacity": 0.75, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=[x0, x1], y=[y0, y1], mode="lines", line=line, **shown)
    start, end = ((x0 + part * (x1 - x0), y0 + part * (y1 - y0)) for part in (0.8, 0.9))
    _arrow(figure, start, end, max(1.5, width), color, arrowsize=0.8, opacity=0.75)
    figure.add_scatter(
        x=[(x0 + x1) / 2],
        y=[(y0 + y1) / 2],
        mode="markers",
        marker={"color": color, "size": 9},
        hoverinfo="text",
        hovertext=as_text(f"{edge}: {edge.effect:+.3f}"),
        showlegend=False,
    )


def _nodes(figure: go.Figure, edges: Sequence[Edge], places: dict[Place, Point]) -> None:
    """A box for every node: an annotation, and behind it a point that says which arrows begin and end there."""
    for place, (x, y) in places.items():
        ending = [edge for edge in edges if place in ((edge.sender, edge.at), (edge.receiver, edge.to))]
        lines = [f"<b>{node_name(place[0])}</b>", *(as_text(f"{edge}: {edge.effect:+.3f}") for edge in ending)]
        marker = {"mode": "markers", "marker": {"size": 26, "opacity": 0}}
        figure.add_scatter(x=[x], y=[y], hoverinfo="text", hovertext="<br>".join(lines), showlegend=False, **marker)
        _box(figure, node_name(place[0]), (x, y), "dimgray", 1, font={"size": 12}, captureevents=False)
