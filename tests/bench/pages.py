"""What the bench writes: a table, figures, a page and a picture."""

from __future__ import annotations

import shutil
from pathlib import Path

from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from utils import plots

EXPLAINED = {
    "time against prompts": "A straight line: twice the prompts are twice the rows in the same matrix products.",
    "time against length": "Bent upwards: behind the first difference there are n positions to patch, and a patch at one "
    "computes all that follow, n (n + 1) / 2 in all. What lies before the difference costs only the corrupted run.",
    "time against layers": "A patch at one layer runs all the layers above it, so the arithmetic is L (L + 1) / 2. These "
    "random models of 32 dimensions have little of it: what is seen is mostly Python's one pass over the layers, a line.",
    "memory against": "Patched copies travel together until they fill the bound, and are split from there on. Not counted: "
    "the clean cache, the corrupted run, and the logits of one cell.",
}


def table(rows: list[dict]) -> Table:
    out = Table(title="Activation patching: built-in loops and the engine (~ scaled up from a sample of cells)")
    for column in ("model", "sweep", "cells", "built-in s", "ours s", "ratio", "target", "max difference"):
        out.add_column(column, justify="left" if column in ("model", "sweep") else "right")
    for row in rows:
        about = "~" if row["builtin_extrapolated_from_a_sample"] else ""
        out.add_row(
            row["model"],
            row["sweep"],
            str(row["cells"]),
            f"{about}{row['builtin_s']:.3g}",
            f"{row['ours_s']:.3g}",
            f"{about}{row['ratio']:.1f}",
            str(row["target"] or ""),
            f"{row['max_difference']:.1e}",
        )
    return out


def figures(report: dict) -> list:
    found = []
    rows = report.get("sweeps", [])
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        figure = plots.bar(
            {"built-in": [r["builtin_s"] for r in mine], "ours": [r["ours_s"] for r in mine]},
            f"{name}: seconds per sweep",
            "sweep",
            "seconds (log)",
            [r["sweep"] for r in mine],
        )
        found.append(figure.update_yaxes(type="log"))
    for axis, points in report.get("growth", {}).items():
        at = [p[axis] for p in points]
        found.append(
            plots.line([p["seconds"] for p in points], f"Residual sweep: time against {axis}", axis, "seconds", at)
        )
        memory = {
            "working memory": [(p["peak_bytes"] - p["corrupted_run_bytes"]) / 1e6 for p in points],
            "bound": [p["asked_bytes"] / 1e6 for p in points],
        }
        found.append(
            plots.line(memory, f"Residual sweep: memory against {axis}", axis, "MB above the runs' caches", at)
        )
    return found


def write_picture(shown: list, path: Path, console: Console) -> None:
    """All figures, one below the other, as one PNG. Kaleido draws with a browser; without one there is none."""
    if not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))):
        console.print(f"no {path.name}: kaleido needs a browser (chromium) to draw it; the figures are in bench.html")
        return
    whole = make_subplots(rows=len(shown), cols=1, subplot_titles=[figure.layout.title.text for figure in shown])
    for row, figure in enumerate(shown, 1):
        whole.add_traces(figure.data, rows=row, cols=1)
        whole.update_xaxes(title=figure.layout.xaxis.title.text, row=row, col=1)
        whole.update_yaxes(title=figure.layout.yaxis.title.text, type=figure.layout.yaxis.type, row=row, col=1)
    whole.update_layout(height=360 * len(shown), width=900, showlegend=False)
    try:
        whole.write_image(path)
    except Exception as reason:  # whatever a browser on this machine may object to
        console.print(f"no {path.name}: {type(reason).__name__}: {reason}")


def write_report(report: dict, folder: Path, console: Console) -> None:
    """bench.html, each figure with a sentence on its shape, and bench.png."""
    shown, parts = figures(report), ["<meta charset='utf-8'>"]
    for i, figure in enumerate(shown):
        parts.append(figure.to_html(include_plotlyjs=not i, full_html=False))
        parts += [f"<p>{text}</p>" for words, text in EXPLAINED.items() if words in figure.layout.title.text]
    (folder / "bench.html").write_text("\n".join(parts))
    if shown:
        write_picture(shown, folder / "bench.png", console)
