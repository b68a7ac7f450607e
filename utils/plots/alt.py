"""What a figure shows, in words: read out by a screen reader, and printed where a picture cannot be.

The words are derived from the figure itself: what kind it is, its title and axes, and where its values are largest and
smallest. A figure that carries its own words in `layout.meta["alt"]` keeps them.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

MARKUP = re.compile(r"<[^>]*>")
ARROWS = 12  # of a graph are listed, the strongest ones
LISTED = 8  # more groups than these are counted, not described one by one
COUNTED = ("layer", "head", "position", "prompt")  # what rows and columns are numbered by


def described(make: Callable[..., go.Figure]) -> Callable[..., go.Figure]:
    """A function that makes figures, which then carry their description in `layout.meta["alt"]`."""

    @functools.wraps(make)
    def make_described(*args: Any, **kwargs: Any) -> go.Figure:
        figure = make(*args, **kwargs)
        figure.layout.meta = None  # what a function that this one is made of has said, before the figure was changed
        return figure.update_layout(meta={"alt": alt_text(figure)})

    return make_described


def alt_text(figure: go.Figure) -> str:
    """A few sentences on what a plotly figure shows: those it carries, or else derived ones."""
    meta = figure.layout.meta
    if isinstance(meta, dict) and meta.get("alt"):
        return str(meta["alt"])
    title = _plain(figure.layout.title.text)
    kind, sentences = _body(figure)
    end = "" if title.endswith(("?", "!")) else "."
    return " ".join([f"{kind}: {title}{end}" if title else f"{kind}.", *filter(None, sentences)])


def attention_alt(title: str, names: Sequence[str], tokens: Sequence[str], patterns: Any) -> str:
    """What an attention view shows: which heads, over what, and where each looks most from the last token.

    patterns: numbers of shape [head, query, key].
    """
    views = np.asarray(patterns, dtype=float)
    looks = [
        f"{name} looks at {tokens[int(row.argmax())].strip()!r} ({_number(row.max())})"
        for name, row in zip(names, views[:, -1], strict=True)
    ]
    return f"Attention patterns: {title}. Over {len(tokens)} tokens; from the last one, " + ", ".join(looks) + "."


def _body(figure: go.Figure) -> tuple[str, list[str]]:
    """The kind of figure, and sentences about its axes and values."""
    shown = [trace for trace in figure.data if trace.hoverinfo != "skip" or trace.type != "scatter"]
    kinds = {trace.type for trace in shown}
    boxes = [_plain(note.text) for note in figure.layout.annotations if note.text and note.bgcolor == "white"]
    if boxes:
        return "Graph", _graph(shown, boxes)
    if "heatmap" in kinds:
        maps = [trace for trace in shown if trace.type == "heatmap"]
        kind = "Heatmap" if len(maps) == 1 else f"{len(maps)} heatmaps"
        return kind, [_axes(figure), *_heatmaps(figure, maps)]
    if kinds & {"histogram", "box"}:
        kind = "Histogram" if "histogram" in kinds else "Distributions"
        return kind, [_axes(figure), *(_spread(trace) for trace in shown[:LISTED])]
    lines = any(trace.type == "scatter" and "lines" in (trace.mode or "") for trace in shown)
    kind = "Bar chart" if "bar" in kinds else "Line chart" if lines else "Points"
    return kind, [_axes(figure), *_series(figure, shown)]


def _plain(text: str | None) -> str:
    """Plotly's text without markup and line breaks, and without a full stop at its end."""
    return html.unescape(MARKUP.sub(" ", text or "")).strip().rstrip(".")


def _number(value: Any) -> str:
    """At most three significant digits, and a real minus sign, which screen readers read out."""
    return f"{float(value):.3g}".replace("-", "−")


def _axes(figure: go.Figure) -> str:
    """The names of the axes; those of panels are the same in all that have any."""
    names = []
    for which in ("xaxis", "yaxis"):
        axes = [figure.layout[key] for key in figure.layout if re.fullmatch(which + r"\d*", key)]
        titles = [_plain(axis.title.text) for axis in axes if axis.title.text]
        names.append(titles[0] if titles else "")
    said = "; ".join(f"{word}: {name}" for word, name in zip(("across", "up"), names, strict=True) if name)
    return said[:1].upper() + said[1:] + "." if said else ""


# --- heatmaps -----------------------------------------------------------------------------------------------------------


def _heatmaps(figure: go.Figure, maps: Sequence[Any]) -> list[str]:
    notes = [note for note in figure.layout.annotations if note.text]
    if not len(notes) == len(maps) > 1:
        return [_heatmap(figure, trace, "") for trace in maps]
    notes.sort(key=lambda note: (-round(note.y, 3), round(note.x, 3)))  # both in reading order
    by_place = sorted(maps, key=lambda trace: _corner(figure, trace))
    return [_heatmap(figure, trace, f"{_plain(note.text)}: ") for note, trace in zip(notes, by_place, strict=True)]


def _corner(figure: go.Figure, trace: Any) -> tuple[float, float]:
    """Where a panel begins, in reading order: from the top, then from the left."""
    x, y = (
        figure.layout[axis.replace("x", "xaxis").replace("y", "yaxis")]
        for axis in (trace.xaxis or "x", trace.yaxis or "y")
    )
    return (-round((y.domain or (0, 1))[0], 3), round((x.domain or (0, 1))[0], 3))


def _heatmap(figure: go.Figure, trace: Any, begin: str) -> str:
    values = _array(trace.z).astype(float)
    size = " by ".join(
        f"{size} {what}{'s' if size > 1 else ''}" for size, what in zip(values.shape, ("row", "column"), strict=True)
    )
    if not np.isfinite(values).any():
        return f"{begin}{size}, none with a value."
    return f"{begin}{size}; {_ends(values, lambda cell: _place(figure, trace, *divmod(cell, values.shape[1])))}."


