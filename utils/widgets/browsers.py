"""Explorers of tables: an atlas of heads, a specification curve, and a patching sweep as the circuit above a threshold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import ipywidgets
import numpy as np
import pandas as pd

from utils import atlas
from utils.attribution import head_name
from utils.plots import inputs
from utils.plots.drawings import Drawing
from utils.plots.head_views import circuit_drawing
from utils.plots.specifications import specification_drawing
from utils.widgets.explorer import Explorer, Table, named


def atlas_browser(table: pd.DataFrame, rows: int = 12) -> Explorer:
    """Search an atlas (the table of `utils.atlas`): type words such as `induction>0.4 L17`, choose what to sort by. Heads
    that were scored under several settings have a row, and a column, for each.
    """
    wide = atlas.by_head(table)
    example = "induction>0.4 L17 smollm"
    query = ipywidgets.Text(value="", placeholder=example, **named("find"))
    scores = [score for score in atlas.SCORES if score in wide]
    first = "induction" if "induction" in scores else scores[0]
    order = ipywidgets.SelectionSlider(options=scores, value=first, **named("sort by"))

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
        ipywidgets.SelectionSlider(options=["any", *dict.fromkeys(table[choice])], value="any", **named(choice))
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


def threshold_explorer(
    effects: inputs.Numbers,
    roles: Sequence[str],
    place: Callable[[int, int], tuple[str, str]],
    title: str = "What remains",
    most: int = 30,
    first: int = 10,
) -> Explorer:
    """A slider on a patching sweep: heads whose effect, of either sign, is at least the threshold are drawn as a circuit.

    effects: [layer, head], from a sweep. place(layer, head): the roles where the head reads and where it writes, asked once a
    head and only when it is drawn. The slider goes down to where `most` heads are left, and begins where `first` are.
    Raises ValueError for effects that are all zero or not a table.
    """
    values = inputs.table(effects, "the sweep", 2)
    rounded = abs(values).round(3)
    sizes = sorted((size for size in rounded.ravel().tolist() if size > 0), reverse=True)
    if not sizes:
        raise ValueError("every effect of the sweep is zero, so there is no circuit to draw; check the sweep's metric")
    lowest, begin = (sizes[min(count, most, len(sizes)) - 1] for count in (most, first))
    options = [(f"{size:.3f}", size) for size in sorted(set(sizes)) if size >= lowest]
    slider = ipywidgets.SelectionSlider(options=options, value=begin, **named("smallest effect shown"))
    where = functools.cache(place)

    def draw() -> tuple[str, Drawing]:
        heads = []
        for layer, head in np.argwhere(rounded >= slider.value).tolist():
            reads, at = where(layer, head)
            place = {"name": head_name(layer, head), "layer": layer, "at": at, "reads": reads}
            heads.append({**place, "effect": float(values[layer, head])})
        helping = sum(head["effect"] > 0 for head in heads)
        words = f"{len(heads)} of {values.size} heads remain: {helping} help, and {len(heads) - helping} hurt"
        return words, circuit_drawing(heads, roles, f"{title}: effects of at least {slider.value:.3f}")

    return Explorer([slider], draw)
