"""The ipywidgets explorers."""

from __future__ import annotations

import html

import ipywidgets
import pandas as pd

from utils import atlas


def atlas_browser(table: pd.DataFrame, rows: int = 12) -> ipywidgets.VBox:
    """Search an atlas (the table of `utils.atlas`): type words such as `induction>0.4 L17`, choose what to sort by. Heads
    that were scored under several settings have a row, and a column, for each.

    The parts are in `.children`: the search box, the sorting menu, and the result as HTML.
    """
    wide = atlas.by_head(table)
    query = ipywidgets.Text(
        value="", placeholder="induction>0.4 L17 smollm", description="find", continuous_update=False
    )
    scores = [score for score in atlas.SCORES if score in wide]
    first = "induction" if "induction" in scores else scores[0]
    order = ipywidgets.Dropdown(options=scores, value=first, description="sort by")
    shown = ipywidgets.HTML()

    def refresh(_change: object = None) -> None:
        try:
            found = atlas.search(wide, query.value).sort_values(order.value, ascending=False, kind="stable")
        except atlas.AtlasError as error:
            shown.value = f"<p>0 of {len(wide)} heads</p><b>{html.escape(str(error))}</b>"
            return
        counted = f"<p>{len(found)} of {len(wide)} heads, the first {min(rows, len(found))} by {order.value}</p>"
        shown.value = counted + found.head(rows).to_html(index=False, float_format="{:.2f}".format, border=0)

    for control in (query, order):
        control.observe(refresh, names="value")
    refresh()
    return ipywidgets.VBox([query, order, shown])
