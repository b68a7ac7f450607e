"""Which outputs of a cell are kept and compared. Needs nothing but nbformat, so that nbval's plugin can use it anywhere."""

from __future__ import annotations

import re

from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"


def is_progress_bar(output: NotebookNode) -> bool:
    """Whether an output is tqdm's widget, of which a saved notebook could only show the empty beginning."""
    bar = re.search(r"\d+%\|", output.get("data", {}).get("text/plain", ""))
    return bool(bar) and WIDGET in output.data
