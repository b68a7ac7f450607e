"""Charts of series: lines, bars, points, and estimates with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.express as px
import plotly.graph_objects as go

from utils.plots.alt import described
from utils.plots.inputs import Numbers, along_axis, as_array, as_text, require_count, require_known, table, ticks


def _named(values: Any, what: str) -> dict[str, np.ndarray]:
    """Series by name; one that is not in a dictionary has the empty name."""
    series = values if isinstance(values, dict) else {"": values}
    if not series:
        raise ValueError(f"{what} has nothing to draw; give at least one series of values")
    return {name: table(heights, f"{what} {name!r}" if name else what, 1) for name, heights in series.items()}


def _bounds(bounds: Any, values: np.ndarray, of: str) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), one of each per value."""
    low, high = (as_array(bound) for bound in bounds)
    for side in (low, high):
        require_count("bounds", side, len(values), of)
    return low, high


def _error(bounds: Any, values: np.ndarray, of: str) -> dict[str, Any]:
    low, high = _bounds(bounds, values, of)
    return {"type": "data", "symmetric": False, "array": high - values, "arrayminus": values - low}


def _tick_texts(figure: go.Figure, text: list[str] | None) -> None:
    if text is not None:
        figure.update_xaxes(**ticks(text))


@described
def line(
    values: Numbers | dict[str, Numbers],
    title: str,
    x: str,
    y: str,
    x_labels: Numbers | None = None,
    bands: dict[str, tuple[Numbers, Numbers]] | None = None,
) -> go.Figure:
    """One line, or several by name. bands: name → (low, high), drawn as a shaded interval around that line."""
    lines = _named(values, "the line")
    require_known("the line of a band", list(bands or {}), list(lines))
    figure, text = go.Figure(), None
    for i, (name, heights) in enumerate(lines.items()):
        at, text = along_axis(x_labels, len(heights), "points")
        color = px.colors.qualitative.Safe[i % 11]
        if bands and name in bands:
            low, high = (list(bound) for bound in _bounds(bands[name], heights, "points"))
            area = {"fill": "toself", "fillcolor": color.replace("rgb", "rgba").replace(")", ", 0.2)"), "line_width": 0}
            figure.add_scatter(x=at + at[::-1], y=high + low[::-1], hoverinfo="skip", showlegend=False, **area)
        figure.add_scatter(x=at, y=heights, name=as_text(name), mode="lines+markers", line_color=color)
    _tick_texts(figure, text)
    figure.add_hline(0, line_color="gray", line_width=1)
    return _labeled(figure, title, x, y, showlegend=len(lines) > 1, height=400)


def _labeled(figure: go.Figure, title: str, x: str, y: str | None = None, **layout: Any) -> go.Figure:
    names = {"title": as_text(title), "xaxis_title": as_text(x)} | ({} if y is None else {"yaxis_title": as_text(y)})
    return figure.update_layout(**names, **layout)


@described
def bar(
    values: Numbers | dict[str, Numbers],
    title: str,
    x: str,
    y: str,
    x_labels: Numbers | None = None,
    intervals: tuple[Numbers, Numbers] | None = None,
    stacked: bool = False,
) -> go.Figure:
    """Bars, or groups of bars by name. intervals: (low, high) of every bar, for one group only. stacked: the groups of one
    bar on top of each other (negative ones below zero), with a mark at their sum."""
    groups = _named(values, "the bar chart")
    count = len(next(iter(groups.values())))
    if intervals is not None and len(groups) > 1:
        raise ValueError(f"intervals for {len(groups)} groups of bars; give them for one group only")
    at, text = along_axis(x_labels, count, "bars")
    figure = go.Figure()
    for name, heights in groups.items():
        require_count(f"bars of {name!r}", heights, count, "bars of the first group")
        error = None if intervals is None else _error(intervals, heights, "bars")
        figure.add_bar(x=at, y=heights, name=as_text(name), error_y=error)
    _tick_texts(figure, text)
    figure.add_hline(0, line_color="gray", line_width=1)
    if stacked:
        figure.update_layout(barmode="relative")
        marks = {"symbol": "diamond", "color": "black", "size": 9}
        figure.add_scatter(x=at, y=np.sum([*groups.values()], axis=0), mode="markers", name="sum", marker=marks)
    return _labeled(figure, title, x, y, showlegend=len(groups) > 1, height=400)


