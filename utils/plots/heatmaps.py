"""Heatmaps: panels with one color scale, the [layer, head] map that most chapters end in, and small ones of many models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from utils.plots.alt import described
from utils.plots.inputs import NOT_FINITE, Numbers, as_text, color_limit, require_count, table, ticks


@described
def imshow(
    values: Numbers,
    title: str,
    x: str,
    y: str,
    x_labels: Numbers | None = None,
    y_labels: Numbers | None = None,
    panels: Sequence[str] | None = None,
    sequential: bool = False,
    limit: float | None = None,
    unit: str = "value",
    columns: int = 3,
) -> go.Figure:
    """A heatmap, or one per panel, `columns` side by side, with one color scale.

    x, y: names of the axes. x_labels, y_labels may repeat (tokens). sequential: from zero up, for shares and
    probabilities; otherwise the colors are centered at zero. limit: the value of the darkest color.
    """
    values = table(values, "the heatmap", 2 if panels is None else 3)
    panels = [] if panels is None else list(panels)
    if panels:
        require_count("panel names", panels, len(values), "panels")
    limit = color_limit(values) if limit is None or not np.isfinite(limit) or limit <= 0 else limit
    scale, lowest = ("Blues", 0) if sequential else ("RdBu_r", -limit)
    rows = -(-len(panels) // columns) if panels else 1
    names = {"x": as_text(x), "y": as_text(y), "color": as_text(unit)}
    figure = px.imshow(
        values,
        title=as_text(title),
        labels=names,
        aspect="auto",
        facet_row_spacing=0.2 / rows,
        facet_col=0 if panels else None,
        facet_col_wrap=columns if panels else None,
        color_continuous_scale=scale,
        zmin=lowest,
        zmax=limit,
    )
    if panels:
        for annotation in figure.layout.annotations:  # plotly lists them from the bottom row up, as "facet_col=3"
            annotation.text = as_text(panels[int(annotation.text.split("=")[1])])
        figure.update_xaxes(showticklabels=True)
    short = x_labels is not None and sum(len(as_text(label)) for label in x_labels) <= 12  # fits in one line below
    for labels, axis, update, angle in (
        (x_labels, -1, figure.update_xaxes, 0 if short else -60),
        (y_labels, -2, figure.update_yaxes, None),
    ):
        if labels is not None:
            require_count("labels", labels, values.shape[axis], "columns" if axis == -1 else "rows")
            update(**ticks([as_text(label) for label in labels]), tickangle=angle)
    if not np.isfinite(values).all():
        figure.update_layout(plot_bgcolor=NOT_FINITE)
    return figure.update_layout(height=120 + rows * max(280, min(520, 16 * values.shape[-2])))


@described
def heads(values: Numbers, title: str, unit: str = "value", **kwargs: Any) -> go.Figure:
    """The [layer, head] heatmap that most chapters end in."""
    figure = imshow(values, title, x="head", y="layer", unit=unit, **kwargs)
    return figure.update_xaxes(dtick=1)


@described
def mosaic(tables: dict[str, Numbers], title: str, unit: str = "value", columns: int = 4) -> go.Figure:
    """One small [layer, head] heatmap per model, of whatever size, with one color scale from zero up."""
    if not tables:
        raise ValueError("the mosaic has nothing to draw; give at least one model's table")
    grids = {name: table(values, f"the table of {name}", 2) for name, values in tables.items()}
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
    scale = {"colorscale": "Blues", "cmin": 0, "cmax": color_limit(np.maximum(everything, 0))}
    colors = {**scale, "colorbar_title_text": as_text(unit)}
    return figure.update_layout(title=as_text(title), coloraxis=colors, height=120 + 330 * rows)
