"""The threshold explorer: the circuit that remains when small effects are left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import ipywidgets

from utils.attribution import head_name
from utils.plots.drawings import Drawing
from utils.plots.head_views import circuit_drawing
from utils.plots.inputs import Numbers, table
from utils.widgets.explorer import Explorer, named

WhereHeadsAct = Callable[[int, int], tuple[str, str]]


def threshold_explorer(
    effects: Numbers,
    roles: Sequence[str],
    place: WhereHeadsAct,
    title: str = "What remains",
    most: int = 30,
    first: int = 10,
) -> Explorer:
    """A slider on a patching sweep: heads whose effect, of either sign, is at least the threshold are drawn as a circuit.

    effects: [layer, head], from a sweep. place(layer, head): the roles where the head reads and where it writes, asked once a
    head and only when it is drawn. The slider goes down to where `most` heads are left, and begins where `first` are.
    Raises ValueError for effects that are all zero or not a table.
    """
    values = table(effects, "the sweep", [2])
    rounded = abs(values).round(3)
    sizes = sorted((size for size in rounded.ravel().tolist() if size > 0), reverse=True)
    if not sizes:
        raise ValueError("every effect of the sweep is zero, so there is no circuit to draw; check the sweep's metric")
    lowest, begin = (sizes[min(count, most, len(sizes)) - 1] for count in (most, first))
    options = [(f"{size:.3f}", size) for size in sorted(set(sizes)) if size >= lowest]
    slider = ipywidgets.SelectionSlider(
        options=options,
        value=begin,
        continuous_update=False,
        **named("smallest effect shown"),
    )
    where = functools.cache(place)

    def draw() -> tuple[str, Drawing]:
        heads = []
        for layer, head in zip(*(rounded >= slider.value).nonzero(), strict=True):
            reads, at = where(int(layer), int(head))
            name = head_name(int(layer), int(head))
            effect = float(values[layer, head])
            heads.append({"name": name, "layer": int(layer), "at": at, "reads": reads, "effect": effect})
        helping = sum(head["effect"] > 0 for head in heads)
        words = f"{len(heads)} of {values.size} heads remain: {helping} help, and {len(heads) - helping} hurt"
        return words, circuit_drawing(heads, roles, f"{title}: effects of at least {slider.value:.3f}")

    return Explorer([slider], draw)
