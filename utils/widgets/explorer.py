"""What every explorer is: controls, one line of text, and a figure that is drawn again when a control changes."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
from IPython.display import display

from utils.plots.drawings import Drawing

# The handle of an ipywidgets slider has no name for screen readers: give it the words that stand beside it.
NAME_SLIDERS = (
    "<script>(function name(tries) { for (const row of document.querySelectorAll('.widget-hslider')) { "
    "const handle = row.querySelector('.noUi-handle'), words = row.querySelector('.widget-label'); "
    "if (handle && words) handle.setAttribute('aria-label', words.textContent); } "
    "if (tries) setTimeout(name, 500, tries - 1); })(20)</script>"
)


def named(description: str) -> dict[str, Any]:
    """Options of a control: its description whole, however long, as wide as the page allows, told when a change is done."""
    look = {"style": {"description_width": "initial"}, "layout": {"width": "min(46em, 98%)"}}
    return {"description": description, "continuous_update": False, **look}


@dataclass(frozen=True)
class Table:
    """A table as HTML; `alt` is what it says in words, for where HTML is not shown."""

    body: str
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_html_(self) -> str:
        return self.body


class Explorer:
    """Controls above a figure. Shown by Jupyter; without a kernel, the last figure stays.

    draw() reads the controls and returns (a line of text, a figure): a drawing or a table, because JupyterLab does not draw a
    plotly figure again in its place. What it raises is shown as a message, in one line.
    controls, message and figure can be read, and a control's `value` set, without a browser.
    """

    def __init__(self, controls: Sequence[ipywidgets.Widget], draw: Callable[[], tuple[str, Drawing | Table]]) -> None:
        self.controls, self._draw = list(controls), draw
        self.message, self.figure = ipywidgets.HTML(), None
        self._shown: list[Any] = []
        for control in self.controls:
            control.observe(self._refresh, names="value")
        self._refresh()
        if self.figure is None:  # no first figure: a mistake in the call, which its author should see whole
            draw()

    def _refresh(self, _change: object = None) -> None:
        try:
            words, figure = self._draw()
        except Exception as error:  # a learner may type anything, and whoever uses a widget should see no traceback
            why = str(error).strip("'\"") or type(error).__name__
            self.message.value = f'<p role="alert"><b>✗ {html.escape(why)}</b></p>'
            return
        self.message.value, self.figure = f'<p role="status">{html.escape(words)}</p>', figure
        for handle in self._shown:
            handle.update(self._as_html())

    def _as_html(self) -> Table:
        """The figure inside the page, where a screen reader finds its description, and names for the sliders above it."""
        body = self.figure._repr_svg_() if isinstance(self.figure, Drawing) else self.figure.body
        return Table(body + NAME_SLIDERS, self.figure.alt)

    def __repr__(self) -> str:
        return f"Explorer({', '.join(control.description for control in self.controls)})"

    def _ipython_display_(self) -> None:
        display(ipywidgets.VBox([*self.controls, self.message]))
        handle = display(self._as_html(), display_id=True)
        self._shown += [] if handle is None else [handle]  # None: no notebook, only a terminal
