"""Figures: heatmaps, lines, bars, scatters (plotly) and attention views (circuitsvis). Each function returns one.

Every figure has a title and axis names. Diverging colors are centered at zero: red is positive, blue is negative.
Numbers may be tensors of any dtype, arrays or lists. What is not finite is left out: a heatmap shows it in gray. Text is
shown as it is, also where it looks like HTML. An empty table, or a wrong number of labels, raises ValueError.
"""

from __future__ import annotations

import plotly.express as px
import plotly.graph_objects as go
import plotly.io as pio

from utils.plots.alt import alt_text
from utils.plots.attention_views import AttentionView, attention, attention_of_heads, circuitsvis_library
from utils.plots.charts import bar, intervals, line, scatter
from utils.plots.graphs import circuit, graph
from utils.plots.heatmaps import heads, imshow, mosaic
from utils.plots.model_drawings import head_drawing, hooks_drawing, residual_stream_drawing
from utils.plots.patching_drawings import (
    gates_drawing,
    patching_drawing,
    path_patching_drawing,
    published_circuit_drawing,
)

__all__ = [
    "AttentionView",
    "alt_text",
    "attention",
    "attention_of_heads",
    "bar",
    "circuit",
    "circuitsvis_library",
    "gates_drawing",
    "graph",
    "head_drawing",
    "heads",
    "hooks_drawing",
    "imshow",
    "intervals",
    "line",
    "mosaic",
    "patching_drawing",
    "path_patching_drawing",
    "published_circuit_drawing",
    "residual_stream_drawing",
    "scatter",
]

# plotly_white for the traces that the course draws: each figure carries its template, and the whole one takes 7 kB.
_white = pio.templates["plotly_white"].to_plotly_json()
_data = {kind: _white["data"][kind] for kind in ("bar", "heatmap", "histogram", "scatter")}
_layout = {part: value for part, value in _white["layout"].items() if part not in ("geo", "polar", "scene", "ternary")}
pio.templates["course"] = go.layout.Template(data=_data, layout=_layout).update(
    layout={
        "font": {"size": 13},
        "colorway": px.colors.qualitative.Safe,
        "hoverlabel": {"namelength": -1},
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        "title": {"x": 0.02, "font": {"size": 16}},
    }
)
pio.templates.default = "course"