def _ends(values: np.ndarray, place: Callable[[int], str]) -> str:
    """The largest and the smallest finite value, and what `place` says of where they are."""
    finite, flat = np.isfinite(values).ravel(), values.ravel()
    largest, smallest = np.where(finite, flat, -np.inf).argmax(), np.where(finite, flat, np.inf).argmin()
    ends = (("largest", int(largest)), ("smallest", int(smallest)))
    return ", ".join(f"{word} {_number(flat[at])} at {place(at)}" for word, at in ends)


def _place(figure: go.Figure, trace: Any, row: int, column: int) -> str:
    """What the ticks say at a cell: layer 9, head 6; or row and column where they say nothing."""
    axes = [("yaxis", trace.yaxis or "y", row, "row"), ("xaxis", trace.xaxis or "x", column, "column")]
    words = []
    for which, ref, at, otherwise in axes:
        axis = figure.layout[ref.replace(which[0], which)]
        texts = axis.ticktext
        title = _plain(axis.title.text) or _plain(figure.layout[which].title.text)
        name = next((word for word in COUNTED if word in title), otherwise)
        text = _plain(texts[at]) if texts and len(texts) > at else str(at)
        words.append(f"{name} {text}" if text.isdigit() else repr(text))
    return ", ".join(words)


# --- series ---------------------------------------------------------------------------------------------------------------


def _series(figure: go.Figure, traces: Sequence[Any]) -> list[str]:
    """A sentence on each named series of bars, lines or points."""
    traces = [trace for trace in traces if trace.y is not None and _finite(trace.y).size]
    if len(traces) > LISTED:
        traces = [trace for trace in traces if trace.yaxis in (None, "y")]  # and not the rows of choices below
    if len(traces) > LISTED:
        low = min(_finite(trace.y).min() for trace in traces)
        high = max(_finite(trace.y).max() for trace in traces)
        return [f"{len(traces)} series with values from {_number(low)} to {_number(high)}."]
    return [_one_series(figure, trace) for trace in traces]


def _one_series(figure: go.Figure, trace: Any) -> str:
    name = f"{_plain(trace.name)}: " if trace.name else ""
    sideways = trace.orientation == "h" if trace.type == "bar" else _is_sideways(figure)
    values, along = (trace.x, trace.y) if sideways else (trace.y, trace.x)
    numbers, along = _array(values).astype(float), None if along is None else _array(along)
    labels = figure.layout.yaxis.ticktext if sideways else figure.layout.xaxis.ticktext
    what = ("bar" if trace.type == "bar" else "point") + ("s" if len(numbers) > 1 else "")
    return f"{name}{len(numbers)} {what}; {_ends(numbers, lambda i: _label(trace, along, labels, i))}."


def _is_sideways(figure: go.Figure) -> bool:
    """Whether the names of points stand beside them, and not below: their values then run from left to right."""
    return bool(figure.layout.yaxis.ticktext) and not figure.layout.xaxis.ticktext


def _label(trace: Any, along: Any, labels: Any, i: int) -> str:
    """What stands beside a point: its own name, the tick's text, or its coordinate."""
    if trace.hovertext is not None and not isinstance(trace.hovertext, str) and len(trace.hovertext) > i:
        return _plain(trace.hovertext[i])
    at = i if along is None else along[i]
    if labels and not isinstance(at, str) and float(at).is_integer() and 0 <= at < len(labels):
        return _plain(labels[int(at)])
    return _plain(at) if isinstance(at, str) else _number(at)


def _spread(trace: Any) -> str:
    values = _finite(trace.x if trace.type == "histogram" or trace.orientation == "h" or trace.y is None else trace.y)
    name = f"{_plain(trace.name)}: " if trace.name else ""
    if not values.size:
        return f"{name}no values."
    low, middle, high = _number(values.min()), _number(np.median(values)), _number(values.max())
    return f"{name}{len(values)} values from {low} to {high}, median {middle}."


def _array(values: Any) -> np.ndarray:
    """Numbers or names as an array, also where plotly keeps them as text, as in a saved notebook."""
    if not isinstance(values, dict):
        return np.asarray(values)
    numbers = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    shape = [int(size) for size in str(values.get("shape", len(numbers))).split(",")]
    return numbers.reshape(shape)


def _finite(values: Any) -> np.ndarray:
    try:
        numbers = _array(values).astype(float).ravel()
    except (TypeError, ValueError):  # names of categories, or gaps
        return np.array([])
    return numbers[np.isfinite(numbers)]


# --- graphs ---------------------------------------------------------------------------------------------------------------


def _graph(traces: Sequence[Any], boxes: Sequence[str]) -> list[str]:
    """The boxes, and the strongest of the effects that one reads when one points at an arrow or a box."""
    told = [trace.hovertext for trace in traces if trace.hovertext is not None]
    lines = [text for texts in told for text in ([texts] if isinstance(texts, str) else texts)]
    effects = list(dict.fromkeys(_plain(text) for text in lines if text and "<br>" not in text))
    strongest = sorted(effects, key=_size, reverse=True)[:ARROWS]
    more = f", and {len(effects) - ARROWS} weaker ones" if len(effects) > ARROWS else ""
    said = "; ".join(strongest).replace(": -", ": −")
    return [f"Heads: {', '.join(dict.fromkeys(boxes))}.", f"Effects: {said}{more}." if effects else ""]


def _size(effect: str) -> float:
    """Of the number at the end of "L9H6: +0.3"; 0 where there is none."""
    found = re.search(r"([-+]?\d*\.?\d+)$", effect)
    return abs(float(found[1])) if found else 0.0