@described
def scatter(
    x_values: Any,
    y_values: Any,
    title: str,
    x: str,
    y: str,
    labels: Sequence[str] | None = None,
    color: Numbers | None = None,
    color_name: str = "",
    diagonal: bool = False,
    slopes: dict[str, float] | None = None,
) -> go.Figure:
    """One point per item; labels show on hover, and beside the ten points farthest from the middle.

    color: a value per point, called `color_name`. diagonal: draw y = x. slopes: draw y = slope · x, by name.
    """
    x_values, y_values = (table(np.ravel(as_array(values)), "the scatter", 1) for values in (x_values, y_values))
    require_count("y values", y_values, len(x_values), "x values")
    colors = None if color is None else np.ravel(as_array(color))
    names = None if labels is None else [as_text(label) for label in labels]
    for what, given in (("labels", names), ("colors", colors)):
        if given is not None:
            require_count(what, given, len(x_values), "points")
    if colors is not None and colors.dtype.kind in "US":
        colors = [as_text(color) for color in colors]
    finite = np.isfinite(x_values) & np.isfinite(y_values)
    far = _farthest(x_values, y_values, finite)
    figure = px.scatter(
        x=x_values,
        y=y_values,
        title=as_text(title),
        hover_name=names,
        color=colors,
        labels={"x": as_text(x), "y": as_text(y), "color": as_text(color_name)},
        text=None if names is None else [name if i in far else "" for i, name in enumerate(names)],
    )
    figure.update_traces(textposition="top center", textfont_size=11)
    if finite.any():
        x_values, y_values = x_values[finite], y_values[finite]
        if diagonal:
            low, high = min(x_values.min(), y_values.min()), max(x_values.max(), y_values.max())
            figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dot", "color": "gray"})
        for name, slope in (slopes or {}).items():
            ends = np.array([x_values.min(), x_values.max()])
            figure.add_scatter(x=ends, y=as_array(ends * slope), mode="lines", name=as_text(name), showlegend=True)
    return figure.update_layout(height=480)


def _farthest(x_values: np.ndarray, y_values: np.ndarray, finite: np.ndarray, count: int = 10) -> set[int]:
    """The points that are farthest from the middle of all that can be drawn."""
    if not finite.any():
        return set()
    with np.errstate(invalid="ignore"):
        distance = np.hypot(x_values - x_values[finite].mean(), y_values - y_values[finite].mean())
    return set(np.argsort(-np.where(finite, distance, -1.0), kind="stable")[:count].tolist())


@described
def intervals(
    values: dict[str, Numbers],
    title: str,
    x: str,
    labels: dict[str, Sequence[Any]],
    bounds: dict[str, tuple[Numbers, Numbers]] | None = None,
    band: tuple[float, float] | None = None,
    band_name: str = "",
) -> go.Figure:
    """Groups of points below one another, each with its interval: estimates beside what they are judged against.

    values, labels: group → a number and a name per point. bounds: group → (low, high). band: a shaded range of x, such as
    what nothing at all gives.
    """
    groups = _named(values, "the intervals")
    for what, names in (("labels", labels), ("bounds", bounds or {})):
        require_known(f"a group of {what}", list(names), list(groups))
    figure, text = go.Figure(), []
    if band is not None:
        note = {"annotation_text": as_text(band_name), "annotation_position": "top left", "annotation_font_size": 11}
        figure.add_vrect(*band, fillcolor="gray", opacity=0.15, line_width=0, **note)
    for i, (group, points) in enumerate(groups.items()):
        require_count(f"labels of {group!r}", labels.get(group, []), len(points), "points")
        error = _error(bounds[group], points, "points") if bounds and group in bounds else None
        rows = list(range(len(text), len(text) + len(points)))
        marker = {"size": 8, "color": px.colors.qualitative.Safe[i % 11]}
        figure.add_scatter(x=points, y=rows, name=as_text(group), mode="markers", error_x=error, marker=marker)
        text += [as_text(label) for label in labels[group]]
    figure.add_vline(0, line_color="gray", line_width=1)
    figure.update_yaxes(range=[len(text) - 0.5, -0.5], **ticks(text), tickfont_size=11)
    return _labeled(figure, title, x, showlegend=len(groups) > 1, height=140 + 17 * len(text), margin_l=150)
