"""Explorers of tables: an atlas of heads, and a specification curve."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import pandas as pd

from utils import atlas
from utils.plots.drawings import Drawing
from utils.plots.specifications import specification_drawing
from utils.widgets.explorer import Explorer, Table, named


def atlas_browser(table: pd.DataFrame, rows: int = 12) -> Explorer:
    """Search an atlas (the table of `utils.atlas`): type words such as `induction>0.4 L17`, choose what to sort by. Heads
    that were scored under several settings have a row, and a column, for each.
    """
    wide = atlas.by_head(table)
    example = "induction>0.4 L17 smollm"
    query = ipywidgets.Text(value="", placeholder=example, continuous_update=False, **named("find"))
    scores = [score for score in atlas.SCORES if score in wide]
    first = "induction" if "induction" in scores else scores[0]
    order = ipywidgets.SelectionSlider(options=scores, value=first, continuous_update=False, **named("sort by"))

    def draw() -> tuple[str, Table]:
        found = atlas.search(wide, query.value).sort_values(order.value, ascending=False, kind="stable")
        words = f"{len(found)} of {len(wide)} heads, the first {min(rows, len(found))} by {order.value}"
        return words, Table(found.head(rows).to_html(index=False, float_format="{:.2f}".format, border=0), words)

    return Explorer([query, order], draw)


def specification_browser(table: pd.DataFrame, value: str, choices: Sequence[str]) -> Explorer:
    """Fix some choices, and see which part of the specification curve is left: how often the result is above zero, and
    how far it reaches. table, value, choices: as for `utils.plots.specifications.specification_curve`.
    """
    menus = [  # sliders: in a menu, the arrow keys would move JupyterLab to another cell
        ipywidgets.SelectionSlider(
            options=["any", *dict.fromkeys(table[choice])], value="any", continuous_update=False, **named(choice)
        )
        for choice in choices
    ]

    def draw() -> tuple[str, Drawing]:
        chosen = pd.Series(True, index=table.index)
        for choice, menu in zip(choices, menus, strict=True):
            chosen &= (table[choice] == menu.value) | (menu.value == "any")
        found = table.loc[chosen, value]
        words = f"{len(found)} of {len(table)} specifications"
        if len(found):
            words += (
                f", {int((found > 0).sum())} above zero; lowest {found.min():+.2f}, median {found.median():+.2f}, "
                f"highest {found.max():+.2f}"
            )
        return words, specification_drawing(table, value, chosen)

    return Explorer(menus, draw)
