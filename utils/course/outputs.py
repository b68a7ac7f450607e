"""Which outputs of a cell are kept and compared. Needs nothing but nbformat, so that nbval's plugin can use it anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"


def without_progress_bars(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The outputs but for tqdm's widgets, of which a saved notebook could only show the empty beginning."""
    shown = [output.get("data", {}) for output in outputs]
    bars = [WIDGET in data and re.search(r"\d+%\|", data.get("text/plain", "")) for data in shown]
    return [output for output, bar in zip(outputs, bars, strict=True) if not bar]
