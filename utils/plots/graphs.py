"""A circuit as a graph: layers upward, positions from left to right, an arrow for every edge."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from utils.circuits.graph import COMPONENT_NAMES, LOGITS, Edge, node_name
from utils.plots.alt import described
from utils.plots.inputs import as_text, require_known

HELPS, HURTS = "firebrick", "royalblue"
DASHES = {"": "solid", "q": "solid", "k": "dot", "v": "dash"}
Place = tuple[object, str]  # a node, and the role at which it writes


@described
def graph(edges: Sequence[Edge], roles: Sequence[str], title: str) -> go.Figure:
    """The edges of a circuit, drawn between heads that stand at the position where they write.

    roles: names of positions, in the order of the prompt; the logits stand above the last one. Red arrows help the metric,
    blue ones hurt it; their width is the size of the effect. Solid arrows end in a query (or the logits), dashed ones in a
    value, dotted ones in a key. Pointing at an arrow's middle says what it is and how much; pointing at a head lists its
    arrows. Raises ValueError for no edges, for roles that repeat, and for an edge at a role that is not one of them.
    """
    roles = list(roles)
    if not edges or len(set(roles)) < len(roles):
        raise ValueError(f"{len(edges)} edges on the roles {roles}; give at least one edge, and roles that differ")
    for edge in edges:
        require_known(f"a role of {edge}", [edge.at, edge.to], roles)
    places, levels, columns = _places(edges, roles)
    figure = go.Figure()
    column = {"y0": 0.4, "y1": len(levels) + 0.5, "fillcolor": "whitesmoke", "line_width": 0}
    for left, right in columns:
        figure.add_shape(type="rect", x0=left, x1=right, layer="below", **column)
    widest = max(abs(edge.effect) for edge in edges) or 1.0
    for edge in edges:
        _arrow(figure, edge, places, 1 + 6 * abs(edge.effect) / widest)
    _boxes(figure, edges, places)
    _legend(figure, edges)
    plain = {"showgrid": False, "zeroline": False}
    names = {"tickvals": [sum(ends) / 2 for ends in columns], "ticktext": [as_text(role) for role in roles]}
    figure.update_xaxes(title="position, by role", range=[-0.1, columns[-1][1] + 0.1], **names, **plain)
    names = {"tickvals": list(range(1, len(levels) + 1)), "ticktext": levels}
    figure.update_yaxes(title="earlier → later", range=[0.3, len(levels) + 0.7], **names, **plain)
    legend = {"orientation": "h", "y": -0.16}
    return figure.update_layout(title=as_text(title), height=160 + 75 * len(levels), legend=legend)


def _legend(figure: go.Figure, edges: Sequence[Edge]) -> None:
    """What the lines mean, by where an edge ends: traces without points."""
    for component in dict.fromkeys(edge.component for edge in edges):
        name = f"into a {COMPONENT_NAMES[component]}" if component else "into the logits"
        line = {"color": "grey", "dash": DASHES[component], "width": 2}
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line=line)


def _places(
    edges: Sequence[Edge], roles: Sequence[str]
) -> tuple[dict[Place, tuple[float, float]], list[str], list[tuple[float, float]]]:
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


def _arrow(figure: go.Figure, edge: Edge, places: dict[Place, tuple[float, float]], width: float) -> None:
    (x0, y0), (x1, y1) = places[edge.sender, edge.at], places[edge.receiver, edge.to]
    color = HELPS if edge.effect > 0 else HURTS
    figure.add_scatter(
        x=[x0, x1],
        y=[y0, y1],
        mode="lines",
        line={"color": color, "width": width, "dash": DASHES[edge.component]},
        opacity=0.75,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_annotation(
        x=x0 + 0.9 * (x1 - x0),
        y=y0 + 0.9 * (y1 - y0),
        ax=x0 + 0.8 * (x1 - x0),
        ay=y0 + 0.8 * (y1 - y0),
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        showarrow=True,
        arrowhead=2,
        arrowsize=0.8,
        arrowwidth=max(1.5, width),
        arrowcolor=color,
        opacity=0.75,
        text="",
    )
    figure.add_scatter(
        x=[(x0 + x1) / 2],
        y=[(y0 + y1) / 2],
        mode="markers",
        marker={"color": color, "size": 9},
        hoverinfo="text",
        hovertext=as_text(f"{edge}: {edge.effect:+.3f}"),
        showlegend=False,
    )


def _boxes(figure: go.Figure, edges: Sequence[Edge], places: dict[Place, tuple[float, float]]) -> None:
    """A box for every node: an annotation, and behind it a point that says which arrows begin and end there."""
    for (node, role), (x, y) in places.items():
        lines = [
            as_text(f"{edge}: {edge.effect:+.3f}")
            for edge in edges
            if (node, role) in ((edge.sender, edge.at), (edge.receiver, edge.to))
        ]
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={"size": 26, "opacity": 0},
            hoverinfo="text",
            showlegend=False,
            hovertext="<br>".join([f"<b>{node_name(node)}</b>", *lines]),
        )
        figure.add_annotation(
            x=x,
            y=y,
            text=node_name(node),
            showarrow=False,
            bgcolor="white",
            bordercolor="dimgrey",
            borderwidth=1,
            borderpad=3,
            font={"size": 12},
            captureevents=False,
        )
