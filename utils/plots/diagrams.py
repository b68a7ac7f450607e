"""Two figures of a whole model: the heads of a circuit by layer and role, and small maps of many models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from utils.plots.alt import described
from utils.plots.inputs import NOT_FINITE, Numbers, as_text, color_limit, require_known, table

STREAM = {"color": "lightgrey", "width": 5}


@described
def circuit(heads: Sequence[dict[str, Any]], roles: Sequence[str], title: str) -> go.Figure:
    """A drawing of heads on the residual streams of a prompt: columns are positions, rows layers, the logits on top.

    heads: dicts with name, layer, at (the role where the head writes), reads (where it looks) and effect (its sign is the
    color: red helps, blue hurts; its size the width of the arrow).
    """
    roles = list(roles)
    if not heads or len(set(roles)) < len(roles):
        raise ValueError(f"{len(heads)} heads on the roles {roles}; give at least one head, and roles that differ")
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
    colors = ["firebrick" if head["effect"] > 0 else "royalblue" for head in heads]
    for head, x, y, color, width in zip(heads, xs, ys, colors, widths, strict=True):
        _arrow(figure, (x, y), roles.index(head["reads"]), width, color)
    for head, x, y, color in zip(heads, xs, ys, colors, strict=True):  # after the arrows, which they cover
        _box(figure, head["name"], (x, y), color)
    figure.add_annotation(x=len(roles) - 1, y=top + 0.15, text="<b>logits</b>", showarrow=False)
    plain = {"showgrid": False, "zeroline": False}
    names = {"tickvals": list(range(len(roles))), "ticktext": [as_text(role) for role in roles]}
    figure.update_xaxes(title="position, by role", range=[-0.6, len(roles) - 0.2], **names, **plain)
    names = {"tickvals": list(range(1, top)), "ticktext": [f"layer {layer}" for layer in layers]}
    figure.update_yaxes(title="earlier → later", range=[0, top + 0.4], **names, **plain)
    return figure.update_layout(title=as_text(title), height=150 + 70 * top, showlegend=False)


def _arrow(figure: go.Figure, end: tuple[float, float], reads: int, width: float, color: str) -> None:
    """An arrow to a head's box, from the column that the head reads."""
    (x, y), axes = end, {"xref": "x", "yref": "y", "axref": "x", "ayref": "y"}
    line = {"arrowhead": 2, "arrowsize": 0.7, "arrowwidth": width, "arrowcolor": color}
    figure.add_annotation(x=x, y=y - 0.22, ax=reads, ay=y - 0.66, showarrow=True, text="", **axes, **line)


def _box(figure: go.Figure, name: str, at: tuple[float, float], color: str) -> None:
    border = {"bgcolor": "white", "bordercolor": color, "borderwidth": 2, "borderpad": 3}
    figure.add_annotation(x=at[0], y=at[1], text=as_text(name), showarrow=False, **border)


def _column(head: dict[str, Any], heads: Sequence[dict[str, Any]], roles: Sequence[str]) -> float:
    """Where a head's box stands: at its role, heads of the same layer and role side by side."""
    row = [id(other) for other in heads if (other["layer"], other["at"]) == (head["layer"], head["at"])]
    return roles.index(head["at"]) + 0.36 * (row.index(id(head)) - (len(row) - 1) / 2)


@described
def mosaic(tables: dict[str, Numbers], title: str, unit: str = "value", columns: int = 4) -> go.Figure:
    """One small [layer, head] heatmap per model, of whatever size, with one color scale from zero up."""
    if not tables:
        raise ValueError("the mosaic has nothing to draw; give at least one model's table")
    grids = {name: table(values, f"the table of {name}", [2]) for name, values in tables.items()}
    columns = min(columns, len(grids))
    rows = -(-len(grids) // columns)
    titles = [as_text(name) for name in grids]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=min(0.12, 0.5 / rows))
    for i, values in enumerate(grids.values()):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        figure.add_heatmap(z=values, coloraxis="coloraxis", **at)
        figure.update_xaxes(title_text="head", dtick=1 if values.shape[1] <= 12 else None, **at)
        layers = {"title_text": "layer" if at["col"] == 1 else None, "dtick": 1 if values.shape[0] <= 12 else None}
        figure.update_yaxes(autorange="reversed", **layers, **at)
    everything = np.concatenate([values.ravel() for values in grids.values()])
    if not np.isfinite(everything).all():
        figure.update_layout(plot_bgcolor=NOT_FINITE)
    colors = {
        "colorscale": "Blues",
        "cmin": 0,
        "cmax": color_limit(np.maximum(everything, 0)),
        "colorbar_title_text": as_text(unit),
    }
    return figure.update_layout(title=as_text(title), coloraxis=colors, height=120 + 330 * rows)
