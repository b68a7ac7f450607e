"""A specification curve: one result under every combination of choices that somebody could have made."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from utils.plots.alt import described
from utils.plots.drawings import BLUE, GRAY, Drawing, text
from utils.plots.inputs import as_text, ticks


def _sorted(table: pd.DataFrame, value: str, choices: Sequence[str]) -> pd.DataFrame:
    """The table by rising value. Raises ValueError for columns that are not there, and for an empty table."""
    lacking = [column for column in (value, *choices) if column not in table]
    if lacking or not len(table) or not choices:
        what = f"no column {lacking[0]!r}" if lacking else "no rows" if choices else "no choices named"
        raise ValueError(f"{what} in a table of {len(table)} specifications with the columns {list(table)}")
    return table.sort_values(value, kind="stable", ignore_index=True)


@described
def specification_curve(table: pd.DataFrame, value: str, choices: Sequence[str], title: str, y: str) -> go.Figure:
    """The values of all specifications from the lowest to the highest, and below each point what was chosen.

    table: one row per specification. value: the column with the result. choices: the columns with what was chosen.
    (Simonsohn, Simmons and Nelson 2020.)
    """
    ordered = _sorted(table, value, choices)
    options = [(choice, option) for choice in choices for option in dict.fromkeys(table[choice])]
    heights = [1.0, max(0.6, 0.09 * len(options))]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.03, row_heights=heights)
    colors = [px.colors.qualitative.Safe[1] if found > 0 else px.colors.qualitative.Safe[0] for found in ordered[value]]
    marker = {"size": 5, "color": colors}
    figure.add_scatter(x=ordered.index, y=ordered[value], mode="markers", marker=marker, row=1, col=1)
    figure.add_hline(0, line_color="gray", line_width=1, row=1, col=1)
    for i, (choice, option) in enumerate(options):
        at = ordered.index[ordered[choice] == option]
        shade = px.colors.qualitative.Safe[list(choices).index(choice) % 11]
        marker = {"symbol": "line-ns-open", "size": 9, "color": shade}
        figure.add_scatter(x=at, y=[i] * len(at), mode="markers", marker=marker, row=2, col=1)
    labels = [as_text(f"{choice}: {option}") for choice, option in options]
    figure.update_yaxes(**ticks(labels), tickfont_size=11, range=[len(options) - 0.5, -0.5], row=2, col=1)
    figure.update_yaxes(title=as_text(y), row=1, col=1)
    figure.update_xaxes(title="specification, from the lowest result to the highest", row=2, col=1)
    return figure.update_layout(title=as_text(title), showlegend=False, height=260 + 26 * len(options), margin_l=190)


def specification_drawing(table: pd.DataFrame, value: str, chosen: pd.Series, width: int = 720) -> Drawing:
    """The same curve as a small drawing with no script in it: the chosen specifications blue, the others gray.

    chosen: one boolean per row of the table. For widgets, which cannot hold a plotly figure on every front end.
    """
    ordered = _sorted(table.assign(chosen=list(chosen)), value, ["chosen"])
    low, high = min(0.0, ordered[value].min()), max(0.0, ordered[value].max())
    height, left, top = 200, 60, 14
    scale = (height - 2 * top) / ((high - low) or 1.0)

    def y(number: float) -> float:
        return top + (high - number) * scale

    step = (width - left - 10) / len(ordered)
    marks = "".join(
        f'<circle cx="{left + step * (i + 0.5):.1f}" cy="{y(found):.1f}" r="{3 if mine else 2}" '
        f'fill="{BLUE if mine else GRAY}" fill-opacity="{1 if mine else 0.5}"/>'
        for i, (found, mine) in enumerate(zip(ordered[value], ordered["chosen"], strict=True))
    )
    axis = f'<line x1="{left}" x2="{width - 10}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="{GRAY}"/>'
    numbers = "".join(text(left - 8, y(number) + 4, f"{number:+.2f}", 11, "end") for number in {low, 0.0, high})
    alt = f"{int(ordered['chosen'].sum())} of {len(ordered)} specifications are marked, from {low:+.2f} to {high:+.2f}."
    return Drawing(axis + marks + numbers, width, height, alt)
