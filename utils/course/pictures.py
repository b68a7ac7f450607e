"""The README's pictures, taken from the outputs of the executed solution notebooks.

    python -m utils.course.pictures

Needs a Chromium or Chrome (kaleido finds it; CHROME names another one for the attention view).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import plotly.graph_objects as go
from nbformat import NotebookNode
from playwright.sync_api import sync_playwright

from utils.course.deriving import SOLUTIONS
from utils.course.site.figures import PLOTLY_FORMAT
from utils.plots import circuitsvis_library

PICTURES = SOLUTIONS / "pictures"
# picture → (notebook, words of the figure's title)
SHOWN = {
    "patching.png": ("03_activation_patching", "Residual stream: how much"),
    "attention.png": ("02_logit_attribution", "most toward the answer"),
    "circuit.png": ("06_full_circuit", "who tells whom"),
    "dialect.png": ("07_matched_guises", "every feature"),
}


def output_titled(stem: str, words: str) -> NotebookNode:
    """The data of the first plotly figure or attention view in an executed notebook whose title holds `words`."""
    notebook = nbformat.read(SOLUTIONS / f"{stem}.ipynb", as_version=4)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o):
        if words in output.data.get(PLOTLY_FORMAT, {}).get("layout", {}).get("title", {}).get("text", ""):
            return output.data
        if words in output.data.get("text/plain", "") and output.data["text/plain"].startswith("AttentionView("):
            return output.data
    raise LookupError(f"no figure of {stem} has {words!r} in its title; run make sync CHAPTER={stem[:2]} EXECUTE=1")


def draw(data: NotebookNode, path: Path) -> None:
    """Write a figure or an attention view as a PNG."""
    if PLOTLY_FORMAT in data:
        go.Figure(data[PLOTLY_FORMAT], skip_invalid=True).write_image(path, width=1000, scale=1)
        return
    body = data["text/html"]
    library = "" if "circuitsvis-library" in body else circuitsvis_library()
    browser_path = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 800, "height": 600})
        page.set_content(f"<body style='margin:1em'>{library}{body}</body>")
        page.wait_for_selector("text=Zoomed")
        page.screenshot(path=path, full_page=True)
        browser.close()


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, (stem, words) in SHOWN.items():
        draw(output_titled(stem, words), PICTURES / name)
        print(f"wrote {PICTURES / name}")
