"""The ipywidgets explorers: an atlas of heads, and a specification curve."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets
import pandas as pd

from utils import atlas
from utils.plots.specifications import specification_drawing


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


def specification_browser(table: pd.DataFrame, value: str, choices: Sequence[str]) -> ipywidgets.VBox:
    """Fix some choices, and see which part of the specification curve is left: how often the result is above zero, and
    how far it reaches. table, value, choices: as for `utils.plots.specifications.specification_curve`.

    The parts are in `.children`: a menu for each choice, and the result as HTML.
    """
    menus = [
        ipywidgets.Dropdown(options=["any", *dict.fromkeys(table[choice])], value="any", description=choice)
        for choice in choices
    ]
    shown = ipywidgets.HTML()

    def refresh(_change: object = None) -> None:
        chosen = pd.Series(True, index=table.index)
        for choice, menu in zip(choices, menus, strict=True):
            chosen &= (table[choice] == menu.value) | (menu.value == "any")
        found = table.loc[chosen, value]
        counted = f"<p>{len(found)} of {len(table)} specifications"
        if len(found):
            counted += (
                f", {int((found > 0).sum())} above zero; lowest {found.min():+.2f}, median {found.median():+.2f}, "
                f"highest {found.max():+.2f}"
            )
        shown.value = f"{counted}</p>{specification_drawing(table, value, chosen)._repr_svg_()}"

    for menu in menus:
        menu.observe(refresh, names="value")
    refresh()
    return ipywidgets.VBox([*menus, shown])
