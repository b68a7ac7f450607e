"""What running a chapter takes, section by section, measured whenever `make sync EXECUTE=1` runs it: docs/run_times.json.

The figures are CPU seconds of the kernel, so that what else the machine does counts as little as possible. They are rounded,
and they are those of the machine that ran the chapter last.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock
from nbformat import NotebookNode

RUN_TIMES = "docs/run_times.json"
OPENING = "opening"  # what comes before the first section: packages, model, prompts
TIMED_SECTION = re.compile(r"^## (\d+ · .+)$", re.MULTILINE)


def cpu_seconds(pid: int | None) -> float | None:
    """What a process has computed so far, in seconds, from /proc; None where the system does not tell (Linux tells)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def seconds_by_section(notebook: NotebookNode, used: Sequence[float]) -> dict[str, int]:
    """Heading → seconds, for the numbered sections and the opening. used: seconds used after each cell, growing."""
    found, section, before = {OPENING: 0.0}, OPENING, 0.0
    for cell, after in zip(notebook.cells, used, strict=True):
        if cell.cell_type == "markdown" and (headings := TIMED_SECTION.findall(cell.source)):
            section = headings[-1]
            found |= dict.fromkeys(headings, 0.0)
        found[section] += after - before
        before = after
    return {heading: round(seconds) for heading, seconds in found.items()}


def read_run_times(path: Path) -> dict[str, dict[str, int]]:
    """chapter number → heading → seconds; empty where nothing has been measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record_run_times(path: Path, chapter: str, times: Mapping[str, int]) -> None:
    """Put a chapter's times into the file. Chapters that are executed side by side wait for one another."""
    with FileLock(path.with_suffix(".lock")):
        known = read_run_times(path) | {chapter: dict(times)}
        text = json.dumps(dict(sorted(known.items())), ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
