"""Which outputs of a cell are kept and compared, and what stands for a widget where there is no kernel.

Needs nothing but nbformat, so that nbval's plugin can use it anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"


def is_progress_bar(output: NotebookNode) -> bool:
    """Whether an output is tqdm's widget, of which a saved notebook could only show the empty beginning."""
    bar = re.search(r"\d+%\|", output.get("data", {}).get("text/plain", ""))
    return bool(bar) and WIDGET in output.data


def keep_what_widgets_show(notebook: NotebookNode, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what each widget shows at first, its HTML, beside it into the output: pages show that in the widget's place.

    state: the state of every widget by the id of its model, as nbclient keeps it in `client.widget_state`.
    """
    for output in (one for cell in notebook.cells for one in cell.get("outputs", [])):
        if WIDGET in output.get("data", {}) and not is_progress_bar(output):
            shown = "".join(_html_of(output.data[WIDGET]["model_id"], state))
            if shown:
                output.data["text/html"] = shown


def _html_of(model: str, state: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The HTML in a widget and in its children, in their order."""
    part = state.get(model, {})
    if part.get("_model_name") == "HTMLModel":
        yield part.get("value", "")
    for child in part.get("children", []):
        yield from _html_of(child.removeprefix("IPY_MODEL_"), state)
